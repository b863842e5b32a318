//! The shipped configuration and rules of Prometheus, for the demo.
//!
//! A demo with rules and intervals of its own would prove nothing about production.
//!
//! Invariant: only the targets differ from the shipped files, and for a demo with a single call the
//! number of sessions that an alert needs.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const CONFIG: &str = include_str!("../../helm/callsight/files/prometheus.yml");

/// Target in the shipped configuration: the default address of `serve`.
const TARGET: &str = "\"127.0.0.1:9464\"";

const RULES: [(&str, &str); 4] = [
    ("recording.yaml", include_str!("../../helm/callsight/files/rules/recording.yaml")),
    ("calls.yaml", include_str!("../../helm/callsight/files/rules/calls.yaml")),
    ("pipeline.yaml", include_str!("../../helm/callsight/files/rules/pipeline.yaml")),
    ("ingest.yaml", include_str!("../../helm/callsight/files/rules/ingest.yaml")),
];

/// The end of the shipped expressions that require five degraded sessions.
const FIVE_SESSIONS: &str = " >= 5\n";

/// The rules to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    Shipped,
    /// The alerts that need five degraded sessions need one.
    OneSession,
}

impl Rules {
    fn of(self, text: &str) -> String {
        match self {
            Self::Shipped => text.to_owned(),
            Self::OneSession => text.replace(FIVE_SESSIONS, " >= 1\n"),
        }
    }
}

/// Writes configuration and rules into a folder, and returns the configuration's path.
pub(super) fn write(folder: &Path, targets: &[SocketAddr], rules: Rules) -> io::Result<PathBuf> {
    let wanted = rules;
    let rules = folder.join("rules");
    fs::create_dir_all(&rules)?;
    for (name, text) in RULES {
        fs::write(rules.join(name), wanted.of(text))?;
    }
    let config = folder.join("prometheus.yml");
    let targets: Vec<_> = targets.iter().map(|target| format!("\"{target}\"")).collect();
    fs::write(&config, CONFIG.replace(TARGET, &targets.join(", ")))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rules_are_written_and_the_targets_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let targets = ["127.0.0.1:19464", "127.0.0.1:19465"].map(|target| target.parse().unwrap());
        let config = write(folder.path(), &targets, Rules::Shipped).unwrap();
        let text = fs::read_to_string(config).unwrap();
        assert!(
            text.contains(r#"["127.0.0.1:19464", "127.0.0.1:19465"]"#) && !text.contains(TARGET),
            "{text}"
        );
        // Beside them is a folder of optional ones.
        let names = |folder: PathBuf| {
            let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<_> = files
                .filter(|path| path.is_file())
                .map(|path| path.file_name().unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/callsight/files/rules");
        assert_eq!(names(folder.path().join("rules")), names(shipped));
    }

    #[test]
    fn for_a_single_call_one_session_is_enough_for_the_alerts_on_degraded_ones() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[], Rules::OneSession).unwrap();
        let [_, (name, shipped), ..] = RULES;
        let written = fs::read_to_string(folder.path().join("rules").join(name)).unwrap();
        let changed: Vec<_> = written.lines().zip(shipped.lines()).filter(|(new, old)| new != old).collect();
        assert_eq!(written.lines().count(), shipped.lines().count());
        // Round trips, audio, video, one-way audio and uplinks.
        assert_eq!(changed.len(), 5, "{changed:?}");
        for (new, old) in changed {
            assert!(old.starts_with("          region:videocall_sessions_"), "{old}");
            assert_eq!(new, old.replace(">= 5", ">= 1"));
        }
    }
}
