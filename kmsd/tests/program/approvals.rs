//! Operations that several people must agree to, over the socket and across a restart, with their records.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use kms_api::client::{Client, ClientError};
use kms_api::{
    ApproveRequestRequest, CreateKeyRequest, ErrorCode, KeyState, ListApprovalsRequest,
    LookupEventsRequest, ScheduleKeyDeletionRequest,
};

use super::revoke::become_user;
use super::*;

const APPROVER: u32 = 61_234;

fn schedule(client: &Client, key: &str) -> Result<KeyState, ClientError> {
    let request = ScheduleKeyDeletionRequest {
        key_id: key.to_owned(),
        pending_window_in_days: Some(7),
    };
    client.send(request).map(|done| done.key_state)
}

/// Number of records of an operation with this outcome.
fn records(client: &Client, operation: &str, outcome: &str) -> usize {
    let request = LookupEventsRequest {
        operation: Some(operation.to_owned()),
        outcome: Some(outcome.to_owned()),
        ..LookupEventsRequest::default()
    };
    client.send(request).unwrap().events.len()
}

#[test]
fn root_too_waits_for_the_approval_of_another_and_everything_is_recorded() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can make threads of other users");
        return;
    }
    let home = Home::new();
    let text = read(&home.path("kmsd.toml")).replace(
        "[store]",
        &format!(
            "socket_mode = \"0666\"\n[approval]\noperations = [\"ScheduleKeyDeletion\"]\nrequired = 1\n\
             approvers = [\"arn:aws:iam::000000000000:user/uid-{APPROVER}\"]\n[store]"
        ),
    );
    fs::write(
        home.path("kmsd.toml"),
        text.replace("service_uids = [0]\n", ""),
    )
    .unwrap();
    let enrolled = home.enroll();
    assert!(enrolled.status.success(), "{}", stderr(&enrolled));
    fs::set_permissions(home.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();

    let kmsd = home.start();
    let client = home.client();
    let key = client.send(CreateKeyRequest::default()).unwrap();
    let key = key.key_metadata.key_id;
    let refusal = schedule(&client, &key).unwrap_err();
    let refusal = refusal.api().unwrap().clone();
    assert_eq!(refusal.code, ErrorCode::AccessDenied);
    let waiting = client.send(ListApprovalsRequest {}).unwrap().approvals;
    let id = waiting[0].approval_id;
    assert!(refusal.message.unwrap().contains(&id.to_string()));
    let own = client.send(ApproveRequestRequest { approval_id: id });
    assert_eq!(
        own.unwrap_err().api().unwrap().code,
        ErrorCode::AccessDenied
    );

    // It waits through a restart, and so does the approval.
    drop(kmsd);
    let kmsd = home.start();
    let approver = home.client();
    thread::spawn(move || {
        become_user(APPROVER);
        let approval = approver
            .send(ApproveRequestRequest { approval_id: id })
            .unwrap()
            .approval;
        assert_eq!(approval.approved_by.len(), 1);
    })
    .join()
    .unwrap();
    drop(kmsd);
    let _kmsd = home.start();
    assert_eq!(schedule(&client, &key).unwrap(), KeyState::PendingDeletion);
    assert!(
        client
            .send(ListApprovalsRequest {})
            .unwrap()
            .approvals
            .is_empty()
    );

    assert_eq!(records(&client, "ScheduleKeyDeletion", "denied"), 1);
    assert_eq!(records(&client, "ScheduleKeyDeletion", "ok"), 1);
    assert_eq!(records(&client, "ApproveRequest", "denied"), 1);
    assert_eq!(records(&client, "ApproveRequest", "ok"), 1);
}
