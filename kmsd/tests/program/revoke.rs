//! Revoked means revoked: when RevokeGrant has returned, not one later request of the revoked principal succeeds,
//! however busy it is, and across a kill of kmsd in the middle.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use kms_api::client::{Client, ClientError, LeaseClient};
use kms_api::{
    Blob, CreateGrantRequest, CreateKeyRequest, DecryptRequest, EncryptRequest, ErrorCode,
    GrantOperation, RevokeGrantRequest,
};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::*;

/// The user that is revoked; it has no name.
const USER: u32 = 61_234;
const USER_ARN: &str = "arn:aws:iam::000000000000:user/uid-61234";
/// A service.
const SERVICE: u32 = 61_990;
/// Connections of the user that are never idle.
const BUSY: usize = 32;

/// Makes the calling thread another user's: the kernel says so to whom it connects to.
pub(super) fn become_user(id: u32) {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

fn world() -> Option<Home> {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can make threads of other users");
        return None;
    }
    let home = Home::new();
    let text = read(&home.path("kmsd.toml")).replace(
        &format!("service_uids = [{}]", rustix::process::getuid().as_raw()),
        &format!(
            "service_uids = [{SERVICE}]\nsocket_mode = \"0666\"\n[log]\nlevel = \"warn\"\n[lease]\nduration = 2\n\
             [audit]\nrefused_burst = 0"
        ),
    );
    fs::write(home.path("kmsd.toml"), text).unwrap();
    let enrolled = home.enroll();
    assert!(enrolled.status.success(), "{}", stderr(&enrolled));
    fs::set_permissions(home.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    Some(home)
}

/// A key, and something encrypted under it.
fn secret(client: &Client) -> (String, Blob) {
    let key = client.send(CreateKeyRequest::default()).unwrap();
    let key = key.key_metadata.key_id;
    let request = EncryptRequest {
        key_id: key.clone(),
        plaintext: Blob::from(&b"secret"[..]),
        encryption_context: Default::default(),
        encryption_algorithm: None,
        grant_tokens: Vec::new(),
        dry_run: false,
    };
    (key, client.send(request).unwrap().ciphertext_blob)
}

fn grant(client: &Client, key: &str) -> String {
    let request = CreateGrantRequest {
        key_id: key.to_owned(),
        grantee_principal: Some(USER_ARN.to_owned()),
        operations: vec![GrantOperation::Decrypt],
        ..CreateGrantRequest::default()
    };
    client.send(request).unwrap().grant_id
}

fn revoke(client: &Client, key: &str, grant: &str) -> Result<(), ClientError> {
    let request = RevokeGrantRequest {
        key_id: key.to_owned(),
        grant_id: grant.to_owned(),
        dry_run: false,
    };
    client.send(request).map(drop)
}

fn decrypt(client: &Client, blob: &Blob) -> Result<(), ClientError> {
    let request = DecryptRequest {
        ciphertext_blob: Some(blob.clone()),
        ..DecryptRequest::default()
    };
    client.send(request).map(drop)
}

/// The user's threads. A phase is odd while there is a grant, or may be, and even while there is none.
struct Busy {
    phase: Arc<AtomicU64>,
    /// For each thread the last phase in which it got an answer that ends it: allowed in odd ones, denied in even ones.
    seen: Arc<Vec<AtomicU64>>,
    wrong: Arc<AtomicUsize>,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(home: &Home, blob: &Blob) -> Self {
        let mut busy = Self {
            phase: Arc::new(AtomicU64::new(0)),
            seen: Arc::new((0..BUSY).map(|_| AtomicU64::new(u64::MAX)).collect()),
            wrong: Arc::default(),
            asked: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for index in 0..BUSY {
            let (phase, seen) = (Arc::clone(&busy.phase), Arc::clone(&busy.seen));
            let (wrong, asked) = (Arc::clone(&busy.wrong), Arc::clone(&busy.asked));
            let (stop, client, blob) = (Arc::clone(&busy.stop), home.client(), blob.clone());
            busy.threads.push(thread::spawn(move || {
                become_user(USER);
                while !stop.load(Ordering::SeqCst) {
                    let before = phase.load(Ordering::SeqCst);
                    let answer = decrypt(&client, &blob);
                    let after = phase.load(Ordering::SeqCst);
                    asked.fetch_add(1, Ordering::Relaxed);
                    let odd = before % 2 == 1;
                    match answer {
                        Ok(()) if odd => seen[index].store(before, Ordering::SeqCst),
                        // Asked after RevokeGrant had returned, and answered before the next grant.
                        Ok(()) if after == before => {
                            wrong.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(()) => {}
                        Err(ClientError::Api(error)) if error.code == ErrorCode::AccessDenied => {
                            if !odd {
                                seen[index].store(before, Ordering::SeqCst);
                            }
                        }
                        // kmsd is away for a moment.
                        Err(ClientError::Unreachable { .. }) => {
                            thread::sleep(Duration::from_millis(2));
                        }
                        // More than one user may ask for.
                        Err(ClientError::Api(error)) if error.code == ErrorCode::Throttling => {
                            thread::sleep(Duration::from_millis(2));
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }));
        }
        busy
    }

    /// Goes on to the next phase.
    fn next(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until every thread has had its answer of this phase.
    fn all_answered(&self) {
        let phase = self.phase.load(Ordering::SeqCst);
        until("every thread's answer", || {
            let done = |seen: &AtomicU64| seen.load(Ordering::SeqCst) == phase;
            assert_eq!(
                self.wrong.load(Ordering::SeqCst),
                0,
                "answered after RevokeGrant"
            );
            self.seen.iter().all(done).then_some(())
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        assert_eq!(
            self.wrong.load(Ordering::SeqCst),
            0,
            "answered after RevokeGrant"
        );
        eprintln!("{} requests", self.asked.load(Ordering::SeqCst));
    }
}

fn trials(few: u32, many: u32) -> u32 {
    match std::env::var_os("KMS_TESTS_FULL") {
        Some(full) if full == "1" => many,
        _ => few,
    }
}

#[test]
fn not_one_request_succeeds_after_revoke_grant_has_returned() {
    let Some(home) = world() else { return };
    let _kmsd = home.start();
    let client = home.client();
    let (key, blob) = secret(&client);
    let busy = Busy::start(&home, &blob);
    busy.all_answered();
    for _ in 0..trials(100, 1000) {
        busy.next();
        let grant = grant(&client, &key);
        busy.all_answered();
        revoke(&client, &key, &grant).unwrap();
        busy.next();
        busy.all_answered();
    }
    busy.end();
}

#[test]
fn nor_when_kmsd_was_killed_in_the_middle_and_the_revocation_is_tried_again() {
    let Some(home) = world() else { return };
    let mut kmsd = home.start();
    let client = home.client();
    let (key, blob) = secret(&client);
    let busy = Busy::start(&home, &blob);
    busy.all_answered();
    let (mut answered, mut repeated) = (0, 0);
    for trial in 0..trials(8, 50) {
        busy.next();
        let grant = grant(&client, &key);
        busy.all_answered();
        let first = {
            let (client, key, grant) = (home.client(), key.clone(), grant.clone());
            thread::spawn(move || revoke(&client, &key, &grant))
        };
        // Somewhere between before its arrival and after its answer.
        thread::sleep(Duration::from_micros(u64::from(trial % 8) * 1500));
        drop(kmsd);
        let first = first.join().unwrap();
        kmsd = home.start();
        let again = revoke(&client, &key, &grant);
        busy.next();
        match first {
            // Who was told that it is done, and asks again, is told that it is gone.
            Ok(()) => answered += 1,
            // It may have been a moment from being told so.
            Err(ClientError::Unreachable { .. }) => match again {
                Ok(()) => repeated += 1,
                Err(error) => {
                    let code = error.api().map(|error| error.code);
                    assert_eq!(code, Some(ErrorCode::NotFound), "{error}");
                }
            },
            Err(error) => panic!("{error}"),
        }
        busy.all_answered();
    }
    eprintln!("{answered} answered before the kill, {repeated} when repeated");
    busy.end();
}

#[test]
fn a_service_is_waited_for_and_one_that_hangs_is_named() {
    let Some(home) = world() else { return };
    let kmsd = home.start();
    let client = home.client();
    let (key, _) = secret(&client);
    let (stop, ready) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let epochs = Arc::new(AtomicUsize::new(0));
    let holder = {
        let (stop, ready, client) = (Arc::clone(&stop), Arc::clone(&ready), home.client());
        let epochs = Arc::clone(&epochs);
        thread::spawn(move || {
            become_user(SERVICE);
            let lease = LeaseClient::acquire(client, "alive", None).unwrap();
            ready.store(true, Ordering::SeqCst);
            while !stop.load(Ordering::SeqCst) {
                match lease.next() {
                    Ok(None) => {}
                    Ok(Some(news)) => {
                        epochs.fetch_add(1, Ordering::SeqCst);
                        lease.applied(&news).unwrap();
                    }
                    // kmsd is being started again; the lease survives that.
                    Err(ClientError::Unreachable { .. }) => {
                        thread::sleep(Duration::from_millis(20))
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(lease.left_ms().is_some());
            lease.release().unwrap();
        })
    };
    until("the lease", || ready.load(Ordering::SeqCst).then_some(()));
    let granted = grant(&client, &key);
    revoke(&client, &key, &granted).unwrap();
    let report = client.take_lease_report().unwrap();
    assert_eq!((report.acknowledged, report.ran_out), (1, 0), "{report:?}");

    // One that never asks. Its user is a thread that has ended: the lease is all that is left of it.
    let client_of_hung = home.client();
    thread::spawn(move || {
        become_user(SERVICE);
        LeaseClient::acquire(client_of_hung, "hung", Some(1000)).unwrap()
    })
    .join()
    .unwrap();
    let granted = grant(&client, &key);
    revoke(&client, &key, &granted).unwrap();
    let report = client.take_lease_report().unwrap();
    assert_eq!((report.acknowledged, report.ran_out), (1, 1), "{report:?}");
    assert_eq!(report.labels, ["hung"]);

    // A restart with an outstanding lease.
    let granted = grant(&client, &key);
    drop(kmsd);
    let _kmsd = home.start();
    revoke(&client, &key, &granted).unwrap();
    let report = client.take_lease_report().unwrap();
    assert_eq!(report.acknowledged, 1, "{report:?}");
    assert!(epochs.load(Ordering::SeqCst) >= 3);
    stop.store(true, Ordering::SeqCst);
    holder.join().unwrap();
}
