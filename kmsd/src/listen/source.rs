//! Where a request comes from.

use std::sync::Arc;

use super::vouched::Origin;
use crate::audit::Asker;
use crate::auth::{NetworkSession, Session};

/// One connection's word on who calls.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The socket of this host: the kernel says who connected, and who sent each byte.
    Socket(Arc<Session>, Arc<Origin>),
    /// The network: the signature of each request says it.
    Network(Arc<NetworkSession>),
}

impl Source {
    /// Whose records of refused requests are limited.
    pub(crate) fn asker(&self) -> Option<Asker> {
        match self {
            Self::Socket(session, _) => session.asker(),
            Self::Network(session) => Some(Asker::address(session.address())),
        }
    }

    /// The principal, as far as the connection says it.
    pub(crate) fn principal(&self) -> Arc<str> {
        match self {
            Self::Socket(session, _) => Arc::clone(&session.identity().arn),
            Self::Network(_) => NetworkSession::ANONYMOUS.into(),
        }
    }
}
