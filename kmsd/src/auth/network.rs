//! Who calls over the network: whose access key signed the request.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::http::request::Parts;
use kms_api::sigv4::{Signable, Signed, SigningKey, TOKEN_HEADER, invalid_token};
use kms_api::{ApiError, Caller, Network, Scope};
use kms_core::audit::ActorNetwork;
use parking_lot::Mutex;

use super::hosts::Hosts;
use crate::service::Service;

/// Longest name of a client that is kept, in bytes.
const MAX_AGENT: usize = 256;

/// An access key that signs requests, ready to verify those of one day and one Region.
#[derive(Debug)]
pub struct Signer {
    /// Its id.
    pub access_key_id: Arc<str>,
    /// As whom its requests act.
    pub principal: Arc<str>,
    /// The day, `YYYYMMDD`.
    pub date: String,
    /// The principal's account, and the Region.
    pub scope: Arc<Scope>,
    /// Verifies them.
    pub key: SigningKey,
}

/// One connection of the network.
#[derive(Debug)]
pub(crate) struct NetworkSession {
    address: IpAddr,
    tls: bool,
    certificate: Option<Arc<str>>,
    hosts: Arc<Hosts>,
    /// The caller of the last request: most connections have one only.
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    signer: Arc<Signer>,
    agent: Option<Arc<str>>,
    caller: Caller,
}

impl NetworkSession {
    /// Who nobody is known to be.
    pub(crate) const ANONYMOUS: &str = "anonymous";

    pub(crate) fn new(
        address: IpAddr,
        tls: bool,
        certificate: Option<Arc<str>>,
        hosts: Arc<Hosts>,
    ) -> Self {
        Self {
            address,
            tls,
            certificate,
            hosts,
            known: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// What the head of a request says of its signature, as far as it can be right: whoever has no access key, signs for
    /// another Region, host or time is refused before anything is kept of the body.
    pub(crate) fn head<S: Service>(&self, service: &S, parts: &Parts) -> Result<Signed, ApiError> {
        let headers = headers(parts);
        let signed = Signed::read(&signable(parts, &headers, &[]))?;
        // There are no sessions whose token it could be.
        if parts.headers.contains_key(TOKEN_HEADER) {
            return Err(invalid_token());
        }
        service.signer(&signed)?;
        signed.check_time(service.now_ms())?;
        self.hosts.check(parts)?;
        Ok(signed)
    }

    /// The caller of a request that has arrived whole. To be asked after the request was registered, so that whoever
    /// disables an access key waits for what was found before.
    pub(crate) fn caller<S: Service>(
        &self,
        service: &S,
        parts: &Parts,
        signed: &Signed,
        body: &[u8],
    ) -> Result<Caller, ApiError> {
        let headers = headers(parts);
        // Again: it may have been disabled while the body came.
        let signer = service.signer(signed)?;
        let request = signable(parts, &headers, body);
        signed.verify(&request, &signer.key, service.now_ms())?;
        service.accepted(&signer.access_key_id);
        Ok(self.known(&signer, agent(parts)))
    }

    fn known(&self, signer: &Arc<Signer>, agent: Option<&str>) -> Caller {
        let mut known = self.known.lock();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.signer, signer)
            && known.agent.as_deref() == agent
        {
            return known.caller.clone();
        }
        let agent: Option<Arc<str>> = agent.map(Into::into);
        let network = Network {
            address: self.address,
            access_key_id: Arc::clone(&signer.access_key_id),
            certificate: self.certificate.clone(),
            user_agent: agent.clone(),
            tls: self.tls,
        };
        let mut caller = Caller::remote(&signer.principal, network);
        caller.scope = Some(Arc::clone(&signer.scope));
        *known = Some(Known {
            signer: Arc::clone(signer),
            agent,
            caller: caller.clone(),
        });
        caller
    }

    /// What the record of a refused request says of where it came from.
    pub(crate) fn refused(&self, parts: &Parts) -> ActorNetwork {
        let claimed = parts.headers.get("authorization");
        let claimed = claimed.and_then(|value| value.to_str().ok()?.split_once("Credential="));
        let claimed = claimed.and_then(|(_, rest)| rest.split('/').next());
        ActorNetwork {
            access_key_id: claimed.map(|id| id.chars().take(128).collect()),
            address: self.address.to_string(),
            certificate: self.certificate.as_deref().map(str::to_owned),
            tls: self.tls,
            user_agent: agent(parts).map(str::to_owned),
        }
    }
}

fn headers(parts: &Parts) -> Vec<(&str, &[u8])> {
    parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

fn signable<'a>(
    parts: &'a Parts,
    headers: &'a [(&'a str, &'a [u8])],
    body: &'a [u8],
) -> Signable<'a> {
    Signable {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers,
        body,
    }
}

/// What a client calls itself.
fn agent(parts: &Parts) -> Option<&str> {
    let text = parts.headers.get("user-agent")?.to_str().ok()?;
    text.get(..text.floor_char_boundary(MAX_AGENT))
}
