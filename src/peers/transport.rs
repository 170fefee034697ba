//! The connections among the members of a group, and with observers.
//!
//! ```text
//!   driver ── send ──► queue of a member ──►┐                 ┌──► inbox ──► driver
//!   (Raft)             (bounded; full or    │ one connection  │    (bounded; full is
//!                       absent: dropped)    └─ of each pair ──┘     waited for)
//! ```
//!
//! # One connection a pair
//!
//! Of two members the one whose name sorts first calls the other, by the gRPC call `Converse`:
//!
//! ```text
//!   caller    ── Greeting ───────────────────►   is that a member, by its certificate?
//!   is that the member, by its proof?
//!             ◄─────────────── Greeting, proof ──   (or refuses: a status that says why)
//!             ── Hello, proof ───────────────►   checks, compares, is there another connection? asks its disk
//!   checks, compares, asks its disk
//!             ◄────────────────── Hello, proof ──   (or a Verdict that says why not)
//!             ── Verdict ────────────────────►   (a refusal in it says why)
//!             ◄─────────────── Raft ─────────────►
//! ```
//!
//! A caller is told only this server's name, and leaves no record, before it has proved which member it is
//! ([`greeting`](super::greeting)). No message of Raft passes before both have accepted each other. If a member
//! that has a connection opens a second one, the first one is asked for an answer, and is replaced only if there is
//! none: a server with the wrong name, list or disk, or with a copy of the right ones, can't cut off the connected
//! member. The sender, receiver and group of a message are those of its connection; the message itself names none.
//!
//! A person removes the cause of a refusal, by restarting one of the two. So both sides report it, once, and the
//! caller goes on calling.
//!
//! # Guarantees to members
//!
//! * Messages arrive in the order in which they were sent, each once, or not at all.
//! * [`Network::send`] never waits. Without a connection or room a message is dropped and counted: Raft repeats
//!   important ones.
//! * A full inbox is waited for, and by HTTP/2's flow control the sender waits with it. No received message is
//!   dropped.
//! * A silent connection is noticed and replaced within about a second, however long the network was gone: see
//!   [`Timeouts`].
//!
//! # Limits of strangers
//!
//! A stranger can't use more than a bounded number of connections ([`Admissions`]), buffers, headers and time
//! before its first message; take the room of another address; send a message larger than [`LARGEST_MESSAGE`]; or
//! end another's connection. Malformed bytes end their connection, and are counted. With TLS a stranger needs a
//! certificate for all of that. The refusal sent to it and the refusal logged are two types
//! ([`refusal`](super::refusal)).

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

mod admission;
mod connect;
mod connections;
mod counts;
mod dialer;
mod executor;
mod listener;
mod log_once;
mod member_addresses;
mod queue;
mod service;
mod session;
mod stream;
#[cfg(test)]
pub(super) mod tests;
mod timeouts;

pub(crate) use self::counts::TransportError;
use self::{
    admission::Admissions, connections::Sessions, log_once::LogOnce, member_addresses::MemberAddresses,
};
pub(super) use self::{connect::Target, session::Disconnect, timeouts::Timeouts};
use super::{
    PeerLink, PeerStatus, Settings,
    disk::UnknownDirectory,
    handshake::{self, Introduced, Side},
    ledger::{KnownWrites, Ledger, Meeting},
    operate::OperatorOrder,
    refusal::{Refusal, shown},
    wire::{Route, proto},
};
use crate::{
    clock::Timestamp,
    raft::{
        identity::NodeId,
        membership::{DirectoryId, Objection},
        message::{Envelope, Limits},
        orders::TermStart,
    },
};

/// More than any message of this program has: a snapshot, or entries, and their envelope.
const LARGEST_MESSAGE: usize = Limits::DEFAULT.snapshot + (64 << 10);

/// Those of this program have a few hundred bytes.
const MOST_HEADERS: u32 = 8 << 10;

/// Bytes that the other side may send ahead of the reader. Less than the largest message, which then takes some
/// round trips: a snapshot is rare.
const WINDOW: u32 = 256 << 10;

/// Bytes that HTTP/2 takes from a queue before the other side has room for them.
const SEND_BUFFER: usize = 64 << 10;

/// Time limit for a connection's first message.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// Time for a last message to arrive before a connection is closed.
const FAREWELL: Duration = Duration::from_millis(250);

/// The first pause before calling again. A member that was restarted is back in less.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// The longest pause: a failed call costs next to nothing.
const LAST_PAUSE: Duration = Duration::from_millis(250);

/// The pause after a refusal: a person has to act.
const PAUSE_AFTER_A_REFUSAL: Duration = Duration::from_secs(1);

/// Records of data directories: this server's, and those of known members.
pub(crate) trait IdentityCheck: Send + Sync + 'static {
    /// The records.
    fn ledger(&self) -> &Arc<Ledger>;

    /// Judges a member. New facts about it are recorded, durably, before the answer.
    fn meet(
        &self,
        member: NodeId,
        meeting: Meeting,
    ) -> impl Future<Output = Result<(), UnknownDirectory>> + Send;

    /// A member said that it has recorded this server. Recorded, durably, before the answer.
    fn confirmed(&self, member: NodeId) -> impl Future<Output = Result<(), UnknownDirectory>> + Send;

    /// Passes an operator's order on.
    fn operate(&self, order: OperatorOrder);

    /// A member that has proved itself says that this server must not vote any more.
    fn revoked(&self, why: String);
}

/// Data for observers.
#[derive(Clone)]
pub(crate) struct StatusSource {
    /// The present status. Called on the network's runtime: it does not wait.
    pub(crate) look: Arc<dyn Fn() -> PeerStatus + Send + Sync>,
    /// The last terms, in order.
    pub(crate) terms: Arc<dyn Fn() -> Vec<TermStart> + Send + Sync>,
    /// Marked as changed whenever a change should be sent at once.
    pub(crate) changed: watch::Receiver<()>,
}

/// The connections of one member. Dropping it ends them all.
#[derive(Debug)]
#[must_use = "dropping this ends all connections"]
pub(crate) struct Network {
    sessions: Arc<Sessions>,
    _over: DropGuard,
}

impl Network {
    /// Listens, and connects to the members that this one has to call, on that runtime.
    ///
    /// The others' messages go into `inbox`; once that has no receiver, no member is called any more.
    ///
    /// # Errors
    ///
    /// A listener that can't be used.
    pub(crate) fn start<G: IdentityCheck>(
        runtime: &runtime::Handle,
        settings: &Settings,
        listener: std::net::TcpListener,
        identity_check: G,
        inbox: mpsc::Sender<Envelope>,
        looks: StatusSource,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let (group, me) = (settings.group(), settings.me());
        let timeouts = Timeouts::of(settings.timing());
        let sessions = Arc::new(Sessions::of(settings, timeouts, Arc::clone(identity_check.ledger())));
        let over = CancellationToken::new();
        let shared = Arc::new(TransportShared {
            settings: settings.clone(),
            identity_check,
            inbox,
            looks,
            sessions: Arc::clone(&sessions),
            admissions: Admissions::default(),
            member_addresses: MemberAddresses::of(group),
            timeouts,
            over: over.clone(),
            strangers: Mutex::new(LogOnce::nothing(log_once::OF_STRANGERS)),
        });
        let accepting = listener::accept(Arc::clone(&shared), listener);
        runtime.spawn(over.clone().run_until_cancelled_owned(accepting));
        let looking_up = {
            let shared = Arc::clone(&shared);
            async move { shared.member_addresses.keep_looking_up().await }
        };
        runtime.spawn(over.clone().run_until_cancelled_owned(looking_up));
        for node in group.size().others(me).filter(|node| handshake::dials(me, *node)) {
            let calling = dialer::keep_calling(Arc::clone(&shared), node);
            runtime.spawn(over.clone().run_until_cancelled_owned(calling));
        }
        Ok(Self { sessions, _over: over.drop_guard() })
    }

    /// Sends a message to its receiver, or drops it. Never waits.
    pub(crate) fn send(&self, envelope: Envelope) {
        self.sessions.send(envelope);
    }

    /// Tells that member that it must not vote any more. The member then ends the connection.
    pub(crate) fn object(&self, member: NodeId, objection: Objection) {
        self.sessions.object(member, &Refusal::from(UnknownDirectory::from(objection)));
    }

    /// The other members, sorted by name, as of `now` by the boot-time clock.
    pub(crate) fn contacts(&self, now: Timestamp) -> Vec<PeerLink> {
        self.sessions.seen(now)
    }

    /// Ends connections with directories that represent no member any more.
    pub(crate) fn part_from_the_replaced(&self) {
        self.sessions.part_from_the_replaced();
    }

    /// The number of these errors since the start.
    pub(crate) fn count(&self, error: TransportError) -> u64 {
        self.sessions.counts.of(error)
    }
}

/// State that all connections of one member share.
struct TransportShared<G> {
    settings: Settings,
    identity_check: G,
    inbox: mpsc::Sender<Envelope>,
    looks: StatusSource,
    sessions: Arc<Sessions>,
    admissions: Admissions,
    member_addresses: MemberAddresses,
    timeouts: Timeouts,
    /// Ends everything.
    over: CancellationToken,
    /// Log lines about strangers so far.
    strangers: Mutex<LogOnce<(std::net::IpAddr, Disconnect)>>,
}

impl<G: IdentityCheck> TransportShared<G> {
    /// This server's Hello, sent after the other side has proved itself.
    ///
    /// `to` is the other side, if it has introduced itself first.
    fn hello(&self, to: Option<&Introduced>) -> proto::Hello {
        let ledger = self.identity_check.ledger();
        let newcomer = to.is_some_and(|to| self.is_newcomer(to));
        handshake::ours(&self.settings, &ledger.identity(), ledger.writes(), ledger.claim(), newcomer)
    }

    /// Returns true if that member is admitted because a log names its directory, and not as the first one that was
    /// met.
    fn is_newcomer(&self, them: &Introduced) -> bool {
        !self.identity_check.ledger().is_founder(them.node, them.identity.directory)
    }

    /// Judges an introduced member.
    ///
    /// `known_writes` is its number of writes as known before it could send this Hello.
    async fn acquaint(
        &self,
        end: Side,
        theirs: &proto::Hello,
        known_writes: &KnownWrites,
    ) -> Result<Introduced, Disconnect> {
        let them = handshake::compare(&self.settings, end, theirs)?;
        let Introduced { node, identity, writes, claim, newcomer } = them;
        let (mut another_answers, mutual) = (false, matches!(end, Side::Dialled(_)) && !newcomer);
        let known_writes = known_writes.on(&identity.directory);
        if end == Side::Accepted(node) && !self.sessions.has_room(node, self.timeouts.attempt / 2).await {
            another_answers = self.identity_check.ledger().is_another_run(node, &identity);
            if !another_answers {
                return Err(Refusal::Doubled.into());
            }
        }
        let meeting = Meeting { identity, writes, known_writes, another_answers, mutual, claim };
        self.identity_check.meet(node, meeting).await?;
        Ok(them)
    }

    /// A member that has proved itself refuses this server.
    fn refused_by(&self, node: NodeId, verdict: &proto::Verdict) -> Disconnect {
        if verdict.revokes {
            let name = &self.settings.group().member(node).name;
            self.identity_check.revoked(format!("'{name}' says: {}", shown(&verdict.refusal)));
        }
        Disconnect::refused_by(&verdict.refusal)
    }
}

impl<G> TransportShared<G> {
    /// From that member to this server.
    fn route(&self, from: NodeId, directory: DirectoryId) -> Route {
        Route { cluster: self.settings.cluster(), from, to: self.settings.me(), directory }
    }

    /// Counts and logs a refused caller.
    fn turned_away(&self, from: SocketAddr, ending: &Disconnect) {
        self.sessions.count(ending);
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = strangers.is_news_at((from.ip(), ending.clone()), Timestamp::now());
        let is_last = is_news && strangers.is_full();
        drop(strangers);
        if !is_news {
            return;
        }
        tracing::warn!(%from, problem = %ending, "turned a stranger away");
        if is_last {
            tracing::warn!(silent_for = ?log_once::FORGET_AFTER, "more strangers are only counted for a while");
        }
    }
}
