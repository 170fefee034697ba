//! Watching an election in etcd: read the queue once, then follow its events.
//!
//! etcd's own `Observe` has no word for "nobody leads", skips short terms, and ends quietly
//! on compaction. So this reads the queue linearizably and watches its prefix from the next
//! revision on. Whatever breaks, it reads again, until it works. No event also comes when
//! the connection is dead, so an observer asks for progress.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{
    Event, EventType, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Shared,
    announcement::Announcement,
    layout::{self, LeaseId, Revision},
    link::Link,
    progress::Answer,
    trouble::{Remedy, Trouble},
};
use crate::{
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{Leader, Observation, Queued, Snapshot, State},
    timing::Backoff,
};

/// How often an observer asks whether it is still connected.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long a read, or an observer's question, may stay unanswered.
const PATIENCE: Duration = Duration::from_secs(2);

/// More candidates than anybody lists; the rest are left out of a snapshot.
const MOST_CANDIDATES: usize = 1000;

/// Sends every state of the election until nobody listens, or etcd refuses us.
pub(crate) async fn observe(shared: Arc<Shared>, election: ElectionName, told: mpsc::Sender<Observation>) {
    let mut following = Following { shared, election, told, last: None, last_contact: None };
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
        following.lost_sight(trouble).await;
        if refused {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

struct Following {
    shared: Arc<Shared>,
    election: ElectionName,
    told: mpsc::Sender<Observation>,
    /// What was told last.
    last: Option<State>,
    last_contact: Option<(Instant, SystemTime)>,
}

impl Following {
    /// Reads, watches and tells, until something breaks.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<Infallible, Trouble> {
        let shared = Arc::clone(&self.shared);
        let link = shared.links.link().await?;
        let mut view = read(&shared, &link, &self.election).await?;
        self.in_contact();
        self.tell(&view).await;

        let known = shared.known();
        let mut client = link.watcher();
        // From what was read, and not from the revision after it: etcd answers no request for
        // progress while a watch is still to start. What comes twice is left out.
        let options = WatchOptions::new().with_prefix().with_fragment().with_start_revision(view.read_at.0);
        let opening = client.watch(layout::prefix(&self.election), Some(options));
        let mut stream = shared.links.call(&link, PATIENCE, opening).await?;
        backoff.reset();
        let mut ask_at = Instant::now() + ASK_EVERY;
        let mut asked = false;
        loop {
            let message = tokio::select! {
                biased;
                () = self.told.closed() => return Err(Trouble::elsewhere("nobody listens")),
                () = shared.links.abandoned(&link) => return Err(Trouble::elsewhere("the link was abandoned")),
                message = stream.message() => message.map_err(|error| blamed(&shared, &link, error.into()))?,
                () = sleep_until(ask_at) => {
                    if asked {
                        return Err(blamed(&shared, &link, Trouble::unanswered(PATIENCE)));
                    }
                    stream.request_progress().await.map_err(|error| blamed(&shared, &link, error.into()))?;
                    (asked, ask_at) = (true, Instant::now() + PATIENCE);
                    continue;
                }
            };
            let message =
                message.ok_or_else(|| blamed(&shared, &link, Trouble::elsewhere("etcd closed the watch")))?;
            if message.canceled() {
                return Err(shared.links.watch_cancelled(&link, &message).await);
            }
            shared.accept(&link, message.header(), Answer::Local, known)?;
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
                // One that waited when we came leads now. If it is gone already, an event will say so.
                if let Some(mut first) = view.queue.first_entry().filter(|first| first.get().seen.is_none())
                    && !fill(&shared, &link, first.get_mut()).await?
                {
                    continue;
                }
                self.tell(&view).await;
            }
        }
    }

    fn in_contact(&mut self) {
        self.last_contact = Some((Instant::now(), SystemTime::now()));
    }

    async fn tell(&mut self, view: &View) {
        let at = SystemTime::now();
        let mut state = view.state(&self.election);
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

    async fn lost_sight(&mut self, trouble: Trouble) {
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

fn blamed(shared: &Shared, link: &Link, trouble: Trouble) -> Trouble {
    shared.links.blame(link, &trouble);
    trouble
}

/// The queue as far as its events were seen.
#[derive(Debug)]
struct View {
    read_at: Revision,
    /// By `create_revision`: the order of the queue.
    queue: BTreeMap<Revision, Entry>,
    announced: Option<Announcement>,
}

#[derive(Debug)]
struct Entry {
    key: Vec<u8>,
    /// What else is known. Nothing of those that were there before us and waited.
    seen: Option<Content>,
}

#[derive(Debug)]
struct Content {
    lease: LeaseId,
    /// Made fit to be shown.
    value: String,
}

impl View {
    fn state(&self, election: &ElectionName) -> State {
        let Some((created, first)) = self.queue.first_key_value() else {
            return State::Vacant { blocked_by: None };
        };
        if !first.is_candidate(election) {
            return State::Vacant { blocked_by: Some(displayed(&first.key)) };
        }
        let token = layout::token(*created);
        let since = self.announced.as_ref().filter(|said| said.token == token).map(|said| said.since);
        State::Leader(Leader { name: first.name(), token, since })
    }

    /// Takes an event in; `false` if it was known already.
    fn happened(&mut self, event: &Event) -> bool {
        let Some(kv) = event.kv() else { return false };
        let revision = Revision(kv.mod_revision());
        if revision <= self.read_at {
            return false;
        }
        self.queue.retain(|_, entry| entry.key != kv.key());
        if event.event_type() == EventType::Put {
            self.queue.insert(Revision(kv.create_revision()), Entry::of(kv));
        }
        true
    }
}

impl Entry {
    fn of(kv: &KeyValue) -> Self {
        let content = Content { lease: LeaseId(kv.lease()), value: displayed(kv.value()) };
        Self { key: kv.key().to_vec(), seen: Some(content) }
    }

    /// Made by a candidate, on the lease that the key is called by.
    fn is_candidate(&self, election: &ElectionName) -> bool {
        let named = layout::named_as_candidate(election, &self.key);
        named.is_some_and(|lease| self.seen.as_ref().is_none_or(|seen| seen.lease == lease))
    }

    /// Its value, or its key where the value is not known.
    fn name(&self) -> String {
        self.seen.as_ref().map_or_else(|| displayed(&self.key), |seen| seen.value.clone())
    }
}

/// Reads the value of a key in the queue; `false` if it is gone by now.
async fn fill(shared: &Shared, link: &Link, entry: &mut Entry) -> Result<bool, Trouble> {
    let mut client = link.kv();
    let known = shared.known();
    let answer = shared.links.call(link, PATIENCE, client.get(entry.key.clone(), None)).await?;
    shared.accept(link, answer.header(), Answer::Linearizable, known)?;
    if let Some(kv) = answer.kvs().first() {
        *entry = Entry::of(kv);
    }
    Ok(!answer.kvs().is_empty())
}

/// Reads the queue and its first value at one revision, and the announcement after that.
async fn read(shared: &Shared, link: &Link, election: &ElectionName) -> Result<View, Trouble> {
    let prefix = layout::prefix(election);
    let in_order = || GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
    // Values are left out, for they may be large; all but the first.
    let all = Txn::new().and_then([
        TxnOp::get(prefix.clone(), Some(in_order().with_keys_only())),
        TxnOp::get(prefix, Some(in_order().with_limit(1))),
    ]);
    let known = shared.known();
    let mut client = link.kv();
    let answer = shared.links.call(link, PATIENCE, client.txn(all)).await?;
    let revision = shared.accept(link, answer.header(), Answer::Linearizable, known)?;
    let found = answer.op_responses();
    let [TxnOpResponse::Get(keys), TxnOpResponse::Get(first)] = found.as_slice() else {
        return Err(Trouble::elsewhere("etcd's answer has not the form of the question"));
    };
    let entry =
        |kv: &KeyValue| (Revision(kv.create_revision()), Entry { key: kv.key().to_vec(), seen: None });
    let mut queue: BTreeMap<_, _> = keys.kvs().iter().map(entry).collect();
    if let Some(first) = first.kvs().first() {
        queue.insert(Revision(first.create_revision()), Entry::of(first));
    }
    // Nice to have, and a key that this user need not be permitted to read.
    let announced = shared.links.call(link, PATIENCE, client.get(election.as_str(), None)).await.ok();
    let announced = announced.as_ref().and_then(|answer| answer.kvs().first());
    let announced = announced.and_then(|kv| Announcement::from_json(kv.value()));
    Ok(View { read_at: revision, queue, announced })
}

/// One look at the election: the leader, and the queue with its names.
pub(crate) async fn snapshot(shared: Arc<Shared>, election: ElectionName) -> Result<Snapshot, Trouble> {
    let link = shared.links.link().await?;
    let mut view = read(&shared, &link, &election).await?;
    for entry in view.queue.values_mut().take(MOST_CANDIDATES).filter(|entry| entry.seen.is_none()) {
        // One that has left by now is listed by its key: it was there at that moment.
        fill(&shared, &link, entry).await?;
    }
    let candidates = view.queue.iter().take(MOST_CANDIDATES);
    let candidates = candidates.filter(|(_, entry)| entry.is_candidate(&election));
    Ok(Snapshot {
        observation: Observation { at: SystemTime::now(), state: view.state(&election) },
        candidates: candidates
            .map(|(created, entry)| Queued { name: entry.name(), token: Some(layout::token(*created)) })
            .collect(),
    })
}
