//! Taking the lease under which a mount keeps answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kms_api::ErrorCode;
use kms_api::client::{Client, ClientError, LeaseClient};

/// Pause between attempts to reach kmsd.
const RETRY: Duration = Duration::from_millis(100);
/// The longest label.
const LABEL: usize = 200;

/// Why a mount has no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// kmsd does not know the user as a service.
    #[error(
        "kmsd does not take user {uid} for a service, so it cannot be asked for each user of a shared mount: put \
         service_uids = [\"kmsfs\"] (the user that kmsfs runs as, not root) into [server] of /etc/kmsd/kmsd.toml and restart kmsd, or \
         mount with -o access=mounter, where everybody counts as the one who mounts"
    )]
    NotAService {
        /// As whom kmsfs runs.
        uid: u32,
    },
    /// Anything else.
    #[error("kmsd on {socket} gives no lease: {source}; check that it runs (kmsctl status)", socket = socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: ClientError,
    },
}

/// Takes a lease for the mount on `mountpoint`, and waits for kmsd up to `limit`.
///
/// # Errors
/// See [`LeaseError`].
pub fn take(socket: &Path, mountpoint: &Path, limit: Duration) -> Result<LeaseClient, LeaseError> {
    let deadline = Instant::now() + limit.max(Duration::from_secs(1));
    loop {
        let (client, label) = (Client::new(socket), label(mountpoint));
        match LeaseClient::acquire_until(client, &label, None, Some(deadline)) {
            Ok(lease) => return Ok(lease),
            Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {
                std::thread::sleep(RETRY);
            }
            Err(ClientError::Api(error)) if error.code == ErrorCode::AccessDenied => {
                let uid = rustix::process::geteuid().as_raw();
                return Err(LeaseError::NotAService { uid });
            }
            Err(source) => {
                let socket = socket.to_owned();
                return Err(LeaseError::Refused { socket, source });
            }
        }
    }
}

/// Names the holder to people.
#[must_use]
pub fn label(mountpoint: &Path) -> String {
    let text = format!("kmsfs {}", mountpoint.display());
    text.chars().take(LABEL).collect()
}
