//! TLS for clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};
use x509_parser::parse_x509_certificate;

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
    // A node with an expired certificate still serves clients that do not verify it.
    if let Err(what) | Ok(Some(what)) = check_dates(&cert, SystemTime::now()) {
        warn!("{what}");
    }
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

/// Checks the certificate and the key of a configuration, as a node with it would use them.
/// Returns what should be looked into.
///
/// # Errors
/// Why clients could not connect.
#[cfg(feature = "cli")]
pub(crate) fn check(tls: &TlsSection, now: SystemTime) -> Result<Option<String>, String> {
    if !tls.enabled {
        return Ok(None);
    }
    let cert = &tls.cert_file;
    if tls.self_signed && !cert.exists() {
        return Ok(Some(format!(
            "tcp.tls.cert_file = {cert:?} does not exist here: a node without it creates a certificate for itself, which clients have to trust"
        )));
    }
    load(cert, &tls.key_file).map_err(|error| error.to_string())?;
    check_dates(cert, now)
}

/// When the certificate that a node uses expires, in seconds since 1970; `None` without TLS.
pub(crate) fn expiry(tls: &TlsSection, data: &Path) -> Option<u64> {
    if !tls.enabled {
        return None;
    }
    let cert = match tls.self_signed && !tls.cert_file.exists() {
        true => data.join(OWN_DIR).join(OWN_CERT),
        false => tls.cert_file.clone(),
    };
    dates(&cert).and_then(|(_, until)| u64::try_from(until).ok())
}

/// From when and until when the first certificate of a file is valid, in seconds since 1970.
fn dates(cert: &Path) -> Option<(i64, i64)> {
    let first = CertificateDer::pem_file_iter(cert).ok()?.next()?.ok()?;
    let (_, parsed) = parse_x509_certificate(&first).ok()?;
    let validity = parsed.validity();
    Some((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// A warning starts so long before a certificate expires.
const EXPIRES_SOON_DAYS: i64 = 30;

fn check_dates(cert: &Path, now: SystemTime) -> Result<Option<String>, String> {
    const DAY: i64 = 24 * 60 * 60;
    let Some((from, until)) = dates(cert) else {
        return Ok(Some(format!(
            "the certificate {} has dates that cannot be read",
            cert.display()
        )));
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let cert = cert.display();
    match (from > now, (until - now) / DAY) {
        (true, _) => Err(format!(
            "the certificate {cert} is not valid yet; check the clock of this machine"
        )),
        (_, days) if until <= now => Err(format!(
            "the certificate {cert} expired {} days ago; replace it and restart the node",
            -days
        )),
        (_, days) if days < EXPIRES_SOON_DAYS => Ok(Some(format!(
            "the certificate {cert} expires in {days} days; replace it and restart the node"
        ))),
        _ => Ok(None),
    }
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

    #[cfg(feature = "cli")]
    #[test]
    fn a_check_finds_certificates_that_clients_would_refuse() {
        let data = tempfile::tempdir().unwrap();
        let (cert, key) = (data.path().join("c.pem"), data.path().join("k.pem"));
        let signing = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(hosts()).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 3, 1);
        std::fs::write(&cert, params.self_signed(&signing).unwrap().pem()).unwrap();
        std::fs::write(&key, signing.serialize_pem()).unwrap();
        let tls = section(&cert, &key, false);
        // 2020-01-01 is 18,262 days after 1970-01-01; the year is a leap year.
        let day = |days: u64| UNIX_EPOCH + std::time::Duration::from_secs(days * 86_400 + 1);
        let at = |days| check(&tls, day(days));
        assert!(at(18_261).unwrap_err().contains("not valid yet"));
        assert_eq!(at(18_262), Ok(None));
        let soon = at(18_262 + 50).unwrap().unwrap();
        assert!(soon.contains("expires in 9 days"), "{soon}");
        let expired = at(18_262 + 70).unwrap_err();
        assert!(expired.contains("expired 10 days ago"), "{expired}");
        // Not for the key, and missing.
        let other = tempfile::tempdir().unwrap();
        let (_, foreign) = own(other.path(), hosts()).unwrap();
        let none = data.path().join("none.pem");
        for key in [&foreign, &none] {
            let error = check(&section(&cert, key, false), day(18_262)).unwrap_err();
            assert!(error.contains(&*key.to_string_lossy()), "{error}");
        }
        assert!(
            check(&section(&none, &key, true), day(0))
                .unwrap()
                .is_some()
        );
        assert!(check(&section(&none, &key, false), day(0)).is_err());
        assert_eq!(check(&TlsSection::default(), day(0)), Ok(None));
    }

    #[test]
    fn tls_that_is_off_needs_no_files() {
        let tls = TlsSection::default();
        let none = acceptor(&tls, Path::new("/nowhere"), hosts()).unwrap();
        assert!(none.is_none());
    }
}
