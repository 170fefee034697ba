//! The etcd backend: candidates are keys on leases, first come, first served.
//!
//! [`Etcd`] owns a thread with a runtime of its own, on which everything to do with etcd
//! runs: connections, renewals, watches. A program that blocks its own runtime holds up its
//! own work, and not the renewal of the lease.
//!
//! | module | |
//! |---|---|
//! | `endpoint` | where etcd is |
//! | `link` | one connection at a time, and failing over |
//! | `diagnosis` | what speaks where no connection could be made |
//! | `trouble` | errors, by what to do about them |
//! | `progress` | answers from the past are refused |
//! | `layout` | the keys of etcd's own election |
//! | `lease` | renewing, and until when a lease is certain |
//! | `queue` | the queue at a revision: who is first (pure) |
//! | `view` | the queue, followed from revision to revision |
//! | `campaign` | when a win is one (pure) |
//! | `stand` | the attempts, up to the win |
//! | `term` | from the win to the loss |
//! | `fence` | writes that only the leader can make |
//! | `announcement` | who leads since when |
//! | `observe` | the election as others see it |

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
mod diagnosis;
mod endpoint;
mod error;
mod keepalive;
mod keys;
#[cfg(test)]
mod model;
mod observe;
mod queue;
mod staleness;
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
    transaction::TransactionError,
};
pub(crate) use self::{keys::Revision, term::release};
pub use crate::tls::{Expiry, InvalidTls, Tls};
use crate::{
    candidate::{Backend, CampaignReply, CampaignRequest, Candidate, sealed, span},
    clock::Timestamp,
    leadership::{ReleaseError, Released, Ticket},
    lifeline::Lifeline,
    names::{CandidateName, ElectionName, InvalidName},
    observe::{LeaderWatch, Observer, Snapshot, SnapshotError},
    timing::Ttl,
};
/// What [`Etcd::transaction`] takes and gives.
pub use etcd_client;

/// How to reach etcd, and as whom.
#[derive(Debug, Clone)]
pub struct Settings {
    endpoints: Arc<[Endpoint]>,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    lifeline: Option<Lifeline>,
}

/// Why settings don't fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// There must be somewhere to connect to.
    #[error("no endpoint is given; name at least one, as in localhost:2379")]
    NoEndpoint,
    /// A certificate would be ignored, and everything sent in the clear.
    #[error("certificates are given, but '{0}' is without TLS; write https:// or leave the scheme out")]
    TlsForbidden(Endpoint),
    /// One of them is no endpoint.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
}

/// Why [`Etcd::connect`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The list of endpoints is not to be used.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The system has no thread or no file descriptor left.
    #[error("failed to start")]
    System(#[from] io::Error),
}

impl FromStr for Settings {
    type Err = InvalidSettings;

    /// A list of endpoints, as in `a:2379,b:2379,c:2379`: no TLS, no user.
    fn from_str(endpoints: &str) -> Result<Self, InvalidSettings> {
        let given = endpoints.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
        Self::new(given.map(str::parse).collect::<Result<Vec<_>, _>>()?)
    }
}

impl Settings {
    /// Connects to these members of one cluster, as nobody in particular.
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

    /// Speaks TLS.
    ///
    /// # Errors
    ///
    /// Refuses endpoints that say `http://`.
    pub fn with_tls(mut self, tls: Tls) -> Result<Self, InvalidSettings> {
        if let Some(plain) = self.endpoints.iter().find(|endpoint| endpoint.forbids_tls()) {
            return Err(InvalidSettings::TlsForbidden(plain.clone()));
        }
        self.tls = Some(tls);
        Ok(self)
    }

    /// Logs in.
    #[must_use = "settings are made by value"]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Keeps tickets for the other processes of this host, and witnesses for them.
    #[must_use = "settings are made by value"]
    pub fn with_lifeline(mut self, lifeline: Lifeline) -> Self {
        self.lifeline = Some(lifeline);
        self
    }

    /// The certificates that it speaks TLS with, if any were given.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// A user of etcd's, and the password.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: Password,
}

impl Credentials {
    /// A user and a password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: Password::Given(password.into()) }
    }

    /// A user whose password is in a file. It is read again at each login, so it may be changed there while this
    /// runs. Line breaks at its end are not the password's.
    ///
    /// # Errors
    ///
    /// Refuses a file that can't be read, or has no password in it.
    pub fn in_file(user: impl Into<String>, file: impl Into<PathBuf>) -> Result<Self, InvalidPassword> {
        let file = file.into();
        let read = password_in(&file)?;
        let password = Password::InFile(Arc::new(PasswordFile { file, read: Mutex::new(read) }));
        Ok(Self { user: user.into(), password })
    }

    /// Whether the next login may be with another password.
    fn may_change(&self) -> bool {
        matches!(self.password, Password::InFile(_))
    }

    /// The password for a login now.
    async fn password(&self) -> String {
        let file = match &self.password {
            Password::Given(password) => return password.clone(),
            Password::InFile(file) => Arc::clone(file),
        };
        // A file system that hangs must not hold up renewals.
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

/// Why a file has no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct InvalidPassword {
    file: String,
    problem: String,
}

/// Never shown.
#[derive(Clone)]
enum Password {
    Given(String),
    InFile(Arc<PasswordFile>),
}

struct PasswordFile {
    file: PathBuf,
    /// As it was last read.
    read: Mutex<String>,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// etcd, as candidates and observers use it. Cheap to clone.
///
/// The thread behind it ends when the last clone, and everything that was started through
/// one, is gone.
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
    /// For TLS or a user, see [`Settings`] and [`start`](Self::start). Connects when there is something to do.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]. An etcd that can't be reached is none: that is tried again for as long as it takes.
    pub fn connect(endpoints: &str) -> Result<Self, ConnectError> {
        Ok(Self::start(endpoints.parse()?)?)
    }

    /// A candidate in this election, as soon as it has a [name](CandidateBuilder::named).
    ///
    /// # Errors
    ///
    /// Refuses a text that can't be the name of an election.
    pub fn candidate(
        &self,
        election: impl TryInto<ElectionName, Error: Into<InvalidName>>,
    ) -> Result<CandidateBuilder, InvalidName> {
        let election = election.try_into().map_err(Into::into)?;
        Ok(CandidateBuilder { etcd: self.clone(), election, ttl: Ttl::DEFAULT, announce: false })
    }

    /// Starts the thread. Connects when there is something to do.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no thread or no file descriptor left.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (alive, gone) = oneshot::channel::<()>();
        let shared = EtcdShared::new(settings, runtime.handle().clone(), Some(alive));
        thread::Builder::new().name("elect-keeper".into()).spawn(move || {
            // Ends when `EtcdShared`, and with it `alive`, is dropped.
            let _ = runtime.block_on(gone);
            runtime.shutdown_background();
        })?;
        Ok(Self::of(shared))
    }

    /// The same on a runtime of the caller's, with its timers and I/O enabled, instead of a thread of
    /// its own. Saves two changes of thread in each handoff.
    ///
    /// Only for a program that never blocks that runtime: whatever blocks it holds up the renewal
    /// too. No safety is lost by that, but leadership is.
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

    /// The states of an election, in order: see [`Observer`].
    ///
    /// Asks etcd every second whether what it knows still holds, and says
    /// [`Unknown`](crate::observe::State::Unknown) two seconds after that went unanswered.
    pub fn observe(&self, election: ElectionName) -> Observer {
        let shared = Arc::clone(&self.shared);
        Observer::driven(|task| self.shared.spawn(task), |told| observe::observe(shared, election, told))
    }

    /// Who is at the front of an election's queue, as it changes: see [`Backend::watch_leader`]. It shares one
    /// watch with the candidates of that election.
    pub fn watch_leader(&self, election: &ElectionName) -> LeaderWatch {
        QueueView::of(&self.shared, election).front()
    }

    /// One look at an election: who leads, and who waits.
    ///
    /// # Errors
    ///
    /// What went wrong, if no endpoint gave an answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn snapshot(&self, election: ElectionName) -> Result<Snapshot, SnapshotError> {
        let looking = observe::snapshot(Arc::clone(&self.shared), election);
        match self.shared.spawn(looking).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(trouble)) if trouble.remedy == error::Remedy::Human => {
                Err(SnapshotError::Refused(trouble.message))
            }
            Ok(Err(trouble)) => Err(SnapshotError::Unavailable(trouble.message)),
            Err(stopped) => Err(SnapshotError::Unavailable(stopped.to_string())),
        }
    }

    /// Gives up a term of leadership in the place of a process that is gone, so that the next
    /// candidate need not wait until its lease has expired.
    ///
    /// Only for a caller that knows that the work of that term has ended. A ticket that is not true any more, or
    /// never was, changes nothing: etcd compares cluster, key, `create_revision` and lease, and the lease is
    /// revoked only after they matched. So a second call is harmless.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Unconfirmed`] if etcd could not be told `within` this time (Tokio's clock): the lease then
    /// ends by itself. The other variants are about the ticket.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call goes on in the background.
    pub async fn release(&self, ticket: Ticket, within: Duration) -> Result<Released, ReleaseError> {
        let releasing = term::release(Arc::clone(&self.shared), ticket, Timestamp::now() + within);
        let released = self.shared.spawn(releasing).await;
        released.unwrap_or_else(|stopped| Err(ReleaseError::Unconfirmed(stopped.to_string())))
    }

    /// When etcd was last heard, by an answer that was not refused (boot-time clock); `None` if never.
    pub fn last_contact(&self) -> Option<Timestamp> {
        match self.shared.heard.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(Timestamp::from_nanos(nanos)),
        }
    }

    /// Waits until no candidate stands through this any more: all leases that were given up
    /// in the background are revoked, or past their time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub async fn drained(&self) {
        self.shared.settling.send_replace(true);
        let mut standing = self.shared.standing.subscribe();
        // The sender lives as long as `self`.
        let _ = standing.wait_for(|standing| *standing == 0).await;
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
    fn stand(&self, standing: CampaignRequest, won: CampaignReply) {
        let (shared, span) = (Arc::clone(&self.shared), span(&standing.election, &standing.name));
        span.in_scope(|| self.shared.spawn_counted(campaign::stand(shared, standing, won)));
    }
}

/// A candidate on etcd, before it has a name: see [`Etcd::candidate`].
#[derive(Debug, Clone)]
#[must_use = "a candidate has a name"]
pub struct CandidateBuilder {
    etcd: Etcd,
    election: ElectionName,
    ttl: Ttl,
    announce: bool,
}

impl CandidateBuilder {
    /// How long etcd keeps the candidate's lease after its last renewal: [`Ttl::DEFAULT`] unless said. A leader that
    /// dies is followed after ⅔ of it at the earliest.
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }

    /// Whether the candidate, once it leads, also writes who leads, and since when, to the key that is called
    /// as the election itself (`leader`). Off unless turned on.
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// The candidate, by a name that others see: its host, for example. Stands only once it is told to.
    ///
    /// # Errors
    ///
    /// Refuses a text that can't be a name.
    pub fn named(
        self,
        name: impl TryInto<CandidateName, Error: Into<InvalidName>>,
    ) -> Result<Candidate<Etcd>, InvalidName> {
        let name = name.try_into().map_err(Into::into)?;
        let Self { etcd, election, ttl, announce } = self;
        Ok(Candidate::new(etcd, election, name, ttl, announce))
    }
}

/// No answer came at the very start of the machine.
const NEVER: u64 = 0;

/// What everything on the thread shares.
pub(crate) struct EtcdShared {
    links: ConnectionPool,
    progress: Mutex<ClusterProgress>,
    /// One for each election that somebody here stands in.
    views: Mutex<BTreeMap<ElectionName, Weak<QueueView>>>,
    lifeline: Option<Lifeline>,
    runtime: runtime::Handle,
    /// When the last answer was accepted, in nanoseconds of the boot-time clock.
    heard: AtomicU64,
    /// How many tasks hold a lease, or are giving one back.
    standing: watch_channel::Sender<usize>,
    /// Whether somebody waits for that to be none: then nothing is put off.
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
            links: ConnectionPool::new(settings),
            progress: Mutex::default(),
            views: Mutex::default(),
            lifeline,
            runtime,
            heard: AtomicU64::new(NEVER),
            standing: watch_channel::Sender::new(0),
            settling: watch_channel::Sender::new(false),
            _alive: alive,
        }
    }

    /// A short call may take this long: as long as a renewal, or what a busy disk needs.
    fn call_patience(&self, ttl: Ttl) -> Duration {
        ttl.patience().max(Duration::from_secs(2))
    }

    /// Runs a task on the thread, in the caller's span.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task.in_current_span())
    }

    /// Runs what may block.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn_blocking(work)
    }

    /// Runs a task that [`Etcd::drained`] waits for.
    fn spawn_counted(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = CountedTask::new(&self.standing);
        // What an async block captures and then awaits is in it twice.
        let task = Box::pin(task.in_current_span());
        self.runtime.spawn(async move {
            let _counted = counted;
            task.await;
        });
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, ClusterProgress> {
        // Three numbers, each whole by itself.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known right before a question is sent.
    fn known(&self) -> ClusterMark {
        self.progress().known()
    }

    /// Takes an answer's header; an answer from the past fails the link it came by.
    fn accept(
        &self,
        link: &EndpointConnection,
        header: Option<&ResponseHeader>,
        kind: ReadKind,
        known: ClusterMark,
    ) -> Result<Revision, EtcdError> {
        let accepted = self.progress().accept(header, kind, known);
        match accepted {
            Ok(_) if kind == ReadKind::Linearizable => link.answered(),
            Ok(_) => {}
            Err(_) => self.links.failed(link),
        }
        if accepted.is_ok() {
            self.heard.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
        }
        accepted.map_err(|past| EtcdError::elsewhere(past.to_string()))
    }

    fn cluster(&self) -> Option<u64> {
        self.progress().cluster()
    }
}

/// Counts a task for as long as it lives, also where it never gets to run.
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

/// The leader's place in etcd.
#[derive(Debug, Clone)]
struct LeaderKey {
    shared: Arc<EtcdShared>,
    key: Vec<u8>,
    created: Revision,
    lease: LeaseId,
    ttl: Ttl,
}
