//! Principals as people write them.

use crate::exit::{Exit, Failure};

/// The forms that `--help` names.
pub(crate) const FORMS: &str =
    "user:NAME, unit:NAME.service, role:NAME, root, or the ARN of a principal";

/// The ARN of a principal: `user:alice`, `unit:nginx.service`, `role:backup`, `root`, or an ARN as it is.
///
/// # Errors
/// The text is none of these.
pub(crate) fn arn(text: &str, account: &str) -> Result<String, Failure> {
    if text.starts_with("arn:") {
        return Ok(text.to_owned());
    }
    if text == "root" {
        return Ok(format!("arn:aws:iam::{account}:root"));
    }
    match text.split_once(':') {
        // uid 0 acts as the account's root principal; there is no other principal of that name.
        Some(("user", "root")) => Ok(format!("arn:aws:iam::{account}:root")),
        Some(("user", name)) if !name.is_empty() => {
            Ok(format!("arn:aws:iam::{account}:user/{name}"))
        }
        Some(("role", name)) if !name.is_empty() => {
            Ok(format!("arn:aws:iam::{account}:role/{name}"))
        }
        Some(("unit", name)) if !name.is_empty() => {
            Ok(format!("arn:aws:sts::{account}:assumed-role/unit/{name}"))
        }
        Some(_) | None => {
            let mut failure = Failure::new(
                Exit::Invalid,
                format!("`{text}` is no principal: give {FORMS}"),
            );
            failure.next_step = Some(format!("If you mean a user, write `user:{text}`."));
            Err(failure)
        }
    }
}

/// The short form of an ARN, where it has one.
pub(crate) fn short(arn: &str) -> String {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", "aws", service, "", _, name] = parts.as_slice() else {
        return arn.to_owned();
    };
    match (*service, name.split_once('/')) {
        ("iam", None) if *name == "root" => "root".to_owned(),
        ("iam", Some(("user", name))) => format!("user:{name}"),
        ("iam", Some(("role", name))) => format!("role:{name}"),
        ("sts", Some(("assumed-role", session))) => match session.strip_prefix("unit/") {
            Some(unit) => format!("unit:{unit}"),
            None => arn.to_owned(),
        },
        _ => arn.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_and_arns_are_the_same_principals() {
        for (text, whole) in [
            ("user:alice", "arn:aws:iam::000000000000:user/alice"),
            ("role:backup", "arn:aws:iam::000000000000:role/backup"),
            (
                "unit:nginx.service",
                "arn:aws:sts::000000000000:assumed-role/unit/nginx.service",
            ),
            ("root", "arn:aws:iam::000000000000:root"),
        ] {
            assert_eq!(arn(text, "000000000000").unwrap(), whole);
            assert_eq!(arn(whole, "999999999999").unwrap(), whole);
            assert_eq!(short(whole), text);
        }
        assert_eq!(
            arn("user:root", "000000000000").unwrap(),
            "arn:aws:iam::000000000000:root"
        );
        for other in [
            "kmsfs.amazonaws.com",
            "arn:aws:sts::000000000000:assumed-role/a/b",
            "x",
        ] {
            assert_eq!(short(other), other);
        }
        for bad in ["alice", "user:", "group:staff", ""] {
            assert!(arn(bad, "000000000000").is_err(), "{bad}");
        }
    }
}
