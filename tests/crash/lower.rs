//! Lower file systems in image files, which can be cut off, copied and mounted again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::require::output_of;
use kms_tests::wait;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::raw::{self, Cut};

/// Which file system is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }
}

/// XFS refuses to be smaller than 300 MB. Sparse: what is not used takes no room.
const SIZE: u64 = 320 << 20;

/// A file system in an image file, on a loop device.
pub(crate) struct Lower {
    pub(crate) kind: Kind,
    pub(crate) image: PathBuf,
    point: PathBuf,
    device: String,
    mounted: bool,
}

impl Lower {
    /// Makes a file system of `size` bytes in the image file and mounts it on a folder of the same name.
    pub(crate) fn make(kind: Kind, image: &Path, size: Option<u64>) -> Lower {
        // Left alone, a small ext4 has blocks of 1024 bytes, and tears pages of 4096.
        Lower::with_blocks(4096, kind, image, size)
    }

    /// The same with blocks of a given size.
    pub(crate) fn with_blocks(block: u32, kind: Kind, image: &Path, size: Option<u64>) -> Lower {
        let file = File::create_new(image).expect("make the image");
        file.set_len(size.unwrap_or(SIZE)).expect("size the image");
        drop(file);
        match kind {
            Kind::Ext4 => {
                let mut mkfs = Command::new("mkfs.ext4");
                mkfs.args(["-q", "-F", "-b", &block.to_string()]);
                output_of(mkfs.arg(image))
            }
            Kind::Xfs => {
                let mut mkfs = Command::new("mkfs.xfs");
                mkfs.args(["-q", "-b", &format!("size={block}")]);
                output_of(mkfs.arg(image))
            }
        };
        let mut lower = Lower::attach(kind, image);
        lower.mount();
        lower
    }

    /// Gives an image a loop device; it is not mounted yet.
    pub(crate) fn attach(kind: Kind, image: &Path) -> Lower {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(image);
        let device = output_of(&mut losetup).trim().to_owned();
        let point = image.with_extension("mnt");
        fs::create_dir_all(&point).expect("make the mount point");
        Lower {
            kind,
            image: image.to_path_buf(),
            point,
            device,
            mounted: false,
        }
    }

    /// Mounts it; the journal is replayed.
    pub(crate) fn mount(&mut self) {
        // A copy of an XFS may be mounted beside its original.
        let data = match self.kind {
            Kind::Ext4 => None,
            Kind::Xfs => Some(c"nouuid"),
        };
        let (device, kind) = (self.device.as_str(), self.kind.name());
        if let Err(error) =
            rustix::mount::mount(device, &self.point, kind, MountFlags::empty(), data)
        {
            panic!("mounting {} ({kind}): {error}", self.image.display());
        }
        self.mounted = true;
    }

    /// Where it is mounted.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// From now on nothing reaches the device.
    pub(crate) fn cut(&self, how: Cut) {
        let root = File::open(&self.point).expect("open the lower root");
        raw::shut_down(&root, how).expect("shut the lower file system down");
    }

    /// Unmounts it; whoever used it must be gone.
    pub(crate) fn unmount(&mut self) {
        wait::until_true("unmounting the lower file system", wait::PATIENCE, || {
            rustix::mount::unmount(&self.point, UnmountFlags::empty()).is_ok()
        });
        self.mounted = false;
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        if self.mounted {
            let _ = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
        }
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}
