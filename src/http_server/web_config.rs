//! The web-config file: TLS and basic auth in the format of Prometheus's own exporters.
//!
//! Prometheus users have such files already, and tools that write them. So keys, values and the
//! base of relative paths are the same.
//!
//! Invariant: an unsupported setting is an error, since one that protects nothing is worse than
//! none.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};
use yaml_serde::Value;

use super::basic_auth::Users;
use crate::config::{one_line, read_file};
use crate::reload;
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
    #[error("not valid: {}", one_line(&.0.to_string()))]
    Invalid(yaml_serde::Error),
    #[error(
        "protects nothing: write `tls_server_config` or `basic_auth_users`, or omit --web-config to serve \
         everybody over plain HTTP"
    )]
    Empty,
    #[error("would remove {}: restart the process if that is what you want", .0.join(" and "))]
    Weaker(Vec<&'static str>),
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

/// The keys of the file that are supported.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
struct Keys {
    tls_server_config: Option<TlsKeys>,
    /// Read by [`users`], since the library's errors quote values, which are secrets here.
    #[serde(default)]
    basic_auth_users: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
struct TlsKeys {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    client_auth_type: ClientAuth,
    client_ca_file: Option<PathBuf>,
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
}

/// An unverified certificate proves nothing, so the other types of Prometheus are missing.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
enum ClientAuth {
    #[default]
    #[serde(rename = "NoClientCert", alias = "")]
    No,
    #[serde(rename = "VerifyClientCertIfGiven")]
    IfGiven,
    #[serde(rename = "RequireAndVerifyClientCert")]
    Required,
}

#[derive(Clone, Copy, PartialEq, PartialOrd, Deserialize)]
enum TlsVersion {
    TLS12,
    TLS13,
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
    oldest: TlsVersion,
    newest: TlsVersion,
}

/// A file that a key of the configuration names, with its content.
#[derive(PartialEq)]
struct File {
    named_by: &'static str,
    path: PathBuf,
    content: Vec<u8>,
}

impl Sources {
    /// Reads the configuration and the files that it names.
    pub(super) fn read(path: &Path) -> Result<Self, WebConfigError> {
        let read = || {
            let text = read_file(path).map_err(Problem::Unreadable)?;
            let keys: Option<Keys> = yaml_serde::from_slice(&text).map_err(Problem::Invalid)?;
            let Keys { tls_server_config, basic_auth_users } = keys.unwrap_or_default();
            let directory = path.parent().unwrap_or(Path::new(""));
            let tls = tls_server_config.map(|keys| Tls::read(keys, directory)).transpose()?;
            let users = users(&basic_auth_users)?;
            if tls.is_none() && users.is_empty() {
                return Err(Problem::Empty);
            }
            Ok(Self { path: path.to_owned(), tls, users })
        };
        read().map_err(|problem| WebConfigError { path: path.to_owned(), problem })
    }

    /// Builds the configuration from the sources.
    pub(super) fn build(&self) -> Result<WebConfig, WebConfigError> {
        let wrong = |problem| WebConfigError { path: self.path.clone(), problem };
        let tls = self.tls.as_ref().map(|tls| tls.build().map(Arc::new)).transpose().map_err(wrong)?;
        let users = Users::new(&self.users).map_err(|user| {
            let key = format!("basic_auth_users.{}", one_line(&user));
            wrong(Problem::Value {
                key,
                expected: "a bcrypt hash of a cost up to 15, as `htpasswd -nB` writes it",
            })
        })?;
        Ok(WebConfig { tls, users })
    }

    fn protections(&self) -> impl Iterator<Item = &'static str> {
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client == ClientAuth::Required);
        [
            (self.tls.is_some(), "TLS"),
            (!self.users.is_empty(), "all users"),
            (certificates, "the requirement of client certificates"),
        ]
        .into_iter()
        .filter_map(|(is_there, what)| is_there.then_some(what))
    }

    /// Whether passwords would be sent in clear text.
    pub(super) fn in_the_clear(&self) -> bool {
        self.tls.is_none() && !self.users.is_empty()
    }
}

impl reload::Sources for Sources {
    type Error = WebConfigError;

    const NAME: &'static str = "web config";

    /// Reads the configuration again, for a process that must not lose what protects it.
    ///
    /// A file that is half written, or restored from the wrong place, may be a valid one of less.
    fn read_again(&self) -> Result<Self, WebConfigError> {
        let new = Self::read(&self.path)?;
        let removed: Vec<_> =
            self.protections().filter(|old| new.protections().all(|new| new != *old)).collect();
        match removed.is_empty() {
            true => Ok(new),
            false => Err(WebConfigError { path: self.path.clone(), problem: Problem::Weaker(removed) }),
        }
    }
}

impl Tls {
    fn read(keys: TlsKeys, directory: &Path) -> Result<Self, Problem> {
        let client = keys.client_auth_type;
        let oldest = keys.min_version.unwrap_or(TlsVersion::TLS12);
        let newest = keys.max_version.unwrap_or(TlsVersion::TLS13);
        match (client, &keys.client_ca_file) {
            (ClientAuth::No, Some(_)) => return Err(Problem::Lacking("client_auth_type")),
            (ClientAuth::IfGiven | ClientAuth::Required, None) => {
                return Err(Problem::Lacking("client_ca_file"));
            }
            _ => {}
        }
        if oldest > newest {
            let key = "tls_server_config.max_version".to_owned();
            return Err(Problem::Value { key, expected: "no older than `min_version`" });
        }
        let authority = keys.client_ca_file.map(|name| File::read("client_ca_file", directory, &name));
        Ok(Self {
            certificate: File::read("cert_file", directory, &keys.cert_file)?,
            key: File::read("key_file", directory, &keys.key_file)?,
            client_authority: authority.transpose()?,
            client,
            oldest,
            newest,
        })
    }

    fn build(&self) -> Result<ServerConfig, Problem> {
        let refused = |error: &dyn fmt::Display| Problem::Tls(error.to_string());
        let versions: Vec<&SupportedProtocolVersion> =
            [(TlsVersion::TLS12, &version::TLS12), (TlsVersion::TLS13, &version::TLS13)]
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
    fn read(named_by: &'static str, directory: &Path, name: &Path) -> Result<Self, Problem> {
        let path = directory.join(name);
        match read_file(&path) {
            Ok(content) => Ok(Self { named_by, path, content }),
            Err(source) => Err(Problem::UnreadableFile { key: named_by, file: path, source }),
        }
    }

    fn wrong(&self, problem: PemError) -> Problem {
        Problem::File { key: self.named_by, file: self.path.clone(), problem }
    }
}

fn users(value: &Value) -> Result<Vec<(String, String)>, Problem> {
    let wrong = || Problem::Value {
        key: "basic_auth_users".to_owned(),
        expected: "a mapping of names, without colons, to bcrypt hashes",
    };
    let mapping = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => return Err(wrong()),
    };
    let entries = mapping.iter().map(|(user, hash)| match (user.as_str(), hash.as_str()) {
        (Some(user), Some(hash)) if !user.is_empty() && !user.contains(':') => {
            Ok((user.to_owned(), hash.to_owned()))
        }
        _ => Err(wrong()),
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reload::Sources as _;

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
            (
                "tls_server_confg: {}",
                "not valid: unknown field `tls_server_confg`, expected `tls_server_config` or `basic_auth_users`",
            ),
            (
                "tls_server_config: {cert_fil: a}",
                "not valid: tls_server_config: unknown field `cert_fil`, expected one of `cert_file`, `key_file`, \
                 `client_auth_type`, `client_ca_file`, `min_version`, `max_version` at line 1 column 21",
            ),
            (
                "tls_server_config: {}",
                "not valid: tls_server_config: missing field `cert_file` at line 1 column 20",
            ),
            (
                "tls_server_config: {cert_file: crt}",
                "not valid: tls_server_config: missing field `key_file` at line 1 column 20",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key}",
                "`cert_file`: `crt` holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key, client_ca_file: crt}",
                "`tls_server_config` needs `client_auth_type` too",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key, client_auth_type: RequireAndVerifyClientCert}",
                "`tls_server_config` needs `client_ca_file` too",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key, min_version: TLS10}",
                "not valid: tls_server_config.min_version: unknown variant `TLS10`, expected `TLS12` or `TLS13` \
                 at line 1 column 65",
            ),
            (
                "tls_server_config: {cert_file: crt, key_file: key, min_version: TLS13, max_version: TLS12}",
                "`tls_server_config.max_version` must be no older than `min_version`",
            ),
            (
                "basic_auth_users: {alice: hunter2}",
                "`basic_auth_users.alice` must be a bcrypt hash of a cost up to 15, as `htpasswd -nB` writes it",
            ),
            (
                "basic_auth_users: hunter2",
                "`basic_auth_users` must be a mapping of names, without colons, to bcrypt hashes",
            ),
            (
                "basic_auth_users: {alice: [hunter2]}",
                "`basic_auth_users` must be a mapping of names, without colons, to bcrypt hashes",
            ),
            ("- a", "not valid: invalid type: sequence, expected a mapping"),
        ] {
            assert_eq!(problem(text), expected, "{text}");
        }
        let twice = problem("basic_auth_users: {alice: hunter2, alice: b}");
        assert!(twice.starts_with("not valid: ") && !twice.contains("hunter2"), "{twice}");
        let gone = problem("tls_server_config: {cert_file: gone, key_file: key}");
        assert!(gone.starts_with("`cert_file`: cannot read `gone`: "), "{gone}");
    }

    #[test]
    fn a_file_that_protects_nothing_is_refused() {
        for text in [
            "",
            "\n",
            "# tls_server_config: {}\n",
            "{}",
            "null",
            "---\n",
            "basic_auth_users: {}",
            "basic_auth_users:",
        ] {
            assert_eq!(
                problem(text),
                "protects nothing: write `tls_server_config` or `basic_auth_users`, or omit --web-config to serve \
                 everybody over plain HTTP",
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_read_again_protects_as_much() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        for name in ["crt", "key"] {
            fs::write(directory.path().join(name), "not PEM").unwrap();
        }
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Sources::read(&path).unwrap()
        };
        let tls = "tls_server_config: {cert_file: crt, key_file: key}\n";
        let certificates = "tls_server_config: {cert_file: crt, key_file: key, client_ca_file: crt, \
                            client_auth_type: RequireAndVerifyClientCert}\n";
        let users = format!("basic_auth_users: {{alice: {HASH}}}\n");
        let both = format!("{tls}{users}");
        for (old, new, removed) in [
            (both.as_str(), users.as_str(), "TLS"),
            (&both, tls, "all users"),
            (certificates, tls, "the requirement of client certificates"),
            (certificates, &users, "TLS and the requirement of client certificates"),
        ] {
            let old = read(old);
            fs::write(&path, new).unwrap();
            let error = old.read_again().err().expect(new).to_string();
            let expected = format!("would remove {removed}: restart the process if that is what you want");
            assert!(error.ends_with(&expected), "{error}");
        }
        for (old, new) in [(tls, both.as_str()), (&users, &both), (tls, certificates), (&both, &both)] {
            let old = read(old);
            fs::write(&path, new).unwrap();
            assert!(old.read_again().is_ok(), "{new}");
        }
    }

    #[test]
    fn users_without_tls_are_in_the_clear() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        fs::write(&path, format!("basic_auth_users:\n  alice: {HASH}\n")).unwrap();
        let sources = Sources::read(&path).unwrap();
        assert!(sources.in_the_clear());
        assert!(!sources.build().unwrap().users.hashes.is_empty());
    }
}
