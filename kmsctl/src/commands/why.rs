//! `kmsctl why`: what decided about a request in the audit log, and what would change it.

use clap::Args;
use kms_api::LookupEventsRequest;
use serde_json::{Value, json};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::principal;

/// Arguments of `kmsctl why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The event's id, or `last` for the newest request that was denied.
    pub event: String,
}

pub(super) fn run(args: &WhyArgs, context: &Context) -> Result<(), Failure> {
    let last = args.event == "last";
    let request = LookupEventsRequest {
        event_id: (!last).then(|| args.event.clone()),
        outcome: last.then(|| "denied".to_owned()),
        limit: Some(1000),
        ..LookupEventsRequest::default()
    };
    let line = first(request, context)?.ok_or_else(|| {
        let text = match last {
            true => "the audit log has no request that was denied".to_owned(),
            false => format!("the audit log has no event {}", args.event),
        };
        Failure::new(Exit::NotFound, text)
            .next("`kmsctl audit search --outcome denied` lists the requests that were denied.")
    })?;
    let line: Value = serde_json::from_str(&line).map_err(|error| {
        Failure::new(
            Exit::Protocol,
            format!("a record of the audit log: {error}"),
        )
    })?;
    let record = line.get("record").cloned().unwrap_or_default();
    let explained = explain(&record);
    let value = json!({ "Record": record, "Explanation": explained });
    context.output.print(explained.join("\n"), &value)
}

/// The first event that fits; a page may be empty and not be the last.
fn first(request: LookupEventsRequest, context: &Context) -> Result<Option<String>, Failure> {
    let mut request = request;
    loop {
        let page = context.client.send(request.clone())?;
        if let Some(event) = page.events.into_iter().next() {
            return Ok(Some(event.line));
        }
        match page.next_marker {
            Some(marker) => request.marker = Some(marker),
            None => return Ok(None),
        }
    }
}

fn explain(record: &Value) -> Vec<String> {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str);
    let operation = text("/operation").unwrap_or("a request");
    let who = text("/caller/arn").map_or_else(|| "the service".to_owned(), principal::short);
    let key = text("/keys/0").unwrap_or("");
    let mut lines = vec![
        format!("{who} asked for {operation} {key}")
            .trim_end()
            .to_owned(),
    ];
    if let Some(service) = text("/caller/via/service") {
        lines.push(format!("through {service}"));
    }
    match (text("/authorization/effect"), text("/authorization/by")) {
        (Some("allow"), Some(by)) => {
            lines.push(format!("allowed by  {}", document(by)));
            if let Some(code) = text("/error/code") {
                lines.push(format!(
                    "but it failed for another reason: {code} {}",
                    text("/error/message").unwrap_or_default()
                ));
            }
        }
        (_, Some(by)) => {
            lines.push(format!("denied by   {}", document(by)));
            lines.extend(next_steps(by, &who, operation, key));
        }
        (_, None) => {
            lines.push("nobody was asked whether it is allowed".to_owned());
            if let Some(code) = text("/error/code") {
                lines.push(format!(
                    "refused     {code} {}",
                    text("/error/message").unwrap_or_default()
                ));
            }
        }
    }
    lines
}

/// `identity-policy:user/alice/read#0` as a sentence has it.
pub(super) fn document(by: &str) -> String {
    let (kind, rest) = by.split_once(':').unwrap_or((by, ""));
    match kind {
        "root" => "the account's root principal, on no key".to_owned(),
        "party" => "the thing itself: the caller is a party of it".to_owned(),
        "implied" => "the other permissions of the request, which this one comes with".to_owned(),
        "internal" => "kmsd itself".to_owned(),
        "grant" => format!("the grant {rest}"),
        "explicit-deny" => format!("a Deny: {}", statement(rest)),
        "outside-guard-rail" => format!("the guard rail {rest}, which permits only other things"),
        "implicit-deny" => "nothing that allows it".to_owned(),
        "unreadable" => format!("a stored document that cannot be read: {rest}"),
        "unknown-key" => "a ciphertext of a key that does not exist here".to_owned(),
        "not-a-party" => "the grant, which does not name the caller".to_owned(),
        "foreign-principal" => "the principal, which is of another account".to_owned(),
        _ => statement(by),
    }
}

fn statement(text: &str) -> String {
    match text.split_once('#') {
        Some((document, statement)) => {
            let document = match document.split_once(':') {
                Some((kind, name)) => format!("{} {name}", kind.replace('-', " ")),
                None => document.replace('-', " "),
            };
            format!("statement {statement} of the {document}")
        }
        None => text.to_owned(),
    }
}

/// The same as one line, if anything would help.
pub(super) fn next_step(by: &str, who: &str, operation: &str, key: &str) -> Option<String> {
    let steps = next_steps(by, who, operation, key);
    let steps: Vec<String> = steps.into_iter().filter(|line| !line.is_empty()).collect();
    (!steps.is_empty()).then(|| steps.join(" "))
}

fn next_steps(by: &str, who: &str, operation: &str, key: &str) -> Vec<String> {
    let key = if key.is_empty() { "KEY" } else { key };
    let (kind, rest) = by.split_once(':').unwrap_or((by, ""));
    let step = |text: String| vec![String::new(), text];
    match kind {
        "explicit-deny" => {
            let mut lines = step(match rest.split(['#', ':']).next() {
                Some("guard-rail") => {
                    "To allow it, change the guard rail: `kmsctl guard-rail get NAME`.".to_owned()
                }
                Some("identity-policy") => {
                    "To allow it, change that policy: `kmsctl iam get`, `kmsctl iam put`."
                        .to_owned()
                }
                _ => format!("To allow it, change the key policy: `kmsctl key policy get {key}`."),
            });
            if rest.contains("(not established: ") {
                lines.push(
                    "It applies only because this could not be established about the caller; `kmsctl whoami`, run by \
                     the caller, shows what is known."
                        .to_owned(),
                );
            }
            lines
        }
        "outside-guard-rail" => step(format!(
            "To allow it, add it to the guard rail: `kmsctl guard-rail get {rest}`."
        )),
        "implicit-deny" if rest.starts_with("no-key-policy") => step(format!(
            "The key policy neither names {who} nor hands the decision to the account, so that identity policies do \
             not count. Name it there (`kmsctl key policy get {key}`), or give it a grant (`kmsctl grant create {key} \
             --to {who} --operations {operation}`)."
        )),
        "implicit-deny" => step(format!(
            "Give {who} an identity policy that allows kms:{operation} (`kmsctl iam put`), or a grant on the key \
             (`kmsctl grant create {key} --to {who} --operations {operation}`)."
        )),
        "unreadable" => step(
            "As root, replace that document: nobody is allowed anything that it could deny."
                .to_owned(),
        ),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(authorization: Value) -> String {
        explain(&json!({
            "operation": "Decrypt", "keys": ["arn:aws:kms:local-host-1:000000000000:key/k"],
            "caller": {"arn": "arn:aws:iam::000000000000:user/bob"}, "authorization": authorization,
        }))
        .join("\n")
    }

    #[test]
    fn each_basis_is_explained_with_what_would_change_it() {
        let deny = |by: &str| lines(json!({"effect": "deny", "by": by}));
        let cases = [
            (
                "explicit-deny:guard-rail:g#Never",
                "statement Never of the guard rail g",
                "kmsctl guard-rail get",
            ),
            (
                "explicit-deny:key-policy#1",
                "statement 1 of the key policy",
                "kmsctl key policy get",
            ),
            (
                "explicit-deny:identity-policy:user/bob/no#0",
                "statement 0 of the identity policy user/bob/no",
                "kmsctl iam",
            ),
            (
                "explicit-deny:key-policy#1 (not established: kmsd:Exe)",
                "kmsd:Exe",
                "kmsctl whoami",
            ),
            (
                "outside-guard-rail:g",
                "permits only other things",
                "kmsctl guard-rail get g",
            ),
            (
                "implicit-deny:no-key-policy-allows",
                "nothing that allows it",
                "hands the decision to the account",
            ),
            (
                "implicit-deny:no-identity-policy-allows",
                "nothing that allows it",
                "kmsctl iam put",
            ),
        ];
        for (by, what, next) in cases {
            let text = deny(by);
            assert!(
                text.starts_with("user:bob asked for Decrypt arn:aws:kms"),
                "{text}"
            );
            assert!(text.contains(what) && text.contains(next), "{by}: {text}");
        }
        let text = lines(json!({"effect": "allow", "by": "grant:abc"}));
        assert!(text.ends_with("allowed by  the grant abc"), "{text}");
        assert!(lines(Value::Null).contains("nobody was asked"));
    }
}
