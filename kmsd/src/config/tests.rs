use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/kmsd/kmsd.toml"))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.server.socket, Path::new("/run/kmsd/kmsd.sock"));
    assert_eq!(config.server.mode().unwrap(), 0o660);
    assert_eq!(config.server.account, "000000000000");
    assert_eq!(config.server.region, "local-host-1");
    assert_eq!(config.seal.kind, SealerKind::Tpm);
    assert_eq!(config.key_file(), Path::new("/var/lib/kmsd/seal.key"));
    assert_eq!(config.credential(), Path::new("/etc/kmsd/credential"));
    let elsewhere = parse("[store]\ndirectory = \"/srv/kms\"").unwrap();
    assert_eq!(elsewhere.credential(), Path::new("/srv/kms/credential"));
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        [server]
        socket = "/run/x.sock"
        socket_mode = "0600"
        socket_group = "adm"
        account = "123456789012"
        region = "eu-home-1"
        accounts = ["222222222222"]
        regions = ["us-west-2"]
        admin_group = 4
        service_uids = [990, "kmsfs"]
        max_connections = 10
        max_connections_per_user = 5
        max_request_bytes = 200000
        header_timeout = 1
        body_timeout = 2
        idle_timeout = 3
        shutdown_timeout = 4
        [store]
        directory = "/srv/kms"
        anchor_interval = 9
        [seal]
        kind = "software"
        device = "swtpm:host=127.0.0.1,port=2321"
        pcrs = [0, 7]
        key_file = "/srv/seal.key"
        credential = "/srv/credential"
        wait = 5
        owner_auth = "/srv/owner"
        [log]
        format = "json"
        level = "debug"
        [testing]
        clock_file = "/srv/clock"
        "#,
    )
    .unwrap();
    assert_eq!(config.server.served().accounts, ["222222222222"]);
    assert_eq!(config.server.served().regions, ["us-west-2"]);
    assert_eq!(config.server.admin_group, Some(NameOrId::Id(4)));
    assert_eq!(
        config.server.service_uids,
        [
            NameOrId::Id(990).into(),
            ServiceUser::from(NameOrId::Name("kmsfs".into()))
        ]
    );
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.sealer_config(None).wait, Duration::from_secs(5));
}

#[test]
fn unknown_keys_are_refused_with_name_and_line() {
    let error = parse("[server]\naccount = \"000000000000\"\nsoket = \"/x\"\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("line 3"), "{text}");
    assert!(text.contains("unknown field `soket`"), "{text}");
    assert!(text.contains("/etc/kmsd/kmsd.toml"), "{text}");
    let text = parse("\n[sever]\n").unwrap_err().to_string();
    assert!(
        text.contains("line 2") && text.contains("`sever`"),
        "{text}"
    );
}

#[test]
fn wrong_values_name_their_key() {
    let cases = [
        ("[server]\nsocket_mode = \"0999\"", "server.socket_mode"),
        ("[server]\nsocket_mode = \"1777\"", "server.socket_mode"),
        ("[server]\naccount = \"12\"", "server.account"),
        ("[server]\nregion = \"Mars\"", "server.region"),
        ("[server]\nregions = [\"Mars\"]", "server.regions"),
        ("[server]\naccounts = [\"1\"]", "server.accounts"),
        ("[server]\nsocket = \"kmsd.sock\"", "server.socket"),
        ("[server]\nservice_uids = [65534]", "server.service_uids"),
        ("[server]\nheader_timeout = 0", "server.header_timeout"),
        ("[store]\ndirectory = \"here\"", "store.directory"),
        ("[log]\nlevel = \"a=b=c\"", "log.level"),
        ("[testing]\nclock_file = \"/x\"", "testing.clock_file"),
        ("[testing]\nno_audit = true", "testing.no_audit"),
        ("[audit]\ndirectory = \"x\"", "audit.directory"),
        ("[audit]\nrotate_mib = 0", "audit.rotate_mib"),
        ("[audit]\ndata_delay_ms = 10001", "audit.data_delay_ms"),
        ("[audit]\nrefused_burst = 1000001", "audit.refused_burst"),
        (
            "[audit]\nrefused_per_minute = 0",
            "audit.refused_per_minute",
        ),
        (
            "[network]\nhosts = [\"https://kms.example.com\"]",
            "network.hosts",
        ),
        ("[seal]\npcrs = [24]", "pcrs"),
        ("[seal]\ndevice = \"/dev/tpm0\"", "device"),
        ("[seal]\nkind = \"hsm\"", "kind"),
        ("[server]\nsocket_mode = \"+660\"", "server.socket_mode"),
        (
            "[server]\nservice_uids = [4294967295]",
            "server.service_uids",
        ),
        ("[server]\nadmin_group = 4294967295", "server.admin_group"),
        ("[server]\nsocket_group = 4294967295", "server.socket_group"),
        (
            "[seal]\ndevice = \"swtpm:host=127.0.0.1,port=99999\"",
            "seal.device",
        ),
    ];
    for (text, key) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn the_test_clock_is_allowed_without_a_real_tpm() {
    parse("[testing]\nclock_file = \"/x\"\n[seal]\nkind = \"software\"").unwrap();
    parse("[testing]\nclock_file = \"/x\"\n[seal]\ndevice = \"swtpm:host=127.0.0.1,port=1\"")
        .unwrap();
}

#[test]
fn limits_are_those_of_aws_unless_they_are_given() {
    let limits = parse("").unwrap().limits;
    assert_eq!(limits.quotas(), kms_core::kms::Quotas::default());
    assert_eq!(limits.rates(), crate::rates::RateLimits::default());
    assert_eq!((limits.symmetric, limits.keys), (10_000, 100_000));
    let text = "[limits]\nsymmetric = 5\nroot = true\nkeys = 7\ntags_per_key = 1";
    let limits = parse(text).unwrap().limits;
    assert_eq!((limits.rates().symmetric, limits.rates().root), (5, true));
    assert_eq!((limits.quotas().keys, limits.quotas().tags_per_key), (7, 1));
    for (text, said) in [
        ("[limits]\nburst_seconds = 0", "line 2"),
        ("[limits]\n\nkeys = 0", "line 3"),
        ("[limits]\ngrants_per_key = 1000001", "1000000"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
