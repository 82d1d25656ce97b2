//! The identity of one connection, looked at again for every request.

use std::collections::HashMap;
use std::sync::Arc;

use kms_api::{Caller, Request};
use parking_lot::Mutex;

use super::behalf::{self, OnBehalfOf};
use super::{Asked, Auth, Identity, Kind, Peer, Refusal};
use crate::audit::Asker;
use crate::service::Needs;

/// Most users of a service whose callers are kept ready.
const MAX_USERS: usize = 256;

/// A caller, and under which state of the name service it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) caller: Caller,
    under: u64,
}

/// Who a connection belongs to.
#[derive(Debug)]
pub(crate) struct Session {
    auth: Arc<Auth>,
    peer: Peer,
    kind: Kind,
    identity: Mutex<Arc<Identity>>,
    /// Users that this service asked on behalf of, by uid and gid, with the state of the name service.
    users: Mutex<HashMap<(u32, u32), (u64, Caller)>>,
}

impl Session {
    /// Establishes the identity on a thread that may block: the name service can be a network away.
    /// `None` when the runtime ends.
    pub(crate) async fn open(auth: Arc<Auth>, peer: Peer, needs: Needs) -> Option<Self> {
        tokio::task::spawn_blocking(move || {
            let identity = Mutex::new(Arc::new(auth.identify(&peer, needs)));
            Self {
                kind: auth.kind(&peer),
                auth,
                peer,
                identity,
                users: Mutex::default(),
            }
        })
        .await
        .ok()
    }

    /// User and process id at connect.
    pub(crate) fn peer_ids(&self) -> (u32, u32) {
        (self.peer.uid, self.peer.pid)
    }

    /// Whose records of refused requests are limited: nobody's of those who are trusted anyway.
    pub(crate) fn asker(&self) -> Option<Asker> {
        match self.kind {
            Kind::Known => None,
            Kind::User if self.identity.lock().callers.is_ok() => Some(Asker::Uid(self.peer.uid)),
            Kind::User | Kind::Stranger | Kind::Network => Some(Asker::Stranger),
        }
    }

    /// The identity as it was established last.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.lock())
    }

    /// The caller of a request that has arrived whole.
    pub(crate) async fn caller(
        self: &Arc<Self>,
        policies: Needs,
        user: Option<OnBehalfOf>,
    ) -> Result<Found, Refusal> {
        let own = self.own(policies).await?;
        match user {
            None => Ok(own),
            Some(user) => self.user(own, user).await,
        }
    }

    /// Whether the name service still says what it said when the caller was found.
    pub(crate) fn is_current(&self, found: &Found) -> bool {
        found.under == self.auth.names.generation()
    }

    /// The peer itself, with the facts that still hold.
    async fn own(self: &Arc<Self>, policies: Needs) -> Result<Found, Refusal> {
        let needs = self.auth.needs(policies);
        let mut identity = self.identity();
        let is_old = identity.generation != self.auth.names.generation()
            || (needs.exe && !identity.needs.exe)
            || (needs.exe_sha256 && !identity.needs.exe_sha256)
            // The name service may answer by now.
            || matches!(identity.callers, Err(Refusal::Names(_)));
        if is_old {
            let this = Arc::clone(self);
            let fresh = move || this.auth.identify(&this.peer, policies);
            if let Ok(fresh) = tokio::task::spawn_blocking(fresh).await {
                identity = Arc::new(fresh);
                *self.identity.lock() = Arc::clone(&identity);
            }
        }
        let callers = identity.callers.as_ref().map_err(Clone::clone)?;
        let caller = match &callers.full {
            Some(full) if self.facts_hold(full, needs) => full.clone(),
            Some(_) | None => callers.bare.clone(),
        };
        let under = identity.generation;
        Ok(Found { caller, under })
    }

    /// The caller, asking in the place that a request names.
    pub(crate) fn in_place(&self, caller: Caller, asked: &Asked) -> Result<Caller, Refusal> {
        self.auth.in_place(caller, asked)
    }

    /// Whether the process lives, and still runs the program that it ran when it connected.
    fn facts_hold(&self, caller: &Caller, needs: Needs) -> bool {
        let process = &self.peer.process;
        if needs.exe || needs.exe_sha256 {
            let now = process.place.as_ref().and_then(super::process::Place::exe);
            let known = caller
                .process
                .as_ref()
                .and_then(|facts| facts.exe.as_deref());
            if now.as_deref().map(std::path::Path::as_os_str) != known.map(std::ffi::OsStr::new) {
                return false;
            }
        }
        process.may_live()
    }

    async fn user(self: &Arc<Self>, service: Found, user: OnBehalfOf) -> Result<Found, Refusal> {
        let service = service.caller;
        let generation = self.auth.names.generation();
        let key = (user.uid, user.gid);
        // Also tells the names that the user is still there.
        let remembered = self.auth.remembered(user).is_some();
        let known = self.users.lock().get(&key).cloned();
        if let Some((under, mut caller)) = known
            && under == generation
            && remembered
        {
            caller.pid = user.pid;
            let under = generation;
            return Ok(Found { caller, under });
        }
        let auth = Arc::clone(&self.auth);
        let caller = tokio::task::spawn_blocking(move || auth.on_behalf(&service, user))
            .await
            .map_err(|_| Refusal::NotAService)??;
        let mut users = self.users.lock();
        if users.len() >= MAX_USERS {
            users.clear();
        }
        users.insert(key, (generation, caller.clone()));
        let under = generation;
        Ok(Found { caller, under })
    }
}

/// Whether a request may be made by this caller, as far as that does not depend on policies.
pub(crate) fn check(request: &Request, caller: &Caller) -> Result<(), Refusal> {
    if caller.via.is_some() && !behalf::is_for_users(request) {
        return Err(Refusal::NotOnBehalf);
    }
    Ok(())
}
