//! A kmsd that is reached over the network: TLS, and requests signed with an access key.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::connection::{Stream, remaining};
use crate::CONTENT_TYPE;
use crate::sigv4::{Credentials, Signable, TOKEN_HEADER, sign};

/// The certificates of authorities that the host trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a kmsd of the network is, and as whom to ask it.
pub struct Remote {
    url: String,
    /// As in the `Host` header.
    authority: String,
    host: String,
    port: u16,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    region: String,
    credentials: Credentials,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Not the URL of a kmsd.
    #[error("{url} is no address of a kmsd: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificates of authorities cannot be read.
    #[error("the certificates in {} cannot be used: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// The kmsd at `url` (`https://HOST:PORT`, or `http://` on this host). `ca` is a PEM file with the authorities that are
    /// trusted in the place of the host's.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn new(
        url: &str,
        ca: Option<&Path>,
        region: impl Into<String>,
        credentials: Credentials,
    ) -> Result<Self, RemoteError> {
        let wrong = |reason| RemoteError::Url {
            url: url.chars().filter(|c| !c.is_control()).collect(),
            reason,
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("it does not begin with https://"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        if authority.is_empty() || !authority.chars().all(plain) {
            return Err(wrong(
                "after the scheme it has a host and perhaps a port, and nothing else",
            ));
        }
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("it does not begin with https://")),
        };
        let default = if is_tls { 443 } else { 80 };
        // An IPv6 address is in brackets, so that its colons begin no port.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| wrong("its port is none"))?;
                (host, port)
            }
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = host.parse().ok();
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if !is_tls && !is_here {
            return Err(wrong("without TLS kmsd is asked on this host only"));
        }
        let tls = match is_tls {
            true => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| wrong("its host is neither a name nor an address"))?;
                Some((name, Arc::new(client_config(ca)?)))
            }
            false => None,
        };
        Ok(Self {
            url: url.to_owned(),
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            tls,
            region: region.into(),
            credentials,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn open(&self, deadline: Instant) -> io::Result<Stream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, remaining(deadline)?) {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return self.secured(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn secured(&self, stream: TcpStream) -> io::Result<Stream> {
        let Some((name, config)) = &self.tls else {
            return Ok(Stream::Tcp(stream));
        };
        // The handshake is part of the first request.
        let session =
            ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(session, stream))))
    }

    /// The head of a request, signed now.
    pub(super) fn head(&self, target: &str, body: &[u8]) -> String {
        let headers: [(&str, &[u8]); 3] = [
            ("content-type", CONTENT_TYPE.as_bytes()),
            ("host", self.authority.as_bytes()),
            ("x-amz-target", target.as_bytes()),
        ];
        let request = Signable {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            body,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
        let signature = sign(&request, &self.credentials, &self.region, now);
        let token = match &self.credentials.session_token {
            Some(token) => format!("{TOKEN_HEADER}: {}\r\n", token.as_str()),
            None => String::new(),
        };
        format!(
            "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: {CONTENT_TYPE}\r\nx-amz-target: {target}\r\n\
             x-amz-date: {}\r\n{token}authorization: {}\r\ncontent-length: {}\r\n",
            self.authority,
            signature.date,
            signature.authorization,
            body.len()
        )
    }
}

fn client_config(ca: Option<&Path>) -> Result<ClientConfig, RemoteError> {
    let path = ca.unwrap_or_else(|| Path::new(SYSTEM_CA));
    let wrong = |reason: String| RemoteError::Authority {
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        match roots.add(certificate) {
            Ok(()) => {}
            // A host's own list may have some that nobody can use.
            Err(_) if ca.is_none() => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
    }
    if roots.is_empty() {
        return Err(wrong("there is none in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
