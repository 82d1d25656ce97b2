//! A TPM of its own for each test: swtpm on loopback.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::process::Process;
use crate::tree;
use crate::wait;

/// A software TPM with its state in a folder.
pub struct Swtpm {
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Swtpm {
    /// Starts a new TPM with its state below `folder`.
    pub fn start(folder: &Path) -> Swtpm {
        let folder = folder.join("tpm");
        std::fs::create_dir_all(&folder).expect("make the TPM's state folder");
        let mut tpm = Swtpm {
            folder,
            port: free_port_pair(),
            process: None,
        };
        tpm.power_on();
        tpm
    }

    /// The device string for kmsd.
    pub fn device(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Cuts the power: the process is killed, the state stays.
    pub fn power_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same state and port.
    pub fn power_on(&mut self) {
        assert!(self.process.is_none(), "the TPM is already running");
        let mut command = Command::new("swtpm");
        command
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.folder.display()))
            .arg("--server")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", self.port))
            .arg("--ctrl")
            .arg(format!(
                "type=tcp,bindaddr=127.0.0.1,port={}",
                self.port + 1
            ));
        let mut process = Process::start("swtpm", &mut command, &self.folder.join("log"));
        let port = self.port + 1;
        wait::until_true("swtpm answering", wait::PATIENCE, || {
            process.assert_running();
            // The control port: a connection to the other one would count as a client.
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        self.process = Some(process);
    }

    /// Power cut and start.
    pub fn restart(&mut self) {
        self.power_off();
        self.power_on();
    }

    /// Copies the state to `to`, as a snapshot of a virtual machine would (the TPM is off meanwhile).
    pub fn save_state(&mut self, to: &Path) {
        self.power_off();
        tree::copy(&self.folder, to);
        self.power_on();
    }

    /// Puts a saved state back (the TPM is off meanwhile).
    pub fn restore_state(&mut self, from: &Path) {
        self.power_off();
        std::fs::remove_dir_all(&self.folder).expect("remove the TPM's state");
        tree::copy(from, &self.folder);
        self.power_on();
    }
}

/// Two neighbouring free ports on loopback: the TPM's own and, one above, its control port.
///
/// The range lies below the kernel's ephemeral one. Processes begin at different places, threads of one
/// process take turns, and a pair that does not bind is passed over.
fn free_port_pair() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const PAIRS: u16 = 9_000;
    let offset = u16::try_from(std::process::id() % u32::from(PAIRS)).expect("below 9000");
    for _ in 0..PAIRS {
        let pair = (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % PAIRS;
        let port = FIRST + 2 * pair;
        let both = (
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)),
            TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)),
        );
        if let (Ok(_), Ok(_)) = both {
            return port;
        }
    }
    panic!("no two neighbouring free ports on loopback");
}
