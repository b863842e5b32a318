//! Flags that more than one command has.

use std::path::PathBuf;
use std::time::Duration;

use super::log::LogArgs;
use crate::config::{
    ConfigError, NatsConfig, NatsIdentity, NatsTls, NatsUrl, duration_between, ratio, whole,
};
use callsight_fold::Thresholds;

/// How the process itself behaves.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Read settings from this TOML file.
    ///
    /// Flags and environment variables win over it.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(crate) config: Option<PathBuf>,

    /// Check the settings, say what they are in one line, and exit
    #[arg(long, help_heading = "Configuration")]
    pub(crate) check_config: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A number that no budget needs to go beyond.
pub(crate) const PLENTY: usize = 1_000_000_000;

/// What the series of a call depend on, whether they are served or replayed: a replay shows what was served only if
/// both are told the same.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct JudgementArgs {
    /// Remove a session that has sent no frame for this long, from 1s to 1h.
    ///
    /// Choose several times the interval at which clients send, so that no session ends for a lost frame.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Detail"
    )]
    pub(crate) idle_timeout: Duration,

    /// A session with a longer round trip than this counts as degraded, from 1ms to 1m
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "300ms",
        value_parser = duration_between(MILLISECOND..=MINUTE),
        help_heading = "Degradation"
    )]
    pub(crate) degraded_rtt: Duration,

    /// A session with a larger share of its audio concealed counts as degraded, from 0 to 1
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.05",
        value_parser = ratio,
        help_heading = "Degradation"
    )]
    pub(crate) degraded_concealment: f64,

    /// Most distinct values of the label `server_url`
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    pub(crate) max_server_urls: usize,
}

impl JudgementArgs {
    pub(crate) const fn thresholds(&self) -> Thresholds {
        Thresholds { rtt: self.degraded_rtt, concealment: self.degraded_concealment }
    }
}

/// How to reach NATS.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NatsArgs {
    /// NATS servers to connect to, any of them will do.
    ///
    /// `nats://host:port`, or `tls://` to insist on TLS. Separate several with commas or repeat the flag. A
    /// user and a password in the URL are never logged.
    // Hiding the value of the variable marks it as one that may hold a secret: errors do not show it.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222",
        help_heading = "NATS"
    )]
    pub(crate) nats_url: Vec<NatsUrl>,

    /// NATS servers further away, for while none of `--nats-url` is there, such as those of another region.
    ///
    /// The connection goes back to a server of `--nats-url` as soon as one is there again. Name all servers of the
    /// own cluster in `--nats-url` then: others that it may have are not tried.
    #[arg(long, value_name = "URL", value_delimiter = ',', hide_env_values = true, help_heading = "NATS")]
    pub(crate) nats_fallback_url: Vec<NatsUrl>,

    /// Credentials to connect with, a file as `nsc` writes it
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_creds: Option<PathBuf>,

    /// Seed of the nkey to connect with, a file
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_nkey: Option<PathBuf>,

    /// User to connect as, with `--nats-password-file`
    #[arg(long, value_name = "NAME", help_heading = "NATS")]
    pub(crate) nats_user: Option<String>,

    /// Password of `--nats-user`, the first line of a file
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_password_file: Option<PathBuf>,

    /// Certificate authorities to trust instead of the system's, a file in PEM.
    ///
    /// This and the other TLS flags make TLS compulsory.
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_ca: Option<PathBuf>,

    /// Certificate to show to the server, a file in PEM with its chain; with `--nats-key`
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_cert: Option<PathBuf>,

    /// Key of `--nats-cert`, a file in PEM
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_key: Option<PathBuf>,

    /// Begin with TLS, for a server that is set to `handshake_first`
    #[arg(long, help_heading = "NATS")]
    pub(crate) nats_tls_first: bool,

    /// Subjects under which answers come back; `_INBOX.exporter`, `_INBOX.relay` and so on unless given.
    ///
    /// It must be what the user may subscribe to.
    #[arg(long, value_name = "SUBJECT", value_parser = inbox_prefix, help_heading = "NATS")]
    pub(crate) nats_inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// What they mean together, for a command that connects in a `role`, which is what `jetstream/permissions` calls
    /// its user.
    ///
    /// # Errors
    /// Two flags contradict each other, or one lacks its other half.
    pub(crate) fn validate(self, role: &str) -> Result<NatsConfig, ConfigError> {
        let mut login = None;
        for url in self.nats_url.iter().chain(&self.nats_fallback_url) {
            if let Some(found) = url.login() {
                if login.is_some_and(|login| login != found) {
                    return rejected("the servers of `--nats-url` must not name different users".to_owned());
                }
                login = Some(found);
            }
        }
        let mut identities = Vec::new();
        if let Some(login) = login {
            identities.push(("--nats-url` with a user", NatsIdentity::Login(login.clone())));
        }
        if let Some(file) = self.nats_creds {
            identities.push(("--nats-creds`", NatsIdentity::Credentials(file)));
        }
        if let Some(file) = self.nats_nkey {
            identities.push(("--nats-nkey`", NatsIdentity::Nkey(file)));
        }
        match (self.nats_user, self.nats_password_file) {
            (None, None) => {}
            (Some(user), Some(file)) => {
                identities.push(("--nats-user`", NatsIdentity::Password { user, file }));
            }
            (Some(_), None) => return lacking("--nats-user", "--nats-password-file"),
            (None, Some(_)) => return lacking("--nats-password-file", "--nats-user"),
        }
        let identity = match <[_; 1]>::try_from(identities) {
            Ok([(_, identity)]) => identity,
            Err(none) if none.is_empty() => NatsIdentity::Anonymous,
            Err(several) => {
                let (first, second) = (several[0].0, several[1].0);
                return rejected(format!("`{second} cannot be used with `{first}; connect as one user"));
            }
        };
        let client = match (self.nats_cert, self.nats_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => return lacking("--nats-cert", "--nats-key"),
            (None, Some(_)) => return lacking("--nats-key", "--nats-cert"),
        };
        Ok(NatsConfig {
            servers: self.nats_url,
            fallback: self.nats_fallback_url,
            identity,
            tls: NatsTls { authorities: self.nats_ca, client, first: self.nats_tls_first },
            inbox_prefix: self.nats_inbox_prefix.unwrap_or_else(|| format!("_INBOX.{role}")),
        })
    }
}

fn rejected<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError::Rejected(message))
}

fn lacking<T>(flag: &str, other: &str) -> Result<T, ConfigError> {
    rejected(format!("`{flag}` needs `{other}` too"))
}

/// A subject without wildcards, for answers to come back under.
fn inbox_prefix(text: &str) -> Result<String, String> {
    if is_plain(text) {
        Ok(text.to_owned())
    } else {
        Err("write a subject without wildcards, such as _INBOX.exporter".to_owned())
    }
}

/// Whether it is a subject, without wildcards.
pub(crate) fn is_plain(subject: &str) -> bool {
    let plain = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
    };
    subject.split('.').all(plain)
}

/// Each value once, in the order given.
pub(crate) fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(values.len());
    for value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

/// `a, b, c`.
pub(crate) fn joined(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
