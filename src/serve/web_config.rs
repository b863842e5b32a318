//! The web-config file: TLS and basic auth in the format of Prometheus's own exporters.
//!
//! Prometheus users have such files already, and tools that write them. So keys, values and the
//! base of relative paths are the same.
//!
//! Invariant: an unsupported setting is an error, since one that protects nothing is worse than
//! none.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};
use yaml_serde::Value;

use super::basic_auth::Users;
use crate::config::{did_you_mean, nearest, one_line};
use crate::tls::{PemError, authorities, certificates, private_key, provider, refused_key};

/// The web-config file can't be used. Never quotes a secret.
#[derive(Debug, thiserror::Error)]
#[error("`{}` of --web-config: {problem}", one_line(&path.display().to_string()))]
pub struct WebConfigError {
    path: PathBuf,
    problem: Problem,
}

/// The problem with the file.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("not valid YAML: {}", one_line(.0))]
    Syntax(String),
    #[error("unknown key `{}`; {advice}", one_line(key))]
    UnknownKey { key: String, advice: String },
    #[error("`{0}` is not supported here; leave it out")]
    Unsupported(String),
    #[error("`{key}` must be {expected}")]
    Value { key: String, expected: &'static str },
    #[error("`tls_server_config` needs `{0}` too")]
    Lacking(&'static str),
    #[error("`{key}`: cannot read `{}`: {source}", one_line(&file.display().to_string()))]
    UnreadableFile { key: &'static str, file: PathBuf, source: io::Error },
    #[error("`{key}`: `{}` {problem}", one_line(&file.display().to_string()))]
    File { key: &'static str, file: PathBuf, problem: PemError },
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// A configuration that can be used.
#[derive(Default)]
pub(super) struct WebConfig {
    /// `None` for plain HTTP.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Everybody may scrape if there are none.
    pub(super) users: Users,
}

/// The content of a configuration and of the files that it names, to compare with the next reading.
#[derive(PartialEq)]
pub(super) struct Sources {
    path: PathBuf,
    tls: Option<Tls>,
    users: Vec<(String, String)>,
}

#[derive(PartialEq)]
struct Tls {
    certificate: File,
    key: File,
    client_authority: Option<File>,
    client: ClientAuth,
    oldest: Version,
    newest: Version,
}

/// A file that a key of the configuration names, with its content.
#[derive(PartialEq)]
struct File {
    named_by: &'static str,
    path: PathBuf,
    content: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum ClientAuth {
    No,
    IfGiven,
    Required,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Version {
    Tls12,
    Tls13,
}

const TOP: [&str; 2] = ["tls_server_config", "basic_auth_users"];
const TOP_UNSUPPORTED: [&str; 2] = ["http_server_config", "rate_limit"];
const TLS: [&str; 6] =
    ["cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version", "max_version"];
const TLS_UNSUPPORTED: [&str; 7] = [
    "cert",
    "key",
    "client_ca",
    "client_allowed_sans",
    "cipher_suites",
    "curve_preferences",
    "prefer_server_cipher_suites",
];

impl Sources {
    /// Reads the configuration and the files that it names.
    pub(super) fn read(path: &Path) -> Result<Self, WebConfigError> {
        let read = || {
            let text = fs::read(path).map_err(Problem::Unreadable)?;
            let document: Value =
                yaml_serde::from_slice(&text).map_err(|error| Problem::Syntax(error.to_string()))?;
            let directory = path.parent().unwrap_or(Path::new(""));
            let mut sources = Self { path: path.to_owned(), tls: None, users: Vec::new() };
            for (key, value) in section(&document, "", &TOP, &TOP_UNSUPPORTED)? {
                match key {
                    "tls_server_config" => sources.tls = Some(Tls::read(value, directory)?),
                    _ => sources.users = users(value)?,
                }
            }
            Ok(sources)
        };
        read().map_err(|problem| WebConfigError { path: path.to_owned(), problem })
    }

    /// Builds the configuration from the sources.
    pub(super) fn build(&self) -> Result<WebConfig, WebConfigError> {
        let wrong = |problem| WebConfigError { path: self.path.clone(), problem };
        let tls = match &self.tls {
            Some(tls) => Some(Arc::new(tls.build().map_err(wrong)?)),
            None => None,
        };
        let users = Users::new(&self.users).map_err(|user| {
            let key = format!("basic_auth_users.{}", one_line(&user));
            wrong(Problem::Value {
                key,
                expected: "a bcrypt hash of a cost up to 15, as `htpasswd -nB` writes it",
            })
        })?;
        Ok(WebConfig { tls, users })
    }

    /// Whether passwords would be sent in clear text.
    pub(super) fn in_the_clear(&self) -> bool {
        self.tls.is_none() && !self.users.is_empty()
    }
}

impl Tls {
    fn read(value: &Value, directory: &Path) -> Result<Self, Problem> {
        let (mut certificate, mut key, mut client_authority) = (None, None, None);
        let (mut client, mut oldest, mut newest) = (None, Version::Tls12, Version::Tls13);
        for (name, value) in section(value, "tls_server_config.", &TLS, &TLS_UNSUPPORTED)? {
            let text = value.as_str().ok_or_else(|| tls_value(name, "text"))?;
            match name {
                "cert_file" => certificate = Some(File::read("cert_file", directory, text)?),
                "key_file" => key = Some(File::read("key_file", directory, text)?),
                "client_ca_file" => client_authority = Some(File::read("client_ca_file", directory, text)?),
                "client_auth_type" => client = Some(client_auth(text)?),
                "min_version" => oldest = protocol_version(name, text)?,
                _ => newest = protocol_version(name, text)?,
            }
        }
        let client = client.unwrap_or(ClientAuth::No);
        match (client, &client_authority) {
            (ClientAuth::No, Some(_)) => return Err(Problem::Lacking("client_auth_type")),
            (ClientAuth::IfGiven | ClientAuth::Required, None) => {
                return Err(Problem::Lacking("client_ca_file"));
            }
            _ => {}
        }
        if oldest > newest {
            return Err(tls_value("max_version", "no older than `min_version`"));
        }
        Ok(Self {
            certificate: certificate.ok_or(Problem::Lacking("cert_file"))?,
            key: key.ok_or(Problem::Lacking("key_file"))?,
            client_authority,
            client,
            oldest,
            newest,
        })
    }

    fn build(&self) -> Result<ServerConfig, Problem> {
        let refused = |error: &dyn fmt::Display| Problem::Tls(error.to_string());
        let versions: Vec<&SupportedProtocolVersion> =
            [(Version::Tls12, &version::TLS12), (Version::Tls13, &version::TLS13)]
                .into_iter()
                .filter(|(version, _)| (self.oldest..=self.newest).contains(version))
                .map(|(_, version)| version)
                .collect();
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .map_err(|error| refused(&error))?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let store = authorities(&file.content).map_err(|problem| file.wrong(problem))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider());
                let verifier = match self.client {
                    ClientAuth::Required => verifier,
                    ClientAuth::IfGiven | ClientAuth::No => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| refused(&error))?)
            }
        };
        let chain =
            certificates(&self.certificate.content).map_err(|problem| self.certificate.wrong(problem))?;
        let key = private_key(&self.key.content).map_err(|problem| self.key.wrong(problem))?;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| self.key.wrong(refused_key(&error)))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl File {
    /// Reads a file; relative paths are relative to the configuration.
    fn read(named_by: &'static str, directory: &Path, name: &str) -> Result<Self, Problem> {
        let path = directory.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Self { named_by, path, content }),
            Err(source) => Err(Problem::UnreadableFile { key: named_by, file: path, source }),
        }
    }

    fn wrong(&self, problem: PemError) -> Problem {
        Problem::File { key: self.named_by, file: self.path.clone(), problem }
    }
}

/// Returns the keys and values of a mapping. An absent one is empty.
fn section<'a>(
    value: &'a Value,
    place: &str,
    known: &[&str],
    unsupported: &[&str],
) -> Result<Vec<(&'a str, &'a Value)>, Problem> {
    let mapping = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => {
            let key = if place.is_empty() { "the file" } else { place.trim_end_matches('.') };
            return Err(Problem::Value { key: key.to_owned(), expected: "a mapping" });
        }
    };
    let mut entries = Vec::new();
    for (key, value) in mapping {
        let key = key.as_str().unwrap_or_default();
        if unsupported.contains(&key) {
            return Err(Problem::Unsupported(format!("{place}{key}")));
        }
        if !known.contains(&key) {
            let advice = match nearest(key, known.iter().copied()) {
                Some(known) => did_you_mean(known),
                None => format!("known keys: {}", known.join(", ")),
            };
            return Err(Problem::UnknownKey { key: format!("{place}{key}"), advice });
        }
        entries.push((key, value));
    }
    Ok(entries)
}

fn users(value: &Value) -> Result<Vec<(String, String)>, Problem> {
    let wrong =
        |key: &str, expected| Problem::Value { key: format!("basic_auth_users{}", one_line(key)), expected };
    let mapping = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => return Err(wrong("", "a mapping of users to bcrypt hashes")),
    };
    mapping
        .iter()
        .map(|(user, hash)| {
            let user = user.as_str().ok_or_else(|| wrong("", "a mapping of names to bcrypt hashes"))?;
            if user.is_empty() || user.contains(':') {
                return Err(wrong("", "a mapping of names, without colons, to bcrypt hashes"));
            }
            let hash = hash.as_str().ok_or_else(|| wrong(&format!(".{user}"), "a bcrypt hash"))?;
            Ok((user.to_owned(), hash.to_owned()))
        })
        .collect()
}

fn client_auth(text: &str) -> Result<ClientAuth, Problem> {
    match text {
        "" | "NoClientCert" => Ok(ClientAuth::No),
        "VerifyClientCertIfGiven" => Ok(ClientAuth::IfGiven),
        "RequireAndVerifyClientCert" => Ok(ClientAuth::Required),
        "RequestClientCert" | "RequireAnyClientCert" => Err(tls_value(
            "client_auth_type",
            "RequireAndVerifyClientCert or VerifyClientCertIfGiven: an unverified certificate proves nothing",
        )),
        _ => Err(tls_value(
            "client_auth_type",
            "NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert",
        )),
    }
}

fn protocol_version(key: &str, text: &str) -> Result<Version, Problem> {
    match text {
        "TLS12" => Ok(Version::Tls12),
        "TLS13" => Ok(Version::Tls13),
        _ => Err(tls_value(key, "TLS12 or TLS13; older versions are not supported")),
    }
}

fn tls_value(key: &str, expected: &'static str) -> Problem {
    Problem::Value { key: format!("tls_server_config.{key}"), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$rTC9qXQGtTjSWTS9lBYLtOCh5b2NlbTZ0tsPkKhdLAgvKqyBaLNdW";

    /// The error of a file with this text, its directory left out.
    fn problem(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        fs::write(&path, text).unwrap();
        for name in ["crt", "key"] {
            fs::write(directory.path().join(name), "not PEM").unwrap();
        }
        let error = Sources::read(&path).and_then(|sources| sources.build()).err().expect(text).to_string();
        let shown = error.replace(&format!("{}/", directory.path().display()), "");
        shown.strip_prefix("`web.yml` of --web-config: ").expect(&shown).to_owned()
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write_and_without_secrets() {
        for (text, expected) in [
            ("tls_server_confg: {}", "unknown key `tls_server_confg`; did you mean `tls_server_config`?"),
            (
                "tls_server_config: {cert_fil: a}",
                "unknown key `tls_server_config.cert_fil`; did you mean `cert_file`?",
            ),
            ("zzz: 1", "unknown key `zzz`; known keys: tls_server_config, basic_auth_users"),
            ("http_server_config: {http2: true}", "`http_server_config` is not supported here; leave it out"),
            (
                "tls_server_config: {cipher_suites: [x]}",
                "`tls_server_config.cipher_suites` is not supported here; leave it out",
            ),
            ("tls_server_config: {}", "`tls_server_config` needs `cert_file` too"),
            ("tls_server_config: {cert_file: crt}", "`tls_server_config` needs `key_file` too"),
            (
                "tls_server_config: {cert_file: crt, key_file: key}",
                "`cert_file`: `crt` holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key, client_ca_file: crt}",
                "`tls_server_config` needs `client_auth_type` too",
            ),
            (
                "tls_server_config: {client_auth_type: RequireAndVerifyClientCert}",
                "`tls_server_config` needs `client_ca_file` too",
            ),
            (
                "tls_server_config: {min_version: TLS10}",
                "`tls_server_config.min_version` must be TLS12 or TLS13; older versions are not supported",
            ),
            (
                "tls_server_config: {min_version: TLS13, max_version: TLS12}",
                "`tls_server_config.max_version` must be no older than `min_version`",
            ),
            (
                "basic_auth_users: {alice: hunter2}",
                "`basic_auth_users.alice` must be a bcrypt hash of a cost up to 15, as `htpasswd -nB` writes it",
            ),
            ("basic_auth_users: [alice]", "`basic_auth_users` must be a mapping of users to bcrypt hashes"),
            ("- a", "`the file` must be a mapping"),
        ] {
            assert_eq!(problem(text), expected, "{text}");
        }
        assert!(problem("basic_auth_users: {alice: hunter2, alice: b}").starts_with("not valid YAML: "));
        assert!(
            problem("tls_server_config: {cert_file: gone}").starts_with("`cert_file`: cannot read `gone`: ")
        );
    }

    #[test]
    fn users_without_tls_are_in_the_clear_and_nothing_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        fs::write(&path, format!("basic_auth_users:\n  alice: {HASH}\n")).unwrap();
        let sources = Sources::read(&path).unwrap();
        assert!(sources.in_the_clear());
        assert!(!sources.build().unwrap().users.is_empty());
        fs::write(&path, "").unwrap();
        let sources = Sources::read(&path).unwrap();
        assert!(!sources.in_the_clear());
        assert!(sources.build().unwrap().users.is_empty());
    }
}
