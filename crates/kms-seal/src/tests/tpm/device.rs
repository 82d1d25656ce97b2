//! Devices that are absent, late, held by another, or another one altogether; and what is left behind on ours.

use std::{
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    Profile, SealError, SealerConfig, open,
    testing::Swtpm,
    tests::{Chip, Host, failure, random, unseal},
};

#[test]
fn an_absent_device_is_waited_for_and_then_named() {
    let mut host = Chip::new();
    host.tpm.stop().unwrap();
    let config = SealerConfig {
        wait: Duration::from_millis(300),
        ..host.config()
    };
    let start = Instant::now();
    let error = open(&config).unwrap().status().unwrap_err();
    assert!(matches!(&error, SealError::NoDevice { device, .. } if *device == host.tpm.device()));
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_millis(300) && waited < Duration::from_secs(3),
        "{waited:?}"
    );

    let config = SealerConfig {
        device: "device:/dev/kmsd-no-such-tpm".to_owned(),
        ..config
    };
    let error = open(&config).unwrap().status().unwrap_err();
    assert!(
        error.to_string().contains("/dev/kmsd-no-such-tpm"),
        "{error}"
    );
    assert_eq!(error.kind().name, "no-device");
}

#[test]
fn a_late_device_is_found() {
    let mut host = Chip::new();
    let config = SealerConfig {
        wait: Duration::from_secs(20),
        ..host.config()
    };
    host.tpm.stop().unwrap();
    let waiting = std::thread::spawn(move || open(&config).unwrap().status());
    std::thread::sleep(Duration::from_millis(200));
    host.tpm.restart().unwrap();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_device_held_by_another_is_busy() {
    let host = Chip::new();
    let config = SealerConfig {
        wait: Duration::from_millis(100),
        ..host.config()
    };
    let (_, port) = host
        .tpm
        .device()
        .rsplit_once('=')
        .map(|(a, b)| (a.to_owned(), b.parse::<u16>().unwrap()))
        .unwrap();
    let holder = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(failure(open(&config).unwrap().status()), "device-busy");
    drop(holder);
    open(&host.config()).unwrap().status().unwrap();
}

#[test]
fn another_tpm_is_named() {
    let (host, other) = (Chip::new(), Chip::new());
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    // Without any storage root key, then with its own.
    for _ in 0..2 {
        let error = unseal(&other, &record, &credential).unwrap_err();
        let SealError::OtherTpm { expected, found } = &error else {
            panic!("{error}")
        };
        assert_eq!(Some(expected), record.srk_name().as_ref());
        assert_ne!(expected, found);
        assert_eq!(failure(other.sealer().check(&record)), "other-tpm");
        other
            .sealer()
            .enroll(Profile::Machine, &credential)
            .unwrap();
    }
    let status = other.sealer().status().unwrap();
    assert_ne!(status.srk_name, record.srk_name());
    assert_eq!(status.srk_handle.as_deref(), Some("0x81000001"));
}

#[test]
fn a_cleared_tpm_is_another_one() {
    let host = Chip::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    host.tpm.clear().unwrap();
    assert_eq!(failure(unseal(&host, &record, &credential)), "other-tpm");
    host.sealer().enroll(Profile::Machine, &credential).unwrap();
}

#[test]
fn an_evicted_storage_root_key_is_made_again() {
    let host = Chip::new();
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    host.tpm
        .tool("tpm2_evictcontrol", &["-C", "o", "-c", "0x81000001"])
        .unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
    let mut sealer = host.sealer();
    sealer.unseal(&record, &credential).unwrap();
    sealer.increment(&record).unwrap();
    let (staged, _) = sealer.stage_epoch(&record, &credential).unwrap();
    sealer.commit_epoch(&staged).unwrap();
}

#[test]
fn nothing_is_left_behind() {
    let host = Chip::new();
    let credential = random();
    let mut sealer = host.sealer();
    let (mut record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    // The simulator has three places for objects and three for sessions.
    for _ in 0..5 {
        sealer.unseal(&record, &random()).unwrap_err();
        sealer.unseal(&record, &credential).unwrap();
        sealer.increment(&record).unwrap();
        let (staged, _) = sealer.stage_epoch(&record, &credential).unwrap();
        record = sealer.commit_epoch(&staged).unwrap();
    }
    for kind in [
        "handles-transient",
        "handles-loaded-session",
        "handles-saved-session",
    ] {
        let left = host.tpm.tool("tpm2_getcap", &[kind]).unwrap().stdout;
        assert_eq!(String::from_utf8(left).unwrap().trim(), "", "{kind}");
    }
    sealer.remove(&record).unwrap();
    let left = host
        .tpm
        .tool("tpm2_getcap", &["handles-nv-index"])
        .unwrap()
        .stdout;
    assert_eq!(String::from_utf8(left).unwrap().trim(), "");
}

#[test]
fn status_shows_the_chip() {
    let host = Chip::new();
    let status = host.sealer().status().unwrap();
    assert_eq!(status.kind, "tpm");
    assert_eq!(status.device, host.tpm.device());
    assert_eq!(status.manufacturer.as_deref(), Some("IBM"));
    assert!(status.firmware.is_some());
    assert_eq!(
        (status.srk_handle, status.owner_auth_set),
        (None, Some(false))
    );
    assert!(
        status
            .warnings
            .iter()
            .any(|text| text.contains("simulator"))
    );
    let _other = Swtpm::start(host.directory.path().join("other")).unwrap();
}
