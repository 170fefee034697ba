//! The queue of one election, known exactly as of a revision.
//!
//! A linearizable read of the queue, carried on by a watch from there: etcd promises that a
//! watch shows every event, in order, and whole revisions at a time. So at the end of each of
//! its messages we know the whole queue as it was at one revision, as surely as if we had read
//! it then, and without asking. That makes verifying a win free: the event that the last one
//! before us went is the proof that we are first.
//!
//! All candidates of one election in one process share one view: one watch, however many they
//! are. When the watch breaks, everybody is told at once that nothing is sure
//! ([`Sight::Unsure`]), and the queue is read anew; so it does not matter what happened, or was
//! compacted away, in between.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use etcd_client::{Event, EventType, GetOptions, KeyValue, WatchResponse};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    layout::{self, LeaseId, Revision},
    link::Link,
    progress::{self, Answer},
    trouble::Trouble,
    watches::Watch,
};
use crate::{
    clock::Timestamp,
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{Front, Fronts},
    timing::Backoff,
};

/// How long a read, or the opening of a watch, may stay unanswered.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a view shows of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sight {
    /// Nothing can be said, since then (boot-time clock).
    Unsure { since: Timestamp },
    /// Where the key stood at a revision.
    At { revision: Revision, place: Place },
}

/// A key's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Absent,
    Behind(Key),
    First(Key),
}

/// What identifies the key of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) created: Revision,
    /// Unknown of a key that was there when the queue was read: from 3.7 on, etcd leaves the
    /// lease out where only keys are asked for. It was ours when we put it.
    pub(crate) lease: Option<LeaseId>,
}

/// The keys of an election at one revision. Pure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    at: Revision,
    keys: BTreeMap<Vec<u8>, Key>,
    /// By `create_revision`: first come, first served.
    order: BTreeMap<Revision, Vec<u8>>,
}

impl Queue {
    pub(crate) fn read(at: Revision, keys: impl IntoIterator<Item = (Vec<u8>, Revision)>) -> Self {
        let mut queue = Self { at, keys: BTreeMap::new(), order: BTreeMap::new() };
        for (key, created) in keys {
            queue.put(key, Key { created, lease: None });
        }
        queue
    }

    pub(crate) fn place(&self, key: &[u8]) -> Place {
        match (self.keys.get(key), self.first()) {
            (None, _) => Place::Absent,
            (Some(own), Some(first)) if first == key => Place::First(*own),
            (Some(own), _) => Place::Behind(*own),
        }
    }

    fn sight(&self, key: &[u8]) -> Sight {
        Sight::At { revision: self.at, place: self.place(key) }
    }

    fn first(&self) -> Option<&[u8]> {
        self.order.first_key_value().map(|(_, key)| key.as_slice())
    }

    fn put(&mut self, key: Vec<u8>, what: Key) {
        self.delete(&key);
        self.order.insert(what.created, key.clone());
        self.keys.insert(key, what);
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(gone) = self.keys.remove(key) {
            self.order.remove(&gone.created);
        }
    }

    /// Takes the change of one key in; `false` if the queue was read after it.
    pub(crate) fn happened(&mut self, revision: Revision, key: &[u8], now: Option<Key>) -> bool {
        if revision < self.at || (revision == self.at && self.keys.get(key).copied() == now) {
            return false;
        }
        self.at = revision;
        match now {
            Some(what) => self.put(key.to_vec(), what),
            None => self.delete(key),
        }
        true
    }
}

/// A view, and those who look at it. Kept up for as long as anybody holds it.
pub(crate) struct View {
    election: ElectionName,
    known: Mutex<Known>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

struct Known {
    /// Known as of its revision, or not since a moment.
    queue: Result<Queue, Timestamp>,
    lookers: BTreeMap<Vec<u8>, watch::Sender<Sight>>,
    front: watch::Sender<Option<Front>>,
}

impl View {
    /// The view of an election that others may already have.
    pub(crate) fn of(shared: &Arc<Shared>, election: &ElectionName) -> Arc<Self> {
        let mut views = shared.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|_, view| view.strong_count() > 0);
        if let Some(view) = views.get(election).and_then(Weak::upgrade) {
            return view;
        }
        let view = Self::start(shared, election);
        views.insert(election.clone(), Arc::downgrade(&view));
        view
    }

    fn start(shared: &Arc<Shared>, election: &ElectionName) -> Arc<Self> {
        let queue = Err(Timestamp::now());
        let known = Known { queue, lookers: BTreeMap::new(), front: watch::Sender::new(None) };
        let election = election.clone();
        let view = Arc::new(Self { election, known: Mutex::new(known), task: OnceLock::new() });
        let (shared_too, election) = (Arc::clone(shared), view.election.clone());
        let follower = Follower { shared: shared_too, election, view: Arc::downgrade(&view) };
        let task = AbortOnDropHandle::new(shared.spawn(follower.follow()));
        // Set once, right here.
        let _ = view.task.set(task);
        view
    }

    /// Looks at one key from now on.
    pub(crate) fn look_at(self: &Arc<Self>, key: Vec<u8>) -> Look {
        let mut known = self.known();
        let sight = match &known.queue {
            Ok(queue) => queue.sight(&key),
            Err(since) => Sight::Unsure { since: *since },
        };
        let (sender, sights) = watch::channel(sight);
        known.lookers.insert(key.clone(), sender);
        drop(known);
        let mut look = Look { view: Arc::clone(self), key, sights };
        look.sights.mark_changed();
        look
    }

    /// Follows who is at the front of the queue.
    pub(crate) fn front(self: &Arc<Self>) -> Fronts {
        let front = self.known().front.subscribe();
        // Whoever follows holds the view, and the view the other end.
        let view = Arc::clone(self);
        Fronts::new(front, move || view.tokens())
    }

    /// The tokens of all who are in the queue, or since when that is not known.
    fn tokens(&self) -> Result<Vec<FencingToken>, Timestamp> {
        let known = self.known();
        let queue = known.queue.as_ref().map_err(|since| *since)?;
        Ok(queue.order.keys().copied().map(layout::token).collect())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics half way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue was read anew.
    fn read(&self, queue: Queue) {
        let mut known = self.known();
        known.front.send_if_modified(|front| show(&queue, &self.election, front));
        for (key, looker) in &known.lookers {
            looker.send_replace(queue.sight(key));
        }
        known.queue = Ok(queue);
    }

    /// A message of the watch, whole.
    fn happened(&self, events: &[Event]) {
        let mut known = self.known();
        let Known { queue: Ok(queue), lookers, front } = &mut *known else { return };
        let first_before = queue.first().map(<[u8]>::to_vec);
        let mut changed = Vec::new();
        for (kind, kv) in events.iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
            let now = (kind == EventType::Put)
                .then(|| Key { created: Revision(kv.create_revision()), lease: Some(LeaseId(kv.lease())) });
            if queue.happened(Revision(kv.mod_revision()), kv.key(), now) {
                changed.push(kv.key().to_vec());
            }
        }
        if queue.first() != first_before.as_deref() {
            changed.extend(queue.first().map(<[u8]>::to_vec));
        }
        front.send_if_modified(|front| show(queue, &self.election, front));
        for key in changed {
            if let Some(looker) = lookers.get(&key) {
                looker.send_replace(queue.sight(&key));
            }
        }
    }

    /// The watch broke.
    fn lost(&self) {
        let mut known = self.known();
        if known.queue.is_ok() {
            let since = Timestamp::now();
            known.queue = Err(since);
            for looker in known.lookers.values() {
                looker.send_replace(Sight::Unsure { since });
            }
        }
    }
}

/// Writes down who is at the front; `true` if that is news.
fn show(queue: &Queue, election: &ElectionName, known: &mut Option<Front>) -> bool {
    let front = match queue.order.first_key_value() {
        None => Front::Nobody,
        Some((created, key)) if layout::named_as_candidate(election, key).is_some() => {
            Front::Candidate(layout::token(*created))
        }
        Some((_, key)) => Front::Foreign(displayed(key)),
    };
    let news = known.as_ref() != Some(&front);
    *known = Some(front);
    news
}

/// One key, as a view shows it. The newest sight counts; older ones may be skipped.
pub(crate) struct Look {
    view: Arc<View>,
    key: Vec<u8>,
    sights: watch::Receiver<Sight>,
}

impl Look {
    /// The next sight; the present one at first.
    ///
    /// Cancel safe.
    pub(crate) async fn sight(&mut self) -> Sight {
        match self.sights.changed().await {
            Ok(()) => *self.sights.borrow_and_update(),
            // Whoever looks holds the view, and the view the other end.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.view.known().lookers.remove(&self.key);
    }
}

/// Keeps a view up.
struct Follower {
    shared: Arc<Shared>,
    election: ElectionName,
    view: Weak<View>,
}

impl Follower {
    async fn follow(self) {
        let mut backoff = Backoff::new();
        loop {
            let trouble = match self.follow_over_a_stream(&mut backoff).await {
                Err(trouble) => trouble,
                Ok(never) => match never {},
            };
            let Some(view) = self.view.upgrade() else { return };
            view.lost();
            tracing::debug!(%trouble, election = %self.election, "lost sight of the queue, reading it again");
            drop(view);
            sleep(backoff.pause()).await;
        }
    }

    async fn follow_over_a_stream(&self, backoff: &mut Backoff) -> Result<Infallible, Trouble> {
        let link = self.shared.links.link().await?;
        tokio::select! {
            biased;
            () = self.shared.links.abandoned(&link) => Err(Trouble::elsewhere("the link was abandoned")),
            broken = self.follow_over_link(&link, backoff) => broken,
        }
    }

    async fn follow_over_link(&self, link: &Link, backoff: &mut Backoff) -> Result<Infallible, Trouble> {
        let known = self.shared.known();
        // Both at once: the watch shows what comes after the moment that it was made, so all that is
        // asked of the read is not to be older than that.
        let (mut queue, mut watch) = tokio::try_join!(self.read(link), self.watch(link))?;
        let made = timeout(PATIENCE, self.message(link, &mut watch, known)).await;
        let (made, at) = made.map_err(|_| self.broken(link, Trouble::unanswered(PATIENCE)))??;
        while queue.at < at {
            queue = self.read(link).await?;
        }
        self.looked_at()?.read(queue);
        backoff.reset();
        let mut message = made;
        loop {
            self.looked_at()?.happened(message.events());
            (message, _) = self.message(link, &mut watch, known).await?;
        }
    }

    /// The next message of the watch, and the revision that it was sent at.
    async fn message(
        &self,
        link: &Link,
        watch: &mut Watch,
        known: progress::Known,
    ) -> Result<(WatchResponse, Revision), Trouble> {
        let message = watch.message().await.map_err(|trouble| self.broken(link, trouble))?;
        if message.canceled() {
            return Err(self.shared.links.watch_cancelled(link, &message).await);
        }
        let at = self.shared.accept(link, message.header(), Answer::Local, known)?;
        Ok((message, at))
    }

    fn looked_at(&self) -> Result<Arc<View>, Trouble> {
        self.view.upgrade().ok_or_else(|| Trouble::elsewhere("nobody looks any more"))
    }

    /// Reads all keys, linearizably and at one revision. Values may be large, and are left out.
    async fn read(&self, link: &Link) -> Result<Queue, Trouble> {
        let known = self.shared.known();
        let mut client = link.kv();
        let options = GetOptions::new().with_prefix().with_keys_only();
        let reading = client.get(layout::prefix(&self.election), Some(options));
        let answer = self.shared.links.call(link, PATIENCE, reading).await?;
        let at = self.shared.accept(link, answer.header(), Answer::Linearizable, known)?;
        let created = |kv: &KeyValue| (kv.key().to_vec(), Revision(kv.create_revision()));
        Ok(Queue::read(at, answer.kvs().iter().map(created)))
    }

    async fn watch(&self, link: &Link) -> Result<Watch, Trouble> {
        self.shared.links.call(link, PATIENCE, link.watch(layout::prefix(&self.election))).await
    }

    fn broken(&self, link: &Link, trouble: Trouble) -> Trouble {
        self.shared.links.blame(link, &trouble);
        trouble
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(created: i64) -> Key {
        Key { created: Revision(created), lease: None }
    }

    fn queue() -> Queue {
        Queue::read(Revision(20), [(b"b".to_vec(), Revision(11)), (b"a".to_vec(), Revision(12))])
    }

    #[test]
    fn first_is_who_came_first() {
        let mut queue = queue();
        assert_eq!(queue.place(b"b"), Place::First(key(11)));
        assert_eq!(queue.place(b"a"), Place::Behind(key(12)));
        assert!(queue.happened(Revision(21), b"b", None));
        assert_eq!(queue.place(b"a"), Place::First(key(12)));
        assert_eq!(queue.place(b"b"), Place::Absent);
    }

    #[test]
    fn contract_7_what_happened_before_the_read_changes_nothing() {
        let mut queue = queue();
        assert!(!queue.happened(Revision(19), b"b", None));
        assert_eq!(queue.place(b"b"), Place::First(key(11)));
    }

    #[test]
    fn a_key_made_anew_stands_at_the_end() {
        let mut queue = queue();
        queue.happened(Revision(21), b"b", None);
        queue.happened(Revision(22), b"b", Some(key(22)));
        assert_eq!(queue.place(b"a"), Place::First(key(12)));
        assert_eq!(queue.place(b"b"), Place::Behind(key(22)));
    }

    proptest! {
        /// Following events gives the same queue as reading it at the end.
        #[test]
        fn contract_1_a_read_carried_on_is_as_good_as_a_read(
            events in prop::collection::vec((0..5u8, any::<bool>()), 0..40),
            read_after in 0..40usize,
        ) {
            let mut truth: BTreeMap<Vec<u8>, Revision> = BTreeMap::new();
            let mut followed = None;
            for (turn, (name, put)) in events.iter().enumerate() {
                let revision = Revision(turn as i64 + 1);
                let key = vec![*name];
                if turn == read_after {
                    let at = Revision(turn as i64);
                    followed = Some(Queue::read(at, truth.clone()));
                }
                let change = match put {
                    true => Some(*truth.entry(key.clone()).or_insert(revision)),
                    // etcd makes no event of a deletion that deletes nothing.
                    false => match truth.remove(&key) {
                        Some(_) => None,
                        None => continue,
                    },
                };
                if let Some(queue) = &mut followed {
                    let now = change.map(|created| Key { created, lease: None });
                    queue.happened(revision, &key, now);
                }
            }
            if let Some(followed) = followed {
                let read = Queue::read(followed.at, truth);
                prop_assert_eq!(followed, read);
            }
        }
    }
}
