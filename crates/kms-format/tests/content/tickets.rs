//! Fsyncs that others write into: a ticket vouches for what was there when it was drawn, and for nothing else.

use std::sync::Arc;

use kms_format::content::{File, Lower as _, Synced};
use kms_format::file::{self, LengthState};
use kms_format::{ContentMode, FileHeader, UnlockedPolicy};

use crate::lower::Memory;
use crate::{fresh, policy};

/// The file as a crash leaves it that loses everything not synced.
fn after_crash(file: &File<Memory>, policy: &Arc<UnlockedPolicy>) -> File<Memory> {
    let left = Memory::of(file.lower().durable());
    File::load(left, true, true, policy, |_| unreachable!()).unwrap()
}

fn claimed(file: &File<Memory>, policy: &UnlockedPolicy) -> (LengthState, u64) {
    let mut page = [0; file::PAGE];
    file.lower().read_at(&mut page, 0).unwrap();
    let header = FileHeader::open(&page, policy).unwrap().header;
    (header.state(), header.length())
}

#[test]
fn a_ticket_from_before_the_file_was_emptied_vouches_for_nothing() {
    let policy = policy(ContentMode::Gcm);
    for new in [20_000, 100_000] {
        let mut file = fresh(&policy);
        file.write(0, &mut vec![1; 100_000]).unwrap();
        let ticket = file.begin_sync().unwrap().unwrap();
        file.lower().sync_data().unwrap();
        file.resize(0).unwrap();
        file.write(0, &mut vec![2; new]).unwrap();
        assert_eq!(file.finish_sync(ticket).unwrap(), Synced::Again);
        assert!(claimed(&file, &policy).1 <= new as u64);
        // A header may become durable before the content.
        let mut page = [0; file::PAGE];
        file.lower().read_at(&mut page, 0).unwrap();
        let left = Memory::of(file.lower().durable());
        left.write_at(&page, 0).unwrap();
        File::load(left, true, true, &policy, |_| unreachable!()).unwrap();
    }
}

#[test]
fn a_ticket_vouches_for_nothing_in_a_file_that_was_opened_again() {
    let policy = policy(ContentMode::Gcm);
    let mut file = fresh(&policy);
    file.write(0, &mut vec![1; 100_000]).unwrap();
    file.sync().unwrap();
    file.write(100_000, &mut [1; 50_000]).unwrap();
    let ticket = file.begin_sync().unwrap().unwrap();
    file.sync().unwrap();
    let mut again = after_crash(&file, &policy);
    again.resize(0).unwrap();
    again.write(0, &mut vec![2; 20_000]).unwrap();
    assert_eq!(again.finish_sync(ticket).unwrap(), Synced::Again);
}

#[test]
fn an_fsync_that_ends_late_takes_nothing_back() {
    let policy = policy(ContentMode::Gcm);
    let mut file = fresh(&policy);
    file.write(0, &mut vec![1; 100_000]).unwrap();
    let early = file.begin_sync().unwrap().unwrap();
    file.write(100_000, &mut [1; 50_000]).unwrap();
    file.sync().unwrap();
    assert_eq!(claimed(&file, &policy), (LengthState::Exact, 150_000));
    // The header of the other may not be durable yet.
    assert_eq!(file.finish_sync(early).unwrap(), Synced::Header);
    assert_eq!(claimed(&file, &policy), (LengthState::Exact, 150_000));
}
