//! Principals that a grant can name.

use kms_api::{ApiError, ErrorCode};

use crate::ids::Scope;
use crate::place::Served;

/// Refuses what cannot be a principal here. Users and roles need not exist yet: they are the host's, and come and go.
///
/// # Errors
/// `InvalidArnException` that says what is wrong with it.
pub fn check(text: &str, home: &Scope, served: &Served) -> Result<(), ApiError> {
    let refuse = |reason: &str| {
        let text = format!("Principal {text} is not valid: {reason}.");
        Err(ApiError::new(ErrorCode::InvalidArn, text))
    };
    let none = "it is no ARN of a user, a role, a session or an account's root";
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", "aws", service @ ("iam" | "sts"), "", account, name] = parts.as_slice() else {
        return refuse(none);
    };
    if !served.has_account(home, account) {
        let accounts = served.all_accounts(home);
        return match accounts.as_slice() {
            [only] => refuse(&format!("this is account {only}")),
            all => refuse(&format!("the accounts here are {}", all.join(", "))),
        };
    }
    if name.split('/').any(str::is_empty) {
        return refuse("a part of its name is empty");
    }
    let kind = name.split_once('/').map_or(*name, |(kind, _)| kind);
    match (*service, kind, name.split('/').count()) {
        ("iam", "root", 1) | ("iam", "user" | "role", 2..) => Ok(()),
        ("sts", "assumed-role", 3) | ("sts", "federated-user", 2) => Ok(()),
        ("iam", "group", _) => refuse("groups are no principals; name users, roles or sessions"),
        _ => refuse(none),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_told_from_what_is_none() {
        let scope = Scope::new("000000000000", "local-host-1").unwrap();
        for good in [
            "arn:aws:iam::000000000000:root",
            "arn:aws:iam::000000000000:user/alice",
            "arn:aws:iam::000000000000:user/team/alice",
            "arn:aws:iam::000000000000:role/backup",
            "arn:aws:sts::000000000000:assumed-role/unit/nginx.service",
            "arn:aws:sts::000000000000:federated-user/alice",
        ] {
            assert_eq!(check(good, &scope, &Served::default()), Ok(()), "{good}");
        }
        for (bad, reason) in [
            ("alice", "it is no ARN"),
            ("000000000000", "it is no ARN"),
            (
                "arn:aws:iam::111122223333:user/alice",
                "this is account 000000000000",
            ),
            (
                "arn:aws:iam::000000000000:group/staff",
                "groups are no principals",
            ),
            ("arn:aws:iam::000000000000:user", "it is no ARN"),
            (
                "arn:aws:iam::000000000000:user/",
                "a part of its name is empty",
            ),
            ("arn:aws:iam::000000000000:root/x", "it is no ARN"),
            (
                "arn:aws:iam:local-host-1:000000000000:user/alice",
                "it is no ARN",
            ),
            (
                "arn:aws:sts::000000000000:assumed-role/unit",
                "it is no ARN",
            ),
            ("arn:aws:s3:::bucket", "it is no ARN"),
            ("arn:aws:iam::000000000000", "it is no ARN"),
        ] {
            let error = check(bad, &scope, &Served::default()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArn);
            assert!(error.message.unwrap().contains(reason), "{bad}");
        }
    }
}
