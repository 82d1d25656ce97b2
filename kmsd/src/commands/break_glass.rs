//! `kmsd break-glass`.

use kms_core::kms::{Measure, Obstacle, Plan};
use serde_json::json;

use super::files::Ownership;
use super::recovery;
use crate::cli::{BreakGlassAction, BreakGlassArgs};
use crate::config::{BreakGlass, Config};
use crate::engine::{self, EngineError, Opened, Reason};
use crate::exit::{self, Failure};
use crate::{terminal, world};

/// Shortest reason that is taken for one.
const MIN_REASON: usize = 8;

/// Shows what locks root out, or changes something past every policy once someone has confirmed it.
pub(crate) fn break_glass(
    config: &Config,
    args: &BreakGlassArgs,
    json: bool,
) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure {
            status: exit::LOCAL,
            message: "only root may break the glass".into(),
            next_step: "Run it as root.".into(),
        });
    }
    let measure = measure(&args.action)?;
    let store = world::engine_config(config);
    let Some(measure) = measure else {
        let opened = opened(config, args, false)?;
        let ownership = Ownership::of(config);
        let obstacles = engine::obstacles(&store, opened, world::clock(config)?);
        ownership.apply();
        print_obstacles(&obstacles?, json);
        return Ok(());
    };
    let reason = reason(args)?;
    if !args.yes && !terminal::is_interactive() {
        return Err(Failure::unbroken(
            "nobody is at a terminal to confirm it; nothing was changed",
        ));
    }
    let opened = opened(
        config,
        args,
        config.approval.break_glass == BreakGlass::Shares,
    )?;
    let ownership = Ownership::of(config);
    let clock = world::clock(config)?;
    let done = engine::break_glass(&store, opened, clock, &measure, &reason, |plan| {
        confirm(&measure, plan, args.yes).map_err(Broken::Unconfirmed)
    });
    ownership.apply();
    let (plan, event) = done.map_err(Broken::into_failure)?;
    if json {
        let value = json!({ "Action": measure.name(), "Target": plan.target, "EventId": event });
        println!("{value}");
    } else {
        println!(
            "Done: {} of {}.\nIt is recorded as event {event}, which gets into the audit log when kmsd starts. \
             Start kmsd with `systemctl start kmsd`.",
            measure.name(),
            plan.target
        );
    }
    Ok(())
}

/// Why nothing was done.
enum Broken {
    Unconfirmed(Failure),
    Engine(EngineError),
}

impl From<EngineError> for Broken {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::Unconfirmed(failure) => failure,
            // The measure itself does not fit: nothing is wrong with the store.
            Self::Engine(EngineError::Refused(error)) => Failure {
                status: exit::LOCAL,
                message: error.message.unwrap_or_else(|| error.code.as_str().to_owned()),
                next_step: "Nothing was changed. Name what there is: `kmsd break-glass show`, `kmsctl key list`."
                    .into(),
            },
            Self::Engine(error) => error.into(),
        }
    }
}

fn measure(action: &BreakGlassAction) -> Result<Option<Measure>, Failure> {
    Ok(Some(match action {
        BreakGlassAction::Show => return Ok(None),
        BreakGlassAction::PutKeyPolicy { key, policy, .. } => Measure::ReplaceKeyPolicy {
            key: key.clone(),
            policy: match policy {
                Some(path) => Some(std::fs::read_to_string(path).map_err(|e| {
                    let what = format!("the policy {}", path.display());
                    Failure::local(what, &e, "Name a file with the new policy.")
                })?),
                None => None,
            },
        },
        BreakGlassAction::DeleteIdentityPolicy {
            kind,
            identity,
            name,
        } => Measure::DeleteIdentityPolicy {
            kind: (*kind).into(),
            identity: identity.clone(),
            name: name.clone(),
        },
        BreakGlassAction::DeleteGuardRail { name } => {
            Measure::DeleteGuardRail { name: name.clone() }
        }
        BreakGlassAction::EnableKey { key } => Measure::EnableKey { key: key.clone() },
        BreakGlassAction::CancelDeletion { key } => Measure::CancelKeyDeletion { key: key.clone() },
    }))
}

fn reason(args: &BreakGlassArgs) -> Result<Reason, Failure> {
    let text = args.reason.as_deref().unwrap_or_default().trim();
    if text.chars().count() < MIN_REASON || text.len() > 4096 {
        return Err(Failure {
            status: exit::USAGE,
            message: "a reason is required, and recorded".into(),
            next_step: format!(
                "Say why with --reason TEXT, in {MIN_REASON} characters or more and 4096 bytes or less."
            ),
        });
    }
    Ok(Reason {
        text: text.to_owned(),
        login: login_uid(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    })
}

/// Who logged in, whatever su and sudo made of it since; the kernel keeps it.
fn login_uid() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    let uid = text.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

fn opened(config: &Config, args: &BreakGlassArgs, both: bool) -> Result<Opened, Failure> {
    let key = match recovery::given(&args.recovery)? {
        None if args.without_tpm || both => Some(recovery::ask()?),
        given => given,
    };
    match key {
        Some(key) if args.without_tpm => Ok(Opened::Recovery(key)),
        key => Ok(Opened::Sealer(
            world::sealer(config)?,
            world::credential(config)?,
            key,
        )),
    }
}

fn confirm(measure: &Measure, plan: &Plan, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    terminal::say(&format!(
        "{} of {}\n\nas it is:\n    {}\n",
        measure.name(),
        plan.target,
        plan.before.replace('\n', "\n    ")
    ))?;
    if let Measure::ReplaceKeyPolicy {
        policy: Some(policy),
        ..
    } = measure
    {
        let policy = policy.trim_end().replace('\n', "\n    ");
        terminal::say(&format!("as it will be:\n    {policy}\n"))?;
    }
    let said = terminal::ask("This passes every policy, and is recorded. Type yes to go on: ")?;
    match said.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::unbroken("nobody said yes; nothing was changed")),
    }
}

fn print_obstacles(obstacles: &[Obstacle], json: bool) {
    if json {
        let list: Vec<_> = obstacles
            .iter()
            .map(|one| json!({ "Target": one.target, "Reason": one.reason, "Remedy": one.remedy }))
            .collect();
        println!("{}", json!({ "Obstacles": list }));
        return;
    }
    for one in obstacles {
        println!("{}\n    {}\n    {}", one.target, one.reason, one.remedy);
    }
    match obstacles.len() {
        0 => println!("Root can change the policy of every key, as far as the catalogue says."),
        count => {
            println!("{count} found. Policies in files are not looked at: root can edit those.")
        }
    }
}
