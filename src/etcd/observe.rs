//! Watching an election in etcd: read the queue once, then follow its events.
//!
//! etcd's own `Observe` has no word for "nobody leads", skips short terms, and ends quietly
//! on compaction. So this reads the queue linearizably and watches its prefix from the next
//! revision on. Whatever breaks, it reads again, until it works. No event also comes when
//! the connection is dead, so an observer asks for progress.

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
    queue::{self, Head, PATIENCE, Queue, QueueEntry, Want},
    staleness::ReadKind,
};
use crate::{
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{Leader, Observation, Queued, Snapshot, State},
    timing::Backoff,
};

/// How often an observer asks whether it is still connected.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Sends every state of the election until nobody listens, or etcd refuses us.
pub(crate) async fn observe(
    shared: Arc<EtcdShared>,
    election: ElectionName,
    told: mpsc::Sender<Observation>,
) {
    let mut following =
        Following { shared: Arc::clone(&shared), election, told, last: None, last_contact: None };
    let mut backoff = Backoff::new();
    loop {
        let trouble = match following.follow(&mut backoff).await {
            Err(trouble) => trouble,
            Ok(never) => match never {},
        };
        if following.told.is_closed() {
            return;
        }
        tracing::debug!(%trouble, "lost sight of the election, looking again");
        let refused = trouble.remedy == Remedy::Human;
        let unreachable = trouble.remedy == Remedy::Unreachable;
        following.lost_sight(trouble).await;
        if refused {
            return;
        }
        if shared.links.pause(backoff.pause(), unreachable).await == Paused::Reachable {
            backoff.reset();
        }
    }
}

struct Following {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    told: mpsc::Sender<Observation>,
    /// What was told last.
    last: Option<State>,
    last_contact: Option<(Instant, SystemTime)>,
}

impl Following {
    /// Reads, watches and tells, until something breaks.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<Infallible, EtcdError> {
        let shared = Arc::clone(&self.shared);
        let link = shared.links.link().await?;
        let mut view = read(&shared, &link, &self.election).await?;
        self.in_contact();
        self.tell(&view).await;

        let known = shared.known();
        let mut client = link.watcher();
        // From what was read, and not from the revision after it: etcd answers no request for
        // progress while a watch is still to start. What comes twice is left out.
        let options =
            WatchOptions::new().with_prefix().with_fragment().with_start_revision(view.queue.at().0);
        let opening = client.watch(keys::prefix(&self.election), Some(options));
        let mut stream = shared.links.call(&link, PATIENCE, opening).await?;
        backoff.reset();
        let mut ask_at = Instant::now() + ASK_EVERY;
        let mut asked = false;
        loop {
            let message = tokio::select! {
                biased;
                () = self.told.closed() => return Err(EtcdError::elsewhere("nobody listens")),
                () = shared.links.abandoned(&link) => return Err(EtcdError::elsewhere("the link was abandoned")),
                message = stream.message() => message.map_err(|error| blamed(&shared, &link, error.into()))?,
                () = sleep_until(ask_at) => {
                    if asked {
                        return Err(blamed(&shared, &link, EtcdError::unanswered(PATIENCE)));
                    }
                    stream.request_progress().await.map_err(|error| blamed(&shared, &link, error.into()))?;
                    (asked, ask_at) = (true, Instant::now() + PATIENCE);
                    continue;
                }
            };
            let message = message
                .ok_or_else(|| blamed(&shared, &link, EtcdError::elsewhere("etcd closed the watch")))?;
            if message.canceled() {
                return Err(shared.links.watch_cancelled(&link, &message).await);
            }
            shared.accept(&link, message.header(), ReadKind::Local, known)?;
            self.in_contact();
            (asked, ask_at) = (false, Instant::now() + ASK_EVERY);
            // A watch that catches up gets many revisions at once: each is a state of its own.
            for events in message.events().chunk_by(|one, next| revision(one) == revision(next)) {
                let mut news = false;
                for event in events {
                    news |= view.happened(event);
                }
                if !news {
                    continue;
                }
                // One that waited when we came leads now, or more of the queue is to be read.
                view.settle(&shared, &link).await?;
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
        self.tell_if_new(Observation { at, state }).await;
    }

    /// Since when we have seen this term, if we saw it begin.
    fn seen_since(&self, token: FencingToken, now: SystemTime) -> Option<SystemTime> {
        match &self.last {
            Some(State::Leader(before)) if before.token == token => before.since,
            Some(State::Leader(_) | State::Vacant { .. }) => Some(now),
            Some(State::Unknown { .. }) | None => None,
        }
    }

    async fn lost_sight(&mut self, trouble: EtcdError) {
        // A break that is mended at once is no news.
        let gone_for = self.last_contact.map(|(at, _)| at.elapsed());
        let mended_soon = gone_for.is_some_and(|gone| gone < PATIENCE) && trouble.remedy != Remedy::Human;
        if self.last.is_some() && mended_soon {
            return;
        }
        // Nothing new, unless it is the reason why this ends.
        if matches!(self.last, Some(State::Unknown { .. })) && trouble.remedy != Remedy::Human {
            return;
        }
        let last_known = self.last_contact.map(|(_, at)| at);
        let state = State::Unknown { last_known, problem: trouble.message };
        self.tell_if_new(Observation { at: SystemTime::now(), state }).await;
    }

    async fn tell_if_new(&mut self, observation: Observation) {
        let known = match (&self.last, &observation.state) {
            // When an announcement arrives, `since` gets better by milliseconds: no news.
            (Some(State::Leader(before)), State::Leader(now)) => {
                before.token == now.token && before.name == now.name
            }
            (before, now) => before.as_ref() == Some(now),
        };
        if !known {
            self.last = Some(observation.state.clone());
            let _ = self.told.send(observation).await;
        }
    }
}

/// The revision that an event is from.
fn revision(event: &Event) -> Option<i64> {
    event.kv().map(KeyValue::mod_revision)
}

fn blamed(shared: &EtcdShared, link: &EndpointConnection, trouble: EtcdError) -> EtcdError {
    shared.links.blame(link, &trouble);
    trouble
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
        let since = self.announced.as_ref().filter(|said| said.token == token).map(|said| said.since);
        State::Leader(Leader { name: name_of(key, entry), token, since })
    }

    /// Takes an event in; `false` if it was known already.
    fn happened(&mut self, event: &Event) -> bool {
        let Some(kv) = event.kv() else { return false };
        let put = event.event_type() == EventType::Put;
        let now = put.then(|| QueueEntry::of(&self.election, kv)).flatten();
        self.queue.happened(Revision(kv.mod_revision()), kv.key(), now)
    }

    /// Asks for what is missing to tell who leads, and by what name.
    async fn settle(&mut self, shared: &EtcdShared, link: &EndpointConnection) -> Result<(), EtcdError> {
        while let Some(want) = self.queue.want() {
            match want {
                Want::Reading => self.queue = queue::read(shared, link, &self.election).await?,
                Want::Entry(key, at) => {
                    if !self.fill(shared, link, &key, at).await? {
                        return Err(EtcdError::elsewhere("etcd lost a key that was there at that revision"));
                    }
                }
            }
        }
        Ok(())
    }

    async fn fill(
        &mut self,
        shared: &EtcdShared,
        link: &EndpointConnection,
        key: &[u8],
        at: Revision,
    ) -> Result<bool, EtcdError> {
        let said = queue::value_at(shared, link, key, at).await?;
        Ok(self.queue.learned(&self.election, key, said.as_ref()))
    }
}

/// Its value, or its key where the value is not known.
fn name_of(key: &[u8], entry: &QueueEntry) -> String {
    entry.name.clone().unwrap_or_else(|| displayed(key))
}

/// Reads the queue, and the announcement after that.
async fn read(
    shared: &EtcdShared,
    link: &EndpointConnection,
    election: &ElectionName,
) -> Result<ObservedQueue, EtcdError> {
    let queue = queue::read(shared, link, election).await?;
    let mut view = ObservedQueue { election: election.clone(), queue, announced: None };
    view.settle(shared, link).await?;
    // Nice to have, and a key that this user need not be permitted to read.
    let mut client = link.kv();
    let announced = shared.links.call(link, PATIENCE, client.get(election.as_str(), None)).await.ok();
    let announced = announced.as_ref().and_then(|answer| answer.kvs().first());
    view.announced = announced.and_then(|kv| Announcement::from_json(kv.value()));
    Ok(view)
}

/// One look at the election: the leader, and the queue with its names.
pub(crate) async fn snapshot(shared: Arc<EtcdShared>, election: ElectionName) -> Result<Snapshot, EtcdError> {
    let link = shared.links.link().await?;
    let mut view = read(&shared, &link, &election).await?;
    let at = view.queue.at();
    let unnamed = view.queue.iter().filter(|(_, entry)| entry.name.is_none());
    for key in unnamed.map(|(key, _)| key.to_vec()).collect::<Vec<_>>() {
        view.fill(&shared, &link, &key, at).await?;
    }
    let candidates = view.queue.iter().filter(|(_, entry)| entry.candidate);
    let queued = |(key, entry): (&[u8], &QueueEntry)| Queued {
        name: name_of(key, entry),
        token: Some(keys::token(entry.key.created)),
    };
    Ok(Snapshot {
        observation: Observation { at: SystemTime::now(), state: view.state() },
        candidates: candidates.map(queued).collect(),
    })
}
