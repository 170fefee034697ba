//! The peers backend: servers that elect a leader among themselves, by Raft. Nothing else to install.
//!
//! ```text
//!  Settings ─► Peer ──► Candidate ── campaign() ──► Leadership ──► your work
//!             (a member   │                         as on etcd; and propose(), committed()
//!             of the      └─ lead(work): the loop
//!             group)
//! ```
//!
//! A [`Peer`] is one member of a [`Group`]: it votes, and keeps the group's log, for as long as it exists. A
//! [`Candidate`] on it also campaigns. The fencing token is Raft's term.
//!
//! Raft itself is `src/raft.rs`, pure. This module makes a server of it.
//!
//! | module | |
//! |---|---|
//! | `group` | the members and their addresses |
//! | `settings` | configuration of a member |
//! | `wire` | Raft's types as bytes, for connections and disks |
//! | `driver`, `driver_io` | the loop: inputs in, actions out |
//! | `term` | a term that this server leads, and its handover |
//! | `transfers` | callers that wait for another leader |
//! | `state` | the state that the committed entries add up to (pure) |
//! | `proposals` | callers that wait for a commit |
//! | `records` | committed records, for readers |
//! | `publish` | the driver's state, published to other threads |
//! | `status` | one server's view of the election |
//! | `measured` | round trips, syncs, and the timing that they need (pure) |
//! | `greeting` | proof that the other side is the member that it claims to be (pure) |
//! | `secret` | that proof where there is no TLS |
//! | `ledger` | records of the others' directories |
//! | `handshake` | comparison of two servers' settings (pure) |
//! | `refusal` | reasons for refusing a peer: as logged here, and as told to the other side |
//! | `transport` | the connections among them, and with observers |
//! | `status_wire` | a server's view of the election, as sent to observers |
//! | `operate` | operators' orders, as a server takes them |
//! | `operator` | an operator, as a client |
//! | `terms` | standing orders and past terms, by name (pure) |
//! | `assess` | the leader, assessed from the servers' answers (pure) |
//! | `client` | the client that asks them |
//! | `hostile` | tests: members that send anything at all |

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::JoinError,
};
use tracing::Instrument;

mod assess;
mod client;
mod disk;
mod driver;
mod driver_io;
mod greeting;
mod group;
mod handshake;
#[cfg(test)]
mod hostile;
mod ledger;
mod measured;
mod operate;
mod operator;
pub(crate) mod proposals;
mod publish;
mod records;
mod refusal;
mod secret;
mod settings;
mod state;
mod status;
mod status_wire;
mod store;
mod term;
mod terms;
mod tls;
mod transfers;
pub(crate) mod transport;
pub(crate) mod wire;

pub use self::{
    client::{Answered, Client},
    group::{Group, InvalidAddress, InvalidGroup, Member, PeerAddress},
    measured::{SyncTimes, TimingAdvice},
    operator::{OperateError, Operator},
    proposals::ProposeError,
    records::{Missed, Record, Records},
    secret::{InvalidSecret, Secret},
    settings::{InvalidSettings, Settings},
    status::{Evidence, KnownLeader, PeerDisk, PeerLink, PeerStatus},
    store::StoreError,
};
use self::{
    disk::{Disk, Syncs},
    driver::{Driver, DriverOrder, Inputs, Proposed, read_clocks},
    driver_io::{PeerIdentity, RealIo},
    ledger::Ledger,
    proposals::RecordReply,
    publish::Published,
    state::{CurrentAnnouncement, Window},
    store::{Opened, Owner, Store},
    transport::{Network, StatusSource},
};
use crate::{
    candidate::{Backend, CampaignError, CampaignReply, CampaignRequest, Candidate, sealed, span},
    clock::Timestamp,
    leadership::LeadershipHandle,
    names::ElectionName,
    observe::{LeaderWatch, Observer, Snapshot, SnapshotError},
    raft::{
        core::CoreConfig,
        identity::Term,
        membership::{DirectoryId, FirstDirectories, Identity, VotingRights},
        message::Limits,
        node::Node,
    },
    timing::Ttl,
};
pub use crate::{
    raft::timing::{InvalidTiming, Timing},
    tls::{Expiry, InvalidTls, Tls},
};

/// A member of a group, as candidates and observers use it. Cheap to clone.
///
/// It stops when the last clone, and everything started through one, is dropped.
#[derive(Clone)]
pub struct Peer {
    shared: Arc<PeerShared>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("name", self.shared.settings.name()).finish_non_exhaustive()
    }
}

struct PeerShared {
    settings: Settings,
    published: Arc<Published>,
    runtime: runtime::Handle,
    orders: mpsc::UnboundedSender<DriverOrder>,
    proposals: mpsc::Sender<Proposed>,
}

impl PeerShared {
    fn asking(&self, election: ElectionName) -> Client {
        Client::of(&self.settings.clone().with_election(election))
    }
}

/// Time limit for the other members' answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Proposals that may wait for the driver; further callers wait.
const PROPOSALS: usize = 1024;

/// Messages that may wait for the driver; then their connections wait.
const INBOX: usize = 256;

/// Reason why a member can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is another machine's, or in use.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// The address.
        address: PeerAddress,
        /// The system's error.
        problem: io::Error,
    },
    /// It would accept other machines, with no proof of their membership.
    #[error(
        "{address} can be reached from other machines, and without TLS or a secret any process that reaches it can vote, lead, and \
         depose a leader"
    )]
    Unprotected {
        /// The address.
        address: PeerAddress,
    },
    /// The data directory can't be used: the error has the reason and the remedy.
    #[error(transparent)]
    Data(#[from] StoreError),
    /// No member of this group wrote the contents of the data directory.
    #[error("{0}: holds a term, vote and log that no member of this group has written; restore it as it was")]
    Inconsistent(PathBuf),
    /// The system has no thread or no file descriptor left.
    #[error("failed to start: {0}")]
    System(#[from] io::Error),
}

impl Peer {
    /// Starts this member on a thread of its own: it listens, reads its data directory, and takes part.
    ///
    /// Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("elect-peer".into()).spawn(move || {
            // Ends when the driver has ended, or never started.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Self::begin(handle, settings, Some(ends))
    }

    /// Starts this member on the caller's runtime, with its timers and I/O enabled.
    ///
    /// Only for a program that never blocks that runtime: a blocked runtime delays the heartbeats too. No safety is
    /// lost by that, but leadership is.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start_on(runtime: runtime::Handle, settings: Settings) -> Result<Self, StartError> {
        Self::begin(runtime, settings, None)
    }

    fn begin(
        runtime: runtime::Handle,
        settings: Settings,
        ended: Option<oneshot::Sender<()>>,
    ) -> Result<Self, StartError> {
        let listener = listen(&settings)?;
        let Opened { mut store, stored, directory, previous_shortest, .. } =
            Store::open(settings.data(), &Owner::of(&settings))?;
        let stored = stored.with_tokens_after(Term::new(settings.tokens_after()));
        sit_out(previous_shortest, settings.timing().shortest());
        let group = settings.group();
        let run = store.begin_run(settings.timing().shortest(), group.size().count() == 1)?;
        let (known, voting_rights) = (store.known().clone(), store.voting_rights());
        let mut founders = FirstDirectories::none(group.size());
        founders.met(settings.me(), directory);
        known.first.iter().for_each(|(node, record)| founders.met(*node, record.identity.directory));
        let others = group.size().others(settings.me());
        let identity = Identity { directory, run };
        tracing::info!(data = %settings.data().display(), directory = directory.short(), "this server's data directory");
        let ledger = Arc::new(Ledger::new(identity, store.writes(), known, voting_rights, others));
        if let Some(waiting) = driver_io::waiting_for(group, &ledger) {
            tracing::warn!("{waiting}");
        }
        let snapshot_state = CurrentAnnouncement::of(&stored.snapshot);
        let node = Node::start(config(&settings, voting_rights, directory, founders), stored, &read_clocks());
        let (Ok(state), Ok(node)) = (snapshot_state, node) else {
            return Err(StartError::Inconsistent(settings.data().to_owned()));
        };

        ledger.set_disks(node.log().disks().map(|(at, disks)| (at, disks.clone())));
        let published = Arc::new(Published::new(settings.clone(), node.term(), node.committed()));
        let (done, disk_news) = mpsc::unbounded_channel();
        let disk = Arc::new(Disk::start(store, Arc::clone(&ledger), Syncs::of(&settings), done)?);
        let (inbox, messages) = mpsc::channel(INBOX);
        let (orders, ordered) = mpsc::unbounded_channel();
        let porter = PeerIdentity { ledger, disk: Arc::clone(&disk), orders: orders.downgrade() };
        let shown = Arc::clone(&published);
        let told = Arc::clone(&published);
        let looks = StatusSource {
            look: Arc::new(move || shown.look()),
            terms: Arc::new(move || told.terms()),
            changed: published.changes(),
        };
        let network = Arc::new(Network::start(&runtime, &settings, listener, porter, inbox, looks)?);
        published.looks_at(&network, disk.syncs());

        let (proposals, proposed) = mpsc::channel(PROPOSALS);
        let inputs = Inputs { orders: ordered, proposals: proposed, messages, disk: disk_news };
        let world = RealIo { network, disk, group: settings.group().clone(), timing: *settings.timing() };
        let driver = Driver::new(settings.clone(), state, Window::DEFAULT, Arc::clone(&published), world);
        let running = async move {
            driver.run(node, inputs).await;
            // This thread, if it is the member's own, ends with it.
            drop(ended);
        };
        let (election, name) = (settings.election(), settings.name());
        runtime.spawn(running.instrument(span(election, name)));
        Ok(Self { shared: Arc::new(PeerShared { settings, published, runtime, orders, proposals }) })
    }

    /// This member as a candidate in its group's election, under its own name. Campaigns only when told to.
    pub fn candidate(&self) -> Candidate<Peer> {
        let settings = self.settings();
        let (election, name) = (settings.election().clone(), settings.name().clone());
        Candidate::new(self.clone(), election, name, Ttl::DEFAULT, false)
    }

    /// This member's view of the election now.
    pub fn status(&self) -> PeerStatus {
        self.shared.published.look()
    }

    /// Numbers of messages, connections and strangers that this member refused since its start, by reason.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.shared.published.refusals()
    }

    /// The settings that this member was started with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Adds a record to the group's log, and waits until it is committed: from then on no failure that the group
    /// survives loses it. Returns its index.
    ///
    /// Only the leader can, and only in the term that `leadership` proves. A record may have 64 KiB. The log keeps
    /// some thousand entries, or some MiB: it is made for small decisions, and is no database.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves it open whether the record is committed. Inside
    /// [`LeadershipHandle::run`] that happens when leadership is lost.
    pub async fn propose(
        &self,
        leadership: &LeadershipHandle,
        record: impl Into<Arc<[u8]>>,
    ) -> Result<u64, ProposeError> {
        let ours = leadership.cluster() == self.shared.settings.cluster();
        if !ours || !leadership.holds() {
            return Err(ProposeError::NotLeading);
        }
        let (answer, outcome) = oneshot::channel();
        let proposed =
            Proposed { token: leadership.token(), record: record.into(), answer: RecordReply::to(answer) };
        let stopped = || ProposeError::Unconfirmed("this server has stopped".into());
        self.shared.proposals.send(proposed).await.map_err(|_| ProposeError::NotLeading)?;
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The committed records after an index, in order: those still kept, then all to come. The same on every
    /// member, each at its own pace.
    pub fn committed(&self, after: u64) -> Records {
        Records::new(self.shared.orders.clone(), self.shared.published.commits(), after)
    }

    /// Time when this member last heard a leader or, as the leader, was last confirmed by a majority (boot-time
    /// clock).
    pub fn last_contact(&self) -> Timestamp {
        self.shared.published.last_contact()
    }

    /// Waits until no candidate campaigns through this any more, and a term that was given up is in a successor's
    /// hands, or open to any candidate.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub async fn drained(&self) {
        let (drained, done) = oneshot::channel();
        if self.shared.orders.send(DriverOrder::Drain(drained)).is_ok() {
            // If the driver has stopped, nothing is under way.
            let _ = done.await;
        }
    }
}

/// Listens at the configured address, if that is safe. This comes first, so that an unusable address is an error.
fn listen(settings: &Settings) -> Result<TcpListener, StartError> {
    let address = settings.listen();
    let failed = |problem| StartError::Listen { address: address.clone(), problem };
    let resolved = (address.host(), address.port()).to_socket_addrs().map_err(failed)?;
    let resolved: Vec<SocketAddr> = resolved.collect();
    let is_local = resolved.iter().all(|at| at.ip().to_canonical().is_loopback());
    if !is_local && !settings.proves_members() && settings.group().members().len() > 1 {
        if !settings.trusts_the_network() {
            return Err(StartError::Unprotected { address: address.clone() });
        }
        tracing::warn!(
            %address,
            "no TLS and no secret: any process that reaches this port can vote, lead, and depose a leader"
        );
    }
    TcpListener::bind(&*resolved).map_err(failed)
}

/// A leader counts on this member's votes for as long as the last run promised them. A shorter promise begins when
/// the longer one is over.
fn sit_out(before: Option<Duration>, shortest: Duration) {
    if let Some(before) = before.filter(|before| *before > shortest) {
        tracing::warn!(?before, now = ?shortest, "the election timeout is shorter than it was: waiting for the longer one to pass");
        let over = Timestamp::now() + before;
        while Timestamp::now() < over {
            thread::sleep(over.since(Timestamp::now()));
        }
    }
}

fn config(
    settings: &Settings,
    voting_rights: VotingRights,
    directory: DirectoryId,
    founders: FirstDirectories,
) -> CoreConfig {
    CoreConfig {
        me: settings.me(),
        members: settings.group().size(),
        cluster: settings.cluster(),
        timing: *settings.timing(),
        limits: Limits::DEFAULT,
        voting_rights,
        directory,
        moves: settings.moves(),
        founders,
        #[cfg(test)]
        mutant: None,
    }
}

impl sealed::Campaign for Peer {
    fn campaign(&self, standing: CampaignRequest, won: CampaignReply) {
        if let Err(mpsc::error::SendError(DriverOrder::Stand { won, .. })) =
            self.shared.orders.send(DriverOrder::Stand { standing, won })
        {
            let _ = won.send(Err(CampaignError::Stopped));
        }
    }
}

impl Backend for Peer {
    /// Asks all members. The leader of another election is never known here.
    fn observe(&self, election: ElectionName) -> Observer {
        self.shared.asking(election).observe_on(&self.shared.runtime)
    }

    fn watch_leader(&self, _election: &ElectionName) -> LeaderWatch {
        let published = Arc::clone(&self.shared.published);
        LeaderWatch::new(self.shared.published.queue_heads(), move || published.queue(), |_| Vec::new())
    }

    /// Asks all members. The leader of another election is never known here.
    async fn snapshot(&self, election: ElectionName) -> Result<Snapshot, SnapshotError> {
        let client = self.shared.asking(election);
        let asking = self.shared.runtime.spawn(async move { client.snapshot(ANSWERS_WITHIN).await });
        let stopped = |stopped: JoinError| SnapshotError::Unavailable(stopped.to_string());
        asking.await.map_err(stopped)
    }

    fn last_contact(&self) -> Option<Timestamp> {
        Some(self.shared.published.last_contact())
    }

    async fn drained(&self) {
        Self::drained(self).await;
    }
}
