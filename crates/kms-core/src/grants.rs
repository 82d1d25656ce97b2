//! Grants: allowances on one key for one principal.
//!
//! What a grant allows is decided by [`allows`] (and for making child grants by [`covers`]) from the
//! row alone. [`find`] asks it only about the few grants that the index of the [`Grants`] brings up, so
//! that a key with thousands of grants costs no more than one with a few.

mod cover;
mod index;
mod operations;
pub mod principal;
#[cfg(test)]
mod tests;
pub mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_api::GrantOperation;

use crate::clock::{Due, Dueness, Now};
use crate::ids::KeyId;
use crate::rows::GrantRow;
use crate::snapshot::Snapshot;

pub use cover::{Child, covers, earlier, find_parent};
pub use index::Grants;
pub use operations::grantable;

/// An encryption context, or pairs that one must have.
pub type Context = BTreeMap<String, String>;

/// A grant that allows one of `principals` this use of the key, if there is one.
///
/// `context` is the encryption context of the request (empty for operations without one) and
/// `source_arn` its `aws:SourceArn`. CreateGrant is not a use in this sense: see [`find_parent`].
pub fn find<'a>(
    snapshot: &'a Snapshot,
    key: KeyId,
    principals: &[Arc<str>],
    operation: GrantOperation,
    context: &Context,
    source_arn: Option<&str>,
    now: Now,
) -> Option<&'a Arc<GrantRow>> {
    if operation == GrantOperation::CreateGrant {
        return None;
    }
    principals.iter().find_map(|principal| {
        snapshot
            .grants
            .candidates(key, principal, operation, &[context], source_arn)
            .find(|row| allows(row, operation, context, source_arn, now))
    })
}

/// Whether the grant allows its grantee this use of its key.
pub fn allows(
    row: &GrantRow,
    operation: GrantOperation,
    context: &Context,
    source_arn: Option<&str>,
    now: Now,
) -> bool {
    lists(row, operation)
        && !ended(row, now)
        && (!sees_context(operation) || context_fits(row, context))
        && (!sees_source(operation)
            || row
                .source_arn
                .as_deref()
                .is_none_or(|wanted| source_arn == Some(wanted)))
}

/// Whether the grant's list names the operation.
pub fn lists(row: &GrantRow, operation: GrantOperation) -> bool {
    let name = operation.as_str();
    row.operations.iter().any(|listed| listed == name)
}

/// Whether one of `principals` is a party of the grant that may retire it: the one it names for that, or its grantee
/// if RetireGrant is among its operations.
pub fn may_retire(row: &GrantRow, principals: &[Arc<str>], now: Now) -> bool {
    let is = |name: &str| principals.iter().any(|principal| **principal == *name);
    row.retiring.as_deref().is_some_and(is)
        || (is(&row.grantee) && lists(row, GrantOperation::RetireGrant) && !ended(row, now))
}

/// Whether the grant is over. One clock is enough: a clock that runs ahead ends a grant too early,
/// the other way round somebody would keep what was to be taken from them.
pub fn ended(row: &GrantRow, now: Now) -> bool {
    row.ends.is_some_and(|ends| over(ends, now))
}

fn over(ends: Due, now: Now) -> bool {
    ends.at(now) != Dueness::NotYet
}

/// Operations that constraints on the encryption context apply to.
fn sees_context(operation: GrantOperation) -> bool {
    !matches!(
        operation,
        GrantOperation::DescribeKey | GrantOperation::RetireGrant
    )
}

/// Operations that a constraint on the source ARN applies to.
fn sees_source(operation: GrantOperation) -> bool {
    operation != GrantOperation::RetireGrant
}

fn context_fits(row: &GrantRow, context: &Context) -> bool {
    row.context_equals.as_ref().is_none_or(|all| all == context)
        && row
            .context_subset
            .as_ref()
            .is_none_or(|some| contains(context, some))
}

/// Whether `context` has every pair of `part`. Names and values are compared exactly.
fn contains(context: &Context, part: &Context) -> bool {
    part.iter()
        .all(|(name, value)| context.get(name) == Some(value))
}
