//! Certificate authorities and certificates, made at run time, and a client that trusts them.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::process::temporary_directory;

/// An authority, and a folder with the files that it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    directory: TempDir,
}

/// A certificate and its key, in PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let directory = temporary_directory();
        fs::write(directory.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, directory }
    }

    /// Signs a certificate for a server on this machine or for any client.
    pub(crate) fn sign(&self) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    /// [`Self::sign`], written to `{name}.pem` and `{name}.key`; returns their paths.
    pub(crate) fn sign_to(&self, name: &str) -> (String, String) {
        let Signed { certificate, key } = self.sign();
        (self.file(&format!("{name}.pem"), &certificate), self.file(&format!("{name}.key"), &key))
    }

    /// Writes another file into the folder and returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of its own certificate.
    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem").to_str().unwrap().to_owned()
    }

    /// Sends a request over TLS, with a certificate or without: the whole answer, or why there is
    /// none.
    pub(crate) async fn exchange(
        &self,
        target: &str,
        request: &[u8],
        own: Option<&Signed>,
    ) -> Result<String, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(Signed { certificate, key }) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let exchange = async {
            let stream = TcpStream::connect(target).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.write_all(request).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        exchange.await.map_err(|error: io::Error| error.to_string())
    }
}
