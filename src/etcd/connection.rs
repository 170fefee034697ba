//! One connection at a time, to one member, replaced as soon as it fails.
//!
//! etcd-client can balance over several endpoints, but it does not eject a bad one: with one of three members
//! frozen, a third of all calls hang. So each client here has one endpoint, and failover happens here:
//!
//! * a caller whose call fails reports the connection ([`ConnectionPool::failed`]), and every caller moves to
//!   the next, except renewals that are still answered on the old one;
//! * the next connection is raced for: an endpoint that doesn't answer within 250 ms is joined by the one
//!   after it, and the first to answer is taken. Each address of a host name is an endpoint of its own, and
//!   names are resolved at each connection;
//! * a connection counts once a member that knows a leader has answered over it. So while etcd can't serve,
//!   this process asks only that, at most four times a second, and every caller continues the moment etcd
//!   can;
//! * no channel has a timeout of its own, for it would cut off a standby's `Campaign`. The callers of short
//!   calls set timeouts. HTTP/2 pings find connections that fell silent under calls that may be long.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Channel, Client, ConnectOptions, GetOptions, KvClient, LeaseClient, WatchClient, WatchResponse,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::transport;

use self::{
    dial::{Dialer, addresses},
    race::race,
};

use super::{
    Credentials, Settings,
    diagnosis::Diagnoses,
    endpoint::Endpoint,
    error::{EtcdError, Remedy},
    watches::{Watch, WatchRange, Watches},
};
use crate::{clock::Timestamp, tls::Tls};

mod dial;
mod race;

/// Time between two rounds of connection attempts: four a second, jittered over processes.
const ROUND: Duration = Duration::from_millis(250);
const JITTER_MS: u64 = 20;

/// Timeout for connecting and logging in together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time from the change of a password in etcd to its change in the file (boot-time clock).
const PASSWORD_WITHIN: Duration = Duration::from_secs(60);

/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// Timeout of a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer read. A value may have 1.5 MiB by etcd's own limit, and any client may put several
/// under the election's prefix.
const LARGEST_ANSWER: usize = 64 << 20;

/// A connection to one member of etcd, with its client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EndpointConnection {
    /// Shared: a client for each of etcd's services takes kilobytes.
    client: Arc<Client>,
    generation: u64,
    endpoint: usize,
    address: SocketAddr,
    watches: Arc<Watches>,
    /// Time of the last answer through it that needed etcd's consensus, in nanoseconds of the boot-time
    /// clock.
    answered: Arc<AtomicU64>,
}

impl EndpointConnection {
    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
    }

    pub(crate) fn watcher(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Watches keys, over a shared stream.
    pub(crate) async fn watch(&self, range: WatchRange) -> Result<Watch, etcd_client::Error> {
        self.watches.watch(|| self.watcher(), range).await
    }

    pub(crate) fn leases(&self) -> LeaseClient {
        self.client.lease_client()
    }

    /// Records an answer that needed etcd's consensus. (A renewal's does not count: a member whose own store
    /// hangs still forwards those.)
    pub(crate) fn answered(&self) {
        self.answered.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
    }
}

/// All endpoints, and the connection in use.
pub(crate) struct ConnectionPool {
    settings: Settings,
    /// The endpoint to try first.
    preferred: AtomicUsize,
    connecting: tokio::sync::Mutex<ConnectRounds>,
    current: Mutex<Option<EndpointConnection>>,
    /// The address that failed last: among the addresses of a name it is tried after the others.
    avoided: Mutex<Option<SocketAddr>>,
    /// The newest generation that has failed.
    failed: watch::Sender<u64>,
    /// Used until the first connection: later failures are not the configuration's, and a recovering etcd
    /// should not get more connections than one a round.
    looks: Arc<Diagnoses>,
    /// Endpoints that are not members of etcd. They stay excluded until this process restarts.
    proxies: Mutex<BTreeSet<usize>>,
    /// Time since when logins are refused that succeeded before.
    refused_since: Mutex<Option<Timestamp>>,
}

impl ConnectionPool {
    /// Starts at a random endpoint, so that many candidates spread over the members.
    pub(crate) fn new(settings: Settings) -> Self {
        let preferred = AtomicUsize::new(fastrand::usize(..settings.endpoints.len()));
        Self {
            settings,
            preferred,
            connecting: tokio::sync::Mutex::default(),
            current: Mutex::default(),
            avoided: Mutex::default(),
            failed: watch::Sender::new(0),
            looks: Arc::default(),
            proxies: Mutex::default(),
            refused_since: Mutex::default(),
        }
    }

    /// Returns the connection in use; connects if there is none.
    pub(crate) async fn connection(&self) -> Result<EndpointConnection, EtcdError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let mut rounds = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if let Some(error) = rounds.too_soon() {
            return Err(error);
        }
        if let Some(next) = rounds.next {
            sleep_until(next).await;
        }
        rounds.begin();
        let generation = *self.failed.borrow() + 1;
        let (endpoint, (address, client)) =
            self.race().await.inspect_err(|error| rounds.failure = Some(error.clone()))?;
        rounds.failure = None;
        let answered = Arc::new(AtomicU64::new(Timestamp::now().as_nanos()));
        let (client, watches) = (Arc::new(client), Arc::default());
        let connection = EndpointConnection { client, generation, endpoint, address, watches, answered };
        *self.lock() = Some(connection.clone());
        *self.refused_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::debug!(endpoint = %self.settings.endpoints[endpoint], %address, generation, "connected to etcd");
        Ok(connection)
    }

    /// Waits before another attempt; if etcd was unreachable, only until it can be reached.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn pause(&self, pause: Duration, unreachable: bool) -> Paused {
        let over = Instant::now() + pause;
        if !unreachable {
            sleep_until(over).await;
            return Paused::Over;
        }
        loop {
            // A round that began runs to its end: the next would have to wait for its time.
            if self.connection().await.is_ok() {
                return Paused::Reachable;
            }
            if Instant::now() >= over {
                return Paused::Over;
            }
            // The first waiter begins the next round.
            sleep_until(over.min(Instant::now() + ROUND / 10)).await;
        }
    }

    /// Returns whether this connection was reported as failed and another is in use.
    pub(crate) fn has_moved_on_from(&self, connection: &EndpointConnection) -> bool {
        self.lock().as_ref().is_some_and(|current| current.generation > connection.generation)
    }

    /// Reports a connection as failed. Every caller moves on.
    pub(crate) fn failed(&self, connection: &EndpointConnection) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|current| current.generation == connection.generation) {
            *current = None;
            *self.avoided.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.address);
            let next = (connection.endpoint + 1) % self.settings.endpoints.len();
            self.preferred.store(next, Ordering::Relaxed);
            self.failed.send_if_modified(|failed| {
                let newer = connection.generation > *failed;
                *failed = connection.generation.max(*failed);
                newer
            });
        }
    }

    /// Waits until this connection is reported as failed.
    ///
    /// Cancel safe.
    pub(crate) async fn abandoned(&self, connection: &EndpointConnection) {
        let mut failed = self.failed.subscribe();
        // The sender lives as long as `self`.
        let _ = failed.wait_for(|failed| *failed >= connection.generation).await;
    }

    /// Runs one short call on a connection. A call that fails or is not answered in time fails the
    /// connection, unless the request itself was wrong, or other calls were answered meanwhile: then only
    /// this call is slow.
    ///
    /// The state of a call is some kilobytes, and callers live as long as a candidate: it is on the heap
    /// during the call only.
    pub(crate) fn call<T>(
        &self,
        connection: &EndpointConnection,
        patience: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> impl Future<Output = Result<T, EtcdError>> {
        let call = Box::pin(call);
        async move {
            let asked = Timestamp::now();
            match timeout(patience, call).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(self.judge(connection, EtcdError::from(error))),
                Err(_) => {
                    if connection.answered.load(Ordering::Relaxed) <= asked.as_nanos() {
                        self.failed(connection);
                    }
                    Err(EtcdError::unanswered(patience))
                }
            }
        }
    }

    /// Handles a watch that etcd has cancelled.
    ///
    /// A watch is authorized by its stream's token, which expires; some versions of etcd then report a denied
    /// permission. So this logs in again. If the permission is really denied, the next call other than a
    /// watch shows it: etcd-client renews the token of those by itself.
    pub(crate) async fn watch_cancelled(
        &self,
        connection: &EndpointConnection,
        message: &WatchResponse,
    ) -> EtcdError {
        let error = EtcdError::watch_cancelled(message.cancel_reason());
        if message.compact_revision() > 0 {
            // The member is healthy: the watcher has to read again.
            return error;
        }
        if error.remedy == Remedy::Human || error.message.contains("auth token") {
            let login = self.call(connection, CONNECT_TIMEOUT, connection.client.refresh_token()).await;
            return login.err().unwrap_or(EtcdError::elsewhere(error.message));
        }
        self.blame(connection, &error);
        error
    }

    /// Fails the connection if it caused this error.
    ///
    /// A login that expired and was refused at its renewal does: the password may have changed, and the next
    /// connection logs in with the current one of its file. That refusal is final.
    fn judge(&self, connection: &EndpointConnection, mut error: EtcdError) -> EtcdError {
        if error.is_refused_login() {
            error.remedy = Remedy::Elsewhere;
        }
        self.blame(connection, &error);
        error
    }

    /// Fails the connection if it caused this error.
    pub(crate) fn blame(&self, connection: &EndpointConnection, error: &EtcdError) {
        if error.is_proxy() {
            self.proxies().insert(connection.endpoint);
        }
        match error.remedy {
            Remedy::Elsewhere | Remedy::Unreachable => self.failed(connection),
            Remedy::NewLease | Remedy::Request | Remedy::Human => {}
        }
    }

    /// Returns whether a login that was just refused may succeed later: it succeeded before, and its password
    /// is in a file, which is rewritten after etcd got the new one.
    fn awaits_password(&self) -> bool {
        let was_taken = *self.failed.borrow() > 0;
        let in_file = self.settings.credentials.as_ref().is_some_and(Credentials::may_change);
        let mut refused = self.refused_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *refused.get_or_insert_with(Timestamp::now);
        was_taken && in_file && Timestamp::now().since(since) < PASSWORD_WITHIN
    }

    fn proxies(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        // One insertion: a panic leaves no half of a change.
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<EndpointConnection> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<EndpointConnection>> {
        // No code that can panic runs under this lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to the endpoints in turn, each with a head start, and takes the first.
    async fn race(&self) -> Result<(usize, (SocketAddr, Client)), EtcdError> {
        let count = self.settings.endpoints.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let avoided = *self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = (*self.failed.borrow() == 0).then(|| Arc::clone(&self.looks));
        let index = |turn| (first + turn) % count;
        let connecting = |turn| {
            let (settings, index, looks) = (self.settings.clone(), index(turn), looks.clone());
            let proxy = self.proxies().contains(&index);
            async move {
                if proxy {
                    return Err(EtcdError { remedy: Remedy::Human, ..EtcdError::proxy() });
                }
                connect(&settings, index, avoided, looks).await.map(|connected| (index, connected))
            }
        };
        let raced = race(count, CONNECT_TIMEOUT, connecting).await;
        raced.map_err(|problems| {
            let problems = problems.into_iter().map(|(turn, error)| (index(turn), error));
            self.unreachable(problems.collect())
        })
    }

    fn unreachable(&self, problems: Vec<(usize, EtcdError)>) -> EtcdError {
        // Endpoints that did not answer at all may still accept the login.
        let all = problems.iter().all(|(_, error)| error.remedy == Remedy::Human);
        let login = problems.iter().any(|(_, error)| error.is_refused_login());
        let remedy = match (all, login) {
            (false, _) => Remedy::Unreachable,
            // etcd is reached, and each login costs it more than a call does, so the pauses grow.
            (true, true) if self.awaits_password() => Remedy::Elsewhere,
            (true, _) => Remedy::Human,
        };
        let endpoint = |index: usize| &self.settings.endpoints[index];
        let texts = problems.iter().map(|(index, error)| format!("'{}': {error}", endpoint(*index)));
        EtcdError { remedy, message: texts.collect::<Vec<_>>().join("; ") }
    }
}

/// Earliest time of the next round of connection attempts.
#[derive(Debug, Default)]
struct ConnectRounds {
    next: Option<Instant>,
    /// Error of the last round.
    failure: Option<EtcdError>,
}

impl ConnectRounds {
    fn begin(&mut self) {
        let jitter = Duration::from_millis(fastrand::u64(..JITTER_MS));
        self.next = Some(Instant::now() + ROUND + jitter);
    }

    /// Returns the error for callers between two rounds.
    fn too_soon(&self) -> Option<EtcdError> {
        self.failure.clone().filter(|_| self.next.is_some_and(|next| Instant::now() < next))
    }
}

/// Outcome of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paused {
    Over,
    /// etcd can be reached again.
    Reachable,
}

/// Connects to one endpoint, at the first of its addresses that answers.
async fn connect(
    settings: &Settings,
    index: usize,
    avoided: Option<SocketAddr>,
    looks: Option<Arc<Diagnoses>>,
) -> Result<(SocketAddr, Client), EtcdError> {
    let endpoint = &settings.endpoints[index];
    let addresses = addresses(endpoint, avoided, CONNECT_TIMEOUT).await?;
    let connecting = |turn: usize| {
        let (settings, address, looks) = (settings.clone(), addresses[turn], looks.clone());
        async move { connect_to(&settings, index, address, looks).await.map(|client| (address, client)) }
    };
    let raced = race(addresses.len(), CONNECT_TIMEOUT, connecting).await;
    raced.map_err(|problems| together(&addresses, problems))
}

/// Builds the error of an endpoint none of whose addresses answered.
fn together(addresses: &[SocketAddr], problems: BTreeMap<usize, EtcdError>) -> EtcdError {
    let human = |error: &EtcdError| error.remedy == Remedy::Human;
    let remedy = if problems.values().all(human) { Remedy::Human } else { Remedy::Elsewhere };
    let message = match addresses {
        [_only] => problems.values().map(ToString::to_string).collect(),
        _ => {
            let texts = problems.iter().map(|(turn, error)| format!("{}: {error}", addresses[*turn].ip()));
            texts.collect::<Vec<_>>().join(", ")
        }
    };
    EtcdError { remedy, message }
}

/// Connects to one address of an endpoint and logs in if there are credentials.
async fn connect_to(
    settings: &Settings,
    index: usize,
    address: SocketAddr,
    looks: Option<Arc<Diagnoses>>,
) -> Result<Client, EtcdError> {
    let endpoint = &settings.endpoints[index];
    let dialer = Dialer::new(address);
    let connected = dialer.connected();
    let connecting = async {
        let tls = match &settings.tls {
            Some(tls) => Some(tls.current().await),
            None => None,
        };
        let channel = transport_to(endpoint, tls)?.connect_with_connector(dialer).await?;
        let client = Client::from_channel(Channel::Tonic(channel), Some(options(settings).await)).await?;
        answers(&client).await?;
        Ok(client)
    };
    let answered: Result<Result<_, EtcdError>, _> = timeout(CONNECT_TIMEOUT, connecting).await;
    let error = match answered {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(error)) => error,
        Err(_) => return Err(EtcdError::unanswered(CONNECT_TIMEOUT)),
    };
    if error.remedy != Remedy::Elsewhere || !connected.load(Ordering::Relaxed) {
        return Err(error);
    }
    if let Some(tls) = &settings.tls
        && let Some(refusal) = tls.refusal(endpoint.host(), address).await
        && let Some(refused) = EtcdError::refused_certificate(&refusal)
    {
        return Err(refused);
    }
    let Some(looks) = looks else { return Err(error) };
    let tls = settings.tls.is_some() || endpoint.wants_tls();
    Err(match looks.mismatch(endpoint.host(), address, tls).await {
        Some(hint) => error.with_hint(hint),
        None => error,
    })
}

/// Checks that a living member that knows a leader answers (without one it refuses every request): the kernel
/// of a frozen member still accepts connections. The request itself does not matter, nor whether it is
/// refused.
///
/// Not linearizable: a read that a member can't confirm delays all later ones there, for up to half a second
/// after there is a leader again.
async fn answers(client: &Client) -> Result<(), EtcdError> {
    let options = GetOptions::new().with_serializable().with_keys_only();
    match client.kv_client().get("elect", Some(options)).await.map_err(EtcdError::from) {
        Ok(_) => Ok(()),
        Err(EtcdError { remedy: Remedy::Human | Remedy::Request, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn transport_to(endpoint: &Endpoint, tls: Option<Tls>) -> Result<transport::Endpoint, transport::Error> {
    let speaks_tls = tls.is_some() || endpoint.wants_tls();
    let transport = transport::Endpoint::from_shared(endpoint.uri(speaks_tls))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // A call is always open while it matters, and etcd disconnects idle clients that ping.
        .keep_alive_while_idle(false);
    if speaks_tls { transport.tls_config(tls.unwrap_or_default().client_config()) } else { Ok(transport) }
}

async fn options(settings: &Settings) -> ConnectOptions {
    let options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
    match &settings.credentials {
        Some(credentials) => options.with_user(&*credentials.user, credentials.password().await),
        None => options,
    }
}
