//! `kmsctl approval …`: requests that wait for the approval of others.

use clap::{Args, Subcommand};
use kms_api::*;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Table, time};

/// Arguments of `kmsctl approval`.
#[derive(Debug, Args)]
pub struct ApprovalArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ApprovalCommand,
}

/// The commands of `kmsctl approval`. ID is the request's id, which the refusal named, or its first digits.
#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// List the requests that you made, may approve, or administer.
    List,
    /// Show what is asked for, by whom, and who has approved it.
    Show {
        /// The request.
        id: String,
    },
    /// Approve a request of somebody else. Look at it with `show` first: its requester repeats it then.
    Approve {
        /// The request.
        id: String,
    },
    /// Take a request off the list.
    Cancel {
        /// The request.
        id: String,
    },
}

pub(super) fn run(args: &ApprovalArgs, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match &args.command {
        ApprovalCommand::List => list(context),
        ApprovalCommand::Show { id } => {
            let approval = client
                .send(DescribeApprovalRequest {
                    approval_id: full(id, context)?,
                })?
                .approval;
            context.output.print(human(&approval), &approval)
        }
        ApprovalCommand::Approve { id } => {
            let approval = client
                .send(ApproveRequestRequest {
                    approval_id: full(id, context)?,
                })?
                .approval;
            let missing = approval
                .required
                .saturating_sub(approval.approved_by.len() as u64);
            let text = match missing {
                0 => format!("Approved. {} can repeat the call now.", approval.requester),
                missing => format!("Approved. {missing} more must approve."),
            };
            context.output.print(text, &approval)
        }
        ApprovalCommand::Cancel { id } => {
            client.send(CancelApprovalRequest {
                approval_id: full(id, context)?,
            })?;
            context.output.done("The request does not wait any more.")
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let list = context.client.send(ListApprovalsRequest {})?;
    let mut table = Table::new(&["ID", "OPERATION", "ON", "REQUESTER", "APPROVED", "UNTIL"]);
    for approval in &list.approvals {
        table.row(vec![
            approval.approval_id.to_string(),
            approval.operation.clone(),
            approval
                .keys
                .iter()
                .map(|arn| arn.rsplit('/').next().unwrap_or(arn))
                .collect::<Vec<_>>()
                .join(", "),
            approval.requester.clone(),
            format!("{} of {}", approval.approved_by.len(), approval.required),
            time(approval.end_date),
        ]);
    }
    context.output.print(table, &list)
}

fn human(approval: &Approval) -> String {
    let lines = |list: &[String]| match list {
        [] => "nobody".to_owned(),
        list => list.join(", "),
    };
    [
        format!("request    {}", approval.approval_id),
        format!("operation  {}", approval.operation),
        format!("members    {}", approval.parameters),
        format!("keys       {}", approval.keys.join(", ")),
        format!("requester  {}", approval.requester),
        format!("made       {}", time(approval.creation_date)),
        format!("lapses     {}", time(approval.end_date)),
        format!(
            "approved   by {} ({} of {})",
            lines(&approval.approved_by),
            approval.approved_by.len(),
            approval.required
        ),
        format!("approvers  {}", lines(&approval.approvers)),
    ]
    .join("\n")
}

/// A whole id, of which the first digits may have been given.
fn full(id: &str, context: &Context) -> Result<ResourceId, Failure> {
    if let Ok(id) = id.parse() {
        return Ok(id);
    }
    let usage = |text: String| Failure::new(Exit::Usage, text);
    if id.len() < 8 {
        return Err(usage(format!("{id}: give eight digits of the id or more")));
    }
    let list = context.client.send(ListApprovalsRequest {})?.approvals;
    let mut found = list
        .iter()
        .map(|approval| approval.approval_id)
        .filter(|full| full.to_string().starts_with(id));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(usage(format!("no request that waits begins with {id}"))),
        (Some(_), Some(_)) => Err(usage(format!("several requests begin with {id}"))),
    }
}
