//! Requests for another account or Region than the home's.

use std::sync::Arc;

use kms_api::{Caller, CallerRole};
use kms_core::Served;
use kms_core::ids::Scope;

use super::{Auth, Refusal};

/// What a request says it is for: the values of [`kms_api::REGION_HEADER`] and [`kms_api::ACCOUNT_HEADER`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) region: Option<String>,
    pub(crate) account: Option<String>,
}

impl Auth {
    /// The same caller, asking in the place that it names. Whoever names another account is a principal of that account: its
    /// root principal, or an administrator of the same name.
    pub(crate) fn in_place(&self, mut caller: Caller, asked: &Asked) -> Result<Caller, Refusal> {
        if asked.region.is_none() && asked.account.is_none() {
            return Ok(caller);
        }
        let header = |text: String| Err(Refusal::Header(text));
        let home = Scope {
            account: self.account.clone(),
            region: self.region.clone(),
        };
        let served: &Served = &self.served;
        let region = asked.region.as_ref().unwrap_or(&home.region);
        if !served.has_region(&home, region) {
            return header(format!(
                "Region '{region}' is not served by this kmsd: it serves {}. Others are named in server.regions of its \
                 configuration.",
                served.all_regions(&home).join(", ")
            ));
        }
        let account = asked.account.as_ref().unwrap_or(&home.account);
        if !served.has_account(&home, account) {
            return header(format!(
                "Account '{account}' is not served by this kmsd: it serves {}. Others are named in server.accounts of its \
                 configuration.",
                served.all_accounts(&home).join(", ")
            ));
        }
        if *account != home.account {
            caller = elsewhere(caller, account)?;
        }
        let scope = Scope {
            account: account.clone(),
            region: region.clone(),
        };
        caller.scope = (scope != home).then(|| Arc::new(scope));
        Ok(caller)
    }
}

fn elsewhere(caller: Caller, account: &str) -> Result<Caller, Refusal> {
    let arn: Arc<str> = match caller.role {
        _ if caller.via.is_some() => return Err(Refusal::NotOnBehalf),
        CallerRole::Root => format!("arn:aws:iam::{account}:root").into(),
        CallerRole::Admin => format!("arn:aws:iam::{account}:user/{}", caller.user_name).into(),
        CallerRole::Service | CallerRole::User | CallerRole::Internal => {
            return Err(Refusal::OtherAccount);
        }
    };
    // Groups and roles are those of the home's account.
    Ok(Caller {
        principals: Arc::new([Arc::clone(&arn)]),
        arn,
        group_names: Arc::new([]),
        roles: Arc::new([]),
        possible_roles: Arc::new([]),
        possible_principals: Arc::new([]),
        ..caller
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Server};

    fn auth() -> Auth {
        let server = Server {
            accounts: vec!["222222222222".into()],
            regions: vec!["us-west-2".into()],
            ..Server::default()
        };
        Auth::new(&server, &Config::default().identity).unwrap()
    }

    fn asked(region: Option<&str>, account: Option<&str>) -> Asked {
        Asked {
            region: region.map(str::to_owned),
            account: account.map(str::to_owned),
        }
    }

    fn caller(role: CallerRole) -> Caller {
        let mut caller = Caller::new(role, 1000, "arn:aws:iam::000000000000:user/alice");
        caller.roles = Arc::new(["backup".into()]);
        caller
    }

    #[test]
    fn a_region_is_a_place_of_the_same_caller() {
        let user = caller(CallerRole::User);
        let there = auth()
            .in_place(user.clone(), &asked(Some("us-west-2"), None))
            .unwrap();
        let scope = there.scope.as_ref().unwrap();
        assert_eq!(
            (&*scope.account, &*scope.region),
            ("000000000000", "us-west-2")
        );
        assert_eq!(there.principals, user.principals);
        let home = asked(Some("local-host-1"), Some("000000000000"));
        assert_eq!(auth().in_place(user.clone(), &home).unwrap(), user);
        for (asked, text) in [
            (
                asked(Some("eu-west-1"), None),
                "it serves local-host-1, us-west-2",
            ),
            (
                asked(None, Some("333333333333")),
                "it serves 000000000000, 222222222222",
            ),
        ] {
            let refused = auth().in_place(user.clone(), &asked).unwrap_err();
            let error = refused.error("x", "y");
            assert_eq!(error.code, kms_api::ErrorCode::Validation);
            assert!(error.message.unwrap().contains(text));
        }
    }

    #[test]
    fn another_account_is_for_root_and_administrators() {
        let asked = asked(None, Some("222222222222"));
        let admin = auth().in_place(caller(CallerRole::Admin), &asked).unwrap();
        assert_eq!(&*admin.arn, "arn:aws:iam::222222222222:user/alice");
        assert_eq!(admin.principals.len(), 1);
        assert!(admin.roles.is_empty());
        let root = auth().in_place(caller(CallerRole::Root), &asked).unwrap();
        assert_eq!(&*root.arn, "arn:aws:iam::222222222222:root");
        for role in [CallerRole::User, CallerRole::Service] {
            let refused = auth().in_place(caller(role), &asked).unwrap_err();
            assert_eq!(
                refused.error("x", "y").code,
                kms_api::ErrorCode::AccessDenied
            );
        }
    }
}
