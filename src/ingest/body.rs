//! The body of a request: from bytes that a stranger chose to a frame.
//!
//! A body may be endless, come a byte a minute, or be a gzip of a few bytes that becomes gigabytes.
//! So it has a limit and a deadline, and it is decompressed into a buffer of the same limit.
//!
//! Invariant: whatever the body, no more than the longest frame is held of it, in each encoding.

use std::io::Read as _;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use callsight_frame::{Form, Frame, MAX_FRAME_BYTES, Reason, Rejection};
use flate2::read::MultiGzDecoder;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::time::timeout;
use warp::http::{HeaderMap, header};

use super::refusal::{BadRequest, Refusal};
use super::servers::Servers;

/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// How a frame is written in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    MessagePack,
    Json,
}

/// How to read a body, as its headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    media: Media,
    gzip: bool,
}

fn too_large() -> Refusal {
    let detail = format!("a frame has at most {MAX_FRAME_BYTES} bytes, also decompressed");
    Rejection::new(Reason::TooLarge, detail).into()
}

impl Reading {
    /// Decides how to read a body, before any of it is read.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let media = text(header::CONTENT_TYPE).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let media = match media.as_str() {
            "application/msgpack" | "application/vnd.msgpack" | "application/x-msgpack" => Media::MessagePack,
            "application/json" => Media::Json,
            _ => return Err(Refusal::Request(BadRequest::UnsupportedType)),
        };
        let gzip = match text(header::CONTENT_ENCODING).unwrap_or_default().trim() {
            "" => false,
            encoding if encoding.eq_ignore_ascii_case("identity") => false,
            encoding if encoding.eq_ignore_ascii_case("gzip") => true,
            _ => return Err(Refusal::Request(BadRequest::UnsupportedEncoding)),
        };
        if headers.get_all(header::CONTENT_ENCODING).iter().count() > 1 {
            return Err(Refusal::Request(BadRequest::UnsupportedEncoding));
        }
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > MAX_FRAME_BYTES as u64) {
            return Err(too_large());
        }
        Ok(Self { media, gzip })
    }

    /// Decodes a body into the message to publish: the frame in the compact form, its server one
    /// that is known. `then` sees the frame first, and may refuse it.
    pub(super) fn message<T>(
        self,
        body: &[u8],
        servers: &Servers,
        then: impl FnOnce(&Frame<'_>) -> Result<T, Refusal>,
    ) -> Result<(T, Vec<u8>), Refusal> {
        let unpacked = if self.gzip { Some(unpack(body)?) } else { None };
        let body = unpacked.as_deref().unwrap_or(body);
        let (json, encoded);
        let mut frame = match self.media {
            Media::MessagePack => Frame::decode(body)?,
            Media::Json => {
                // Text with escapes can't be borrowed, so the frame borrows from the value.
                json = serde_json::from_slice::<serde_json::Value>(body).map_err(|error| {
                    let place = format!("line {}, column {}", error.line(), error.column());
                    Rejection::new(Reason::Malformed, format!("{place}: not valid JSON"))
                })?;
                let frame = Frame::deserialize(&json).map_err(|error| Rejection::from_decoder(&error))?;
                // Ranges are checked by the decoder of messages alone.
                encoded = frame.encode(Form::Compact);
                Frame::decode(&encoded)?
            }
        };
        let result = then(&frame)?;
        servers.reduce(&mut frame);
        let message = frame.encode(Form::Compact);
        // A float that was written as a short integer takes more here.
        if message.len() > MAX_FRAME_BYTES { Err(too_large()) } else { Ok((result, message)) }
    }
}

/// Reads a body up to the limit of a frame, within the deadline.
pub(super) async fn read<B: Buf, E>(body: impl Stream<Item = Result<B, E>>) -> Result<Bytes, Refusal> {
    let mut body = pin!(body);
    let mut read = BytesMut::new();
    let whole = async {
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|_| Refusal::Request(BadRequest::Incomplete))?;
            if read.len() + piece.remaining() > MAX_FRAME_BYTES {
                return Err(too_large());
            }
            while piece.has_remaining() {
                let chunk = piece.chunk();
                read.extend_from_slice(chunk);
                let length = chunk.len();
                piece.advance(length);
            }
        }
        Ok(())
    };
    timeout(BODY_WITHIN, whole).await.unwrap_or(Err(Refusal::Request(BadRequest::Incomplete)))?;
    Ok(read.freeze())
}

/// Decompresses a body up to the limit of a frame.
fn unpack(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut unpacked = Vec::new();
    let mut limited = MultiGzDecoder::new(body).take(MAX_FRAME_BYTES as u64 + 1);
    limited.read_to_end(&mut unpacked).map_err(|_| Refusal::Request(BadRequest::BadEncoding))?;
    if unpacked.len() > MAX_FRAME_BYTES { Err(too_large()) } else { Ok(unpacked) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use callsight_frame::{MeetingId, PeerId, Seq, Server, ServerType, ServerUrl, SessionId};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::stream;
    use warp::http::HeaderValue;

    use super::*;

    fn reading(media: &str, encoding: &str) -> Result<Reading, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(media).unwrap());
        if !encoding.is_empty() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        }
        Reading::of(&headers)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn frame() -> Frame<'static> {
        let server = Server::new(ServerUrl::new("https://relay.example").unwrap(), ServerType::WebRtc);
        Frame {
            server: Some(Server { rtt_ms: Some(41.5), ..server }),
            ..Frame::new(
                MeetingId::new("m").unwrap(),
                SessionId::new("p:1").unwrap(),
                PeerId::new("p").unwrap(),
                Seq::FIRST,
                1_764_000_000_000,
            )
        }
    }

    #[test]
    fn every_way_to_write_a_frame_gives_the_same_message() {
        let json = serde_json::to_vec(&frame()).unwrap();
        let escaped = String::from_utf8(json.clone()).unwrap().replace("\"m\"", "\"\\u006d\"");
        let expected = frame().encode(Form::Compact);
        for (media, body) in [
            ("application/msgpack", frame().encode(Form::Named)),
            ("application/vnd.msgpack", frame().encode(Form::Compact)),
            ("Application/X-MsgPack; charset=x", frame().encode(Form::Named)),
            ("application/json; charset=utf-8", json),
            ("application/json", escaped.into_bytes()),
        ] {
            for (encoding, body) in [("", body.clone()), ("identity", body.clone()), ("GZIP", packed(&body))]
            {
                let reading = reading(media, encoding).unwrap();
                let (seq, message) =
                    reading.message(&body, &Servers::new(Vec::new()), |frame| Ok(frame.seq)).unwrap();
                assert_eq!((seq, message), (Seq::FIRST, expected.clone()), "{media} {encoding}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_before_it_is() {
        for media in ["", "text/plain", "application/jsonx", "multipart/form-data", "\"application/json"] {
            assert_eq!(reading(media, ""), Err(Refusal::Request(BadRequest::UnsupportedType)), "{media}");
        }
        for encoding in ["br", "gzip, gzip", "deflate", "x-gzip"] {
            let refused = reading("application/json", encoding);
            assert_eq!(refused, Err(Refusal::Request(BadRequest::UnsupportedEncoding)), "{encoding}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(MAX_FRAME_BYTES + 1));
        assert_eq!(Reading::of(&headers), Err(too_large()));
    }

    #[test]
    fn a_gzip_bomb_is_too_large_and_no_gzip_is_bad() {
        let reading = reading("application/msgpack", "gzip").unwrap();
        let refused = |body: &[u8]| reading.message(body, &Servers::new(Vec::new()), |_| Ok(())).unwrap_err();
        let bomb = packed(&vec![0; 32 << 20]);
        assert!(bomb.len() < MAX_FRAME_BYTES, "{}", bomb.len());
        assert_eq!(refused(&bomb), too_large());
        // Several members count together.
        assert_eq!(refused(&packed(&vec![0; MAX_FRAME_BYTES]).repeat(2)), too_large());
        let whole = packed(&frame().encode(Form::Named));
        for bad in [&b""[..], b"not gzip", &whole[..whole.len() - 9]] {
            assert_eq!(refused(bad), Refusal::Request(BadRequest::BadEncoding));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_limit_and_a_deadline() {
        let pieces =
            |count: usize| stream::iter((0..count).map(|_| Ok::<_, ()>(Bytes::from_static(&[7; 1024]))));
        assert_eq!(read(pieces(64)).await.unwrap(), vec![7; MAX_FRAME_BYTES]);
        assert_eq!(read(pieces(65)).await, Err(too_large()));
        // Endless, and never more than a piece beyond the limit is taken.
        assert_eq!(read(pieces(usize::MAX)).await, Err(too_large()));
        let incomplete = Err(Refusal::Request(BadRequest::Incomplete));
        assert_eq!(read(pieces(1).chain(stream::pending())).await, incomplete);
        assert_eq!(read(pieces(1).chain(stream::iter([Err(())]))).await, incomplete);
    }
}
