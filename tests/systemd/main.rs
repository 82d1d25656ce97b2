//! The units on a host booted by a real systemd, with a TPM in software.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod boot;
mod units;

use std::fs;

use kms_tests::host::Host;
use kms_tests::programs;

/// A booted host with programs and units installed as `make install` does it.
fn installed(name: &str) -> Host {
    let host = Host::boot(name);
    for program in ["kmsd", "kmsfs", "kmsctl"] {
        let bytes = fs::read(programs::path(program)).unwrap();
        host.install(&format!("/usr/bin/{program}"), &bytes, 0o755);
    }
    for entry in fs::read_dir(programs::source_root().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let folder = match path.extension().and_then(|extension| extension.to_str()) {
            Some("service" | "socket") => "/etc/systemd/system",
            Some("sysusers") => "/etc/sysusers.d",
            Some("tmpfiles") => "/etc/tmpfiles.d",
            _ => continue,
        };
        let file = file
            .replace(".sysusers", ".conf")
            .replace(".tmpfiles", ".conf");
        host.install(
            &format!("{folder}/{file}"),
            &fs::read(&path).unwrap(),
            0o644,
        );
    }
    host.sh("systemd-sysusers && systemctl daemon-reload");
    host
}
