//! What a mount must not cover: the files that kmsd needs.
//!
//! kmsd goes on with what it has open, but after its next start it would look for its state below a mount that opens only when it
//! runs. kmsd refuses state on a kmsfs mount by itself; this refuses the mount that would put it there.

use std::path::{Path, PathBuf};

/// Where kmsd's configuration and state are by default; another store is known to kmsd alone.
const KMSD: [&str; 2] = ["/etc/kmsd", "/var/lib/kmsd"];

/// Something of kmsd's that a mount on `mountpoint` would hide, or that has `mountpoint` in it. `socket` is kmsd's.
pub(crate) fn hidden(mountpoint: &Path, socket: &Path) -> Option<PathBuf> {
    let folder = socket
        .parent()
        .and_then(|folder| folder.canonicalize().ok());
    let state = KMSD
        .iter()
        .filter_map(|path| Path::new(path).canonicalize().ok());
    let below = |path: &PathBuf| path.starts_with(mountpoint);
    // A mount beside the socket does no harm: its folder is often one for many things.
    folder.filter(below).or_else(|| {
        state
            .into_iter()
            .find(|path| below(path) || mountpoint.starts_with(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_socket_and_what_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["run/kmsd", "run/kmsd/beside", "mnt"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let socket = root.join("run/kmsd/kmsd.sock");
        for hides in ["run/kmsd", "run", ""] {
            let found = hidden(&root.join(hides), &socket);
            assert_eq!(found, Some(root.join("run/kmsd")), "{hides}");
        }
        for good in ["mnt", "run/kmsd/beside"] {
            assert_eq!(hidden(&root.join(good), &socket), None, "{good}");
        }
        // Also through a link.
        std::os::unix::fs::symlink("run/kmsd", root.join("link")).unwrap();
        assert!(hidden(&root.join("run"), &root.join("link/kmsd.sock")).is_some());
    }

    #[test]
    fn the_default_places_of_kmsd() {
        let socket = Path::new("/nowhere/kmsd.sock");
        assert_eq!(hidden(Path::new("/mnt/some/where"), socket), None);
        if Path::new("/var/lib/kmsd").is_dir() {
            assert!(hidden(Path::new("/var"), socket).is_some());
            assert!(hidden(Path::new("/var/lib/kmsd/inner"), socket).is_some());
        }
    }
}
