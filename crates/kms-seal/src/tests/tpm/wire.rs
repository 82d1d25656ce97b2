//! Whoever listens between processor and chip learns nothing, and little stays in memory.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use parking_lot::Mutex;

use crate::{
    Profile, SealerConfig,
    enrollment::Vault,
    keys::{RootKeys, Secrets},
    open,
    sealer::{Keeper, Link},
    testing,
    tests::{Chip, Host, random},
    tpm::Tpm,
};

#[test]
fn secrets_never_pass_in_the_clear() {
    let host = Chip::new();
    let (device, heard) = tap(&host);
    let credential = random();
    let mut sealer = open(&SealerConfig {
        device,
        ..host.config()
    })
    .unwrap();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    sealer.unseal(&record, &credential).unwrap();
    sealer.increment(&record).unwrap();
    let (staged, _) = sealer.stage_epoch(&record, &credential).unwrap();
    sealer.unseal(&staged, &credential).unwrap();

    // The secrets themselves, by a way that is not listened to.
    let body = &staged.body;
    let secrets = Secrets::derive(&credential, &body.stretch).unwrap();
    let mut link = Tpm::new(&host.config()).connect().unwrap();
    let root = link.open(body, &secrets.auth).unwrap();
    let keys = RootKeys::derive(&root, &body.id.0).unwrap();
    let old_epoch = link.read_epoch(body, body.slot.other(), &keys).unwrap();
    let epoch = link.read_epoch(body, body.slot, &keys).unwrap();

    let heard = heard.lock();
    let passed = |bytes: &[u8]| heard.windows(bytes.len()).any(|window| window == bytes);
    for (name, secret) in [
        ("root secret", root.expose()),
        ("epoch secret", epoch.expose()),
        ("former epoch secret", old_epoch.expose()),
        ("authorisation value of the object", secrets.auth.expose()),
        ("authorisation value of the indices", keys.nv.expose()),
    ] {
        assert!(!passed(secret), "{name}");
        assert!(!passed(&secret[..16]), "half of the {name}");
    }
    assert!(!passed(credential.expose()));
    let Vault::Tpm(vault) = &body.vault else {
        panic!("no TPM")
    };
    assert!(
        passed(&vault.policy_ref.0),
        "the tap hears what is not secret"
    );
}

#[test]
fn the_root_secret_does_not_stay_in_memory() {
    let host = Chip::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let secrets = Secrets::derive(&credential, &record.body.stretch).unwrap();
    let mut link = Tpm::new(&host.config()).connect().unwrap();
    let root = link.open(&record.body, &secrets.auth).unwrap();
    // The searching test must not hold a copy of its own.
    let masked: Vec<u8> = root.expose().iter().map(|byte| byte ^ 0x5a).collect();
    assert_eq!(copies(&masked), 1, "the key itself, in its locked page");
    drop(root);
    assert_eq!(copies(&masked), 0, "with the connection still open");
    drop(link);
    assert_eq!(copies(&masked), 0);
}

/// A device that is the host's chip with a listener between.
fn tap(host: &Chip) -> (String, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let device = host.tpm.device();
    let behind: u16 = device.rsplit_once('=').unwrap().1.parse().unwrap();
    let front = testing::free_port_pair();
    for channel in 0..2 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, front + channel)).unwrap();
        let heard = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let chip = TcpStream::connect((Ipv4Addr::LOCALHOST, behind + channel)).unwrap();
                for (from, to) in [
                    (client.try_clone().unwrap(), chip.try_clone().unwrap()),
                    (chip, client),
                ] {
                    let heard = Arc::clone(&heard);
                    thread::spawn(move || forward(from, to, &heard));
                }
            }
        });
    }
    (format!("swtpm:host=127.0.0.1,port={front}"), heard)
}

fn forward(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        heard.lock().extend_from_slice(&buffer[..count]);
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// How often the secret, given masked, lies in this process's writable memory.
fn copies(masked: &[u8]) -> usize {
    const CHUNK: usize = 1 << 20;
    let mut memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut buffer = vec![0_u8; CHUNK];
    let own = buffer.as_ptr() as usize..buffer.as_ptr() as usize + CHUNK;
    let mut found = std::collections::BTreeSet::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
        let mut at = start;
        while at < end {
            let len = CHUNK.min(end - at);
            memory.seek(SeekFrom::Start(at as u64)).unwrap();
            // Another thread may have given the memory back meanwhile.
            if memory.read_exact(&mut buffer[..len]).is_ok() {
                found.extend(
                    buffer[..len]
                        .windows(masked.len())
                        .enumerate()
                        .filter(|(place, window)| {
                            !own.contains(&(at + place))
                                && window.iter().zip(masked).all(|(a, b)| a ^ 0x5a == *b)
                        })
                        .map(|(place, _)| at + place),
                );
            }
            at += if at + len == end {
                len
            } else {
                len - masked.len()
            };
        }
    }
    buffer.fill(0);
    found.len()
}
