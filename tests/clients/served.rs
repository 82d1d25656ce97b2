//! A kmsd that listens with TLS, and what its clients are told.

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use kms_tests::daemon::path_text;
use kms_tests::network::Endpoint;
use kms_tests::world::World;
use serde_json::{Map, Value};

/// Another Region that kmsd serves beside its home Region.
const SECOND_REGION: &str = "local-host-2";

static SHARED: Mutex<Weak<Served>> = Mutex::new(Weak::new());

/// One for all tests that run at the same time; its programs end with the last of them.
pub(crate) struct Served {
    world: World,
    environment: Map<String, Value>,
}

impl Served {
    /// The one that is there, or a new one.
    pub(crate) fn shared() -> Arc<Served> {
        let mut shared = SHARED.lock().unwrap_or_else(|failed| failed.into_inner());
        if let Some(served) = shared.upgrade() {
            return served;
        }
        let served = Arc::new(Served::start());
        *shared = Arc::downgrade(&served);
        served
    }

    fn start() -> Served {
        let mut world = World::enrolled();
        let endpoint = Endpoint::configure(&world.daemon, &world.path(""), "");
        let config = std::fs::read_to_string(world.daemon.config()).unwrap();
        let regions = format!("[server]\nregions = [{SECOND_REGION:?}]\n");
        let config = config.replacen("[server]\n", &regions, 1);
        std::fs::write(world.daemon.config(), config).unwrap();
        world.daemon.start();
        let printed = world.kmsctl(&[
            "aws-config",
            "--url",
            &endpoint.url,
            "--ca-bundle",
            path_text(&endpoint.ca),
            "--principal",
            "root",
            "--json",
        ]);
        let Value::Object(environment) = printed.ok().json() else {
            panic!("aws-config prints no object");
        };
        Served { world, environment }
    }

    /// Runs a client, which must succeed; what it said.
    #[track_caller]
    pub(crate) fn run(&self, command: &mut Command) -> String {
        let path = command
            .get_envs()
            .find(|(name, _)| *name == "PATH")
            .and_then(|(_, value)| value.map(|value| value.to_owned()))
            .or_else(|| std::env::var_os("PATH"))
            .unwrap();
        // Nothing of this machine's own AWS settings.
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.world.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("KMS_SECOND_REGION", SECOND_REGION);
        for (name, value) in &self.environment {
            command.env(name, value.as_str().unwrap());
        }
        let output = command.output().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{}\n{said}", output.status);
        said
    }
}
