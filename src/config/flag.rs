//! The names of a setting, all derived from its flag.
//!
//! Invariant: a flag has exactly one environment variable and one TOML key.

/// The flag that names the file, and so the only one that the file can't set.
pub(super) const CONFIG_FLAG: &str = "config";

/// Returns the environment variable of a flag: `CALLSIGHT_IDLE_TIMEOUT` for `idle-timeout`.
pub fn environment_name(flag: &str) -> String {
    format!("CALLSIGHT_{}", flag.to_uppercase().replace('-', "_"))
}
