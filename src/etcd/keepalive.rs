//! Keeping a lease alive, and knowing until when it certainly is.
//!
//! The path of one renewal:
//!
//! ```text
//! read the clock ─► send ─► etcd's leader restarts the lease's time ─► answer
//!       │                                                                │
//!       └── validity = this moment + TTL − margin ◄── header accepted? ◄─┘
//! ```
//!
//! One renewal is in flight at a time, on one stream. A stream whose answer is late is
//! dropped whole, so that a late answer can never be taken for that of a later send. The
//! first answer on a new stream is not counted: etcd-client swallows its header, and with
//! it the proof that it is not from the past.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    EtcdShared,
    connection::{EndpointConnection, Paused},
    error::{EtcdError, Remedy},
    keys::LeaseId,
    staleness::ReadKind,
};
use crate::{
    clock::{self, Timestamp},
    lifeline::TicketSlot,
    timing::{Backoff, Ttl},
    validity::SharedValidity,
};

/// Why a lease is not renewed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// Nothing was acknowledged in time.
    Expired,
    /// etcd says that there is no such lease.
    Gone,
}

/// An acknowledged renewal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) until: Timestamp,
    pub(crate) latency: Duration,
    /// What was left of the time proved before.
    pub(crate) left: Duration,
}

/// A lease that is being kept alive.
pub(crate) struct KeepAlive {
    pub(crate) shared: Arc<EtcdShared>,
    pub(crate) lease: LeaseId,
    pub(crate) ttl: Ttl,
    pub(crate) validity: Arc<SharedValidity>,
    /// When the grant was asked for: the first proof counts from there.
    pub(crate) granted: Timestamp,
    /// Where each renewal is told. Nobody has to listen.
    pub(crate) renewed: mpsc::Sender<Renewal>,
}

impl KeepAlive {
    /// Renews until the lease is gone, or has not been renewed in time.
    ///
    /// Ends at the deadline even if nobody ever answers.
    pub(crate) async fn keep(self) -> LeaseEnd {
        tokio::select! {
            biased;
            () = expiry(&self.validity) => LeaseEnd::Expired,
            end = self.renew() => end,
        }
    }

    async fn renew(&self) -> LeaseEnd {
        sleep(self.until_due(self.granted)).await;
        loop {
            match self.renew_over_a_stream().await {
                Ok(end) => return end,
                Err(trouble) if trouble.remedy == Remedy::NewLease => return LeaseEnd::Gone,
                Err(trouble) => {
                    tracing::debug!(lease = %self.lease, %trouble, "renewal failed, trying again");
                }
            }
            sleep(short_pause()).await;
        }
    }

    /// How long to wait for the next renewal, if the last was sent at `sent`.
    fn until_due(&self, sent: Timestamp) -> Duration {
        self.ttl.renewal_interval().saturating_sub(Timestamp::now().since(sent))
    }

    /// Renews every interval over one stream, until the lease has ended or something is wrong
    /// with the stream.
    async fn renew_over_a_stream(&self) -> Result<LeaseEnd, EtcdError> {
        let links = &self.shared.links;
        let link = links.link().await?;
        let mut client = link.leases();
        let opening = client.keep_alive(self.lease.0);
        let (mut requests, mut answers) = links.call(&link, self.ttl.patience(), opening).await?;
        loop {
            let sent = Timestamp::now();
            let known = self.shared.known();
            let exchange = async {
                requests.keep_alive().await?;
                answers.message().await
            };
            let answer = links.call(&link, self.ttl.patience(), exchange).await?;
            let answer = answer.ok_or_else(|| self.broken(&link, "etcd closed the renewal stream"))?;
            if answer.id() != self.lease.0 {
                return Err(self.broken(&link, "etcd renewed another lease than this one"));
            }
            if answer.ttl() <= 0 {
                return Ok(LeaseEnd::Gone);
            }
            self.shared.accept(&link, answer.header(), ReadKind::Local, known)?;
            let now = Timestamp::now();
            let left = self.validity.until().map_or(Duration::ZERO, |until| until.since(now));
            let until = self.ttl.believed_until(sent);
            let Ok(until) = self.validity.extend(until, now) else {
                // Too late to count.
                return Ok(LeaseEnd::Expired);
            };
            // A listener that lags misses a renewal; the validity has it.
            let _ = self.renewed.try_send(Renewal { until, latency: now.since(sent), left });

            if let Ok(unasked) = timeout(self.until_due(sent), answers.message()).await {
                let why = match unasked {
                    Ok(Some(_)) => "etcd answered a renewal that was not asked for".into(),
                    Ok(None) => "etcd closed the renewal stream".into(),
                    Err(error) => EtcdError::from(error).message,
                };
                return Err(self.broken(&link, why));
            }
            if links.has_moved_on_from(&link) {
                // Renewals are what notices in good time that a connection fell silent: they go where the
                // watches are.
                return Err(EtcdError::elsewhere("another connection is in use"));
            }
        }
    }

    fn broken(&self, link: &EndpointConnection, why: impl Into<String>) -> EtcdError {
        self.shared.links.failed(link);
        EtcdError::elsewhere(why)
    }
}

/// Waits until a validity has ended. Renewals move the moment on.
pub(crate) async fn expiry(validity: &SharedValidity) {
    while let Some(until) = validity.until() {
        if !validity.holds_at(Timestamp::now()) {
            return;
        }
        clock::sleep_until(until).await;
    }
}

/// A pause after trouble, short beside any TTL, and not the same for everybody.
pub(super) fn short_pause() -> Duration {
    Duration::from_millis(fastrand::u64(40..=120))
}

/// A lease that was granted to us. Dropping it revokes it, in the background.
pub(crate) struct LeaseGuard {
    shared: Arc<EtcdShared>,
    id: LeaseId,
    ttl: Ttl,
    revoked: bool,
    ticket: Arc<TicketSlot>,
}

impl LeaseGuard {
    pub(crate) fn new(shared: Arc<EtcdShared>, id: LeaseId, ttl: Ttl) -> Self {
        Self { shared, id, ttl, revoked: false, ticket: Arc::default() }
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// The place of the ticket of this lease, which must not go before either.
    pub(crate) fn ticket(&self) -> &Arc<TicketSlot> {
        &self.ticket
    }

    /// Revokes a lease that has no place in the queue any more: in the background, and not while
    /// whoever leads next has better things to ask of etcd.
    pub(crate) fn revoke_at_leisure(mut self) {
        const LEISURE: Duration = Duration::from_secs(1);
        /// Enough for the next candidate to win, even if this process only waits for us to end.
        const AT_LEAST: Duration = Duration::from_millis(5);
        self.revoked = true;
        let (shared, id, ttl) = (Arc::clone(&self.shared), self.id, self.ttl);
        let mut settling = self.shared.settling.subscribe();
        self.shared.spawn_counted(async move {
            sleep(AT_LEAST).await;
            let _ = timeout(LEISURE, settling.wait_for(|settling| *settling)).await;
            revoke_or_leave(&shared, id, ttl).await;
        });
    }

    /// Revokes the lease, and with it deletes its keys. Returns by `deadline`; what was not confirmed by then goes on
    /// in the background, or etcd, back after an outage, would keep the lease for its whole TTL again.
    pub(crate) async fn revoke(mut self, deadline: Timestamp) -> Result<(), EtcdError> {
        let revoked = revoke(&self.shared, self.id, self.ttl, Some(deadline)).await;
        self.revoked = revoked.is_ok();
        revoked
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if self.revoked {
            return;
        }
        let (shared, id, ttl) = (Arc::clone(&self.shared), self.id, self.ttl);
        self.shared.spawn_counted(async move { revoke_or_leave(&shared, id, ttl).await });
    }
}

/// Revokes a lease, for as long as etcd may have it: an etcd that is away does not count that time, and
/// gives every lease its full TTL again when it is back. Only a process that ends leaves it to that.
async fn revoke_or_leave(shared: &EtcdShared, id: LeaseId, ttl: Ttl) {
    let expires = Timestamp::now() + ttl.as_duration();
    let mut settling = shared.settling.subscribe();
    let left = async {
        // The sender lives as long as `shared`.
        let _ = settling.wait_for(|settling| *settling).await;
        clock::sleep_until(expires).await;
    };
    let trouble = tokio::select! {
        biased;
        revoked = revoke(shared, id, ttl, None) => revoked.err(),
        () = left => Some(EtcdError::unanswered(ttl.as_duration())),
    };
    if let Some(trouble) = trouble {
        tracing::debug!(lease = %id, %trouble, "left to expire by itself");
    }
}

/// Revokes a lease. Tries until `deadline`, if there is one.
async fn revoke(
    shared: &EtcdShared,
    id: LeaseId,
    ttl: Ttl,
    deadline: Option<Timestamp>,
) -> Result<(), EtcdError> {
    let mut backoff = Backoff::between(Duration::from_millis(250), Duration::from_secs(3));
    loop {
        let once = async {
            let link = shared.links.link().await?;
            let mut client = link.leases();
            shared.links.call(&link, shared.call_patience(ttl), client.revoke(id.0)).await
        };
        let out_of_time = async {
            match deadline {
                Some(deadline) => clock::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let attempt = async {
            let trouble = match once.await {
                Ok(_revoked) => return Some(Ok(())),
                Err(trouble) if trouble.remedy == Remedy::NewLease => return Some(Ok(())),
                Err(trouble) if trouble.remedy == Remedy::Human => return Some(Err(trouble)),
                Err(trouble) => trouble,
            };
            let unreachable = trouble.remedy == Remedy::Unreachable;
            if shared.links.pause(backoff.pause(), unreachable).await == Paused::Reachable {
                backoff.reset();
            }
            None
        };
        tokio::select! {
            biased;
            ended = attempt => if let Some(ended) = ended { return ended },
            () = out_of_time => return Err(EtcdError::elsewhere("etcd did not confirm it in time")),
        }
    }
}

/// Renews a lease that was given up for lost, if etcd still has it; returns when the renewal was sent.
///
/// # Errors
///
/// [`Remedy::NewLease`] where etcd does not have it any more, or with another TTL.
pub(crate) async fn renew_once(
    shared: &EtcdShared,
    link: &EndpointConnection,
    lease: LeaseId,
    ttl: Ttl,
) -> Result<Timestamp, EtcdError> {
    let gone = || EtcdError { remedy: Remedy::NewLease, message: "etcd has the lease no more".into() };
    let mut client = link.leases();
    let opening = client.keep_alive(lease.0);
    let (mut requests, mut answers) = shared.links.call(link, ttl.patience(), opening).await?;
    let sent = Timestamp::now();
    let known = shared.known();
    let exchange = async {
        requests.keep_alive().await?;
        answers.message().await
    };
    let answer = shared.links.call(link, ttl.patience(), exchange).await?.ok_or_else(gone)?;
    if answer.id() != lease.0 || answer.ttl() != i64::from(ttl.as_secs()) {
        return Err(gone());
    }
    shared.accept(link, answer.header(), ReadKind::Local, known)?;
    Ok(sent)
}
