//! The certificate of the TLS listeners, read again when its files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientCertificates, Tls};

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{} cannot be used: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Anybody on this host can read the private key.
    #[error("{} can be read by every user of this host (mode {mode:04o})", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("the certificate {} cannot be served: {reason}", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl TlsError {
    /// What the operator does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::File { .. } => {
                "Name PEM files that the user of kmsd can read in [tls]; `kmsd tls init --name HOST` makes first ones."
            }
            Self::Open { .. } => {
                "Give it to the user of kmsd with mode 0600, or 0640 with a group."
            }
            Self::Pair { .. } => {
                "Put the certificate of that key first into the file, those of the authorities between after it."
            }
        }
    }
}

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Certificates {
    config: Tls,
    current: RwLock<Arc<ServerConfig>>,
    /// What the files were when they were looked at last.
    seen: RwLock<Vec<Option<Stamp>>>,
}

/// Tells one version of a file from another.
type Stamp = (u64, u64, i64, i64, u64);

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn load(config: &Tls) -> Result<Self, TlsError> {
        let seen = stamps(config);
        Ok(Self {
            current: RwLock::new(Arc::new(server_config(config)?)),
            seen: RwLock::new(seen),
            config: config.clone(),
        })
    }

    /// For the next handshake.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }

    /// Reads the files again if one of them is another than before. If they are wrong, the old certificate stays in
    /// force. Connections that are open stay. Blocks.
    ///
    /// # Errors
    /// They are wrong; said once for each change.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.config);
        if *self.seen.read() == now {
            return Ok(false);
        }
        *self.seen.write() = now;
        let config = server_config(&self.config)?;
        *self.current.write() = Arc::new(config);
        Ok(true)
    }
}

fn stamps(config: &Tls) -> Vec<Option<Stamp>> {
    let files = [&config.certificate, &config.key, &config.client_ca];
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((
            found.dev(),
            found.ino(),
            found.mtime(),
            found.mtime_nsec(),
            found.size(),
        ))
    };
    files.into_iter().flatten().map(stamp).collect()
}

fn server_config(config: &Tls) -> Result<ServerConfig, TlsError> {
    let certificate = config.certificate.clone().unwrap_or_default();
    let chain = certificates(&certificate)?;
    let key = private_key(&config.key.clone().unwrap_or_default())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pair = |reason: String| TlsError::Pair {
        path: certificate.clone(),
        reason,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| pair(error.to_string()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |reason: String| TlsError::File {
                path: path.clone(),
                reason,
            };
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match config.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut built = builder
        .with_single_cert(chain, key)
        .map_err(|error| pair(error.to_string()))?;
    built.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(built)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error: pem::Error| unusable(path, &error);
    let found = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    match found.is_empty() {
        true => Err(TlsError::File {
            path: path.to_owned(),
            reason: "there is no certificate in it".to_owned(),
        }),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mode = match fs::metadata(path) {
        Ok(found) => found.mode() & 0o7777,
        Err(error) => return Err(unusable(path, &pem::Error::Io(error))),
    };
    if mode & 0o007 != 0 {
        return Err(TlsError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &pem::Error) -> TlsError {
    let reason = match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "there is no such file".to_owned()
        }
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is nothing of the kind in it".to_owned(),
        other => format!("it is not PEM: {other}"),
    };
    TlsError::File {
        path: path.to_owned(),
        reason,
    }
}
