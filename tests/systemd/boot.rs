//! One boot.

use kms_tests::host::Host;
use kms_tests::require;

#[test]
fn trivial() {
    if !require::systemd() {
        return;
    }
    let mut host = Host::boot("try");
    host.install(
        "/etc/systemd/system/try.service",
        b"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
        0o644,
    );
    host.sh("systemctl daemon-reload && systemctl start try");
    assert_eq!(host.run(&["systemctl", "is-active", "try"]), "active\n");
    host.power_off();
}
