//! Deletion epochs on rows: what goes, what moves, what stays.

use super::*;
use crate::epoch;
use crate::rows::{EpochPhase, State, Table};

impl Bench {
    /// A whole deletion epoch for one key, as the engine drives it.
    pub(super) fn destroy(&mut self, key: &str) {
        let doomed = [key.parse().unwrap()];
        self.begin(&doomed);
        self.rewrap_all();
        let changes = epoch::drop_old(self.kms.snapshot());
        self.apply(changes);
        self.domain.write().retain_current();
        self.reseal();
        let changes = epoch::finish(self.kms.snapshot(), b"committed".to_vec());
        self.apply(changes);
    }

    fn begin(&mut self, doomed: &[KeyId]) {
        let meta = self.kms.snapshot().meta().clone();
        let recovery: [u8; 32] = meta.recovery_public.0.try_into().unwrap();
        let recovery = kms_crypto::RecoveryPublicKey::from_bytes(recovery);
        let new = meta.domain + 1;
        let row = {
            let mut domain = self.domain.write();
            domain.draw(new).unwrap();
            domain.row(new, 0, &self.kek, &recovery).unwrap()
        };
        let changes = epoch::begin(self.kms.snapshot(), doomed, row, self.now);
        self.apply(changes);
        self.domain.write().make_current(new);
    }

    fn reseal(&mut self) {
        let meta = self.kms.snapshot().meta().clone();
        let recovery: [u8; 32] = meta.recovery_public.0.try_into().unwrap();
        let recovery = kms_crypto::RecoveryPublicKey::from_bytes(recovery);
        self.kek = Key::random().unwrap();
        let domain = self.domain.read();
        let row = domain.row(meta.domain, 0, &self.kek, &recovery).unwrap();
        drop(domain);
        let changes = epoch::reseal(vec![row], b"staged".to_vec());
        self.apply(changes);
    }

    fn rewrap_all(&mut self) {
        loop {
            let changes = epoch::rewrap(self.kms.snapshot(), &self.domain.read()).unwrap();
            if changes.is_empty() {
                break;
            }
            self.apply(changes);
        }
    }
}

#[test]
fn the_doomed_go_and_the_others_keep_everything() {
    let mut bench = Bench::new();
    let (doomed, kept) = (bench.create_key(), bench.create_key());
    bench
        .call(
            "CreateAlias",
            json!({"AliasName": "alias/doomed", "TargetKeyId": doomed}),
        )
        .unwrap();
    bench
        .call(
            "CreateAlias",
            json!({"AliasName": "alias/kept", "TargetKeyId": kept}),
        )
        .unwrap();
    let old = bench.encrypt(&kept, b"old", json!({"a": "b"}));
    bench
        .call("RotateKeyOnDemand", json!({"KeyId": kept}))
        .unwrap();
    let new = bench.encrypt(&kept, b"new", json!({}));
    let lost = bench.encrypt(&doomed, b"lost", json!({}));
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let mut policy = |key: &str| {
        let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
        bench.call("CreatePolicy", body).unwrap()
    };
    let (lost_policy, kept_policy) = (policy(&doomed), policy(&kept));
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": doomed}))
        .unwrap();

    bench.destroy(&doomed);

    assert_eq!(bench.decrypt(&old, json!({"a": "b"})).unwrap(), b"old");
    assert_eq!(bench.decrypt(&new, json!({})).unwrap(), b"new");
    assert!(
        bench
            .decrypt(&lost, json!({}))
            .unwrap_err()
            .starts_with("AccessDenied")
    );
    assert!(
        bench
            .call("DescribeKey", json!({"KeyId": "alias/kept"}))
            .is_ok()
    );
    let gone = bench
        .call("DescribeKey", json!({"KeyId": "alias/doomed"}))
        .unwrap_err();
    assert_eq!(
        gone,
        "NotFoundException: Alias arn:aws:kms:local-host-1:000000000000:alias/doomed is not found."
    );
    let get = json!({"VolumeId": volume, "PolicyId": kept_policy["PolicyId"]});
    let got = bench.call("GetPolicy", get).unwrap();
    assert_eq!(got["PolicySecret"], kept_policy["PolicySecret"]);

    // Which trees were lost with the key can still be asked; the key's state is gone with it.
    let described = bench
        .call("DescribeVolume", json!({"VolumeId": volume}))
        .unwrap();
    let policies = described["Policies"].as_array().unwrap();
    let row = policies
        .iter()
        .find(|p| p["PolicyId"] == lost_policy["PolicyId"])
        .unwrap();
    assert_eq!(
        (&row["KeyArn"], row.get("KeyState")),
        (&json!(arn(&doomed)), None)
    );

    let snapshot = bench.kms.snapshot();
    let tombstone = snapshot
        .keys()
        .find(|key| key.id.to_string() == doomed)
        .unwrap();
    assert_eq!(
        (tombstone.state, tombstone.current),
        (State::Destroyed, None)
    );
    assert_eq!(snapshot.materials(tombstone.id).count(), 0);
    assert!(
        snapshot
            .policies()
            .all(|p| p.secret.is_some() == (p.key != tombstone.id))
    );
    assert_eq!(
        snapshot.domains().map(|row| row.id).collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        (snapshot.meta().deletion_epoch, snapshot.meta().epoch_change),
        (1, None)
    );
    assert_eq!(snapshot.enrollment(), b"committed");
    let listed = bench.call("ListKeys", json!({})).unwrap();
    assert_eq!(listed["Keys"].as_array().unwrap().len(), 1);
}

#[test]
fn no_row_is_left_under_an_older_domain_key_and_no_wrap_of_one() {
    let mut bench = Bench::new();
    for _ in 0..epoch::BATCH + 5 {
        bench.create_key();
    }
    let doomed = bench.create_key();
    bench.begin(&[doomed.parse().unwrap()]);
    let phase = bench.kms.snapshot().meta().epoch_change;
    assert_eq!(phase, Some(EpochPhase::Rewrapping));
    let first = epoch::rewrap(bench.kms.snapshot(), &bench.domain.read()).unwrap();
    assert_eq!(first.len(), epoch::BATCH);
    bench.apply(first);
    // Keys made in the middle are under the new domain key at once.
    bench.create_key();
    bench.rewrap_all();
    let snapshot = bench.kms.snapshot();
    for key in snapshot.keys() {
        assert!(snapshot.materials(key.id).all(|row| row.secret.domain == 2));
    }
    let dropped = epoch::drop_old(snapshot);
    assert!(dropped.contains(&Change::Remove(Table::Domain, crate::rows::domain_id(1))));
}

#[test]
fn a_domain_key_opens_for_its_recipients_only() {
    let bench = Bench::new();
    let snapshot = bench.kms.snapshot();
    let row = snapshot.domains().next().unwrap();
    let mut other = DomainKeys::new(snapshot.meta());
    assert!(other.open_as_host(row, &Key::random().unwrap()).is_err());
    assert!(
        other
            .open_as_recovery(row, &RecoveryPrivateKey::generate().unwrap())
            .is_err()
    );
    other.open_as_host(row, &bench.kek).unwrap();
    // A wrap moved to another row or store does not open.
    let moved = crate::rows::DomainRow {
        id: 9,
        ..row.clone()
    };
    assert!(other.open_as_host(&moved, &bench.kek).is_err());
    let foreign = MetaRow {
        store_id: "f".repeat(32),
        ..snapshot.meta().clone()
    };
    assert!(
        DomainKeys::new(&foreign)
            .open_as_host(row, &bench.kek)
            .is_err()
    );
}

#[test]
fn an_id_that_was_ever_taken_is_not_given_again() {
    struct Repeating(parking_lot::Mutex<Vec<[u8; 16]>>);
    impl Entropy for Repeating {
        fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
            match (out.len(), self.0.lock().pop()) {
                (16, Some(id)) => out.copy_from_slice(&id),
                _ => kms_crypto::fill_random(out).unwrap(),
            }
            Ok(())
        }
    }
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.destroy(&key);
    let taken = key.parse::<KeyId>().unwrap().to_parts().1;
    let entropy = Repeating(parking_lot::Mutex::new(vec![[7; 16], taken]));
    let request = Request::decode("TrentService.CreateKey", b"{}").unwrap();
    let domain = bench.domain.read();
    let world = World {
        now: START,
        entropy: &entropy,
        domain: &domain,
        host: &bench.host,
        made: None,
    };
    let made = bench
        .kms
        .handle(&request, &Caller::internal("000000000000"), &world)
        .outcome
        .unwrap();
    let Outcome::Write(write) = made else {
        panic!("CreateKey writes")
    };
    let Response::CreateKey(response) = write.response else {
        panic!("CreateKey answers")
    };
    assert_eq!(
        response.key_metadata.key_id,
        KeyId::from_random([7; 16], false).to_string()
    );
}
