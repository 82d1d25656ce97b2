//! `kmsctl whoami`.

use kms_api::{GetCallerIdentityRequest, GetCallerIdentityResponse};

use crate::Context;
use crate::exit::Failure;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let identity = context.client.send(GetCallerIdentityRequest {})?;
    context.output.print(human(&identity), &identity)
}

fn human(identity: &GetCallerIdentityResponse) -> String {
    let numbers: Vec<String> = identity.groups.iter().map(u32::to_string).collect();
    let mut lines = vec![
        ("principal", identity.arn.clone()),
        ("role", identity.role.clone()),
    ];
    match identity.uid {
        Some(uid) => {
            lines.push(("user", format!("{} (uid {uid})", identity.user_name)));
            let gids = numbers.join(", ");
            let groups = format!("{} (gids {gids})", list(&identity.group_names));
            lines.push(("groups", groups));
        }
        None => lines.push(("user", identity.user_name.clone())),
    }
    for principal in identity.principals.iter().skip(1) {
        lines.push(("also", principal.clone()));
    }
    if !identity.roles.is_empty() {
        lines.push(("roles", list(&identity.roles)));
    }
    if let Some(network) = &identity.network {
        lines.push(("access key", network.access_key_id.clone()));
        lines.push(("address", network.source_ip_address.clone()));
        if let Some(certificate) = &network.certificate {
            lines.push(("certificate", certificate.clone()));
        }
    }
    match &identity.process {
        Some(process) => {
            let text = |value: &Option<String>| value.as_deref().unwrap_or("not known").to_owned();
            let pid = identity.pid.unwrap_or_default();
            lines.push(("process", pid.to_string()));
            lines.push(("unit", text(&process.unit)));
            lines.push(("cgroup", text(&process.cgroup)));
            lines.push(("executable", text(&process.exe)));
            if let Some(digest) = &process.exe_sha256 {
                lines.push(("sha256", digest.clone()));
            }
            if let Some(label) = &process.security_label {
                lines.push(("label", label.clone()));
            }
            let vouched = match process.checked {
                true => "yes, by a pidfd",
                false => "no: this kernel has no pidfds of peers",
            };
            lines.push(("checked", vouched.to_owned()));
        }
        None if identity.network.is_some() => {}
        None => lines.push((
            "process",
            "not known: policies that need its unit or executable do not allow".to_owned(),
        )),
    }
    lines
        .iter()
        .map(|(name, value)| format!("{name:11}  {value}\n"))
        .collect()
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none with a name".to_owned(),
        names => names.join(", "),
    }
}
