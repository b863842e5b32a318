//! The page's figures for programs: a block of JSON within it.
//!
//! A script, a notebook or a test can't read charts.
//!
//! Invariant: no text within the block can end it.

use serde_json::{Value, json};

use super::collect::{Collected, Scope, ScopeStep};
use super::scores::Scoreboard;
use super::signals::{By, PerSignal};
use super::verdict::{ScopeSpell, WindowVerdict};
use crate::replay::account::Account;
use crate::replay::window::rfc3339;
use callsight_fold::series::aggregates::{Evidence, Limitation};
use callsight_frame::{CandidateType, Protocol};

/// The number of the worst that are listed.
pub(super) const TOP: usize = 20;

pub(super) fn figures(collected: &Collected, account: &Account, verdict: &WindowVerdict) -> Value {
    let config = &collected.config;
    let scopes: Vec<_> = collected.regions().iter().map(|region| scope(region, collected)).collect();
    let messages = config.regions.iter().zip(&collected.messages).map(|(region, messages)| {
        json!({
            "region": region.as_str(),
            "folded": messages.folded,
            "late": messages.late,
            "repeated": messages.repeated,
            "refused": messages.refused,
            "rejected": messages.rejected,
        })
    });
    let spell = |spell: ScopeSpell| {
        let ended = spell.ended(collected).map(rfc3339);
        json!({ "began": rfc3339(spell.began(collected)), "ended": ended, "steps": spell.steps.bad_looks })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "from": rfc3339(config.window.from),
        "to": rfc3339(config.window.to),
        "step_seconds": config.window.step.as_secs_f64(),
        "verdict": {
            "state": verdict.state,
            "sentence": verdict.sentence,
            "cause": verdict.cause,
            "evidence": verdict.evidence,
            "spell": verdict.spell.map(spell),
        },
        "peak": verdict.peak.map(|peak| moment(&collected.whole().moments[peak], &rfc3339(collected.at[peak]))),
        "frames": {
            "messages": account.messages,
            "folded": account.folded,
            "late": account.late,
            "repeated": account.repeated,
            "refused": account.refused,
            "rejected": account.rejected(),
            "passed_over": account.passed_over,
            "by_region": messages.collect::<Vec<_>>(),
        },
        "sessions": worst(&collected.sessions),
        "pairs": worst(&collected.pairs),
        "all": scope(collected.whole(), collected),
        "regions": scopes,
    })
}

fn scope(scope: &Scope, collected: &Collected) -> Value {
    // The worst of the steps that a point of the charts stands for.
    let stride = collected.stride();
    let steps = scope.moments.chunks(stride).enumerate().map(|(point, moments)| {
        let index = ScopeStep::worst(moments).unwrap_or_default();
        moment(&moments[index], &rfc3339(collected.at[point * stride + index]))
    });
    json!({ "name": scope.name, "steps": steps.collect::<Vec<_>>() })
}

fn moment(moment: &ScopeStep, at: &str) -> Value {
    let object = |counts: PerSignal<u32>| -> Value {
        By::ALL.into_iter().map(|by| (by.label(), counts[by as usize])).collect()
    };
    json!({
        "at": at,
        "sessions": moment.sessions,
        "participants": moment.participants,
        "meetings": moment.meetings,
        "sessions_degraded": object(moment.degraded),
        "meetings_degraded": object(moment.meetings_degraded),
        "rtt_seconds": moment.rtt.map(|[p50, p95, p99]| json!({ "p50": p50, "p95": p95, "p99": p99 })),
        "neteq_expand_ratio": moment.expand,
        "audio_concealed_ratio": moment.concealed,
        "audio_packets_lost_ratio": moment.lost,
        "video_packets_lost_ratio": moment.video_lost,
        "sent_packets_lost_ratio": moment.sent_lost,
        "sessions_degraded_evidence": labelled(Evidence::ALL.map(Evidence::label), moment.evidence),
        "sessions_limited": labelled(Limitation::ALL.map(Limitation::label), moment.limited),
    })
}

fn labelled<const N: usize>(labels: [&str; N], counts: [u32; N]) -> Value {
    labels.into_iter().zip(counts).collect()
}

fn worst(worst: &Scoreboard) -> Value {
    let top = worst.top(TOP).into_iter().map(|(name, score)| {
        let [region, meeting, participant] = &score.names;
        json!({
            "name": name,
            "region": region,
            "meeting_id": meeting,
            "peer_id": participant,
            "server_url": score.server,
            "client": score.client,
            "candidate_type": score.path.0.map(CandidateType::label),
            "protocol": score.path.1.map(Protocol::label),
            "frames": score.frames,
            "steps": score.steps,
            "steps_degraded": score.bad_steps(),
            "most_rtt_seconds": f64::from(score.most_rtt),
            "most_concealed_ratio": f64::from(score.most_concealed),
            "most_lost_ratio": f64::from(score.most_lost),
        })
    });
    json!({ "seen": worst.seen(), "degraded": worst.degraded(), "worst": top.collect::<Vec<_>>() })
}

/// The block for the page: no text within it can end it.
pub(super) fn block(figures: &Value) -> String {
    figures.to_string().replace('<', "\\u003c").replace("\u{2028}", "\\u2028")
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::collected;
    use super::*;

    #[test]
    fn text_cannot_end_the_block() {
        let value = json!({ "name": "</script><b>" });
        let text = block(&value);
        assert!(!text.contains('<'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn figures_have_every_step_and_the_peak() {
        let collected =
            collected(&[("us", &[(40, 1), (40, 20), (40, 0)]), ("eu", &[(5, 0), (5, 0), (5, 5)])]);
        let figures = figures(&collected, &Account::default(), &WindowVerdict::of(&collected));
        assert_eq!(figures["regions"][1]["steps"][2]["sessions_degraded"]["rtt"], 5);
        assert_eq!(figures["all"]["steps"].as_array().unwrap().len(), 3);
        assert_eq!(figures["peak"]["sessions_degraded"]["any"], 20);
        assert_eq!(figures["peak"]["meetings"], 12);
        assert_eq!(figures["peak"]["sessions_degraded_evidence"]["path"], 20);
        assert_eq!(figures["verdict"]["cause"], "network");
        assert!(figures["verdict"]["spell"]["ended"].is_null());
    }
}
