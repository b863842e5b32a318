//! Flags that several commands share.
//!
//! Invariant: a [`NatsConfig`] has one identity, and every pair of flags is complete.

use std::path::PathBuf;
use std::time::Duration;

use super::log::LogArgs;
use crate::config::{
    ConfigError, MILLISECOND, MINUTE, NatsConfig, NatsIdentity, NatsTls, NatsUrl, duration_between, ratio,
    whole, within_a_day, within_an_hour,
};
use callsight_fold::{FoldSettings, Limits, Thresholds};

/// Flags of the process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ProcessArgs {
    /// Read settings from this TOML file.
    ///
    /// Flags and environment variables win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Check the settings, print them on one line, and exit
    #[arg(long)]
    pub(crate) check_config: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Upper bound of every budget.
pub(crate) const PLENTY: usize = 1_000_000_000;

/// Flags that decide the series of a call. A replay shows what was served only with the same
/// values.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Degradation")]
pub(crate) struct JudgementArgs {
    /// Remove a session after this time without a frame, from 1s to 1h.
    ///
    /// Choose several times the interval at which clients send, so that a lost frame ends no
    /// session.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = within_an_hour,
        help_heading = "Detail"
    )]
    pub(crate) idle_timeout: Duration,

    /// Round-trip time above which a session counts as degraded, from 1ms to 1m
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "300ms",
        value_parser = duration_between(MILLISECOND..=MINUTE)
    )]
    pub(crate) degraded_rtt: Duration,

    /// Share of concealed audio above which a session counts as degraded, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = ratio)]
    pub(crate) degraded_concealment: f64,

    /// Share of lost packets, of what it sends, above which a session counts as degraded, from 0
    /// to 1.
    ///
    /// Of received packets, a higher share only tells what hurt the session.
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = ratio)]
    pub(crate) degraded_loss: f64,

    /// Time after which a session that is still joining counts as degraded, from 1ms to 1m
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration_between(MILLISECOND..=MINUTE)
    )]
    pub(crate) degraded_join: Duration,

    /// Maximum number of distinct values of the label `server_url`
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    pub(crate) max_server_urls: usize,

    /// Maximum number of distinct values of the label `app`, the releases of applications
    #[arg(
        long,
        value_name = "N",
        default_value = "64",
        value_parser = whole(1..=PLENTY),
        help_heading = "Budgets"
    )]
    pub(crate) max_apps: usize,

    /// Remove the aggregates of a server, a release or a path after this time without a session,
    /// from 1s to 24h.
    ///
    /// Its place in its budget is free again, and one that returns begins at zero.
    /// Choose several times Prometheus's scrape interval, so that the last values are scraped.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "15m",
        value_parser = within_a_day,
        help_heading = "Budgets"
    )]
    pub(crate) server_idle: Duration,
}

impl JudgementArgs {
    /// Returns the settings of a fold, at their defaults where these flags say nothing.
    pub(crate) fn fold(&self) -> FoldSettings {
        let default = FoldSettings::default();
        FoldSettings {
            idle_timeout: self.idle_timeout,
            server_idle: self.server_idle,
            limits: Limits { server_urls: self.max_server_urls, apps: self.max_apps, ..default.limits },
            thresholds: Thresholds {
                rtt: self.degraded_rtt,
                concealment: self.degraded_concealment,
                loss: self.degraded_loss,
                join: self.degraded_join,
            },
            ..default
        }
    }
}

/// Flags of the connection to NATS.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "NATS")]
pub(crate) struct NatsArgs {
    /// NATS servers to connect to, in any order.
    ///
    /// `nats://host:port`, or `tls://` to require TLS. Separate several with commas or repeat the
    /// flag. A user and a password in the URL are never logged.
    // A hidden environment value marks a possible secret, which errors do not show.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    pub(crate) nats_url: Vec<NatsUrl>,

    /// NATS servers further away, such as another region's, used while none of `--nats-url` is
    /// available.
    ///
    /// The connection returns to a server of `--nats-url` as soon as one is available. Name all
    /// servers of the own cluster in `--nats-url` then, since discovered ones are not used.
    #[arg(long, value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    pub(crate) nats_fallback_url: Vec<NatsUrl>,

    /// Credentials file to connect with, as `nsc` writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_creds: Option<PathBuf>,

    /// File with the seed of the nkey to connect with
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_nkey: Option<PathBuf>,

    /// User to connect as, with `--nats-password-file`
    #[arg(long, value_name = "NAME")]
    pub(crate) nats_user: Option<String>,

    /// File with the password of `--nats-user` in its first line
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_password_file: Option<PathBuf>,

    /// PEM file of certificate authorities to trust instead of the system's.
    ///
    /// This and the other TLS flags make TLS required.
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,

    /// PEM file of the client certificate with its chain; needs `--nats-key`
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_cert: Option<PathBuf>,

    /// PEM file of the key of `--nats-cert`
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_key: Option<PathBuf>,

    /// Begin the connection with TLS, for a server with `handshake_first`
    #[arg(long)]
    pub(crate) nats_tls_first: bool,

    /// Prefix of the subjects of replies, by default `_INBOX.exporter`, `_INBOX.relay` and so on.
    ///
    /// The user must be allowed to subscribe to it.
    #[arg(long, value_name = "SUBJECT", value_parser = plain_subject("_INBOX.exporter"))]
    pub(crate) nats_inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// Validates the flags for a command that connects in a `role`, the name of its user in
    /// `jetstream/permissions`.
    ///
    /// # Errors
    /// Two flags contradict each other, or one of a pair is missing.
    pub(crate) fn validate(self, role: &str) -> Result<NatsConfig, ConfigError> {
        let mut logins = self.nats_url.iter().chain(&self.nats_fallback_url).filter_map(NatsUrl::login);
        let login = logins.next().cloned();
        if logins.any(|other| Some(other) != login.as_ref()) {
            return rejected("the servers of `--nats-url` must not name different users");
        }
        let password = pair("--nats-user", self.nats_user, "--nats-password-file", self.nats_password_file)?;
        let password = password.map(|(user, file)| NatsIdentity::Password { user, file });
        let identities = [
            ("--nats-url` with a user", login.map(NatsIdentity::Login)),
            ("--nats-creds`", self.nats_creds.map(NatsIdentity::Credentials)),
            ("--nats-nkey`", self.nats_nkey.map(NatsIdentity::Nkey)),
            ("--nats-user`", password),
        ];
        let mut given = identities.into_iter().filter_map(|(flag, identity)| Some((flag, identity?)));
        let identity = match (given.next(), given.next()) {
            (None, _) => NatsIdentity::Anonymous,
            (Some((_, identity)), None) => identity,
            (Some((first, _)), Some((second, _))) => {
                return rejected(format!("`{second} cannot be used with `{first}; connect as one user"));
            }
        };
        let client = pair("--nats-cert", self.nats_cert, "--nats-key", self.nats_key)?;
        Ok(NatsConfig {
            servers: self.nats_url,
            fallback: self.nats_fallback_url,
            identity,
            tls: NatsTls { authorities: self.nats_ca, client, first: self.nats_tls_first },
            inbox_prefix: self.nats_inbox_prefix.unwrap_or_else(|| format!("_INBOX.{role}")),
        })
    }
}

/// Returns the error of settings that contradict each other.
pub(crate) fn rejected<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Rejected(message.into()))
}

/// Returns both values of two flags that need each other, or none.
pub(crate) fn pair<A, B>(
    flag: &str,
    value: Option<A>,
    other: &str,
    other_value: Option<B>,
) -> Result<Option<(A, B)>, ConfigError> {
    match (value, other_value) {
        (None, None) => Ok(None),
        (Some(value), Some(other_value)) => Ok(Some((value, other_value))),
        (Some(_), None) => rejected(format!("`{flag}` needs `{other}` too")),
        (None, Some(_)) => rejected(format!("`{other}` needs `{flag}` too")),
    }
}

/// Returns a parser of a subject without wildcards; its error gives an example.
pub(crate) fn plain_subject(
    example: &str,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + use<> {
    let wrong = format!("write a subject without wildcards, such as {example}");
    let plain = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
    };
    move |text| if text.split('.').all(plain) { Ok(text.to_owned()) } else { Err(wrong.clone()) }
}

/// Removes repeated values.
pub(crate) fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(values.len());
    for value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

/// Joins values as `a, b, c`.
pub(crate) fn joined(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
/// Parses the address of a page.
pub(super) fn web_address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        // Serialized, it has no character that could end an attribute.
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url.into()),
        _ => Err("write an address that begins with http:// or https://".to_owned()),
    }
}
