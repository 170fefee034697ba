//! The system among peers: only an observer, which asks each peer as `elect status --peers` does.
//!
//! It observes from the hub, unaffected by faults between hosts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leader_election::peers::{Answered, Client, Evidence, KnownLeader};
use tokio::time::{sleep, timeout};

use super::{ElectionState, System};
use crate::{
    backend::Backend,
    candidates,
    history::{At, Event, EventKind},
    impostor::{Impostor, Outcome},
    nemesis::Fault,
    programs::ELECTION,
    testbed::{Host, Hub, Testbed},
};

/// Time limit for one round of questions, to members that may not answer: a part of an election's time.
const PATIENCE: Duration = Duration::from_millis(300);

/// Number of a stranger's calls.
const CALLS: usize = 20;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Time limit at the end, when all of them should answer.
const PATIENCE_AT_LAST: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct PeersSystem {
    hub: Hub,
    client: Client,
    sight: Arc<Mutex<ElectionState>>,
    noted: Arc<Mutex<Vec<Event>>>,
    /// Names and addresses, for a stranger's calls.
    members: Vec<(String, String)>,
    /// The list of members, as the members have it.
    list: String,
    /// Strangers that a member believed.
    believed: Arc<Mutex<Vec<String>>>,
}

impl PeersSystem {
    pub(super) fn open(testbed: &Arc<Mutex<Testbed>>) -> Self {
        let (client, members, list) = {
            let testbed = testbed.lock().unwrap_or_else(PoisonError::into_inner);
            let candidates = Backend::Peers.candidates().iter().enumerate();
            // Their real addresses: the proxies between peers are not for the observer.
            let members: Vec<(String, String)> = candidates
                .map(|(place, (name, _))| {
                    ((*name).to_owned(), testbed.addresses(Host::Candidate(place)).peer)
                })
                .collect();
            let group: Vec<String> = members.iter().map(|(name, at)| format!("{name}={at}")).collect();
            let group = group.join(",").parse().expect("a group");
            let client = Client::new(group, ELECTION.parse().expect("a name"), None);
            (client.expect("no TLS, nothing wrong with it"), members, candidates::peers(&testbed))
        };
        let hub = Hub::start(testbed, "eye");
        let (sight, noted, believed) = (Arc::default(), Arc::default(), Arc::default());
        let eye = Self { hub, client, sight, noted, members, list, believed };
        eye.hub.spawn(eye.clone().look_on());
        eye
    }

    async fn look_on(self) {
        loop {
            let looks = self.client.statuses(PATIENCE).await;
            {
                let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
                sight.looks += 1;
                sight.there = there(&looks);
                if let Some(known) = newest(&looks) {
                    sight.leader = Some(known.name.to_string());
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl System for PeersSystem {
    fn sight(&self) -> ElectionState {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn strike(&self, fault: Fault, whom: &str) {
        let Fault::Stranger(_) = fault else { return };
        for (_, address) in self.members.iter().filter(|(name, _)| name != whom) {
            let impostor = Impostor {
                address: address.clone(),
                name: whom.to_owned(),
                directory: vec![0; 16],
                members: self.list.clone(),
                secret: true,
                tls: None,
            };
            let believed = Arc::clone(&self.believed);
            self.hub.spawn(async move {
                for _ in 0..CALLS {
                    if let Ok(Outcome::Believed(_)) = timeout(PATIENCE, impostor.call()).await {
                        let told = format!("{impostor:?}");
                        believed.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                    }
                }
            });
        }
    }

    fn note_who_is_there(&self) {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(believed.is_empty(), "strangers were taken for members: {believed:#?}");
        drop(believed);
        let client = self.client.clone();
        let names = there(&self.hub.wait(async move { client.statuses(PATIENCE_AT_LAST).await }));
        let event = Event { at: At::now(), what: EventKind::Queue { names } };
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn events(&self) -> Vec<Event> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The newest leader known to any member; its own claim takes precedence.
fn newest(looks: &[Answered]) -> Option<&KnownLeader> {
    let known = looks.iter().filter_map(|answered| answered.status.as_ref().ok()?.leader.as_ref());
    known.max_by_key(|known| {
        let certain = matches!(known.evidence, Evidence::OwnClaim { certain } if !certain.is_zero());
        (known.token, certain)
    })
}

/// The live candidates that lead, or follow the leader.
fn there(looks: &[Answered]) -> Vec<String> {
    let Some(newest) = newest(looks) else { return Vec::new() };
    let looks = looks.iter().filter_map(|answered| answered.status.as_ref().ok());
    let with_it = looks.filter(|look| {
        look.standing && look.leader.as_ref().is_some_and(|known| known.token == newest.token)
    });
    let mut names: Vec<_> = with_it.map(|look| look.name.clone()).collect();
    names.sort_by_key(|name| *name != newest.name);
    names.into_iter().map(|name| name.to_string()).collect()
}
