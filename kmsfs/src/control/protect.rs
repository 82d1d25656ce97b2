//! `protect`: an empty directory gets a policy of its own.
//!
//! Order: registry, volume record (durable), directory header. A crash in between leaves a policy that
//! no directory uses, which is harmless.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use data_encoding::BASE64;
use kms_format::ContentMode;

use super::Controlled;
use super::protocol::{Failed, Protected};
use crate::errno::Errno;
use crate::fs::{Caller, NodeId};
use crate::volume::kmsd::create_policy;

pub(super) fn protect(
    mount: &Controlled,
    path: &[String],
    key: &str,
    mode: &str,
) -> Result<Protected, Failed> {
    let content_mode = match mode {
        "XTS" => ContentMode::Xts,
        "GCM" => ContentMode::Gcm,
        _ => {
            return Err(failed(
                format!("there is no content mode {mode}"),
                "use XTS (not authenticated) or GCM (authenticated)",
            ));
        }
    };
    let node = Walked::to(mount, path)?;
    check_empty(mount, node.node())?;
    let new = create_policy(mount.keys.client(), mount.keys.volume(), key, content_mode).map_err(
        |error| {
            failed(
                error.to_string(),
                "check the key with `kmsctl key describe`",
            )
        },
    )?;
    let mut record = mount.keys.record();
    record.policies.push(new.record);
    mount.record.replace(&record).map_err(|error| {
        failed(
            error.to_string(),
            "make room or mend the lower file system, then try again",
        )
    })?;
    mount.keys.add(record, new.unlocked.clone());
    let policy = new.unlocked.policy.policy();
    // The record keeps its line even if this fails: the header may have reached its place and only its
    // fsync failed, and without the line no later mount could open what is made below it. An unused
    // line is harmless.
    mount
        .fs
        .protect(node.node(), &new.unlocked.policy)
        .map_err(refused)?;
    tracing::info!(%policy, key = new.unlocked.key_arn, "a directory has a policy of its own now");
    Ok(Protected {
        policy: policy.to_string(),
        key_arn: new.unlocked.key_arn,
        key_material_id: new.unlocked.key_material_id,
    })
}

/// A node that was looked up, and is forgotten when dropped.
pub(super) struct Walked<'a> {
    mount: &'a Controlled,
    nodes: Vec<NodeId>,
    /// What is behind the last of them is locked.
    pub(super) locked: bool,
}

impl<'a> Walked<'a> {
    /// As far as nothing is locked.
    pub(super) fn towards(
        mount: &'a Controlled,
        path: &[String],
    ) -> Result<Walked<'a>, (Walked<'a>, Errno)> {
        let mut walked = Walked {
            mount,
            nodes: Vec::new(),
            locked: false,
        };
        for component in path {
            // A name that is none is not there.
            let name = BASE64.decode(component.as_bytes()).unwrap_or_default();
            let name = OsString::from_vec(name);
            match mount.fs.lookup(&root(), walked.node(), &name) {
                Ok(entry) => walked.nodes.push(entry.node),
                Err(Errno::NOKEY) => {
                    walked.locked = true;
                    break;
                }
                Err(errno) => return Err((walked, errno)),
            }
        }
        Ok(walked)
    }

    /// The nodes from the root of the mount down.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        std::iter::once(NodeId::ROOT)
            .chain(self.nodes.iter().copied())
            .collect()
    }

    pub(super) fn to(mount: &'a Controlled, path: &[String]) -> Result<Walked<'a>, Failed> {
        let mut walked = Walked {
            mount,
            nodes: Vec::new(),
            locked: false,
        };
        for component in path {
            let name = BASE64
                .decode(component.as_bytes())
                .map(OsString::from_vec)
                .map_err(|error| failed(error.to_string(), "use kmsctl of the same version"))?;
            let entry = mount
                .fs
                .lookup(&root(), walked.node(), &name)
                .map_err(refused)?;
            walked.nodes.push(entry.node);
        }
        Ok(walked)
    }

    pub(super) fn node(&self) -> NodeId {
        self.nodes.last().copied().unwrap_or(NodeId(1))
    }
}

impl Drop for Walked<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            self.mount.fs.forget(*node, 1);
        }
    }
}

fn check_empty(mount: &Controlled, node: NodeId) -> Result<(), Failed> {
    let fs = &mount.fs;
    let handle = fs.opendir(&root(), node).map_err(refused)?;
    let mut empty = true;
    let read = fs.readdir(handle, 0, &mut |item| {
        empty &= item.name == "." || item.name == "..";
        !empty
    });
    fs.releasedir(handle);
    read.map_err(refused)?;
    if empty {
        Ok(())
    } else {
        Err(refused(Errno::from_raw(libc::ENOTEMPTY)))
    }
}

fn root() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        pid: std::process::id(),
    }
}

fn refused(errno: Errno) -> Failed {
    let next_step = match errno.raw() {
        libc::ENOTEMPTY => "protect an empty directory, then move the files into it",
        libc::ENOTDIR => "name a directory",
        libc::EROFS => "mount without ro",
        libc::ENOKEY => "unlock the directory above first: see the log of the mount",
        _ => "see the log of the mount",
    };
    failed(
        format!("the directory cannot be protected: {errno}"),
        next_step,
    )
}

pub(super) fn failed(message: String, next_step: &str) -> Failed {
    Failed {
        message,
        next_step: next_step.to_owned(),
    }
}
