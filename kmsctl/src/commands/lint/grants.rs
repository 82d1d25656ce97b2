//! Grants that allow more than somebody needs.

use kms_api::*;

use super::{BROAD_GRANT, Findings};
use crate::Context;
use crate::exit::Failure;

pub(super) fn check(
    key: &KeyMetadata,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut marker = None;
    loop {
        let request = ListGrantsRequest {
            key_id: key.key_id.clone(),
            limit: Some(100),
            marker,
            ..ListGrantsRequest::default()
        };
        let page = context.client.send(request);
        let Some(page) = findings.asked(&key.arn, "Its grants", page)? else {
            return Ok(());
        };
        for grant in &page.grants {
            if let Some(text) = too_broad(grant) {
                let id = grant.grant_id.get(..12).unwrap_or(&grant.grant_id);
                let text = format!("Grant {id} to {} {text}.", grant.grantee_principal);
                let next = format!(
                    "Make a narrower one (--context, fewer --operations), then `kmsctl grant revoke {} {id}`.",
                    key.key_id
                );
                findings.add(&BROAD_GRANT, &key.arn, text, next);
            }
        }
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(());
        }
    }
}

/// Why a grant is broader than grants should be.
fn too_broad(grant: &GrantListEntry) -> Option<&'static str> {
    use GrantOperation as G;

    let has = |operation| grant.operations.contains(&operation);
    let constrained = grant
        .constraints
        .as_ref()
        .is_some_and(|constraints| !constraints.is_empty());
    let encrypts = has(G::Encrypt) || has(G::GenerateDataKey);
    if grant.grantee_principal.ends_with(":root") {
        Some("is for a whole account")
    } else if has(G::CreateGrant) && !constrained {
        Some("lets its grantee give the key to anybody (CreateGrant without a constraint)")
    } else if encrypts && has(G::Decrypt) && has(G::ReEncryptFrom) && !constrained {
        Some("allows every use of the key, without a constraint")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantee: &str, operations: &[GrantOperation], constrained: bool) -> GrantListEntry {
        let constraints = GrantConstraints {
            source_arn: constrained.then(|| "arn:aws:x:::y".to_owned()),
            ..GrantConstraints::default()
        };
        GrantListEntry {
            key_id: String::new(),
            grant_id: String::new(),
            name: String::new(),
            creation_date: Timestamp::from_secs(0),
            grantee_principal: grantee.to_owned(),
            retiring_principal: None,
            issuing_account: String::new(),
            operations: operations.to_vec(),
            constraints: Some(constraints),
            grantee_service_principal: None,
            retiring_service_principal: None,
        }
    }

    #[test]
    fn a_grant_is_too_broad_by_grantee_or_by_operations_without_a_constraint() {
        use GrantOperation as G;

        let alice = "arn:aws:iam::000000000000:user/alice";
        let all = [G::Encrypt, G::Decrypt, G::ReEncryptFrom, G::ReEncryptTo];
        assert!(too_broad(&grant(alice, &[G::Decrypt], false)).is_none());
        assert!(too_broad(&grant(alice, &all, false)).is_some());
        assert!(too_broad(&grant(alice, &all, true)).is_none());
        assert!(too_broad(&grant(alice, &[G::CreateGrant], false)).is_some());
        assert!(too_broad(&grant(alice, &[G::CreateGrant], true)).is_none());
        let root = "arn:aws:iam::000000000000:root";
        assert!(too_broad(&grant(root, &[G::DescribeKey], true)).is_some());
    }
}
