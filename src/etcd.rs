//! The etcd backend: candidates are keys on leases, first come, first served.
//!
//! [`Etcd`] owns a thread with its own runtime, where everything about etcd runs: connections, renewals,
//! watches. A program that blocks its own runtime delays its own work, and not the renewal of the lease.
//! | module | |
//! |---|---|
//! | `endpoint` | addresses of etcd |
//! | `connection` | one connection at a time, and failover |
//! | `diagnosis` | protocol of an address where no connection could be made |
//! | `error` | errors, by their remedy |
//! | `staleness` | answers from the past are refused |
//! | `keys` | the keys of etcd's own election |
//! | `keepalive` | renewals, and the time for which a lease is certain |
//! | `queue` | the queue at a revision, with its first candidate (pure) |
//! | `view` | the queue, followed from revision to revision |
//! | `win` | the rule of a verified win (pure) |
//! | `campaign` | the attempts, up to the win |
//! | `term` | from the win to the loss |
//! | `followed` | a few keys beside the queue, followed |
//! | `contenders` | the other candidates, with their records |
//! | `succession` | a leader's decisions to hand over |
//! | `handoff` | the end of a term that hands over |
//! | `transaction` | writes that only the leader can make |
//! | `announcement` | the leader and the start of its term |
//! | `member` | candidates' records beside the queue |
//! | `order` | an operator's order to hand over |
//! | `control` | operators' standing orders |
//! | `history` | the past terms |
//! | `operator` | an operator's handle |
//! | `rights` | the rights that roles need |
//! | `plan` | the transactions of a transfer |
//! | `stored` | times and limits of the values beside the queue |
//! | `observe` | the election as observers see it |

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use etcd_client::ResponseHeader;
use tokio::{
    runtime,
    sync::{oneshot, watch as watch_channel},
    task::JoinHandle,
};
use tracing::Instrument;

mod announcement;
mod campaign;
mod connection;
mod contenders;
mod control;
mod diagnosis;
mod endpoint;
mod error;
mod followed;
mod handoff;
mod history;
mod keepalive;
mod keys;
mod member;
#[cfg(test)]
mod model;
mod observe;
mod operator;
mod order;
mod plan;
mod queue;
mod rights;
mod staleness;
mod standby;
mod stored;
mod succession;
mod term;
mod tls;
mod transaction;
pub(crate) mod view;
mod watches;
pub(crate) mod win;

use self::{
    connection::{ConnectionPool, EndpointConnection},
    error::EtcdError,
    keys::LeaseId,
    staleness::{ClusterMark, ClusterProgress, ReadKind},
    view::QueueView,
};
pub use self::{
    endpoint::{Endpoint, InvalidEndpoint},
    operator::{EtcdOperateError, EtcdOperator},
    transaction::TransactionError,
};
pub(crate) use self::{keys::Revision, term::release};
pub use crate::tls::{Expiry, InvalidTls, Tls};
use crate::{
    candidate::{Backend, CampaignReply, CampaignRequest, Candidate, sealed, span},
    choosing::{self, CandidateProfile},
    clock::Timestamp,
    leadership::{ReleaseError, Released, Ticket},
    lifeline::Lifeline,
    names::{CandidateName, ElectionName, InvalidName},
    observe::{LeaderWatch, Observer, Snapshot, SnapshotError},
    timing::Ttl,
};
/// Types in the signature of [`Etcd::transaction`].
pub use etcd_client;

/// Endpoints, TLS and credentials for etcd.
#[derive(Debug, Clone)]
pub struct Settings {
    endpoints: Arc<[Endpoint]>,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    lifeline: Option<Lifeline>,
}

/// Reason that settings don't fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// There is no endpoint.
    #[error("no endpoint is given; name at least one, as in localhost:2379")]
    NoEndpoint,
    /// TLS was given for an `http://` endpoint: it would be ignored, and everything sent in the clear.
    #[error("certificates are given, but '{0}' is without TLS; write https:// or leave the scheme out")]
    TlsForbidden(Endpoint),
    /// One of them is not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
}

/// Reason that [`Etcd::connect`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The list of endpoints is not valid.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The system has no thread or no file descriptor left.
    #[error("failed to start")]
    System(#[from] io::Error),
}

impl FromStr for Settings {
    type Err = InvalidSettings;

    /// Parses a list of endpoints, as in `a:2379,b:2379,c:2379`: no TLS, no user.
    fn from_str(endpoints: &str) -> Result<Self, InvalidSettings> {
        let given = endpoints.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
        Self::new(given.map(str::parse).collect::<Result<Vec<_>, _>>()?)
    }
}

impl Settings {
    /// Connects to these members of one cluster, without a user.
    ///
    /// # Errors
    ///
    /// Refuses an empty list.
    pub fn new(endpoints: impl Into<Vec<Endpoint>>) -> Result<Self, InvalidSettings> {
        let endpoints = endpoints.into();
        if endpoints.is_empty() {
            return Err(InvalidSettings::NoEndpoint);
        }
        Ok(Self { endpoints: endpoints.into(), tls: None, credentials: None, lifeline: None })
    }

    /// Uses TLS.
    ///
    /// # Errors
    ///
    /// Refuses `http://` endpoints.
    pub fn with_tls(mut self, tls: Tls) -> Result<Self, InvalidSettings> {
        if let Some(plain) = self.endpoints.iter().find(|endpoint| endpoint.forbids_tls()) {
            return Err(InvalidSettings::TlsForbidden(plain.clone()));
        }
        self.tls = Some(tls);
        Ok(self)
    }

    /// Logs in as this user.
    #[must_use = "settings are made by value"]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Keeps tickets for the other processes of this host, and acts as a witness for them.
    #[must_use = "settings are made by value"]
    pub fn with_lifeline(mut self, lifeline: Lifeline) -> Self {
        self.lifeline = Some(lifeline);
        self
    }

    /// Returns the TLS settings, if any were given.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns the endpoints, as they were given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// A user of etcd and its password.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: Password,
}

impl Credentials {
    /// Creates credentials from a user and a password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: Password::Given(password.into()) }
    }

    /// Creates credentials whose password is in a file. It is read again at each login, so it may be changed
    /// while this runs. Line breaks at its end are not part of the password.
    ///
    /// # Errors
    ///
    /// Refuses a file that can't be read, or contains no password.
    pub fn in_file(user: impl Into<String>, file: impl Into<PathBuf>) -> Result<Self, InvalidPassword> {
        let file = file.into();
        let read = password_in(&file)?;
        let password = Password::InFile(Arc::new(PasswordFile { file, read: Mutex::new(read) }));
        Ok(Self { user: user.into(), password })
    }

    /// Returns whether the next login may use another password.
    fn may_change(&self) -> bool {
        matches!(self.password, Password::InFile(_))
    }

    /// Returns the password for a login now.
    async fn password(&self) -> String {
        let file = match &self.password {
            Password::Given(password) => return password.clone(),
            Password::InFile(file) => Arc::clone(file),
        };
        // A hanging file system must not delay renewals.
        let again = Arc::clone(&file);
        let found = tokio::task::spawn_blocking(move || password_in(&again.file)).await;
        let mut read = file.read.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(Ok(password)) => *read = password,
            Ok(Err(error)) => tracing::warn!(%error, "the password read before is used"),
            Err(_stopped) => {}
        }
        read.clone()
    }
}

fn password_in(file: &Path) -> Result<String, InvalidPassword> {
    let invalid = |problem: String| InvalidPassword { file: file.display().to_string(), problem };
    let text = std::fs::read_to_string(file).map_err(|error| invalid(error.to_string()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(invalid("it is empty; write the password into it".into())),
        password => Ok(password.to_owned()),
    }
}

/// Reason that a file has no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct InvalidPassword {
    file: String,
    problem: String,
}

/// Never printed.
#[derive(Clone)]
enum Password {
    Given(String),
    InFile(Arc<PasswordFile>),
}

struct PasswordFile {
    file: PathBuf,
    /// The content as last read.
    read: Mutex<String>,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Connection to etcd for candidates and observers. Cheap to clone.
///
/// Its thread ends when the last clone, and everything that was started through one, is gone.
#[derive(Clone)]
pub struct Etcd {
    shared: Arc<EtcdShared>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl Etcd {
    /// Uses the etcd at these endpoints: one, or several members of one cluster, as in `a:2379,b:2379,c:2379`.
    ///
    /// For TLS or a user, see [`Settings`] and [`start`](Self::start). Connects on first use.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]. An unreachable etcd is no error: the connection is retried for ever.
    pub fn connect(endpoints: &str) -> Result<Self, ConnectError> {
        Ok(Self::start(endpoints.parse()?)?)
    }

    /// Begins a candidate in this election; it needs a [name](CandidateBuilder::named).
    ///
    /// # Errors
    ///
    /// Refuses a text that is not the name of an election.
    pub fn candidate(
        &self,
        election: impl TryInto<ElectionName, Error: Into<InvalidName>>,
    ) -> Result<CandidateBuilder, InvalidName> {
        let election = election.try_into().map_err(Into::into)?;
        Ok(CandidateBuilder {
            etcd: self.clone(),
            election,
            ttl: Ttl::DEFAULT,
            announce: false,
            profile: CandidateProfile::default(),
            never: false,
            min_tenure: choosing::MIN_TENURE,
        })
    }

    /// Starts the thread. Connects on first use.
    ///
    /// # Errors
    ///
    /// Fails only if the system has no thread or no file descriptor left.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (alive, gone) = oneshot::channel::<()>();
        let shared = EtcdShared::new(settings, runtime.handle().clone(), Some(alive));
        thread::Builder::new().name("elect-keeper".into()).spawn(move || {
            // Ends when `EtcdShared` is dropped, and with it `alive`.
            let _ = runtime.block_on(gone);
            runtime.shutdown_background();
        })?;
        Ok(Self::of(shared))
    }

    /// Does the same on the caller's runtime, with its timers and I/O enabled, instead of a thread of its
    /// own. Saves two thread switches in each handoff.
    ///
    /// Only for a program that never blocks that runtime: blocking delays the renewals too. That costs
    /// leadership, but not safety.
    pub fn start_on(runtime: runtime::Handle, settings: Settings) -> Self {
        Self::of(EtcdShared::new(settings, runtime, None))
    }

    fn of(shared: EtcdShared) -> Self {
        let shared = Arc::new(shared);
        if let Some(lifeline) = &shared.lifeline {
            lifeline.watch(&shared);
        }
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<EtcdShared> {
        &self.shared
    }

    /// Follows the states of an election, in order: see [`Observer`].
    ///
    /// Asks etcd every second whether its state still holds, and reports
    /// [`Unknown`](crate::observe::State::Unknown) after two seconds without an answer.
    pub fn observe(&self, election: ElectionName) -> Observer {
        let shared = Arc::clone(&self.shared);
        Observer::driven(|task| self.shared.spawn(task), |told| observe::observe(shared, election, told))
    }

    /// Watches the head of an election's queue: see [`Backend::watch_leader`]. Shares one watch with the
    /// candidates of that election.
    pub fn watch_leader(&self, election: &ElectionName) -> LeaderWatch {
        QueueView::of(&self.shared, election).leader_watch()
    }

    /// Reads an election once: the leader, and the candidates that wait.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] if no endpoint answered.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn snapshot(&self, election: ElectionName) -> Result<Snapshot, SnapshotError> {
        let reading = observe::snapshot(Arc::clone(&self.shared), election);
        match self.shared.spawn(reading).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(error)) if error.remedy == error::Remedy::Human => {
                Err(SnapshotError::Refused(error.message))
            }
            Ok(Err(error)) => Err(SnapshotError::Unavailable(error.message)),
            Err(stopped) => Err(SnapshotError::Unavailable(stopped.to_string())),
        }
    }

    /// Gives orders in an election: hands leadership over, cordons candidates, pauses, reads its history.
    pub fn operator(&self, election: ElectionName) -> EtcdOperator {
        EtcdOperator::new(self.clone(), election)
    }

    /// Releases a term of leadership in place of a process that is gone, so that the next candidate need not
    /// wait for the lease to expire.
    ///
    /// Only for a caller that knows that the work of that term has ended. An outdated or false ticket changes
    /// nothing: etcd compares cluster, key, `create_revision` and lease, and the lease is revoked only after
    /// they matched. So a second call is harmless.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Unconfirmed`] if etcd did not confirm it `within` this time (Tokio's clock): the lease
    /// then expires by itself. The other variants are about the ticket.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call continues the release in the background.
    pub async fn release(&self, ticket: Ticket, within: Duration) -> Result<Released, ReleaseError> {
        let releasing = term::release(Arc::clone(&self.shared), ticket, Timestamp::now() + within);
        let released = self.shared.spawn(releasing).await;
        released.unwrap_or_else(|stopped| Err(ReleaseError::Unconfirmed(stopped.to_string())))
    }

    /// Returns the time of the last accepted response of etcd (boot-time clock); `None` if there was none
    /// yet.
    pub fn last_contact(&self) -> Option<Timestamp> {
        match self.shared.last_accepted.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(Timestamp::from_nanos(nanos)),
        }
    }

    /// Waits until this has no candidate left: every lease that was given up in the background is revoked or
    /// expired.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub async fn drained(&self) {
        self.shared.settling.send_replace(true);
        let mut active_tasks = self.shared.active_tasks.subscribe();
        // The sender lives as long as `self`.
        let _ = active_tasks.wait_for(|active_tasks| *active_tasks == 0).await;
    }
}

impl Backend for Etcd {
    fn observe(&self, election: ElectionName) -> Observer {
        self.observe(election)
    }

    fn watch_leader(&self, election: &ElectionName) -> LeaderWatch {
        self.watch_leader(election)
    }

    async fn snapshot(&self, election: ElectionName) -> Result<Snapshot, SnapshotError> {
        self.snapshot(election).await
    }

    fn last_contact(&self) -> Option<Timestamp> {
        self.last_contact()
    }

    async fn drained(&self) {
        self.drained().await;
    }
}

impl sealed::Campaign for Etcd {
    fn campaign(&self, request: CampaignRequest, won: CampaignReply) {
        let (shared, span) = (Arc::clone(&self.shared), span(&request.election, &request.name));
        span.in_scope(|| self.shared.spawn_counted(campaign::run(shared, request, won)));
    }
}

/// A candidate on etcd without a name yet: see [`Etcd::candidate`].
#[derive(Debug, Clone)]
#[must_use = "a candidate has a name"]
pub struct CandidateBuilder {
    etcd: Etcd,
    election: ElectionName,
    ttl: Ttl,
    announce: bool,
    profile: CandidateProfile,
    never: bool,
    min_tenure: Duration,
}

impl CandidateBuilder {
    /// Sets the time to live of the candidate's lease after its last renewal; [`Ttl::DEFAULT`] by default.
    /// When a leader dies, its successor leads after ⅔ of it at the earliest.
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }

    /// Makes the leader write its name and the start of its term to the key named as the election itself
    /// (`leader`). Off by default.
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// Sets what the candidate publishes about itself. Its leader's address is in the announcement: see
    /// [`announce`](Self::announce).
    pub fn profile(mut self, profile: CandidateProfile) -> Self {
        self.profile = profile;
        self
    }

    /// Makes the candidate wait without ever leading. Off by default.
    pub fn never(mut self, never: bool) -> Self {
        self.never = never;
        self
    }

    /// Sets the time for which it leads at least before it hands over to a candidate of higher priority; 10
    /// minutes by default.
    pub fn min_tenure(mut self, min_tenure: Duration) -> Self {
        self.min_tenure = min_tenure;
        self
    }

    /// Names the candidate, for example by its host; others see the name. It enters the election only in
    /// [`Candidate::campaign`].
    ///
    /// # Errors
    ///
    /// Refuses a text that is not a name.
    pub fn named(
        self,
        name: impl TryInto<CandidateName, Error: Into<InvalidName>>,
    ) -> Result<Candidate<Etcd>, InvalidName> {
        let name = name.try_into().map_err(Into::into)?;
        let Self { etcd, election, ttl, announce, profile, never, min_tenure } = self;
        let candidate = Candidate::new(etcd, election, name, ttl, announce);
        Ok(candidate.with_profile(profile).with_stance(never, min_tenure))
    }
}

/// Marks that no answer came yet; none can come at the very start of the machine.
const NEVER: u64 = 0;

/// State that all tasks on the thread share.
pub(crate) struct EtcdShared {
    connections: ConnectionPool,
    progress: Mutex<ClusterProgress>,
    /// One view for each election with a candidate or watch here.
    views: Mutex<BTreeMap<ElectionName, Weak<QueueView>>>,
    lifeline: Option<Lifeline>,
    /// Keys that etcd denied.
    denials: rights::Denials,
    runtime: runtime::Handle,
    /// Time of the last accepted answer, in nanoseconds of the boot-time clock.
    last_accepted: AtomicU64,
    /// Number of tasks that hold a lease or are revoking one.
    active_tasks: watch_channel::Sender<usize>,
    /// True while a caller waits for that number to be zero: then no revocation is delayed.
    settling: watch_channel::Sender<bool>,
    /// Dropped last, which ends the thread, if there is one.
    _alive: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for EtcdShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl EtcdShared {
    fn new(settings: Settings, runtime: runtime::Handle, alive: Option<oneshot::Sender<()>>) -> Self {
        let lifeline = settings.lifeline.clone();
        Self {
            connections: ConnectionPool::new(settings),
            progress: Mutex::default(),
            views: Mutex::default(),
            lifeline,
            denials: rights::Denials::default(),
            runtime,
            last_accepted: AtomicU64::new(NEVER),
            active_tasks: watch_channel::Sender::new(0),
            settling: watch_channel::Sender::new(false),
            _alive: alive,
        }
    }

    /// Timeout of a short call: that of a renewal, or the time that a busy disk needs if that is longer.
    fn call_patience(&self, ttl: Ttl) -> Duration {
        ttl.patience().max(Duration::from_secs(2))
    }

    /// Spawns a task on the thread, in the caller's span.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task.in_current_span())
    }

    /// Runs work that may block.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn_blocking(work)
    }

    /// Spawns a task that [`Etcd::drained`] waits for.
    fn spawn_counted(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = CountedTask::new(&self.active_tasks);
        // Boxed, because an async block stores a future that it captures and awaits twice.
        let task = Box::pin(task.in_current_span());
        self.runtime.spawn(async move {
            let _counted = counted;
            task.await;
        });
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, ClusterProgress> {
        // Three independent numbers: a panic leaves no half of a change.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state before a request is sent, to compare its answer with.
    fn known(&self) -> ClusterMark {
        self.progress().known()
    }

    /// Checks an answer's header; an answer from the past fails its connection.
    fn accept(
        &self,
        connection: &EndpointConnection,
        header: Option<&ResponseHeader>,
        kind: ReadKind,
        known: ClusterMark,
    ) -> Result<Revision, EtcdError> {
        let accepted = self.progress().accept(header, kind, known);
        match accepted {
            Ok(_) if kind == ReadKind::Linearizable => connection.answered(),
            Ok(_) => {}
            Err(_) => self.connections.failed(connection),
        }
        if accepted.is_ok() {
            self.last_accepted.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
        }
        accepted.map_err(|past| EtcdError::elsewhere(past.to_string()))
    }

    fn cluster(&self) -> Option<u64> {
        self.progress().cluster()
    }
}

/// Counts a task for as long as it lives, even if it never runs.
struct CountedTask(watch_channel::Sender<usize>);

impl CountedTask {
    fn new(count: &watch_channel::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for CountedTask {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The leader's key in etcd.
#[derive(Debug, Clone)]
struct LeaderKey {
    shared: Arc<EtcdShared>,
    key: Vec<u8>,
    created: Revision,
    lease: LeaseId,
    ttl: Ttl,
}
