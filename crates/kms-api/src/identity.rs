//! kmsd's operations on identities: who the caller is, and the policies of files.

use serde::{Deserialize, Serialize};

use crate::caller::{Caller, CallerRole};
use crate::request::requests;
use crate::response::responses;

/// Header with which a service names the user on whose behalf it asks: `uid=1000;gid=1000;pid=4711`.
pub const ON_BEHALF_OF: &str = "x-kmsd-on-behalf-of";
/// Request header on the Unix socket: the Region that the request is for.
pub const REGION_HEADER: &str = "x-kmsd-region";
/// Request header on the Unix socket: the account that root or an administrator asks in.
pub const ACCOUNT_HEADER: &str = "x-kmsd-account";

requests! {
    /// Asks who kmsd takes the caller for.
    #[derive(Default, Copy)]
    GetCallerIdentityRequest {}

    /// Reads the policy files again.
    #[derive(Default, Copy)]
    ReloadPoliciesRequest {}
}

responses! {
    /// Who the caller is.
    GetCallerIdentityResponse {
        /// 12 digits.
        account: String,
        /// The principal that records and errors name.
        arn: String,
        /// The user id as text, as `sts:GetCallerIdentity` has a text here.
        user_id: String,
        /// Every principal that a policy may name.
        principals: Vec<String>,
        /// `Root`, `Admin`, `Service`, `User` or `Internal`.
        role: String,
        /// User id; absent for a caller that comes over the network, as the other numbers are.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        uid: Option<u32>,
        /// Primary group id.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        gid: Option<u32>,
        /// Process id at connect.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pid: Option<u32>,
        /// Name of the user.
        user_name: String,
        /// All groups by number.
        groups: Vec<u32>,
        /// The names of those that have one.
        group_names: Vec<String>,
        /// Roles of the mapping rules.
        roles: Vec<String>,
        /// What is known of the process; absent where it could not be established.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        process: Option<CallerProcess>,
        /// Where the request came from, for a caller that comes over the network.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        network: Option<CallerNetwork>,
        /// The service that asks on this user's behalf.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        via: Option<CallerVia>,
    }

    /// The process of a caller.
    CallerProcess {
        /// Its systemd unit.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        unit: Option<String>,
        /// Path of its cgroup.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        cgroup: Option<String>,
        /// The unit's invocation id.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        invocation_id: Option<String>,
        /// Path of its executable.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        exe: Option<String>,
        /// SHA-256 of the executable, where a policy asks for it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        exe_sha256: Option<String>,
        /// Label of the security module.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        security_label: Option<String>,
        /// Whether a pidfd vouched for all this.
        checked: bool,
    }

    /// Where a request over the network came from.
    CallerNetwork {
        /// Address of the client, as kmsd sees it.
        source_ip_address: String,
        /// The access key that signed the request.
        access_key_id: String,
        /// SHA-256 of the certificate of the client, in hexadecimal.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        certificate: Option<String>,
        /// Whether the connection is encrypted.
        secure_transport: bool,
    }

    /// A service that asks on behalf of a user.
    CallerVia {
        /// `kms:ViaService`.
        service: String,
        /// Its principal.
        arn: String,
        /// Its user id.
        uid: u32,
        /// Its process id at connect.
        pid: u32,
    }

    /// What the policy files hold now.
    #[derive(Copy, Eq)]
    ReloadPoliciesResponse {
        /// Whether anything is different from before.
        changed: bool,
        /// Number of identity policies from files.
        identity_policies: u64,
        /// Number of guard rails from files.
        guard_rails: u64,
    }
}

impl CallerRole {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "Root",
            Self::Admin => "Admin",
            Self::Service => "Service",
            Self::User => "User",
            Self::Internal => "Internal",
        }
    }
}

impl GetCallerIdentityResponse {
    /// What is known of `caller`, who belongs to `account`.
    pub fn of(caller: &Caller, account: &str) -> Self {
        let ids = caller.local_ids();
        let texts =
            |list: &[std::sync::Arc<str>]| list.iter().map(|text| text.to_string()).collect();
        Self {
            account: account.to_owned(),
            arn: caller.arn.to_string(),
            user_id: match &caller.network {
                Some(network) => network.access_key_id.to_string(),
                None => caller.uid.to_string(),
            },
            principals: texts(&caller.principals),
            role: caller.role.as_str().to_owned(),
            uid: ids.map(|(uid, ..)| uid),
            gid: ids.map(|(_, gid, _)| gid),
            pid: ids.map(|(.., pid)| pid),
            user_name: caller.user_name.to_string(),
            groups: caller.groups.to_vec(),
            group_names: texts(&caller.group_names),
            roles: texts(&caller.roles),
            process: caller.process.as_deref().map(|process| CallerProcess {
                unit: process.unit.clone(),
                cgroup: process.cgroup.clone(),
                invocation_id: process.invocation_id.clone(),
                exe: process.exe.clone(),
                exe_sha256: process.exe_sha256.clone(),
                security_label: process.security_label.clone(),
                checked: process.checked,
            }),
            network: caller.network.as_deref().map(|network| CallerNetwork {
                source_ip_address: network.address.to_string(),
                access_key_id: network.access_key_id.to_string(),
                certificate: network.certificate.as_deref().map(str::to_owned),
                secure_transport: network.tls,
            }),
            via: caller.via.as_deref().map(|via| CallerVia {
                service: via.service.to_string(),
                arn: via.arn.to_string(),
                uid: via.uid,
                pid: via.pid,
            }),
        }
    }
}
