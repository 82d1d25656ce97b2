//! One boot: TPM, kmsd by its socket, a mount, a restart of kmsd under it.

use std::process::Output;
use std::time::Duration;

use kms_tests::host::Host;
use kms_tests::{require, wait};

const CONFIGURATION: &str = r#"
[server]
admin_group = "kmsd-admin"
service_uids = ["kmsfs"]

[seal]
kind = "tpm"
device = "swtpm:host=127.0.0.1,port=2321"
"#;

const MOUNT: &str = "LOWER=/srv/secret.enc\nMOUNTPOINT=/srv/secret\nOPTIONS=-o allow_other\n";

/// A host with its TPM running and kmsd enrolled, nothing of ours started.
fn enrolled(name: &str) -> Host {
    let host = crate::installed(name);
    host.install("/etc/kmsd/kmsd.toml", CONFIGURATION.as_bytes(), 0o644);
    host.install("/etc/kmsfs/secret.conf", MOUNT.as_bytes(), 0o644);
    // A TPM in software in the place of the chip.
    host.sh(
        "mkdir -p /var/lib/test-tpm && systemd-run --quiet --unit=test-tpm swtpm socket --tpm2 \
         --flags not-need-init,startup-clear --tpmstate dir=/var/lib/test-tpm \
         --server type=tcp,bindaddr=127.0.0.1,port=2321 \
         --ctrl type=tcp,bindaddr=127.0.0.1,port=2322",
    );
    wait::until_true("swtpm listening in the host", wait::PATIENCE, || {
        host.run_raw(&["sh", "-c", "exec 3<>/dev/tcp/127.0.0.1/2322"])
            .status
            .success()
            || host
                .run_raw(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2322"])
                .status
                .success()
    });
    host.sh("kmsctl tpm enroll --recovery-out /root/recovery --verify-from /root/recovery");
    host
}

/// `systemctl start`, with the unit's journal when it fails.
fn start(host: &Host, unit: &str) {
    let output: Output = host.run_raw(&["systemctl", "start", unit]);
    assert!(
        output.status.success(),
        "{unit}: {}\n{}",
        String::from_utf8_lossy(&output.stderr),
        host.journal(unit)
    );
}

#[test]
fn a_mount_comes_up_and_survives_a_restart_of_kmsd() {
    if !require::systemd() || !require::fuse() || !require::tpm() {
        return;
    }
    let mut host = enrolled("kms-boot");
    start(&host, "kmsd.socket");
    assert_eq!(
        host.run_raw(&["systemctl", "is-active", "kmsd.service"])
            .stdout,
        b"inactive\n"
    );
    // The first client starts the daemon.
    let first = host.run_raw(&["kmsctl", "key", "create", "--alias", "alias/secret"]);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(
        first.status.success(),
        "{said}\n{}",
        host.journal("kmsd.service")
    );
    assert_eq!(
        host.run(&["systemctl", "is-active", "kmsd.service"]),
        "active\n"
    );
    host.sh("mkdir -p /srv/secret.enc /srv/secret");
    host.sh("kmsctl fs init /srv/secret.enc --key alias/secret");

    start(&host, "kmsfs@secret");
    host.sh("echo before > /srv/secret/file && sync -f /srv/secret/file");
    // It is shared: somebody without a grant is not let in, and somebody with one is.
    let as_nobody = |line: &str| {
        let command = format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {line}");
        host.run_raw(&["sh", "-c", &command])
    };
    assert!(!as_nobody("ls /srv/secret").status.success());
    host.sh("kmsctl grant create alias/secret --to user:games --operations Decrypt");
    let as_games = "setpriv --reuid=games --regid=games --clear-groups cat /srv/secret/file";
    wait::until_true("a grant to count", wait::PATIENCE, || {
        host.run_raw(&["sh", "-c", as_games]).stdout == b"before\n"
    });
    // What comes from a group goes with it.
    host.sh("groupadd hr && useradd -M -G hr erin");
    host.install(
        "/root/hr.json",
        br#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}"#,
        0o644,
    );
    host.sh("kmsctl iam put --group hr read /root/hr.json");
    let as_erin = || {
        let line = "setpriv --reuid=erin --regid=erin --init-groups cat /srv/secret/file";
        host.run_raw(&["sh", "-c", line])
    };
    wait::until_true("a group to count", wait::PATIENCE, || {
        as_erin().stdout == b"before\n"
    });
    host.sh("gpasswd -d erin hr");
    wait::until_true("a group to count no more", wait::PATIENCE, || {
        !as_erin().status.success()
    });
    let of_kmsd = || host.run(&["systemctl", "show", "-P", "MainPID", "kmsd.service"]);
    let of_mount = || host.run(&["systemctl", "show", "-P", "MainPID", "kmsfs@secret"]);
    let (kmsd, mount) = (of_kmsd(), of_mount());
    host.sh("systemctl restart kmsd.service");
    assert_ne!(of_kmsd(), kmsd);
    assert_eq!(of_mount(), mount, "the mount was restarted with kmsd");
    assert_eq!(host.sh("cat /srv/secret/file"), "before\n");
    host.sh("echo after > /srv/secret/second");
    // A directory under another key needs the new kmsd.
    host.sh("kmsctl key create --alias alias/other && mkdir /srv/secret/other");
    host.sh("kmsctl fs protect /srv/secret/other --key alias/other");
    host.sh("echo other > /srv/secret/other/file");

    // Killed, it comes back by itself.
    let kmsd = of_kmsd();
    host.sh("systemctl kill -s KILL kmsd.service");
    wait::until_true("kmsd being restarted", Duration::from_secs(60), || {
        let pid = of_kmsd();
        pid != kmsd && pid != "0\n" && host.run_raw(&["kmsctl", "status"]).status.success()
    });
    assert_eq!(host.sh("cat /srv/secret/other/file"), "other\n");

    // Stopped and started: everything from disk.
    host.sh("systemctl stop kmsfs@secret kmsd.service kmsd.socket");
    assert_eq!(
        host.run_raw(&["mountpoint", "-q", "/srv/secret"])
            .status
            .code(),
        Some(32)
    );
    start(&host, "kmsfs@secret");
    assert_eq!(
        host.sh("cat /srv/secret/file /srv/secret/second /srv/secret/other/file"),
        "before\nafter\nother\n"
    );
    host.power_off();
}

#[test]
fn kmsd_runs_in_its_cage() {
    if !require::systemd() || !require::tpm() {
        return;
    }
    let host = enrolled("kms-cage");
    start(&host, "kmsd.service");
    let pid = host.run(&["systemctl", "show", "-P", "MainPID", "kmsd.service"]);
    let status = host.sh(&format!("cat /proc/{}/status", pid.trim()));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
            .to_owned()
    };
    assert_ne!(field("Uid:").split_whitespace().next(), Some("0"));
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    // The store is not for others, nor is the socket for those outside the group.
    assert_eq!(host.sh("stat -c %a /var/lib/kmsd"), "700\n");
    assert_eq!(
        host.sh("stat -c '%a %G' /run/kmsd/kmsd.sock"),
        "660 kmsd-admin\n"
    );
    let refused = host.run_raw(&[
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "kmsctl",
        "status",
    ]);
    assert!(!refused.status.success());
}
