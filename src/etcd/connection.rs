//! One connection at a time, to one member, and another one as soon as it fails.
//!
//! etcd-client can balance over several endpoints, but it does not eject a bad one: with
//! one of three members frozen, a third of all calls hang. So each client here has one
//! endpoint, and failing over is ours:
//!
//! * whoever has trouble with a link says so ([`ConnectionPool::failed`]), and everybody moves, except
//!   renewals that are still answered on the old one;
//! * the next one is raced for: an endpoint that doesn't answer within 250 ms gets
//!   company from the one after it, and the first to answer is taken. Each address of a host name is an
//!   endpoint of its own, and names are looked up at each connection;
//! * a connection counts once a member that knows a leader has answered over it. So while etcd can't serve,
//!   nobody here asks it anything but that, four times a second at most, and everybody goes on the moment it
//!   can;
//! * no channel has a timeout of its own, for it would cut off a standby's `Campaign`.
//!   Each call that should be short is timed by its caller. Pings on the HTTP/2 level find
//!   connections that fell silent under calls that may be long.

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
    watches::{Watch, Watches},
};
use crate::{clock::Timestamp, tls::Tls};

mod dial;
mod race;

/// Between two rounds of attempts to connect: four a second, and not those of all processes at once.
const ROUND: Duration = Duration::from_millis(250);
const JITTER_MS: u64 = 20;

/// How long connecting, and logging in, may take at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// From etcd's being told of a new password to the file's having it (boot-time clock).
const PASSWORD_WITHIN: Duration = Duration::from_secs(60);

/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer read. A value may have 1.5 MiB by etcd's own limit, and anybody may put
/// some of those under the election's prefix.
const LARGEST_ANSWER: usize = 64 << 20;

/// A connection to one member of etcd, with a client on it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EndpointConnection {
    /// Which is a client for each of etcd's services: kilobytes.
    client: Arc<Client>,
    generation: u64,
    endpoint: usize,
    address: SocketAddr,
    watches: Arc<Watches>,
    /// When etcd's consensus was last heard through it, in nanoseconds of the boot-time clock.
    answered: Arc<AtomicU64>,
}

impl EndpointConnection {
    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
    }

    pub(crate) fn watcher(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Watches all keys with this prefix, over a stream that is shared with others.
    pub(crate) async fn watch(&self, prefix: String) -> Result<Watch, etcd_client::Error> {
        self.watches.watch(|| self.watcher(), prefix).await
    }

    pub(crate) fn leases(&self) -> LeaseClient {
        self.client.lease_client()
    }

    /// Notes that an answer came by it which took the whole of etcd. (A renewal's does not count:
    /// a member whose own store hangs goes on forwarding those.)
    pub(crate) fn answered(&self) {
        self.answered.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
    }
}

/// All the endpoints, and the link in use.
pub(crate) struct ConnectionPool {
    settings: Settings,
    /// The endpoint to try first.
    preferred: AtomicUsize,
    connecting: tokio::sync::Mutex<ConnectRounds>,
    current: Mutex<Option<EndpointConnection>>,
    /// The address that failed last: of the addresses of a name it is tried after the others.
    avoided: Mutex<Option<SocketAddr>>,
    /// The newest generation that has failed.
    failed: watch::Sender<u64>,
    /// Until there was a connection: what breaks later is not the configuration, and an etcd that comes back is not
    /// to be asked by more connections than one a round.
    looks: Arc<Diagnoses>,
    /// Endpoints that are no members of etcd. They stay that until this process is started anew.
    proxies: Mutex<BTreeSet<usize>>,
    /// Since when logins are refused that were taken before.
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

    /// The link in use, made if there is none.
    pub(crate) async fn link(&self) -> Result<EndpointConnection, EtcdError> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let mut rounds = self.connecting.lock().await;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        if let Some(trouble) = rounds.too_soon() {
            return Err(trouble);
        }
        if let Some(next) = rounds.next {
            sleep_until(next).await;
        }
        rounds.begin();
        let generation = *self.failed.borrow() + 1;
        let (endpoint, (address, client)) =
            self.race().await.inspect_err(|trouble| rounds.failure = Some(trouble.clone()))?;
        rounds.failure = None;
        let answered = Arc::new(AtomicU64::new(Timestamp::now().as_nanos()));
        let (client, watches) = (Arc::new(client), Arc::default());
        let link = EndpointConnection { client, generation, endpoint, address, watches, answered };
        *self.lock() = Some(link.clone());
        *self.refused_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::debug!(endpoint = %self.settings.endpoints[endpoint], %address, generation, "connected to etcd");
        Ok(link)
    }

    /// Waits before another attempt. Where etcd could not be reached, only until it can be.
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
            // A round that was begun goes on to its end: the next would have to wait for its time.
            if self.link().await.is_ok() {
                return Paused::Reachable;
            }
            if Instant::now() >= over {
                return Paused::Over;
            }
            // The next round is begun by whoever comes first.
            sleep_until(over.min(Instant::now() + ROUND / 10)).await;
        }
    }

    /// Whether another link is in use, and this one was said to be no good.
    pub(crate) fn has_moved_on_from(&self, link: &EndpointConnection) -> bool {
        self.lock().as_ref().is_some_and(|current| current.generation > link.generation)
    }

    /// Says that a link is no good. Everybody who uses it moves on.
    pub(crate) fn failed(&self, link: &EndpointConnection) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|current| current.generation == link.generation) {
            *current = None;
            *self.avoided.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.address);
            let next = (link.endpoint + 1) % self.settings.endpoints.len();
            self.preferred.store(next, Ordering::Relaxed);
            self.failed.send_if_modified(|failed| {
                let newer = link.generation > *failed;
                *failed = link.generation.max(*failed);
                newer
            });
        }
    }

    /// Waits until somebody says that this link is no good.
    ///
    /// Cancel safe.
    pub(crate) async fn abandoned(&self, link: &EndpointConnection) {
        let mut failed = self.failed.subscribe();
        // The sender lives as long as `self`.
        let _ = failed.wait_for(|failed| *failed >= link.generation).await;
    }

    /// Runs one short call on a link. A call that fails, or is not answered in time, fails
    /// the link, unless the failure was the caller's own, or others were answered meanwhile:
    /// then this call is slow, and not the link.
    ///
    /// The state of a call is some kilobytes, and callers live for as long as a candidate does: it is
    /// on the heap while the call lasts, and not in all of them for ever.
    pub(crate) fn call<T>(
        &self,
        link: &EndpointConnection,
        patience: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> impl Future<Output = Result<T, EtcdError>> {
        let call = Box::pin(call);
        async move {
            let asked = Timestamp::now();
            match timeout(patience, call).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(self.judge(link, EtcdError::from(error))),
                Err(_) => {
                    if link.answered.load(Ordering::Relaxed) <= asked.as_nanos() {
                        self.failed(link);
                    }
                    Err(EtcdError::unanswered(patience))
                }
            }
        }
    }

    /// What to do about a watch that etcd has cancelled.
    ///
    /// A watch is allowed by the token that its stream was opened with, and that runs out; some
    /// versions of etcd then speak of a permission denied. So log in again. Whether it really
    /// is denied, the next call that is not a watch says, and etcd-client renews that one's
    /// token by itself.
    pub(crate) async fn watch_cancelled(
        &self,
        link: &EndpointConnection,
        message: &WatchResponse,
    ) -> EtcdError {
        let trouble = EtcdError::watch_cancelled(message.cancel_reason());
        if message.compact_revision() > 0 {
            // The member is fine: it is for the watcher to read again.
            return trouble;
        }
        if trouble.remedy == Remedy::Human || trouble.message.contains("auth token") {
            let login = self.call(link, CONNECT_TIMEOUT, link.client.refresh_token()).await;
            return login.err().unwrap_or(EtcdError::elsewhere(trouble.message));
        }
        self.blame(link, &trouble);
        trouble
    }

    /// Fails the link if this trouble was the link's fault.
    ///
    /// Where it was that the login ran out and was refused when it was renewed, it is: the password may have changed, and
    /// the next connection logs in with the one that its file has by then. That refusal is final.
    fn judge(&self, link: &EndpointConnection, mut trouble: EtcdError) -> EtcdError {
        if trouble.is_refused_login() {
            trouble.remedy = Remedy::Elsewhere;
        }
        self.blame(link, &trouble);
        trouble
    }

    /// Fails the link if this trouble was the link's fault.
    pub(crate) fn blame(&self, link: &EndpointConnection, trouble: &EtcdError) {
        if trouble.is_proxy() {
            self.proxies().insert(link.endpoint);
        }
        match trouble.remedy {
            Remedy::Elsewhere | Remedy::Unreachable => self.failed(link),
            Remedy::NewLease | Remedy::Request | Remedy::Human => {}
        }
    }

    /// Whether a login that was refused just now may be taken yet: it was taken before, and its password is in a file,
    /// which is written again after etcd was told of a new one.
    fn awaits_password(&self) -> bool {
        let was_taken = *self.failed.borrow() > 0;
        let in_file = self.settings.credentials.as_ref().is_some_and(Credentials::may_change);
        let mut refused = self.refused_since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *refused.get_or_insert_with(Timestamp::now);
        was_taken && in_file && Timestamp::now().since(since) < PASSWORD_WITHIN
    }

    fn proxies(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        // One insertion, whole by itself.
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<EndpointConnection> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<EndpointConnection>> {
        // Nothing can panic while it is held, and a link is whole or not there.
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
            let problems = problems.into_iter().map(|(turn, trouble)| (index(turn), trouble));
            self.unreachable(problems.collect())
        })
    }

    fn unreachable(&self, problems: Vec<(usize, EtcdError)>) -> EtcdError {
        // Endpoints that did not answer at all may yet let us in.
        let all = problems.iter().all(|(_, trouble)| trouble.remedy == Remedy::Human);
        let login = problems.iter().any(|(_, trouble)| trouble.is_refused_login());
        let remedy = match (all, login) {
            (false, _) => Remedy::Unreachable,
            // It is reached; and each login costs it more than a call does, so the pauses get longer.
            (true, true) if self.awaits_password() => Remedy::Elsewhere,
            (true, _) => Remedy::Human,
        };
        let endpoint = |index: usize| &self.settings.endpoints[index];
        let said = problems.iter().map(|(index, trouble)| format!("'{}': {trouble}", endpoint(*index)));
        EtcdError { remedy, message: said.collect::<Vec<_>>().join("; ") }
    }
}

/// When there may be another round of attempts to connect.
#[derive(Debug, Default)]
struct ConnectRounds {
    next: Option<Instant>,
    /// How the last one failed.
    failure: Option<EtcdError>,
}

impl ConnectRounds {
    fn begin(&mut self) {
        let jitter = Duration::from_millis(fastrand::u64(..JITTER_MS));
        self.next = Some(Instant::now() + ROUND + jitter);
    }

    /// The answer to those who ask between two rounds.
    fn too_soon(&self) -> Option<EtcdError> {
        self.failure.clone().filter(|_| self.next.is_some_and(|next| Instant::now() < next))
    }
}

/// How a pause ended.
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

/// What is to be said of an endpoint none of whose addresses answered.
fn together(addresses: &[SocketAddr], problems: BTreeMap<usize, EtcdError>) -> EtcdError {
    let human = |trouble: &EtcdError| trouble.remedy == Remedy::Human;
    let remedy = if problems.values().all(human) { Remedy::Human } else { Remedy::Elsewhere };
    let message = match addresses {
        [_only] => problems.values().map(ToString::to_string).collect(),
        _ => {
            let said = problems.iter().map(|(turn, trouble)| format!("{}: {trouble}", addresses[*turn].ip()));
            said.collect::<Vec<_>>().join(", ")
        }
    };
    EtcdError { remedy, message }
}

/// Connects to one address of an endpoint and, where there are credentials, logs in.
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
    let trouble = match answered {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(trouble)) => trouble,
        Err(_) => return Err(EtcdError::unanswered(CONNECT_TIMEOUT)),
    };
    if trouble.remedy != Remedy::Elsewhere || !connected.load(Ordering::Relaxed) {
        return Err(trouble);
    }
    if let Some(tls) = &settings.tls
        && let Some(refusal) = tls.refusal(endpoint.host(), address).await
        && let Some(refused) = EtcdError::refused_certificate(&refusal)
    {
        return Err(refused);
    }
    let Some(looks) = looks else { return Err(trouble) };
    let tls = settings.tls.is_some() || endpoint.wants_tls();
    Err(match looks.mismatch(endpoint.host(), address, tls).await {
        Some(hint) => trouble.with_hint(hint),
        None => trouble,
    })
}

/// Whether there is a living member behind a connection, and one that knows a leader (without one it
/// refuses whatever we ask): the kernel of a frozen one goes on accepting them. What is asked does not
/// matter, nor whether it is refused for us.
///
/// Not linearizably: a read that a member can't have confirmed keeps all that come after it waiting there,
/// for up to half a second after there is a leader again.
async fn answers(client: &Client) -> Result<(), EtcdError> {
    let options = GetOptions::new().with_serializable().with_keys_only();
    match client.kv_client().get("elect", Some(options)).await.map_err(EtcdError::from) {
        Ok(_) => Ok(()),
        Err(EtcdError { remedy: Remedy::Human | Remedy::Request, .. }) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}

fn transport_to(endpoint: &Endpoint, tls: Option<Tls>) -> Result<transport::Endpoint, transport::Error> {
    let speaks_tls = tls.is_some() || endpoint.wants_tls();
    let transport = transport::Endpoint::from_shared(endpoint.uri(speaks_tls))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // Some call is always open while it matters, and etcd hangs up on idle pings.
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
