//! The driver's state, published to other threads.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{
    Settings,
    disk::Syncs,
    status::{Evidence, KnownLeader, PeerStatus},
    terms,
    transport::{Network, TransportError},
};
use crate::{
    choosing::CandidateProfile,
    clock::Timestamp,
    leadership::{FencingToken, LeadershipHandle},
    names::displayed,
    observe::QueueHead,
    raft::{
        identity::{Index, NodeId, Term},
        log::TimeOfDay,
        message::{IgnoreReason, IgnoredCounts},
        orders::{StandingOrders, TermStart},
    },
};

/// The state that changes now and then; heartbeats are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedState {
    pub(super) role: &'static str,
    pub(super) term: Term,
    pub(super) standing: bool,
    pub(super) leader: Option<CommittedLeader>,
    /// The committed ones.
    pub(super) orders: Arc<StandingOrders>,
}

/// A leader, by a committed entry of its term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommittedLeader {
    pub(super) who: NodeId,
    pub(super) value: Arc<[u8]>,
    pub(super) token: FencingToken,
    pub(super) since: TimeOfDay,
    pub(super) address: Option<Arc<str>>,
}

/// Written by the driver, read by any thread.
#[derive(Debug)]
pub(super) struct Published {
    settings: Settings,
    seen: watch::Sender<PublishedState>,
    changed: watch::Sender<()>,
    fronts: watch::Sender<Option<QueueHead>>,
    committed: watch::Sender<Index>,
    /// Time when a leader or, as a leader, a majority was last heard, in nanoseconds of the boot-time clock.
    heard: AtomicU64,
    /// This server's own term, if it leads.
    leadership: Mutex<Option<LeadershipHandle>>,
    /// The last terms whose first entries are committed.
    terms: Mutex<Vec<TermStart>>,
    /// The messages that the core ignored.
    refusals: Mutex<IgnoredCounts>,
    /// Weak, because the network asks for this state.
    network: OnceLock<Weak<Network>>,
    syncs: OnceLock<Arc<Syncs>>,
}

impl Published {
    pub(super) fn new(settings: Settings, term: Term, committed: Index) -> Self {
        let (role, orders) = ("follower", Arc::default());
        let seen = PublishedState { role, term, standing: false, leader: None, orders };
        Self {
            settings,
            seen: watch::Sender::new(seen),
            changed: watch::Sender::new(()),
            fronts: watch::Sender::new(None),
            committed: watch::Sender::new(committed),
            heard: AtomicU64::new(Timestamp::now().as_nanos()),
            leadership: Mutex::new(None),
            terms: Mutex::default(),
            refusals: Mutex::default(),
            network: OnceLock::new(),
            syncs: OnceLock::new(),
        }
    }

    /// Connects this with the connections and the disk's measurements.
    pub(super) fn looks_at(&self, network: &Arc<Network>, syncs: &Arc<Syncs>) {
        let _ = self.network.set(Arc::downgrade(network));
        let _ = self.syncs.set(Arc::clone(syncs));
    }

    fn network(&self) -> Option<Arc<Network>> {
        self.network.get().and_then(Weak::upgrade)
    }

    pub(super) fn refused(&self, refusals: &IgnoredCounts) {
        *locked(&self.refusals) = *refusals;
    }

    /// Refused messages and connections, by reason.
    pub(super) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let core = *locked(&self.refusals);
        let network = self.network();
        let by_core = IgnoreReason::ALL.map(|refusal| (refusal.as_str(), core.of(refusal)));
        let met = TransportError::REFUSED
            .map(|error| (error.as_str(), network.as_ref().map_or(0, |network| network.count(error))));
        by_core.into_iter().chain(met).collect()
    }

    pub(super) fn began(&self, terms: Vec<TermStart>) {
        *locked(&self.terms) = terms;
    }

    /// The last terms, in order.
    pub(super) fn terms(&self) -> Vec<TermStart> {
        locked(&self.terms).clone()
    }

    pub(super) fn show(&self, seen: PublishedState) {
        let head = match &seen.leader {
            Some(leader) => QueueHead::Candidate { token: leader.token, name: displayed(&leader.value) },
            None => QueueHead::Empty,
        };
        self.fronts.send_if_modified(|shown| {
            let news = shown.as_ref() != Some(&head);
            *shown = Some(head);
            news
        });
        let news = self.seen.send_if_modified(|shown| {
            let news = *shown != seen;
            *shown = seen;
            news
        });
        if news {
            self.changed.send_replace(());
        }
    }

    pub(super) fn heard(&self, at: Timestamp) {
        self.heard.store(at.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn committed(&self, index: Index) {
        self.committed.send_replace(index);
    }

    pub(super) fn leading(&self, leadership: Option<LeadershipHandle>) {
        *locked(&self.leadership) = leadership;
    }

    /// Time when this server last heard a leader or, as a leader, a majority.
    pub(super) fn last_contact(&self) -> Timestamp {
        Timestamp::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// The server's role in Raft, as last published.
    pub(super) fn role(&self) -> &'static str {
        self.seen.borrow().role
    }

    #[cfg(test)]
    pub(super) fn subscribe(&self) -> watch::Receiver<PublishedState> {
        self.seen.subscribe()
    }

    /// Marked as changed whenever there is something new to see.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn queue_heads(&self) -> watch::Receiver<Option<QueueHead>> {
        let mut fronts = self.fronts.subscribe();
        fronts.mark_changed();
        fronts
    }

    pub(super) fn commits(&self) -> watch::Receiver<Index> {
        self.committed.subscribe()
    }

    /// The tokens in the queue: the leader's. If there is no leader, the time when one was last heard.
    pub(super) fn queue(&self) -> Result<Vec<FencingToken>, Timestamp> {
        match &self.seen.borrow().leader {
            Some(leader) => Ok(vec![leader.token]),
            None => Err(self.last_contact()),
        }
    }

    /// This server's view of the election now.
    pub(super) fn look(&self) -> PeerStatus {
        let now = Timestamp::now();
        let contacts = self.network().map(|network| network.contacts(now)).unwrap_or_default();
        let PublishedState { role, term, standing, leader, orders } = self.seen.borrow().clone();
        PeerStatus {
            name: self.settings.name().clone(),
            term: term.get(),
            role: role.to_owned(),
            standing,
            leader: leader.and_then(|leader| self.known(leader, now)),
            links: contacts,
            timing: Some(*self.settings.timing()),
            syncs: self.syncs.get().map(|syncs| syncs.times()).unwrap_or_default(),
            profile: shown_profile(self.settings.profile()),
            controls: terms::controls(self.settings.group(), &orders),
        }
    }

    /// `None` for this server's own term, if the clock has ended it and the driver does not know yet.
    fn known(&self, leader: CommittedLeader, now: Timestamp) -> Option<KnownLeader> {
        let evidence = if leader.who == self.settings.me() {
            let leadership = locked(&self.leadership);
            let own = leadership.as_ref().filter(|own| own.token() == leader.token)?;
            // The remaining time is read first: if the term still holds after that, it was not zero.
            let certain = own.remaining();
            own.holds().then_some(Evidence::OwnClaim { certain })?
        } else {
            Evidence::Heartbeat { ago: now.since(self.last_contact()) }
        };
        Some(KnownLeader {
            name: self.settings.group().member(leader.who).name.clone(),
            value: displayed(&leader.value),
            token: leader.token,
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(leader.since.0),
            address: leader.address.map(|address| displayed(address.as_bytes())),
            evidence,
        })
    }
}

/// The same, made fit to be shown.
pub(super) fn shown_profile(profile: &CandidateProfile) -> CandidateProfile {
    let shown = |text: &Option<String>| text.as_ref().map(|text| displayed(text.as_bytes()));
    let CandidateProfile { priority, address, zone, version } = profile;
    CandidateProfile {
        priority: *priority,
        address: shown(address),
        zone: shown(zone),
        version: shown(version),
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half way through a change.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
