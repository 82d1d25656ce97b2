//! The holder's side of a lease: for services that keep answers.
//!
//! One thread asks [`LeaseClient::next`] in a loop, drops what the news concern and says so with
//! [`LeaseClient::applied`]. Every other thread calls through [`LeaseClient::send`], keeps the answer with its [`Kept`],
//! and asks [`LeaseClient::may_use`] before each use.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use super::{Asking, Client, ClientError, User};
use crate::{
    AcknowledgeEpochRequest, AcquireLeaseRequest, ApiError, Changed, ErrorCode, Operation,
    ReleaseLeaseRequest, ResourceId, WaitForEpochRequest,
};

/// A lease that is held.
#[derive(Debug)]
pub struct LeaseClient {
    client: Client,
    id: ResourceId,
    length: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// The newest epoch that is applied.
    applied: u64,
    /// The newest epoch that was heard of: no older answer is kept from then on.
    heard: u64,
    /// Rises when everything is void, whatever its epoch.
    life: u64,
    /// Until when the lease holds, by [`now_ms`].
    until_ms: u64,
    lost: bool,
}

/// What has to be dropped before an epoch is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The epoch.
    pub epoch: u64,
    /// `ALL`, or `KEYS`: what concerns `key_arns`.
    pub changed: Changed,
    /// The keys.
    pub key_arns: Vec<String>,
}

/// For how long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    epoch: u64,
    life: u64,
    until_ms: u64,
}

/// What kmsd answered, be it a refusal, and for how long that may be kept.
pub type Answered<T> = (Result<T, ApiError>, Option<Kept>);

impl LeaseClient {
    /// Takes a lease. `label` names the holder to people; the length is kmsd's default without `duration_ms`.
    ///
    /// # Errors
    /// See [`ClientError`]; `AccessDeniedException` when the caller is not a service.
    pub fn acquire(
        client: Client,
        label: &str,
        duration_ms: Option<u32>,
    ) -> Result<Self, ClientError> {
        Self::acquire_until(client, label, duration_ms, None)
    }

    /// The same, waiting until `deadline` if that is earlier than the client's timeout.
    ///
    /// # Errors
    /// See [`Self::acquire`].
    pub fn acquire_until(
        client: Client,
        label: &str,
        duration_ms: Option<u32>,
        deadline: Option<Instant>,
    ) -> Result<Self, ClientError> {
        let sent = now_ms();
        let request = AcquireLeaseRequest {
            label: Some(label.to_owned()),
            duration_ms,
        };
        let asking = Asking {
            deadline,
            ..Asking::default()
        };
        let made = client.send_as(request, asking)?.output;
        Ok(Self {
            client,
            id: made.lease_id,
            length: Duration::from_millis(made.duration_ms),
            state: Mutex::new(State {
                applied: made.epoch,
                heard: made.epoch,
                life: 0,
                until_ms: sent.saturating_add(made.duration_ms),
                lost: false,
            }),
        })
    }

    /// Its id.
    pub fn id(&self) -> ResourceId {
        self.id
    }

    /// How long it holds from each renewal.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The client that it is held over.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Milliseconds for which the lease holds if nothing is heard from kmsd; none when it is lost: every kept answer is
    /// void, and another lease has to be taken.
    pub fn left_ms(&self) -> Option<u64> {
        let state = self.state.lock();
        let left = state.until_ms.checked_sub(now_ms());
        left.filter(|left| *left > 0 && !state.lost)
    }

    /// Waits for something newer than what is applied, for a third of the lease at most, and renews the lease.
    /// `None` when there is nothing new. A kmsd that hangs is waited for until the lease ends, or as long as the client
    /// waits when it has ended: then there is something to do.
    ///
    /// # Errors
    /// See [`ClientError`]. When kmsd is away, the lease holds for what is left of it: try again. `NotFoundException` means
    /// that it is lost.
    pub fn next(&self) -> Result<Option<News>, ClientError> {
        let applied = self.state.lock().applied;
        let sent = now_ms();
        let asking = Asking {
            deadline: self
                .left_ms()
                .map(|left| Instant::now() + Duration::from_millis(left)),
            ..Asking::default()
        };
        let request = WaitForEpochRequest {
            lease_id: self.id,
            epoch: applied,
            timeout_ms: None,
        };
        let answer = self.client.send_as(request, asking).map(|a| a.output);
        let answer = answer.inspect_err(|error| self.note_loss(error))?;
        self.renewed(sent, answer.remaining_ms);
        if answer.epoch == applied {
            return Ok(None);
        }
        {
            let mut state = self.state.lock();
            state.heard = answer.epoch;
            if answer.epoch < applied {
                // An older store was put in the place of the one that answered: everything is void.
                state.life += 1;
            }
        }
        Ok(Some(News {
            epoch: answer.epoch,
            changed: answer.changed,
            key_arns: answer.key_arns,
        }))
    }

    /// Says that everything that `news` concerns has been dropped, and is not used by anybody any more.
    ///
    /// # Errors
    /// See [`ClientError`]. When kmsd is away, the next call of [`Self::next`] says so again.
    pub fn applied(&self, news: &News) -> Result<(), ClientError> {
        self.state.lock().applied = news.epoch;
        let sent = now_ms();
        let answer = self.client.send(AcknowledgeEpochRequest {
            lease_id: self.id,
            epoch: news.epoch,
        });
        let answer = answer.inspect_err(|error| self.note_loss(error))?;
        self.renewed(sent, answer.remaining_ms);
        Ok(())
    }

    /// Calls an operation, for a user or for the service itself. Without a [`Kept`] the answer is for one use.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send<R: Operation>(
        &self,
        request: R,
        user: Option<User>,
    ) -> Result<(R::Output, Option<Kept>), ClientError> {
        let (output, kept) = self.ask(request, user)?;
        Ok((output.map_err(ClientError::Api)?, kept))
    }

    /// The same where a refusal is an answer that may be kept, too: what a user may not, what state a key is in, and
    /// that a dry run would have succeeded (`DryRunOperationException`).
    ///
    /// # Errors
    /// kmsd was not reached, or not understood: never [`ClientError::Api`].
    pub fn ask<R: Operation>(
        &self,
        request: R,
        user: Option<User>,
    ) -> Result<Answered<R::Output>, ClientError> {
        self.ask_until(request, user, None)
    }

    /// The same, waiting until `deadline` if that is earlier than the client's timeout.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn ask_until<R: Operation>(
        &self,
        request: R,
        user: Option<User>,
        deadline: Option<Instant>,
    ) -> Result<Answered<R::Output>, ClientError> {
        let life = self.state.lock().life;
        let sent = now_ms();
        let asking = Asking {
            user,
            lease: Some(self.id),
            deadline,
        };
        let answer = self.client.ask(request, asking)?;
        let kept = answer.reliance.map(|reliance| Kept {
            epoch: reliance.epoch,
            life,
            until_ms: sent.saturating_add(reliance.milliseconds),
        });
        // It may have been overtaken by a change that was heard of already.
        Ok((answer.output, kept.filter(|kept| self.may_keep(kept))))
    }

    /// Whether an answer that is about to be kept is not older than what was heard of. To be asked under the lock of
    /// what it is kept in: then it is either refused here, or dropped by who applies the news.
    pub fn may_keep(&self, kept: &Kept) -> bool {
        let heard = self.state.lock().heard;
        kept.epoch >= heard && self.may_use(kept)
    }

    /// Whether an answer that was kept, and not dropped since, may be used now.
    pub fn may_use(&self, kept: &Kept) -> bool {
        let state = self.state.lock();
        !state.lost && kept.life == state.life && now_ms() < kept.until_ms
    }

    /// Gives the lease back; nothing that was kept may be used any more.
    ///
    /// # Errors
    /// See [`ClientError`]. It then runs out by itself.
    pub fn release(&self) -> Result<(), ClientError> {
        self.state.lock().lost = true;
        self.client
            .send(ReleaseLeaseRequest { lease_id: self.id })?;
        Ok(())
    }

    fn renewed(&self, sent_ms: u64, remaining_ms: u64) {
        let mut state = self.state.lock();
        state.until_ms = state.until_ms.max(sent_ms.saturating_add(remaining_ms));
    }

    fn note_loss(&self, error: &ClientError) {
        if error
            .api()
            .is_some_and(|error| error.code == ErrorCode::NotFound)
        {
            self.state.lock().lost = true;
        }
    }
}

/// Milliseconds by a clock that counts suspend and that nobody sets.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0))
}
