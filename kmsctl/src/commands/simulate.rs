//! `kmsctl policy simulate`: what kmsd would decide, and which statement would decide it.

use clap::Args;
use kms_api::{Decision, SimulatePrincipalPolicyRequest, SimulatePrincipalPolicyResponse};

use crate::Context;
use crate::args::pair;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use crate::principal::FORMS;

/// `kmsctl policy simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Who.
    #[arg(long, help = format!("Who: {FORMS}, or group:NAME"))]
    pub principal: String,
    /// What: an action such as `decrypt` or `kms:Decrypt`.
    #[arg(long)]
    pub action: String,
    /// On which key; none for actions that are on no key.
    #[arg(long)]
    pub key: Option<String>,
    /// For actions that are on no key: the ARN of what they are on.
    #[arg(long, value_name = "ARN", conflicts_with = "key")]
    pub resource: Option<String>,
    /// Encryption context, may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// The service that asks on the principal's behalf (`kmsfs.local-host-1.amazonaws.com`).
    #[arg(long, value_name = "SERVICE")]
    pub via: Option<String>,
    /// A group of the user, may be given several times; by default those that this host knows of.
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// The systemd unit that the principal's process is in.
    #[arg(long, value_name = "NAME")]
    pub unit: Option<String>,
    /// The executable of the principal's process.
    #[arg(long, value_name = "PATH")]
    pub exe: Option<String>,
}

pub(super) fn run(args: &SimulateArgs, context: &Context) -> Result<Exit, Failure> {
    let groups = match args.group.is_empty() {
        true => groups_of(&args.principal),
        false => args.group.clone(),
    };
    let response = context.client.send(SimulatePrincipalPolicyRequest {
        principal: args.principal.clone(),
        action: args.action.clone(),
        key_id: args.key.clone(),
        resource_arn: args.resource.clone(),
        encryption_context: args.context.iter().cloned().collect(),
        via_service: args.via.clone(),
        groups: groups.clone(),
        unit: args.unit.clone(),
        exe: args.exe.clone(),
    })?;
    context.output.print(human(&response, &groups), &response)?;
    Ok(match response.decision {
        Decision::Allowed => Exit::Success,
        Decision::ExplicitDeny | Decision::ImplicitDeny => Exit::WouldBeDenied,
    })
}

fn human(response: &SimulatePrincipalPolicyResponse, groups: &[String]) -> String {
    let decision = match response.decision {
        Decision::Allowed => "allowed",
        Decision::ExplicitDeny => "denied",
        Decision::ImplicitDeny => "denied: nothing allows it",
    };
    let mut text = format!(
        "{decision}\ndecided by  {}\n            {}\n",
        response.decided_by, response.reason
    );
    if !groups.is_empty() {
        text.push_str(&format!("groups      {}\n", groups.join(", ")));
    }
    if response.matched_statements.is_empty() {
        text.push_str("\nNo statement and no grant applies.\n");
        return text;
    }
    let mut table = Table::new(&["EFFECT", "DOCUMENT", "STATEMENT"]);
    for matched in &response.matched_statements {
        table.row(vec![
            matched.effect.clone(),
            matched.document.clone(),
            matched.statement.clone(),
        ]);
    }
    format!("{text}\n{table}")
}

/// The groups that this host has a user in.
fn groups_of(principal: &str) -> Vec<String> {
    let name = match principal.split_once(':') {
        Some(("user", name)) => Some(name),
        Some(("arn", _)) => principal.split_once(":user/").map(|(_, name)| name),
        _ => None,
    };
    let output = name.and_then(|name| {
        let mut id = std::process::Command::new("id");
        id.args(["-Gn", "--", name]).output().ok()
    });
    match output {
        Some(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_whitespace().map(str::to_owned).collect()
        }
        // A user that this host does not know has no groups here.
        _ => Vec::new(),
    }
}
