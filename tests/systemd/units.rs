//! The unit files as systemd reads them.

use kms_tests::require;

#[test]
fn the_units_are_valid() {
    if !require::systemd() {
        return;
    }
    let host = crate::installed("kms-units");
    let output = host.run_raw(&[
        "systemd-analyze",
        "verify",
        "kmsd.socket",
        "kmsd.service",
        "kmsfs@srv-secret.service",
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // Warnings do not change the exit status. This machine's own units may have some too.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("kms")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_daemon_is_confined() {
    if !require::systemd() {
        return;
    }
    let host = crate::installed("kms-confined");
    let printed = host.run(&["systemctl", "show", "kmsd.service"]);
    for line in [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "LimitCORE=0",
        "Type=notify",
    ] {
        assert!(
            printed.lines().any(|found| found == line),
            "kmsd.service lacks {line}"
        );
    }
    let user = printed.lines().find_map(|line| line.strip_prefix("User="));
    assert!(
        user.is_some_and(|user| !user.is_empty() && user != "root"),
        "kmsd runs as {user:?}"
    );
}
