//! Renewals of a lease, and the time until which it is certain.
//!
//! The path of one renewal:
//!
//! ```text
//! read the clock ─► send ─► etcd's leader restarts the lease's time ─► answer
//!       │                                                                │
//!       └── validity = this moment + TTL − margin ◄── header accepted? ◄─┘
//! ```
//!
//! One renewal is in flight at a time, on one stream. A stream whose answer is late is dropped whole, so a
//! late answer can never be taken for that of a later send. The first answer on a new stream is not counted:
//! etcd-client drops its header, which would prove that it is not from the past.

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

/// Reason that a lease is not renewed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// Nothing was acknowledged in time.
    Expired,
    /// etcd reports that the lease does not exist.
    Gone,
}

/// An acknowledged renewal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) until: Timestamp,
    pub(crate) latency: Duration,
    /// Time that was left of the previous deadline.
    pub(crate) left: Duration,
}

/// A lease that is being kept alive.
pub(crate) struct KeepAlive {
    pub(crate) shared: Arc<EtcdShared>,
    pub(crate) lease: LeaseId,
    pub(crate) ttl: Ttl,
    pub(crate) validity: Arc<SharedValidity>,
    /// Send time of the grant's request: the first validity counts from there.
    pub(crate) granted: Timestamp,
    /// Receives each renewal; may be closed.
    pub(crate) renewed: mpsc::Sender<Renewal>,
}

impl KeepAlive {
    /// Renews until the lease is gone, or was not renewed in time.
    ///
    /// Ends at the deadline even if etcd never answers.
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
                Err(error) if error.remedy == Remedy::NewLease => return LeaseEnd::Gone,
                Err(error) => {
                    tracing::debug!(lease = %self.lease, %error, "renewal failed, trying again");
                }
            }
            sleep(short_pause()).await;
        }
    }

    /// Returns the time until the next renewal, if the last was sent at `sent`.
    fn until_due(&self, sent: Timestamp) -> Duration {
        self.ttl.renewal_interval().saturating_sub(Timestamp::now().since(sent))
    }

    /// Renews every interval over one stream, until the lease ends or the stream fails.
    async fn renew_over_a_stream(&self) -> Result<LeaseEnd, EtcdError> {
        let connections = &self.shared.connections;
        let connection = connections.connection().await?;
        let mut client = connection.leases();
        let opening = client.keep_alive(self.lease.0);
        let (mut requests, mut answers) = connections.call(&connection, self.ttl.patience(), opening).await?;
        loop {
            let sent = Timestamp::now();
            let known = self.shared.known();
            let exchange = async {
                requests.keep_alive().await?;
                answers.message().await
            };
            let answer = connections.call(&connection, self.ttl.patience(), exchange).await?;
            let answer = answer.ok_or_else(|| self.broken(&connection, "etcd closed the renewal stream"))?;
            if answer.id() != self.lease.0 {
                return Err(self.broken(&connection, "etcd renewed another lease than this one"));
            }
            if answer.ttl() <= 0 {
                return Ok(LeaseEnd::Gone);
            }
            self.shared.accept(&connection, answer.header(), ReadKind::Local, known)?;
            let now = Timestamp::now();
            let left = self.validity.until().map_or(Duration::ZERO, |until| until.since(now));
            let until = self.ttl.believed_until(sent);
            let Ok(until) = self.validity.extend(until, now) else {
                // Too late to count.
                return Ok(LeaseEnd::Expired);
            };
            // A slow receiver misses a renewal; the validity has it.
            let _ = self.renewed.try_send(Renewal { until, latency: now.since(sent), left });

            if let Ok(unasked) = timeout(self.until_due(sent), answers.message()).await {
                let why = match unasked {
                    Ok(Some(_)) => "etcd answered a renewal that was not asked for".into(),
                    Ok(None) => "etcd closed the renewal stream".into(),
                    Err(error) => EtcdError::from(error).message,
                };
                return Err(self.broken(&connection, why));
            }
            if connections.has_moved_on_from(&connection) {
                // Renewals detect a silent connection in good time, so they move to the connection of the
                // watches.
                return Err(EtcdError::elsewhere("another connection is in use"));
            }
        }
    }

    fn broken(&self, connection: &EndpointConnection, why: impl Into<String>) -> EtcdError {
        self.shared.connections.failed(connection);
        EtcdError::elsewhere(why)
    }
}

/// Waits until a validity has ended. Renewals extend the wait.
pub(crate) async fn expiry(validity: &SharedValidity) {
    while let Some(until) = validity.until() {
        if !validity.holds_at(Timestamp::now()) {
            return;
        }
        clock::sleep_until(until).await;
    }
}

/// Returns a pause after an error, short beside any TTL, and jittered over processes.
pub(super) fn short_pause() -> Duration {
    Duration::from_millis(fastrand::u64(40..=120))
}

/// A granted lease. Dropping it revokes it, in the background.
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

    /// Returns the slot of this lease's ticket, which must outlive the lease too.
    pub(crate) fn ticket(&self) -> &Arc<TicketSlot> {
        &self.ticket
    }

    /// Revokes a lease that holds no key any more, in the background and with a delay: the next leader's
    /// requests to etcd go first.
    pub(crate) fn revoke_at_leisure(mut self) {
        const LEISURE: Duration = Duration::from_secs(1);
        /// Enough for the next candidate to win, even if a caller waits in `drained`.
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

    /// Revokes the lease, which deletes its keys. Returns by `deadline`; an unconfirmed revocation continues
    /// in the background, because etcd would otherwise keep the lease for a whole TTL again after an outage.
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

/// Revokes a lease for as long as etcd may have it: etcd does not count the time of an outage, and gives
/// every lease its full TTL again afterwards. Only the end of the process leaves that to etcd.
async fn revoke_or_leave(shared: &EtcdShared, id: LeaseId, ttl: Ttl) {
    let expires = Timestamp::now() + ttl.as_duration();
    let mut settling = shared.settling.subscribe();
    let left = async {
        // The sender lives as long as `shared`.
        let _ = settling.wait_for(|settling| *settling).await;
        clock::sleep_until(expires).await;
    };
    let error = tokio::select! {
        biased;
        revoked = revoke(shared, id, ttl, None) => revoked.err(),
        () = left => Some(EtcdError::unanswered(ttl.as_duration())),
    };
    if let Some(error) = error {
        tracing::debug!(lease = %id, %error, "left to expire by itself");
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
            let connection = shared.connections.connection().await?;
            let mut client = connection.leases();
            shared.connections.call(&connection, shared.call_patience(ttl), client.revoke(id.0)).await
        };
        let out_of_time = async {
            match deadline {
                Some(deadline) => clock::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let attempt = async {
            let error = match once.await {
                Ok(_revoked) => return Some(Ok(())),
                Err(error) if error.remedy == Remedy::NewLease => return Some(Ok(())),
                Err(error) if error.remedy == Remedy::Human => return Some(Err(error)),
                Err(error) => error,
            };
            let unreachable = error.remedy == Remedy::Unreachable;
            if shared.connections.pause(backoff.pause(), unreachable).await == Paused::Reachable {
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

/// Renews a lease that was taken for lost, if etcd still has it; returns the send time of the renewal.
///
/// # Errors
///
/// [`Remedy::NewLease`] if etcd does not have it any more, or with another TTL.
pub(crate) async fn renew_once(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    lease: LeaseId,
    ttl: Ttl,
) -> Result<Timestamp, EtcdError> {
    let gone = || EtcdError { remedy: Remedy::NewLease, message: "the lease does not exist any more".into() };
    let mut client = connection.leases();
    let opening = client.keep_alive(lease.0);
    let (mut requests, mut answers) = shared.connections.call(connection, ttl.patience(), opening).await?;
    let sent = Timestamp::now();
    let known = shared.known();
    let exchange = async {
        requests.keep_alive().await?;
        answers.message().await
    };
    let answer = shared.connections.call(connection, ttl.patience(), exchange).await?.ok_or_else(gone)?;
    if answer.id() != lease.0 || answer.ttl() != i64::from(ttl.as_secs()) {
        return Err(gone());
    }
    shared.accept(connection, answer.header(), ReadKind::Local, known)?;
    Ok(sent)
}
