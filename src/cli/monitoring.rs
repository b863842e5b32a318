//! The shipped configuration and rules of Prometheus, for the demo.
//!
//! A demo with rules and intervals of its own would prove nothing about production.
//!
//! Invariant: only the target differs from the shipped files.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const CONFIG: &str = include_str!("../../helm/callsight/files/prometheus.yml");

/// Target in the shipped configuration: the default address of `serve`.
const TARGET: &str = "127.0.0.1:9464";

const RULES: [(&str, &str); 3] = [
    ("recording.yaml", include_str!("../../helm/callsight/files/rules/recording.yaml")),
    ("calls.yaml", include_str!("../../helm/callsight/files/rules/calls.yaml")),
    ("pipeline.yaml", include_str!("../../helm/callsight/files/rules/pipeline.yaml")),
];

/// Writes configuration and rules into a folder, and returns the configuration's path.
pub(super) fn write(folder: &Path, target: SocketAddr) -> io::Result<PathBuf> {
    let rules = folder.join("rules");
    fs::create_dir_all(&rules)?;
    for (name, text) in RULES {
        fs::write(rules.join(name), text)?;
    }
    let config = folder.join("prometheus.yml");
    fs::write(&config, CONFIG.replace(TARGET, &target.to_string()))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rules_are_written_and_the_target_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(folder.path(), "127.0.0.1:19464".parse().unwrap()).unwrap();
        let text = fs::read_to_string(config).unwrap();
        assert!(text.contains("\"127.0.0.1:19464\"") && !text.contains(TARGET), "{text}");
        let names = |folder: PathBuf| {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/callsight/files/rules");
        assert_eq!(names(folder.path().join("rules")), names(shipped));
    }
}
