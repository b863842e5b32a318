//! Who a token speaks for: its claims, by the names that a service gives them.
//!
//! Services issue tokens already, with the meeting and the participant under names of their own. So
//! the names are settings, with presets. A claim's text becomes an identifier by the same function
//! that clients use, so that a room name with spaces is the meeting that its clients report.
//!
//! Invariant: a frame passes only if meeting, participant and session are the token's own.

use std::time::Duration;

use callsight_frame::{Frame, identifier_of};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::TokenRefusal;

/// Names of claims, each the key itself or a path such as `video.room`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimNames {
    pub(crate) meeting: String,
    pub(crate) peer: String,
    pub(crate) session: String,
}

/// Whose tokens to accept: names of claims that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenPreset {
    Callsight,
    LiveKit,
    Jitsi,
}

impl ClaimNames {
    pub(crate) fn of(preset: TokenPreset) -> Self {
        let (meeting, peer) = match preset {
            TokenPreset::Callsight => ("meeting_id", "peer_id"),
            TokenPreset::LiveKit => ("video.room", "sub"),
            TokenPreset::Jitsi => ("room", "context.user.id"),
        };
        Self { meeting: meeting.to_owned(), peer: peer.to_owned(), session: "session_id".to_owned() }
    }
}

/// The claims of a new token for a participant, and perhaps for one session alone, as
/// [`TokenPreset::Callsight`] names them.
pub(crate) fn new_claims(
    meeting_id: &str,
    peer_id: &str,
    session_id: Option<&str>,
    valid_for: Duration,
) -> Map<String, Value> {
    let names = ClaimNames::of(TokenPreset::Callsight);
    let now = OffsetDateTime::now_utc();
    let times = [("iat", now), ("exp", now + valid_for)];
    let times = times.map(|(name, time)| (name.to_owned(), time.unix_timestamp().into()));
    let texts = [(names.meeting, Some(meeting_id)), (names.peer, Some(peer_id)), (names.session, session_id)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text?.into())));
    times.into_iter().chain(texts).collect()
}

/// Whoever a token speaks for, as identifiers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Speaker {
    pub(crate) meeting_id: String,
    pub(crate) peer_id: String,
    /// The only session, if the token names one.
    pub(crate) session_id: Option<String>,
}

impl Speaker {
    /// Reads the claims.
    pub(super) fn of(claims: &Map<String, Value>, names: &ClaimNames) -> Result<Self, TokenRefusal> {
        let identifier = |name: &str| match find(claims, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(identifier_of(text).into_owned())),
            Some(_) => Err(TokenRefusal::MissingClaim),
        };
        let required = |name: &str| identifier(name)?.ok_or(TokenRefusal::MissingClaim);
        Ok(Self {
            meeting_id: required(&names.meeting)?,
            peer_id: required(&names.peer)?,
            session_id: identifier(&names.session)?,
        })
    }

    /// Checks that a frame is the speaker's own.
    pub(crate) fn may_send(&self, frame: &Frame<'_>) -> Result<(), TokenRefusal> {
        if frame.meeting_id.as_str() != self.meeting_id {
            return Err(TokenRefusal::OtherMeeting);
        }
        if frame.peer_id.as_str() != self.peer_id {
            return Err(TokenRefusal::OtherParticipant);
        }
        let session = frame.session_id.as_str();
        let own = match &self.session_id {
            Some(only) => session == only,
            // Split at the last colon, so that nobody is `ana` in the session of `ana:2`.
            None => session
                .rsplit_once(':')
                .is_some_and(|(peer, random)| peer == self.peer_id && !random.is_empty()),
        };
        if own { Ok(()) } else { Err(TokenRefusal::OtherSession) }
    }
}

/// Finds a claim by its key, or by the path of keys to it.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    find(claims.get(first)?.as_object()?, rest)
}

#[cfg(test)]
mod tests {
    use callsight_frame::{MeetingId, PeerId, Seq, SessionId};
    use serde_json::json;

    use super::*;

    fn speaker(claims: &Value, preset: TokenPreset) -> Result<Speaker, TokenRefusal> {
        Speaker::of(claims.as_object().unwrap(), &ClaimNames::of(preset))
    }

    #[test]
    fn every_preset_finds_its_claims() {
        let ana = |session: Option<&str>| Speaker {
            meeting_id: "standup".to_owned(),
            peer_id: "ana".to_owned(),
            session_id: session.map(str::to_owned),
        };
        let own = json!({"meeting_id": "standup", "peer_id": "ana", "session_id": "s-1"});
        assert_eq!(speaker(&own, TokenPreset::Callsight), Ok(ana(Some("s-1"))));
        let livekit = json!({"video": {"room": "standup", "roomJoin": true}, "sub": "ana"});
        assert_eq!(speaker(&livekit, TokenPreset::LiveKit), Ok(ana(None)));
        let jitsi = json!({"room": "standup", "context": {"user": {"id": "ana", "name": "Ana"}}});
        assert_eq!(speaker(&jitsi, TokenPreset::Jitsi), Ok(ana(None)));
        let names = ClaimNames {
            meeting: "https://example.com/room".to_owned(),
            ..ClaimNames::of(TokenPreset::LiveKit)
        };
        let named = json!({"https://example.com/room": "standup", "sub": "ana"});
        assert_eq!(Speaker::of(named.as_object().unwrap(), &names), Ok(ana(None)));
    }

    #[test]
    fn a_claim_that_is_no_text_is_missing_and_any_text_is_an_identifier() {
        for claims in [
            json!({}),
            json!({"meeting_id": "m"}),
            json!({"meeting_id": "", "peer_id": "p"}),
            json!({"meeting_id": 7, "peer_id": "p"}),
            json!({"meeting_id": null, "peer_id": "p"}),
            json!({"meeting_id": "m", "peer_id": "p", "session_id": []}),
        ] {
            assert_eq!(speaker(&claims, TokenPreset::Callsight), Err(TokenRefusal::MissingClaim), "{claims}");
        }
        let odd = json!({"meeting_id": "daily stand-up", "peer_id": "Ana María"});
        let odd = speaker(&odd, TokenPreset::Callsight).unwrap();
        assert_eq!(odd.peer_id, identifier_of("Ana María"));
        assert_eq!(odd.meeting_id, identifier_of("daily stand-up"));
    }

    #[test]
    fn a_session_is_its_participants_own() {
        let may = |peer: &str, only: Option<&str>, meeting: &str, speaks_as: &str, session: &str| {
            let speaker = Speaker {
                meeting_id: "m".to_owned(),
                peer_id: peer.to_owned(),
                session_id: only.map(str::to_owned),
            };
            let (meeting, session) = (MeetingId::new(meeting).unwrap(), SessionId::new(session).unwrap());
            speaker.may_send(&Frame::new(meeting, session, PeerId::new(speaks_as).unwrap(), Seq::FIRST, 0))
        };
        assert_eq!(may("ana", None, "m", "ana", "ana:1"), Ok(()));
        assert_eq!(may("ana:2", None, "m", "ana:2", "ana:2:1"), Ok(()));
        assert_eq!(may("ana", Some("s"), "m", "ana", "s"), Ok(()));
        assert_eq!(may("ana", None, "n", "ana", "ana:1"), Err(TokenRefusal::OtherMeeting));
        assert_eq!(may("ana", None, "m", "bo", "bo:1"), Err(TokenRefusal::OtherParticipant));
        for session in ["bo:1", "ana", "ana:", "ana:2:1", ":1", "1"] {
            assert_eq!(may("ana", None, "m", "ana", session), Err(TokenRefusal::OtherSession), "{session}");
        }
        assert_eq!(may("ana", Some("s"), "m", "ana", "ana:1"), Err(TokenRefusal::OtherSession));
    }
}
