//! TLS for clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::info;

use crate::config::TlsSection;

/// The directory, in the data directory, of the certificate that this node created for
/// itself.
const OWN_DIR: &str = "tls";
const OWN_CERT: &str = "iggy_cert.pem";
const OWN_KEY: &str = "iggy_key.pem";

/// Why clients cannot be served over TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing or is not a PEM file of the right kind.
    #[error("{path}: {source}; [tcp.tls] must name a PEM file here")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("the certificate {cert} and the key {key} cannot be used: {source}")]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: tokio_rustls::rustls::Error,
    },
    /// A certificate cannot be created.
    #[error("cannot create a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate that was created cannot be stored.
    #[error("{path}: {source}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Accepts TLS connections as configured; `None` without TLS. `hosts` are the names in a
/// certificate that is created when there is none.
///
/// # Errors
/// When the certificate or the key cannot be read, created or used.
pub(crate) fn acceptor(
    tls: &TlsSection,
    data: &Path,
    hosts: Vec<String>,
) -> Result<Option<TlsAcceptor>, TlsError> {
    if !tls.enabled {
        return Ok(None);
    }
    let (cert, key) = match tls.self_signed && !tls.cert_file.exists() {
        true => own(data, hosts)?,
        false => (tls.cert_file.clone(), tls.key_file.clone()),
    };
    let config = load(&cert, &key)?;
    info!(certificate = %cert.display(), "clients are served over TLS");
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn load(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unreadable = |path: &Path, source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let unusable = |source| TlsError::Unusable {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| unreadable(cert, source))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| unreadable(key, source))?;
    let provider = Arc::new(ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, secret)
        })
        .map_err(unusable)
}

/// The certificate that this node has created for itself, now or at an earlier start, so
/// that clients that trust it continue to do so.
fn own(data: &Path, hosts: Vec<String>) -> Result<(PathBuf, PathBuf), TlsError> {
    let dir = data.join(OWN_DIR);
    let (cert, key) = (dir.join(OWN_CERT), dir.join(OWN_KEY));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = rcgen::generate_simple_self_signed(hosts)?;
    let store = |path: &Path, text: &str, mode: u32| {
        write_private(path, text, mode).map_err(|source| TlsError::Store {
            path: path.to_owned(),
            source,
        })
    };
    create_private(&dir).map_err(|source| TlsError::Store {
        path: dir.clone(),
        source,
    })?;
    store(&key, &made.signing_key.serialize_pem(), 0o600)?;
    store(&cert, &made.cert.pem(), 0o644)?;
    Ok((cert, key))
}

fn create_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)
}

fn write_private(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(cert: &Path, key: &Path, self_signed: bool) -> TlsSection {
        TlsSection {
            enabled: true,
            self_signed,
            cert_file: cert.to_owned(),
            key_file: key.to_owned(),
        }
    }

    fn hosts() -> Vec<String> {
        vec!["127.0.0.1".into(), "localhost".into()]
    }

    #[test]
    fn a_certificate_is_created_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let data = tempfile::tempdir().unwrap();
        let nowhere = data.path().join("none.pem");
        let tls = section(&nowhere, &nowhere, true);
        assert!(acceptor(&tls, data.path(), hosts()).unwrap().is_some());
        let (cert, key) = own(data.path(), hosts()).unwrap();
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let dir = std::fs::metadata(data.path().join(OWN_DIR)).unwrap();
        assert_eq!(dir.permissions().mode() & 0o777, 0o700);
        let made = std::fs::read(&cert).unwrap();
        assert!(acceptor(&tls, data.path(), hosts()).unwrap().is_some());
        assert_eq!(std::fs::read(&cert).unwrap(), made);
        // The same pair, named.
        let named = section(&cert, &key, false);
        assert!(acceptor(&named, data.path(), hosts()).unwrap().is_some());
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let data = tempfile::tempdir().unwrap();
        let (cert, key) = own(data.path(), hosts()).unwrap();
        let broken = data.path().join("broken.pem");
        std::fs::write(&broken, "no certificate").unwrap();
        let none = data.path().join("none.pem");
        let other = tempfile::tempdir().unwrap();
        let (_, foreign) = own(other.path(), hosts()).unwrap();
        for (cert, key, named) in [
            (&none, &key, &none),
            (&cert, &broken, &broken),
            (&cert, &foreign, &foreign),
        ] {
            let refused = acceptor(&section(cert, key, false), data.path(), hosts());
            let Err(error) = refused else {
                panic!("{named:?} was accepted");
            };
            let text = error.to_string();
            assert!(text.contains(&*named.to_string_lossy()), "{text}");
        }
    }

    #[test]
    fn tls_that_is_off_needs_no_files() {
        let tls = TlsSection::default();
        let none = acceptor(&tls, Path::new("/nowhere"), hosts()).unwrap();
        assert!(none.is_none());
    }
}
