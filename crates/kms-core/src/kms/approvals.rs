//! Approvals by several people: a listed operation is carried out when the same call is repeated after
//! enough others have approved it.
//!
//! A request that waits is a row. It keeps what was asked of it when it was made: a configuration that is changed later
//! may ask for more, never for less, and who is not an approver any more does not count.

use kms_api::{
    ApiError, Approval, ApproveRequestResponse, CallerRole, DescribeApprovalResponse, ErrorCode,
    ListApprovalsResponse, Request, ResourceId, Response, Timestamp,
};

use super::{Caller, EMPTY, Kms, Outcome, World, Write, internal, no_entropy, reply};
use crate::authz::Authorized;
use crate::clock::{Due, Dueness, Now};
use crate::entropy;
use crate::rows::{ApprovalRow, Approver, Change, Row, Table};

/// Most requests that wait at a time.
const MOST: usize = 1000;

/// Which operations need approvals, and whose: the `[approval]` section of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovalRules {
    /// Names of operations.
    pub operations: Vec<String>,
    /// Approvals needed, of others than the requester.
    pub required: u32,
    /// ARNs of the principals that may approve.
    pub approvers: Vec<String>,
    /// How long a request waits, in milliseconds.
    pub lifetime_ms: u64,
}

impl ApprovalRules {
    /// Whoever lists CreateGrant means every way to make a grant: one that ends by itself may last as long. Whoever lists
    /// ScheduleKeyDeletion means what destroys the same without a key, or leaves the key without its material.
    fn lists(&self, operation: &str) -> bool {
        let listed = |name: &str| self.operations.iter().any(|listed| listed == name);
        listed(operation)
            || match operation {
                "CreateTemporaryGrant" => listed("CreateGrant"),
                "DeleteImportedKeyMaterial" | "DestroyPolicy" | "DestroyPolicyGenerations" => {
                    listed("ScheduleKeyDeletion")
                }
                _ => false,
            }
    }

    fn approver(&self, principal: &str) -> bool {
        self.approvers.iter().any(|listed| listed == principal)
    }
}

impl ApprovalRow {
    /// Whether its time is over, by either clock: to end is the safe side.
    fn lapsed(&self, now: Now) -> bool {
        self.ends.at(now) != Dueness::NotYet
    }

    /// The principals that may approve now: approvers when it was asked for, and still.
    fn eligible<'a>(&'a self, rules: &'a ApprovalRules) -> impl Iterator<Item = &'a String> {
        self.eligible
            .iter()
            .filter(|principal| rules.approver(principal))
    }

    fn counted<'a>(&'a self, rules: &'a ApprovalRules) -> impl Iterator<Item = &'a Approver> {
        self.approvers.iter().filter(|approver| {
            approver.arn != self.requester
                && approver.principal != principal_of(&self.requester)
                && self
                    .eligible(rules)
                    .any(|principal| *principal == approver.principal)
        })
    }

    fn required(&self, rules: &ApprovalRules) -> u32 {
        let now = if rules.lists(&self.operation) {
            rules.required
        } else {
            0
        };
        self.required.max(now).max(1)
    }
}

impl Kms {
    /// Lets a change through, or makes it wait. To be asked when it is allowed and could be carried out.
    pub(super) fn approved(
        &self,
        auth: &Authorized,
        request: &Request,
        caller: &Caller,
        outcome: Outcome,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let rules = &world.host.settings.approval;
        let mut write = match outcome {
            Outcome::Write(write) if caller.role != CallerRole::Internal => write,
            other => return Ok(other),
        };
        if rules.operations.is_empty() && self.snapshot.approvals.is_empty() {
            return Ok(Outcome::Write(write));
        }
        let parameters = request
            .to_json()
            .map_err(|_| internal("The request has no JSON form."))?;
        let parameters = String::from_utf8_lossy(&parameters);
        let keys: Vec<String> = auth.keys().map(|key| self.arn(key)).collect();
        let waiting = self.snapshot.approvals.values().find(|row| {
            row.operation == request.operation()
                && row.requester == *caller.arn
                && row.parameters == parameters
                && row.keys == keys
                && !row.lapsed(world.now)
        });
        let asked = Asked {
            caller,
            action: action(request),
            resource: keys.first().map_or("*", String::as_str),
        };
        match waiting {
            Some(row) => {
                let (count, required) = (row.counted(rules).count(), row.required(rules));
                if u32::try_from(count).unwrap_or(u32::MAX) < required {
                    return Err(asked.refusal(&format!(
                        "request {} has {count} of {required} approvals. An approver runs `kmsctl approval \
                         approve {}`; then repeat the same call",
                        row.id, row.id
                    )));
                }
                write
                    .changes
                    .push(Change::Remove(Table::Approval, row.id.clone()));
                Ok(Outcome::Write(write))
            }
            None if !rules.lists(request.operation()) => Ok(Outcome::Write(write)),
            None => {
                if self.snapshot.approvals.len() >= MOST {
                    return Err(ApiError::new(
                        ErrorCode::LimitExceeded,
                        format!("{MOST} requests wait for approvals already; cancel some."),
                    ));
                }
                let id = ResourceId(entropy::array(world.entropy).map_err(no_entropy)?);
                let row = ApprovalRow {
                    id: id.to_string(),
                    operation: request.operation().to_owned(),
                    parameters: parameters.into_owned(),
                    keys: keys.clone(),
                    requester: caller.arn.to_string(),
                    approvers: Vec::new(),
                    required: rules.required,
                    eligible: rules.approvers.clone(),
                    created_ms: world.now.wall_ms,
                    ends: Due::after(world.now, rules.lifetime_ms),
                };
                let refusal = asked.refusal(&format!(
                    "it needs {} approvals. It waits as request {id}: approvers run `kmsctl approval \
                     approve {id}`; then repeat the same call",
                    rules.required
                ));
                Ok(Outcome::Write(Box::new(Write {
                    refusal: Some(refusal),
                    ..self.write(write.response, vec![Change::Put(Row::Approval(row))])
                })))
            }
        }
    }

    pub(super) fn list_approvals(&self, caller: &Caller, world: &World<'_>) -> Outcome {
        let rules = &world.host.settings.approval;
        let approvals = self
            .snapshot
            .approvals
            .values()
            .filter(|row| !row.lapsed(world.now) && self.sees(row, caller, rules))
            .filter_map(|row| described(row, rules));
        reply(Response::ListApprovals(ListApprovalsResponse {
            approvals: approvals.collect(),
        }))
    }

    pub(super) fn describe_approval(
        &self,
        id: ResourceId,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let row = self.waiting(id, caller, world)?;
        let approval = described(row, &world.host.settings.approval);
        Ok(reply(Response::DescribeApproval(
            DescribeApprovalResponse {
                approval: approval.ok_or_else(damaged)?,
            },
        )))
    }

    pub(super) fn approve_request(
        &self,
        id: ResourceId,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let rules = &world.host.settings.approval;
        let row = self.waiting(id, caller, world)?;
        let asked = Asked {
            caller,
            action: "kmsd:ApproveRequest".to_owned(),
            resource: &row.id,
        };
        let requester = principal_of(&row.requester);
        if row.requester == *caller.arn || caller.principals.iter().any(|own| **own == *requester) {
            return Err(asked.refusal("nobody approves a request of their own"));
        }
        // Who has its secret may be one person with the secrets of several.
        if caller.network.is_some() {
            return Err(
                asked.refusal("approvals are given by users of this host, not with an access key")
            );
        }
        if caller.via.is_some() || caller.role == CallerRole::Service {
            return Err(asked.refusal("services approve nothing, for themselves or for users"));
        }
        let mine = |principal: &&String| caller.principals.iter().any(|own| **own == **principal);
        let Some(principal) = row.eligible(rules).find(mine) else {
            return Err(asked.refusal(
                "it is not among `approval.approvers` of kmsd's configuration, or was not when the request was made",
            ));
        };
        let mut new = ApprovalRow::clone(row);
        let again = new
            .approvers
            .iter()
            .any(|approver| approver.arn == *caller.arn && approver.principal == *principal);
        if !again {
            new.approvers.retain(|approver| approver.arn != *caller.arn);
            new.approvers.push(Approver {
                arn: caller.arn.to_string(),
                principal: principal.clone(),
            });
        }
        let approval = described(&new, rules).ok_or_else(damaged)?;
        let response = Response::ApproveRequest(ApproveRequestResponse { approval });
        Ok(if again {
            reply(response)
        } else {
            self.write(response, vec![Change::Put(Row::Approval(new))])
                .into()
        })
    }

    pub(super) fn cancel_approval(
        &self,
        id: ResourceId,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let row = self.waiting(id, caller, world)?;
        let changes = vec![Change::Remove(Table::Approval, row.id.clone())];
        Ok(self.write(Response::CancelApproval(EMPTY), changes).into())
    }

    /// Requests whose time is over.
    pub fn approvals_lapsed(&self, now: Now) -> Vec<String> {
        let lapsed = self.snapshot.approvals.values();
        lapsed
            .filter(|row| row.lapsed(now))
            .map(|row| row.id.clone())
            .collect()
    }

    /// A request that waits and that the caller may know of.
    fn waiting(
        &self,
        id: ResourceId,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<&ApprovalRow, ApiError> {
        let rules = &world.host.settings.approval;
        self.snapshot
            .approvals
            .get(&id.to_string())
            .filter(|row| !row.lapsed(world.now) && self.sees(row, caller, rules))
            .map(AsRef::as_ref)
            .ok_or_else(|| {
                ApiError::not_found(format!(
                    "Request '{id}' does not wait for approvals (any more)"
                ))
            })
    }

    /// Whether the request is any of the caller's business. Administrators of other accounts administer those.
    fn sees(&self, row: &ApprovalRow, caller: &Caller, rules: &ApprovalRules) -> bool {
        let home = &self.snapshot.home().account;
        let administers = match caller.role {
            CallerRole::Root | CallerRole::Admin => {
                (caller.scope.as_ref()).is_none_or(|scope| scope.account == *home)
            }
            CallerRole::Internal => true,
            _ => false,
        };
        administers
            || row.requester == *caller.arn
            || row
                .eligible(rules)
                .any(|principal| caller.principals.iter().any(|own| **own == **principal))
    }
}

/// The principal that an ARN is a session of, or itself: `assumed-role/NAME/SESSION` is of `role/NAME`.
fn principal_of(arn: &str) -> String {
    arn.strip_prefix("arn:aws:sts::")
        .and_then(|rest| rest.split_once(":assumed-role/"))
        .and_then(|(account, session)| Some((account, session.rsplit_once('/')?.0)))
        .map_or_else(
            || arn.to_owned(),
            |(account, role)| format!("arn:aws:iam::{account}:role/{role}"),
        )
}

fn described(row: &ApprovalRow, rules: &ApprovalRules) -> Option<Approval> {
    Some(Approval {
        approval_id: row.id.parse().ok()?,
        operation: row.operation.clone(),
        parameters: row.parameters.clone(),
        keys: row.keys.clone(),
        requester: row.requester.clone(),
        approved_by: row.counted(rules).map(|by| by.arn.clone()).collect(),
        required: u64::from(row.required(rules)),
        approvers: row.eligible(rules).cloned().collect(),
        creation_date: Timestamp::from_millis(row.created_ms),
        end_date: Timestamp::from_millis(row.ends.wall_ms),
    })
}

/// Who asks for what, for AWS's words about a refusal.
struct Asked<'a> {
    caller: &'a Caller,
    action: String,
    resource: &'a str,
}

impl Asked<'_> {
    fn refusal(&self, because: &str) -> ApiError {
        let (arn, action, resource) = (&self.caller.arn, &self.action, self.resource);
        ApiError::new(
            ErrorCode::AccessDenied,
            format!(
                "User: {arn} is not authorized to perform: {action} on resource: {resource} because {because}"
            ),
        )
    }
}

fn action(request: &Request) -> String {
    let service = if request.prefix() == kms_api::AWS_PREFIX {
        "kms"
    } else {
        "kmsd"
    };
    format!("{service}:{}", request.operation())
}

fn damaged() -> ApiError {
    internal("A request that waits for approvals is damaged in the store.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_does_the_same() {
        let rules = |operation: &str| ApprovalRules {
            operations: vec![operation.to_owned()],
            ..ApprovalRules::default()
        };
        assert!(rules("CreateGrant").lists("CreateGrant"));
        assert!(rules("CreateGrant").lists("CreateTemporaryGrant"));
        assert!(!rules("CreateTemporaryGrant").lists("CreateGrant"));
        assert!(!rules("RevokeGrant").lists("CreateTemporaryGrant"));
        assert!(rules("ScheduleKeyDeletion").lists("DeleteImportedKeyMaterial"));
        assert!(!rules("DeleteImportedKeyMaterial").lists("ScheduleKeyDeletion"));
    }
}
