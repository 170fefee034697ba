//! The election in etcd as observers see it: read the queue once, then follow its events.
//!
//! etcd's own `Observe` cannot report a vacancy, skips short terms, and ends quietly on compaction. So this
//! reads the queue linearizably and watches its prefix from the next revision on. After any failure it reads
//! again, until it works. A dead connection delivers no events either, so an observer requests progress.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{Event, EventType, KeyValue, WatchOptions};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    EtcdShared,
    announcement::Announcement,
    connection::{EndpointConnection, Paused},
    error::{EtcdError, Remedy},
    keys::{self, Revision},
    member,
    queue::{self, Head, PATIENCE, Queue, QueueEntry, Want},
    staleness::ReadKind,
};
use crate::{
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{Leader, Observation, Queued, Snapshot, State},
    timing::Backoff,
};

/// Time between two checks of the connection.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Sends every state of the election until the receiver is closed, or etcd refuses us.
pub(crate) async fn observe(
    shared: Arc<EtcdShared>,
    election: ElectionName,
    sender: mpsc::Sender<Observation>,
) {
    let mut following =
        Following { shared: Arc::clone(&shared), election, sender, last: None, last_contact: None };
    let mut backoff = Backoff::new();
    loop {
        let error = match following.follow(&mut backoff).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        if following.sender.is_closed() {
            return;
        }
        tracing::debug!(%error, "lost the watch of the election, reading it again");
        let refused = error.remedy == Remedy::Human;
        let unreachable = error.remedy == Remedy::Unreachable;
        following.lost_view(error).await;
        if refused {
            return;
        }
        if shared.connections.pause(backoff.pause(), unreachable).await == Paused::Reachable {
            backoff.reset();
        }
    }
}

struct Following {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    sender: mpsc::Sender<Observation>,
    /// The last state sent.
    last: Option<State>,
    last_contact: Option<(Instant, SystemTime)>,
}

impl Following {
    /// Reads, watches and reports, until something fails.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<Infallible, EtcdError> {
        let shared = Arc::clone(&self.shared);
        let connection = shared.connections.connection().await?;
        let mut view = read(&shared, &connection, &self.election).await?;
        self.in_contact();
        self.tell(&view).await;

        let known = shared.known();
        let mut client = connection.watcher();
        // From the revision that was read, and not the one after it: etcd answers no progress request while a
        // watch is still to start. Events that come twice are ignored.
        let options =
            WatchOptions::new().with_prefix().with_fragment().with_start_revision(view.queue.at().0);
        let opening = client.watch(keys::prefix(&self.election), Some(options));
        let mut stream = shared.connections.call(&connection, PATIENCE, opening).await?;
        backoff.reset();
        let mut ask_at = Instant::now() + ASK_EVERY;
        let mut asked = false;
        loop {
            let message = tokio::select! {
                biased;
                () = self.sender.closed() => return Err(EtcdError::elsewhere("the observer is gone")),
                () = shared.connections.abandoned(&connection) => return Err(EtcdError::elsewhere("the connection was abandoned")),
                message = stream.message() => message.map_err(|error| failed(&shared, &connection, error.into()))?,
                () = sleep_until(ask_at) => {
                    if asked {
                        return Err(failed(&shared, &connection, EtcdError::unanswered(PATIENCE)));
                    }
                    stream.request_progress().await.map_err(|error| failed(&shared, &connection, error.into()))?;
                    (asked, ask_at) = (true, Instant::now() + PATIENCE);
                    continue;
                }
            };
            let message = message
                .ok_or_else(|| failed(&shared, &connection, EtcdError::elsewhere("etcd closed the watch")))?;
            if message.canceled() {
                return Err(shared.connections.watch_cancelled(&connection, &message).await);
            }
            shared.accept(&connection, message.header(), ReadKind::Local, known)?;
            self.in_contact();
            (asked, ask_at) = (false, Instant::now() + ASK_EVERY);
            // A watch that catches up gets many revisions at once: each is a state of its own.
            for events in message.events().chunk_by(|one, next| revision(one) == revision(next)) {
                let mut changed = false;
                for event in events {
                    changed |= view.apply(event);
                }
                if !changed {
                    continue;
                }
                // A candidate that waited at the start leads now, or more of the queue has to be read.
                view.settle(&shared, &connection).await?;
                self.tell(&view).await;
            }
        }
    }

    fn in_contact(&mut self) {
        self.last_contact = Some((Instant::now(), SystemTime::now()));
    }

    async fn tell(&mut self, view: &ObservedQueue) {
        let at = SystemTime::now();
        let mut state = view.state();
        if let State::Leader(leader) = &mut state {
            leader.since = leader.since.or_else(|| self.seen_since(leader.token, at));
        }
        self.send_if_new(Observation { at, state }).await;
    }

    /// Returns the start of this term, if we saw it begin.
    fn seen_since(&self, token: FencingToken, now: SystemTime) -> Option<SystemTime> {
        match &self.last {
            Some(State::Leader(before)) if before.token == token => before.since,
            Some(State::Leader(_) | State::Vacant { .. }) => Some(now),
            Some(State::Unknown { .. }) | None => None,
        }
    }

    async fn lost_view(&mut self, error: EtcdError) {
        // A short break is not reported.
        let lost_for = self.last_contact.map(|(at, _)| at.elapsed());
        let restored_soon = lost_for.is_some_and(|gone| gone < PATIENCE) && error.remedy != Remedy::Human;
        if self.last.is_some() && restored_soon {
            return;
        }
        // Already reported, unless it is the reason for the end.
        if matches!(self.last, Some(State::Unknown { .. })) && error.remedy != Remedy::Human {
            return;
        }
        let last_known = self.last_contact.map(|(_, at)| at);
        let state = State::Unknown { last_known, problem: error.message };
        self.send_if_new(Observation { at: SystemTime::now(), state }).await;
    }

    async fn send_if_new(&mut self, observation: Observation) {
        let known = match (&self.last, &observation.state) {
            // An announcement only makes `since` more exact, by milliseconds: no change.
            (Some(State::Leader(before)), State::Leader(now)) => {
                before.token == now.token && before.name == now.name
            }
            (before, now) => before.as_ref() == Some(now),
        };
        if !known {
            self.last = Some(observation.state.clone());
            let _ = self.sender.send(observation).await;
        }
    }
}

/// Returns the revision of an event.
fn revision(event: &Event) -> Option<i64> {
    event.kv().map(KeyValue::mod_revision)
}

fn failed(shared: &EtcdShared, connection: &EndpointConnection, error: EtcdError) -> EtcdError {
    shared.connections.blame(connection, &error);
    error
}

/// The queue as far as its events were seen.
#[derive(Debug)]
struct ObservedQueue {
    election: ElectionName,
    queue: Queue,
    announced: Option<Announcement>,
}

impl ObservedQueue {
    fn state(&self) -> State {
        let (key, entry) = match self.queue.head() {
            Head::Candidate { key, entry } => (key, entry),
            Head::Blocked { key, .. } => return State::Vacant { blocked_by: Some(displayed(key)) },
            Head::Empty | Head::Unread => return State::Vacant { blocked_by: None },
        };
        let token = keys::token(entry.key.created);
        let announced = self.announced.as_ref().filter(|announcement| announcement.token == token);
        let since = announced.map(|announcement| announcement.since);
        let address = announced.and_then(|announcement| announcement.address.clone());
        State::Leader(Leader { name: name_of(key, entry), token, since, address })
    }

    /// Applies an event; `false` if it was known already.
    fn apply(&mut self, event: &Event) -> bool {
        let Some(kv) = event.kv() else { return false };
        let put = event.event_type() == EventType::Put;
        let now = put.then(|| QueueEntry::of(&self.election, kv)).flatten();
        self.queue.apply(Revision(kv.mod_revision()), kv.key(), now)
    }

    /// Reads what is missing to know the leader and its name.
    async fn settle(
        &mut self,
        shared: &EtcdShared,
        connection: &EndpointConnection,
    ) -> Result<(), EtcdError> {
        while let Some(want) = self.queue.want() {
            match want {
                Want::Reading => self.queue = queue::read(shared, connection, &self.election).await?,
                Want::Entry(key, at) => {
                    if !self.fill(shared, connection, &key, at).await? {
                        return Err(EtcdError::elsewhere("etcd lost a key that existed at that revision"));
                    }
                }
            }
        }
        Ok(())
    }

    async fn fill(
        &mut self,
        shared: &EtcdShared,
        connection: &EndpointConnection,
        key: &[u8],
        at: Revision,
    ) -> Result<bool, EtcdError> {
        let announcement = queue::value_at(shared, connection, key, at).await?;
        Ok(self.queue.learned(&self.election, key, announcement.as_ref()))
    }
}

/// Returns its value, or its key if the value is not known.
pub(super) fn name_of(key: &[u8], entry: &QueueEntry) -> String {
    entry.name.clone().unwrap_or_else(|| displayed(key))
}

/// Reads the queue, then the announcement.
async fn read(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<ObservedQueue, EtcdError> {
    let queue = queue::read(shared, connection, election).await?;
    let mut view = ObservedQueue { election: election.clone(), queue, announced: None };
    view.settle(shared, connection).await?;
    // Optional, and this user may lack the permission to read that key.
    let mut client = connection.kv();
    let announced =
        shared.connections.call(connection, PATIENCE, client.get(election.as_str(), None)).await.ok();
    let announced = announced.as_ref().and_then(|answer| answer.kvs().first());
    view.announced = announced.and_then(|kv| Announcement::from_json(kv.value()));
    Ok(view)
}

/// Reads the queue with its names.
pub(super) async fn named_queue(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<Queue, EtcdError> {
    Ok(read_named(shared, connection, election).await?.queue)
}

async fn read_named(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<ObservedQueue, EtcdError> {
    let mut view = read(shared, connection, election).await?;
    let at = view.queue.at();
    let unnamed = view.queue.iter().filter(|(_, entry)| entry.name.is_none());
    for key in unnamed.map(|(key, _)| key.to_vec()).collect::<Vec<_>>() {
        view.fill(shared, connection, &key, at).await?;
    }
    Ok(view)
}

/// Reads the election once: the leader, and the queue with its names and its candidates' records.
pub(crate) async fn snapshot(shared: Arc<EtcdShared>, election: ElectionName) -> Result<Snapshot, EtcdError> {
    let connection = shared.connections.connection().await?;
    let (view, members) = tokio::join! {
        read_named(&shared, &connection, &election),
        // Optional, and this user may lack the permission to read them.
        member::read_members(&shared, &connection, &election),
    };
    let (view, members) = (view?, members.unwrap_or_default());
    let candidates = view.queue.iter().filter(|(_, entry)| entry.candidate);
    let profile = |key: &[u8]| {
        let (member, _) = members.get(&keys::candidate_lease(&election, key)?)?;
        Some(member.profile.clone())
    };
    let queued = |(key, entry): (&[u8], &QueueEntry)| Queued {
        name: name_of(key, entry),
        token: Some(keys::token(entry.key.created)),
        profile: profile(key),
    };
    Ok(Snapshot {
        observation: Observation { at: SystemTime::now(), state: view.state() },
        candidates: candidates.map(queued).collect(),
    })
}
