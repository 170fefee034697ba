//! The status of this process, shared by its threads.
//!
//! The election's loop writes to it, the HTTP thread reads. Each holds the lock only to copy a few words, and
//! nothing is rendered, sent or awaited under it: no client can delay the loop.
//!
//! A [`LeadershipHandle`] tells whether this process leads at the moment of the question. The store never
//! keeps that as a flag.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use leader_election::{
    CandidateName, ElectionName, FencingToken,
    candidate::{Backend, Event},
    clock::Timestamp,
    leadership::LeadershipHandle,
    observe::{LeaderWatch, QueueHead, Snapshot, State as Observed},
    peers::{Peer, PeerStatus, Tls},
};
use tokio::sync::{Notify, watch};

use super::{
    certificates::CertificateExpiry,
    metrics::Metrics,
    snapshot::{
        GroupMeasurements, LastTold, LeaderView, PastTerm, PeerRow, QueuedCandidate, QueuedTokens, Role,
        SnapshotInputs, StatusSnapshot, role, who_leads,
    },
    timeline::Timeline,
};
use crate::{config::AdvertisedAddress, lease_timing::LeaseTiming};

/// A loop that has not ticked for this long is stuck. It ticks once a second.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The shared status. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StatusStore(Arc<StoreInner>);

#[derive(Debug)]
struct StoreInner {
    identity: ServerIdentity,
    sources: Sources,
    started: Timestamp,
    /// Time of the loop's last tick, in nanoseconds of the boot-time clock.
    ticked: AtomicU64,
    state: Mutex<StoreState>,
    changed: watch::Sender<()>,
    /// A client wants names, and one is missing.
    asked: Notify,
    metrics: Metrics,
}

/// This process's candidate and election.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    pub(crate) name: CandidateName,
    pub(crate) election: ElectionName,
    /// The proof of its leadership.
    pub(crate) proof: LeaseTiming,
    /// The address that it advertises.
    pub(crate) address: Option<AdvertisedAddress>,
}

/// Sources that are read for each snapshot. None waits, or sends a request.
pub(crate) struct Sources {
    /// The queue, as the candidate sees it.
    leader_watch: LeaderWatch,
    last_contact: Box<dyn Fn() -> Option<Timestamp> + Send + Sync>,
    /// Knowledge of the other peers; only among peers.
    peers: Option<Box<dyn Fn() -> PeerStatus + Send + Sync>>,
    refused: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    certificates: CertificateExpiry,
}

impl Sources {
    pub(crate) fn of(backend: &impl Backend, election: &ElectionName, tls: Option<&Tls>) -> Self {
        let leader_watch = backend.watch_leader(election);
        let backend = backend.clone();
        let last_contact = Box::new(move || backend.last_contact());
        let certificates = CertificateExpiry::of(tls);
        Self { leader_watch, last_contact, peers: None, refused: Box::new(Vec::new), certificates }
    }

    pub(crate) fn among_peers(peers: &Peer, election: &ElectionName, tls: Option<&Tls>) -> Self {
        let (status, refused) = (peers.clone(), peers.clone());
        Self {
            peers: Some(Box::new(move || status.status())),
            refused: Box::new(move || refused.refusals()),
            ..Self::of(peers, election, tls)
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("fronts", &self.leader_watch).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct StoreState {
    candidate_args: Candidacy,
    healthy: bool,
    /// A key put by hand at the head of the queue.
    blocked_by: Option<String>,
    timeline: Timeline,
    names: Names,
    /// Names of the candidates seen at the head, which needed no request.
    leaders: BTreeMap<FencingToken, String>,
    /// Advertised addresses of other candidates, as far as they were read with the names.
    addresses: BTreeMap<FencingToken, String>,
}

/// The candidate's last event.
#[derive(Debug)]
enum Candidacy {
    Outside,
    Behind(Option<FencingToken>),
    Leads(LeadershipHandle),
}

/// Names by token. `None`: requested, but not available.
type Names = BTreeMap<FencingToken, Option<String>>;

impl StatusStore {
    pub(crate) fn new(identity: ServerIdentity, sources: Sources) -> Self {
        let now = Timestamp::now();
        let state = StoreState {
            candidate_args: Candidacy::Outside,
            healthy: true,
            blocked_by: None,
            timeline: Timeline::default(),
            names: Names::new(),
            leaders: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        Self(Arc::new(StoreInner {
            metrics: Metrics::new(&identity),
            identity,
            sources,
            started: now,
            ticked: AtomicU64::new(now.as_nanos()),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            asked: Notify::new(),
        }))
    }

    /// Records an event of the candidate.
    pub(crate) fn event(&self, event: &Event) {
        let at = SystemTime::now();
        let mut state = self.state();
        match event {
            Event::Campaigning | Event::Retrying { .. } => state.left_the_queue(),
            Event::Following { token } => state.candidate_args = Candidacy::Behind(*token),
            Event::Elected { token, .. } => state.timeline.elected(*token, at),
            Event::Renewed { latency, left, .. } => {
                self.0.metrics.renewed(*latency, *left);
                // Heartbeats come many times a second: they wake no reader.
                if matches!(self.0.identity.proof, LeaseTiming::Heartbeats(_)) {
                    return;
                }
            }
            Event::Lost { token, loss } => {
                self.0.metrics.lost(*loss);
                state.timeline.lost(*token, *loss, at);
                state.lost(*token);
            }
            _ => {}
        }
        drop(state);
        self.changed();
    }

    /// Records that this process leads, for as long as the handle holds.
    pub(crate) fn leading(&self, leadership: LeadershipHandle) {
        let mut state = self.state();
        state.timeline.elected(leadership.token(), SystemTime::now());
        state.candidate_args = Candidacy::Leads(leadership);
        drop(state);
        self.changed();
    }

    /// Records that the election's loop is alive. Called about once a second.
    pub(crate) fn tick(&self) {
        self.0.ticked.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
    }

    /// Records a restart of the command.
    pub(crate) fn restarted(&self) {
        self.0.metrics.restarted();
    }

    /// Records whether the health check passes.
    pub(crate) fn healthy(&self, healthy: bool) {
        self.state().healthy = healthy;
        self.changed();
    }

    /// Records the head of the queue.
    pub(super) fn head(&self, head: &QueueHead) {
        let at = SystemTime::now();
        let queue = self.queue().unwrap_or_default();
        let mut state = self.state();
        let (token, blocked_by) = match head {
            QueueHead::Candidate { token, .. } => (Some(*token), None),
            QueueHead::Foreign(key) | QueueHead::Leased(key) => (None, Some(key.clone())),
            _ => (None, None),
        };
        state.timeline.head(token, at);
        state.blocked_by = blocked_by;
        if let QueueHead::Candidate { token, name } = head {
            state.leaders.insert(*token, name.clone());
            state.forget_names(&queue);
        }
        drop(state);
        if let Some(peer_status) = self.peer_status() {
            self.state().learn(&peer_status);
        }
        self.changed();
    }

    /// Returns a watch of the head of the queue.
    pub(crate) fn leader_watch(&self) -> LeaderWatch {
        self.0.sources.leader_watch.clone()
    }

    /// Returns the tokens of other candidates with this one's name.
    pub(crate) fn namesakes(&self) -> Vec<FencingToken> {
        let mut tokens_of = self.0.sources.leader_watch.tokens_of(self.0.identity.name.as_str());
        let own = self.state().place().token();
        tokens_of.retain(|token| Some(*token) != own);
        tokens_of
    }

    fn peer_status(&self) -> Option<PeerStatus> {
        self.0.sources.peers.as_ref().map(|peers| peers())
    }

    /// Resolves at each change from now on, or once for several quick ones.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    pub(super) fn identity(&self) -> &ServerIdentity {
        &self.0.identity
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn certificates(&self) -> &CertificateExpiry {
        &self.0.sources.certificates
    }

    /// Returns whether the loop has ticked recently, by `now`.
    pub(super) fn is_alive_at(&self, now: Timestamp) -> bool {
        let ticked = Timestamp::from_nanos(self.0.ticked.load(Ordering::Relaxed));
        now.since(ticked) < STUCK_AFTER
    }

    /// Returns this process's role at this moment.
    pub(super) fn role(&self) -> Role {
        // For a leader only the clock counts.
        match self.state().place() {
            place @ LastTold::Leading { .. } => role(place, &Ok(Vec::new())),
            LastTold::Outside => Role::Outside,
            place @ LastTold::Behind { .. } => role(place, &self.queue()),
        }
    }

    /// Returns everything to show, at this moment.
    pub(super) fn snapshot(&self) -> StatusSnapshot {
        let queue = self.queue();
        let unheard = self.unheard();
        let peer_status = self.peer_status();
        let proof = self.0.identity.proof;
        let mut state = self.state();
        if let Some(peer_status) = &peer_status {
            state.learn(peer_status);
        }
        let state = state;
        let place = state.place();
        let role = role(place, &queue);
        let is_own = |token| state.timeline.is_own(token) || role.token() == Some(token);
        let blocked_by = state.blocked_by.as_deref();
        let first_is_own = queue.as_ref().ok().and_then(|queue| queue.first()).copied().is_some_and(is_own);
        let leads =
            who_leads(&SnapshotInputs { role, queue: &queue, blocked_by, unheard, proof, first_is_own });
        let name =
            |token| if is_own(token) { Some(self.0.identity.name.to_string()) } else { state.name(token) };
        let own_address = || self.0.identity.address.as_ref().map(ToString::to_string);
        let address =
            |token| if is_own(token) { own_address() } else { state.addresses.get(&token).cloned() };
        let (leader, leads_since, leader_address) = match leads {
            LeaderView::Term(token) => {
                (name(token), state.timeline.term(token).and_then(|term| term.began), address(token))
            }
            LeaderView::Vacant { .. } | LeaderView::Unknown { .. } => (None, None, None),
        };
        let named =
            |token| QueuedCandidate { token: Some(token), name: name(token), address: address(token) };
        let waits = matches!(role, Role::Follower { token: None, .. });
        let own_name = || self.0.identity.name.to_string();
        let own =
            waits.then(|| QueuedCandidate { token: None, name: Some(own_name()), address: own_address() });
        let measured = peer_status.as_ref().map(|peer_status| GroupMeasurements {
            syncs: peer_status.syncs.clone(),
            advice: peer_status.timing_advice(),
        });
        let servers = peer_status.map(|peer_status| servers(peer_status, own_name(), role, &leads));
        let terms = state.timeline.terms();
        let terms = terms.map(|(token, term)| PastTerm { token, name: name(token), term: term.clone() });
        StatusSnapshot {
            at: SystemTime::now(),
            role,
            leads,
            leads_since,
            leader,
            address: leader_address,
            queue: queue.ok().map(|queue| queue.into_iter().map(named).chain(own).collect()),
            servers,
            measured,
            refused: (self.0.sources.refused)(),
            unheard,
            fresh: unheard <= proof.out_of_touch_after(),
            healthy: state.healthy,
            terms: terms.collect(),
        }
    }

    /// Requests missing names for a client. Returns whether a name is missing.
    pub(super) fn request_names(&self) -> bool {
        if self.0.sources.peers.is_some() {
            // A peer knows the leader's name with its token, or neither.
            return false;
        }
        let missing = self.missing_names().is_some();
        if missing {
            self.0.asked.notify_one();
        }
        missing
    }

    /// Waits until a client wants names and one is missing; returns the queue that has it.
    pub(super) async fn names_to_ask(&self) -> Vec<FencingToken> {
        loop {
            self.0.asked.notified().await;
            if let Some(queue) = self.missing_names() {
                return queue;
            }
        }
    }

    /// Records etcd's names for this queue, which was seen before the request.
    pub(super) fn named(&self, queue: &[FencingToken], snapshot: &Snapshot) {
        let mut state = self.state();
        for queued in &snapshot.candidates {
            if let Some(token) = queued.token {
                state.names.insert(token, Some(queued.name.clone()));
            }
        }
        // This key is not a candidate's, or is gone by now, or is too far behind: it is not requested again.
        for token in queue {
            state.names.entry(*token).or_default();
        }
        if let Observed::Leader(leader) = &snapshot.observation.state {
            if let Some(since) = leader.since {
                state.timeline.announced(leader.token, since);
            }
            if let Some(address) = &leader.address {
                state.addresses.insert(leader.token, address.clone());
            }
        }
        state.forget_names(queue);
        drop(state);
        self.changed();
    }

    /// Returns the queue, if it is known and a name in it is missing.
    fn missing_names(&self) -> Option<Vec<FencingToken>> {
        let queue = self.queue().ok()?;
        let state = self.state();
        let is_own = |token| state.timeline.is_own(token) || state.place().token() == Some(token);
        let missing = queue.iter().any(|token| !is_own(*token) && !state.names.contains_key(token));
        missing.then_some(queue)
    }

    fn queue(&self) -> QueuedTokens {
        self.0.sources.leader_watch.queue().map_err(|since| Timestamp::now().since(since))
    }

    fn unheard(&self) -> Duration {
        let last_contact = (self.0.sources.last_contact)().unwrap_or(self.0.started);
        Timestamp::now().since(last_contact)
    }

    fn changed(&self) {
        self.0.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        // No change in here can panic half way.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreState {
    fn place(&self) -> LastTold {
        match &self.candidate_args {
            Candidacy::Outside => LastTold::Outside,
            Candidacy::Behind(token) => LastTold::Behind { token: *token },
            Candidacy::Leads(claim) => {
                // The remaining time first: if the claim still holds after that, it was more than zero.
                let remaining = claim.remaining();
                LastTold::Leading { token: claim.token(), remaining: claim.holds().then_some(remaining) }
            }
        }
    }

    /// An attempt began or failed. The claim reports a term that lasts.
    fn left_the_queue(&mut self) {
        if !matches!(&self.candidate_args, Candidacy::Leads(claim) if claim.holds()) {
            self.candidate_args = Candidacy::Outside;
        }
    }

    /// Records that this term ended; a later one may have begun.
    fn lost(&mut self, token: FencingToken) {
        if matches!(&self.candidate_args, Candidacy::Leads(claim) if claim.token() <= token) {
            self.candidate_args = Candidacy::Outside;
        }
    }

    fn name(&self, token: FencingToken) -> Option<String> {
        self.names.get(&token).cloned().flatten().or_else(|| self.leaders.get(&token).cloned())
    }

    /// Records a peer's knowledge of its leader.
    fn learn(&mut self, peer_status: &PeerStatus) {
        let Some(leader) = &peer_status.leader else { return };
        if self.names.get(&leader.token).and_then(Option::as_ref) != Some(&leader.value) {
            self.names.insert(leader.token, Some(leader.value.clone()));
            self.forget_names(&[leader.token]);
        }
        self.timeline.announced(leader.token, leader.since);
        if let Some(address) = &leader.address {
            self.addresses.insert(leader.token, address.clone());
        }
    }

    /// Keeps the names of the queue and of past terms only.
    fn forget_names(&mut self, queue: &[FencingToken]) {
        let wanted: BTreeSet<_> =
            queue.iter().copied().chain(self.timeline.terms().map(|(token, _)| token)).collect();
        self.names.retain(|token, _| wanted.contains(token));
        self.leaders.retain(|token, _| wanted.contains(token));
        self.addresses.retain(|token, _| wanted.contains(token));
    }
}

/// Returns all servers of a group, sorted by name.
fn servers(peer_status: PeerStatus, own: String, role: Role, leads: &LeaderView) -> Vec<PeerRow> {
    let known = peer_status.leader.filter(|leader| *leads == LeaderView::Term(leader.token));
    let leader = known.map(|leader| leader.name.to_string());
    let others = peer_status.links.into_iter().map(|contact| PeerRow {
        leads: leader.as_deref() == Some(contact.name.as_str()),
        name: contact.name.to_string(),
        own: false,
        connected: contact.connected,
        heard: contact.heard,
        round_trip: contact.round_trip,
        problem: contact.problem,
    });
    let own = PeerRow {
        // For this server the clock decides.
        leads: matches!(role, Role::Leader { .. }),
        name: own,
        own: true,
        connected: true,
        heard: Some(Duration::ZERO),
        round_trip: None,
        problem: None,
    };
    let mut servers: Vec<_> = others.chain([own]).collect();
    servers.sort_by(|one, other| one.name.cmp(&other.name));
    servers
}

#[cfg(test)]
mod tests {
    use leader_election::{
        Loss,
        etcd::{Etcd, Expiry, Settings},
        peers::{Evidence as Known, KnownLeader, PeerLink, SyncTimes, Timing},
        timing::Ttl,
    };
    use tokio::runtime::Handle;

    use super::*;
    use crate::status::metrics::Form;

    /// A store of a process that never reached etcd.
    fn store() -> StatusStore {
        let nowhere = Settings::new(["127.0.0.1:1".parse().unwrap()]).unwrap();
        let etcd = Etcd::start_on(Handle::current(), nowhere);
        let identity = identity(LeaseTiming::Lease(Ttl::DEFAULT));
        let sources = Sources::of(&etcd, &identity.election, None);
        StatusStore::new(identity, sources)
    }

    fn identity(proof: LeaseTiming) -> ServerIdentity {
        let address = Some("host1:8443".parse().unwrap());
        ServerIdentity {
            name: "server1".parse().unwrap(),
            election: "leader".parse().unwrap(),
            proof,
            address,
        }
    }

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number)
    }

    fn retrying() -> Event {
        Event::Retrying { problem: "no".into(), unreachable: true, pause: Duration::ZERO }
    }

    fn elected(number: u64) -> Event {
        Event::Elected { token: token(number), until: Timestamp::now() + Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn a_loop_that_does_not_tick_is_not_alive_and_one_that_ticks_again_is() {
        let store = store();
        let later = Timestamp::now() + STUCK_AFTER;
        assert!(store.is_alive_at(Timestamp::now()));
        assert!(!store.is_alive_at(later + STUCK_AFTER));
        store.tick();
        assert!(store.is_alive_at(later - Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn a_failed_attempt_is_no_place_in_the_queue() {
        let store = store();
        assert_eq!(store.role(), Role::Outside);
        store.event(&Event::Following { token: Some(token(5)) });
        assert_eq!(store.role(), Role::Follower { token: Some(token(5)), place: None });
        store.event(&retrying());
        assert_eq!(store.role(), Role::Outside);
        store.event(&Event::Following { token: Some(token(9)) });
        store.event(&Event::Campaigning);
        assert_eq!(store.role(), Role::Outside);
    }

    #[tokio::test]
    async fn an_event_alone_makes_no_leader() {
        let store = store();
        store.event(&elected(5));
        assert!(!matches!(store.role(), Role::Leader { .. }), "only a claim can be asked");
        assert_eq!(store.snapshot().terms[0].name.as_deref(), Some("server1"));
    }

    #[tokio::test]
    async fn a_sick_server_is_not_ready() {
        let store = store();
        store.event(&Event::Following { token: Some(token(5)) });
        assert!(store.snapshot().is_ready());
        store.healthy(false);
        assert!(!store.snapshot().is_ready());
    }

    #[tokio::test]
    async fn each_change_is_sent_and_counted() {
        let store = store();
        let mut changes = store.changes();
        for event in [elected(5), Event::Lost { token: token(5), loss: Loss::Revoked }, retrying()] {
            store.event(&event);
            assert!(changes.has_changed().unwrap(), "{event:?}");
            changes.mark_unchanged();
        }
        store.restarted();
        let text = store.metrics().text(&store.snapshot(), Expiry::default(), Form::OpenMetrics);
        assert!(text.contains("elect_terms_lost_total{reason=\"revoked\"} 1\n"), "{text}");
        assert!(text.contains("elect_command_restarts_total 1\n"), "{text}");
    }

    #[tokio::test]
    async fn a_past_leader_keeps_its_name_without_a_request() {
        let store = store();
        for (number, name) in [(5, "server2"), (9, "server3")] {
            store.head(&QueueHead::Candidate { token: token(number), name: name.into() });
        }
        let terms = store.snapshot().terms;
        let names: Vec<_> = terms.iter().map(|term| term.name.as_deref()).collect();
        assert_eq!(names, [Some("server3"), Some("server2")]);
    }

    #[tokio::test]
    async fn names_are_kept_only_of_the_queue_and_of_past_terms() {
        let store = store();
        for number in 0..500 {
            let queue = [token(number), token(number + 1000)];
            let leader = format!("server{number}");
            let queued = leader_election::observe::Queued::new(leader.clone(), Some(token(number)));
            let candidates = vec![queued];
            let state = Observed::Vacant { blocked_by: None };
            let observation = leader_election::observe::Observation::new(SystemTime::now(), state);
            store.head(&QueueHead::Candidate { token: token(number), name: leader.clone() });
            store.named(&queue, &Snapshot::new(observation, candidates));
        }
        assert!(store.state().names.len() < 60, "{}", store.state().names.len());
        assert_eq!(store.snapshot().terms[0].name.as_deref(), Some("server499"));
        assert!(store.state().names.contains_key(&token(1499)), "asked for, and not to be had");
    }

    /// Two of a millisecond, and one of 30.
    fn syncs() -> SyncTimes {
        let mut syncs = SyncTimes::default();
        (syncs.last, syncs.worst) = (Duration::from_millis(1), Duration::from_millis(30));
        syncs.total = Duration::from_millis(32);
        (syncs.counts[2], syncs.counts[7]) = (2, 1);
        syncs
    }

    /// Status of server1 of three while server2 leads, and server3 is gone.
    fn status_of_server1() -> PeerStatus {
        let link = |name: &str, connected: bool| {
            let mut link = PeerLink::new(name.parse().unwrap());
            (link.connected, link.heard) = (connected, Some(Duration::from_millis(20)));
            link.round_trip = connected.then(|| Duration::from_micros(100_250));
            link.problem = (!connected).then(|| "connection refused".into());
            link
        };
        let evidence = Known::Heartbeat { ago: Duration::from_millis(20) };
        let mut leader = KnownLeader::new("server2".parse().unwrap(), token(7), evidence);
        leader.value = "server2, proclaimed".into();
        let mut status = PeerStatus::new("server1".parse().unwrap());
        (status.term, status.standing, status.leader) = (7, true, Some(leader));
        status.links = vec![link("server3", false), link("server2", true)];
        (status.timing, status.syncs) = (Some(Timing::DEFAULT), syncs());
        status
    }

    /// A store among peers, with the given head and peer status.
    fn store_among_peers() -> StatusStore {
        // etcd's sources, in place of a group's: only the head is used, and it never changes.
        let nowhere = Settings::new(["127.0.0.1:1".parse().unwrap()]).unwrap();
        let etcd = Etcd::start_on(Handle::current(), nowhere);
        let identity = identity(LeaseTiming::Heartbeats(Timing::DEFAULT));
        let sources = Sources {
            last_contact: Box::new(|| Some(Timestamp::now())),
            peers: Some(Box::new(status_of_server1)),
            refused: Box::new(|| vec![("malformed", 3)]),
            ..Sources::of(&etcd, &identity.election, None)
        };
        StatusStore::new(identity, sources)
    }

    #[tokio::test]
    async fn among_peers_the_leader_has_a_name_without_a_request() {
        let store = store_among_peers();
        store.head(&QueueHead::Candidate { token: token(7), name: "server2, proclaimed".into() });
        let snapshot = store.snapshot();
        assert_eq!(snapshot.terms[0].name.as_deref(), Some("server2, proclaimed"));
        assert_eq!(snapshot.terms[0].term.began, Some(SystemTime::UNIX_EPOCH), "by its own word");
        assert!(!store.request_names(), "there are no names to request");
    }

    #[test]
    fn among_peers_every_server_is_shown_and_one_leads() {
        let follower = Role::Follower { token: None, place: None };
        let shown = |role, leads: &LeaderView| {
            let servers = servers(status_of_server1(), "server1".into(), role, leads);
            servers.into_iter().map(|peer| (peer.name, peer.connected, peer.leads)).collect::<Vec<_>>()
        };
        let server = |number, connected, leads| (format!("server{number}"), connected, leads);
        let three = shown(follower, &LeaderView::Term(token(7)));
        assert_eq!(three, [server(1, true, false), server(2, true, true), server(3, false, false)]);
        // Unknown states are not repeated.
        let three = shown(follower, &LeaderView::Unknown { since: Duration::ZERO, problem: "" });
        assert!(three.iter().all(|(_, _, leads)| !leads));
        // Elected since: the report on the leader before it does not count.
        let leader = Role::Leader { token: token(8), remaining: Duration::from_millis(100) };
        let three = shown(leader, &LeaderView::Term(token(8)));
        assert_eq!(three, [server(1, true, true), server(2, true, false), server(3, false, false)]);
    }

    #[tokio::test]
    async fn a_heartbeat_is_counted_and_wakes_no_reader() {
        let store = store_among_peers();
        let mut changes = store.changes();
        changes.mark_unchanged();
        let (latency, left) = (Duration::from_millis(1), Duration::from_millis(170));
        store.event(&Event::Renewed { token: token(7), until: Timestamp::now(), latency, left });
        assert!(!changes.has_changed().unwrap());
        let text = store.metrics().text(&store.snapshot(), Expiry::default(), Form::OpenMetrics);
        assert!(text.contains("elect_renewals_total 1\n"), "{text}");
        assert!(text.contains("elect_peer_connected{peer=\"server3\"} 0\n"), "{text}");
        assert!(text.contains("elect_peer_connected{peer=\"server2\"} 1\n"), "{text}");
        for line in [
            "elect_peer_round_trip_seconds{peer=\"server2\"} 0.10025",
            "elect_disk_sync_seconds_sum 0.032",
            "elect_disk_sync_seconds_count 3",
            "elect_disk_sync_seconds_bucket{le=\"0.0005\"} 0",
            "elect_disk_sync_seconds_bucket{le=\"0.001\"} 2",
            "elect_disk_sync_seconds_bucket{le=\"0.05\"} 3",
            "elect_disk_sync_seconds_bucket{le=\"+Inf\"} 3",
            "elect_election_timeout_advised_seconds 0.45",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line} is not in {text}");
        }
        assert!(!text.contains("round_trip_seconds{peer=\"server3\"}"), "it is not known: {text}");
        let again = store.metrics().text(&store.snapshot(), Expiry::default(), Form::OpenMetrics);
        assert!(again.contains("elect_peer_refusals_total{reason=\"malformed\"} 3\n"), "{again}");
    }
}
