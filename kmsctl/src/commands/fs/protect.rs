//! `kmsctl fs protect`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command};
use kmsfs::mount::table::{self, MountEntry};

use super::Mode;
use crate::Context;
use crate::exit::{Exit, Failure};

/// The mount asks kmsd, so it may need a while.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn run(
    directory: &Path,
    key: &str,
    mode: Mode,
    control: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    let shown = directory.display();
    let local = |error: std::io::Error| Failure::local(&shown, &error);
    let directory = directory.canonicalize().map_err(local)?;
    let mount = table::kmsfs_mount_of(&directory).map_err(local)?;
    let mount = mount.ok_or_else(|| {
        Failure::new(Exit::FileSystem, format!("{shown} is not in a kmsfs mount"))
            .next("Name a directory below the mount point, not the encrypted one.")
    })?;
    let socket = socket(control, &mount)?;
    let command = Command::Protect {
        path: components(&mount.root, &mount.mountpoint, &directory),
        key: key.to_owned(),
        mode: mode.name().to_owned(),
    };
    let answer = client::ask(&socket, &command, TIMEOUT)
        .map_err(|error| unreachable_mount(&socket, &error))?;
    match answer {
        Answer::Protected(made) => {
            let human = format!(
                "{shown} is under a key of its own now.\npolicy   {}\nkey      {}\nmode     {}",
                made.policy,
                made.key_arn,
                mode.describe(),
            );
            context.output.print(human, &made)
        }
        Answer::Failed(failed) => Err(Failure::new(
            Exit::FileSystem,
            format!("{shown}: {}", failed.message),
        )
        .next(failed.next_step)),
        _ => Err(Failure::new(
            Exit::Protocol,
            "the mount gave another answer than asked for",
        )),
    }
}

/// The way from the root of the file system: a bind mount shows only a part of it.
pub(super) fn components(root: &Path, mountpoint: &Path, directory: &Path) -> Vec<String> {
    let below = directory
        .strip_prefix(mountpoint)
        .unwrap_or_else(|_| Path::new(""));
    let whole: PathBuf = root.join(below);
    whole
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(BASE64.encode(name.as_bytes())),
            _ => None,
        })
        .collect()
}

/// The control socket of a mount: the one named, or the one found.
pub(super) fn socket(control: Option<&Path>, mount: &MountEntry) -> Result<PathBuf, Failure> {
    if let Some(control) = control {
        return Ok(control.to_path_buf());
    }
    let next = "Run kmsctl as the user who mounted, or name the socket with --control.";
    client::socket_of(mount)
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()).next(next))?
        .ok_or_else(|| {
            let mountpoint = mount.mountpoint.display();
            let what = format!("the control socket of the mount at {mountpoint} was not found");
            Failure::new(Exit::FileSystem, what).next(next)
        })
}

pub(super) fn unreachable_mount(socket: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::FileSystem,
        format!("the mount does not answer on {}: {error}", socket.display()),
    )
    .next("Run kmsctl as root or as the user who mounted; see the log of the mount.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_below_the_root_of_the_file_system() {
        let plain = components(Path::new("/"), Path::new("/mnt"), Path::new("/mnt/a/b"));
        assert_eq!(plain, [BASE64.encode(b"a"), BASE64.encode(b"b")]);
        let bound = components(Path::new("/x"), Path::new("/mnt"), Path::new("/mnt"));
        assert_eq!(bound, [BASE64.encode(b"x")]);
    }
}
