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
//! ([`QueuePosition::Unsure`]), and the queue is read anew; so it does not matter what happened, or was
//! compacted away, in between.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use etcd_client::{Event, EventType, KeyValue, WatchResponse};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    EtcdShared,
    connection::{EndpointConnection, Paused},
    error::{EtcdError, Remedy},
    keys::{self, LeaseId, Revision},
    queue::{self, Head, PATIENCE, Queue, QueueEntry, QueuePlace, Want},
    staleness::{self, ReadKind},
    watches::Watch,
};
use crate::{
    clock::Timestamp,
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{LeaderWatch, QueueHead},
    timing::Backoff,
};

/// What a view shows of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueuePosition {
    /// Nothing can be said, since then (boot-time clock).
    Unsure { since: Timestamp },
    /// Where the key stood at a revision.
    At { revision: Revision, place: QueuePlace },
}

/// A view, and those who look at it. Kept up for as long as anybody holds it.
pub(crate) struct QueueView {
    election: ElectionName,
    known: Mutex<ViewState>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

struct ViewState {
    /// Known as of its revision, or not since a moment.
    queue: Result<Queue, Timestamp>,
    lookers: BTreeMap<Vec<u8>, watch::Sender<QueuePosition>>,
    front: watch::Sender<Option<QueueHead>>,
}

impl QueueView {
    /// The view of an election that others may already have.
    pub(crate) fn of(shared: &Arc<EtcdShared>, election: &ElectionName) -> Arc<Self> {
        let mut views = shared.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|_, view| view.strong_count() > 0);
        if let Some(view) = views.get(election).and_then(Weak::upgrade) {
            return view;
        }
        let view = Self::start(shared, election);
        views.insert(election.clone(), Arc::downgrade(&view));
        view
    }

    fn start(shared: &Arc<EtcdShared>, election: &ElectionName) -> Arc<Self> {
        let queue = Err(Timestamp::now());
        let known = ViewState { queue, lookers: BTreeMap::new(), front: watch::Sender::new(None) };
        let election = election.clone();
        let view = Arc::new(Self { election, known: Mutex::new(known), task: OnceLock::new() });
        let (shared_too, election) = (Arc::clone(shared), view.election.clone());
        let follower = QueueFollower { shared: shared_too, election, view: Arc::downgrade(&view) };
        let task = AbortOnDropHandle::new(shared.runtime.spawn(follower.follow()));
        // Set once, right here.
        let _ = view.task.set(task);
        view
    }

    /// Looks at one key from now on.
    pub(crate) fn look_at(self: &Arc<Self>, key: Vec<u8>) -> KeyWatch {
        let mut known = self.known();
        let sight = match &mut known.queue {
            Ok(queue) => {
                // A key is looked at before it is put. One that an earlier attempt has put may lie further back
                // than what is kept: it counts as gone, and its candidate queues anew.
                queue.track(&key, None);
                sight(queue, &key)
            }
            Err(since) => QueuePosition::Unsure { since: *since },
        };
        let (sender, sights) = watch::channel(sight);
        known.lookers.insert(key.clone(), sender);
        drop(known);
        let mut look = KeyWatch { view: Arc::clone(self), key, sights };
        look.sights.mark_changed();
        look
    }

    /// Follows who is at the front of the queue.
    pub(crate) fn front(self: &Arc<Self>) -> LeaderWatch {
        let front = self.known().front.subscribe();
        // Whoever follows holds the view, and the view the other end.
        let view = Arc::clone(self);
        let same_view = Arc::clone(&view);
        LeaderWatch::new(front, move || view.tokens(), move |name| same_view.called(name))
    }

    /// The tokens of the first who are in the queue, and of those here; or since when that is not known.
    fn tokens(&self) -> Result<Vec<FencingToken>, Timestamp> {
        let known = self.known();
        let queue = known.queue.as_ref().map_err(|since| *since)?;
        Ok(queue.revisions().into_iter().map(keys::token).collect())
    }

    /// The tokens of those who are known to go by this name.
    fn called(&self, name: &str) -> Vec<FencingToken> {
        let known = self.known();
        let Ok(queue) = &known.queue else { return Vec::new() };
        let named = queue.iter().filter(|(_, entry)| entry.candidate && entry.name.as_deref() == Some(name));
        named.map(|(_, entry)| keys::token(entry.key.created)).collect()
    }

    fn known(&self) -> MutexGuard<'_, ViewState> {
        // Nothing in here panics half way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue was read anew. Where it may have more than was read, it comes back with the keys that have
    /// to be asked for as well.
    fn read(&self, mut queue: Queue) -> Option<(Queue, Vec<Vec<u8>>)> {
        let mut known = self.known();
        let missed: Vec<_> = known.lookers.keys().filter(|key| queue.may_miss(key)).cloned().collect();
        if !missed.is_empty() {
            return Some((queue, missed));
        }
        for key in known.lookers.keys() {
            queue.track(key, None);
        }
        known.front.send_if_modified(|front| show(&queue, front));
        for (key, looker) in &known.lookers {
            looker.send_replace(sight(&queue, key));
        }
        known.queue = Ok(queue);
        None
    }

    /// A message of the watch, whole. Returns what is to be asked for now.
    fn happened(&self, events: &[Event]) -> Option<Want> {
        self.change(|queue| {
            let mut changed = Vec::new();
            for (kind, kv) in events.iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
                let put = kind == EventType::Put;
                let now = put.then(|| QueueEntry::of(&self.election, kv)).flatten();
                if queue.happened(Revision(kv.mod_revision()), kv.key(), now) {
                    changed.push(kv.key().to_vec());
                }
            }
            changed
        })
    }

    /// What etcd says of one key. Returns what is to be asked for next.
    fn learned(&self, key: &[u8], now: Option<&KeyValue>) -> Option<Want> {
        let mut settled = false;
        let next = self.change(|queue| {
            settled = queue.learned(&self.election, key, now);
            vec![key.to_vec()]
        });
        next.filter(|_| settled)
    }

    /// Changes the queue, and tells those who look at it.
    fn change(&self, change: impl FnOnce(&mut Queue) -> Vec<Vec<u8>>) -> Option<Want> {
        let mut known = self.known();
        let ViewState { queue: Ok(queue), lookers, front } = &mut *known else { return None };
        let first = |queue: &Queue| queue.iter().next().map(|(key, _)| key.to_vec());
        let before = first(queue);
        let mut changed = change(queue);
        let after = first(queue);
        if before != after {
            changed.extend(before.into_iter().chain(after));
        }
        front.send_if_modified(|front| show(queue, front));
        for key in changed {
            if let Some(looker) = lookers.get(&key) {
                looker.send_replace(sight(queue, &key));
            }
        }
        queue.want()
    }

    /// The watch broke.
    fn lost(&self) {
        let mut known = self.known();
        if known.queue.is_ok() {
            let since = Timestamp::now();
            known.queue = Err(since);
            for looker in known.lookers.values() {
                looker.send_replace(QueuePosition::Unsure { since });
            }
        }
    }
}

fn sight(queue: &Queue, key: &[u8]) -> QueuePosition {
    QueuePosition::At { revision: queue.at(), place: queue.place(key) }
}

/// Writes down who is at the front; `true` if that is news.
fn show(queue: &Queue, known: &mut Option<QueueHead>) -> bool {
    let front = match queue.head() {
        Head::Empty => QueueHead::Nobody,
        Head::Candidate { entry, .. } => {
            let token = keys::token(entry.key.created);
            if matches!(known, Some(QueueHead::Candidate { token: shown, .. }) if *shown == token) {
                return false;
            }
            let Some(name) = entry.name.clone() else { return false };
            QueueHead::Candidate { token, name }
        }
        Head::Blocked { key, entry } => match entry.key.lease {
            Some(LeaseId(0)) => QueueHead::Foreign(displayed(key)),
            Some(_) => QueueHead::Leased(displayed(key)),
            None => return false,
        },
        Head::Unread => return false,
    };
    let news = known.as_ref() != Some(&front);
    *known = Some(front);
    news
}

/// One key, as a view shows it. The newest sight counts; older ones may be skipped.
pub(crate) struct KeyWatch {
    view: Arc<QueueView>,
    key: Vec<u8>,
    sights: watch::Receiver<QueuePosition>,
}

impl KeyWatch {
    /// The next sight; the present one at first.
    ///
    /// Cancel safe.
    pub(crate) async fn sight(&mut self) -> QueuePosition {
        match self.sights.changed().await {
            Ok(()) => *self.sights.borrow_and_update(),
            // Whoever looks holds the view, and the view the other end.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        let mut known = self.view.known();
        known.lookers.remove(&self.key);
        if let Ok(queue) = &mut known.queue {
            queue.untrack(&self.key);
        }
    }
}

/// Keeps a view up.
struct QueueFollower {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    view: Weak<QueueView>,
}

impl QueueFollower {
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
            let unreachable = trouble.remedy == Remedy::Unreachable;
            if self.shared.links.pause(backoff.pause(), unreachable).await == Paused::Reachable {
                backoff.reset();
            }
        }
    }

    async fn follow_over_a_stream(&self, backoff: &mut Backoff) -> Result<Infallible, EtcdError> {
        let link = self.shared.links.link().await?;
        tokio::select! {
            biased;
            () = self.shared.links.abandoned(&link) => Err(EtcdError::elsewhere("the link was abandoned")),
            broken = self.follow_over_link(&link, backoff) => broken,
        }
    }

    async fn follow_over_link(
        &self,
        link: &EndpointConnection,
        backoff: &mut Backoff,
    ) -> Result<Infallible, EtcdError> {
        let known = self.shared.known();
        // Both at once: the watch shows what comes after the moment that it was made, so all that is
        // asked of the read is not to be older than that.
        let (mut queue, mut watch) = tokio::try_join!(self.read(link), self.watch(link))?;
        let made = timeout(PATIENCE, self.message(link, &mut watch, known)).await;
        let (made, at) = made.map_err(|_| self.broken(link, EtcdError::unanswered(PATIENCE)))??;
        while queue.at() < at {
            queue = self.read(link).await?;
        }
        self.show(link, queue).await?;
        backoff.reset();
        let mut message = made;
        loop {
            let want = self.looked_at()?.happened(message.events());
            self.settle(link, want).await?;
            (message, _) = self.message(link, &mut watch, known).await?;
        }
    }

    /// Shows a queue that was read.
    async fn show(&self, link: &EndpointConnection, queue: Queue) -> Result<(), EtcdError> {
        let mut shown = self.looked_at()?.read(queue);
        while let Some((mut queue, missed)) = shown {
            for key in missed {
                let now = queue::key_at(&self.shared, link, &key, queue.at()).await?;
                queue.track(&key, now);
            }
            shown = self.looked_at()?.read(queue);
        }
        let want = self.looked_at()?.change(|_| Vec::new());
        Box::pin(self.settle(link, want)).await
    }

    /// Asks until the front of the queue is known. Events that come meanwhile wait.
    async fn settle(&self, link: &EndpointConnection, mut want: Option<Want>) -> Result<(), EtcdError> {
        while let Some(wanted) = want {
            want = match wanted {
                Want::Reading => return self.show(link, self.read(link).await?).await,
                Want::Entry(key, at) => {
                    let now = queue::value_at(&self.shared, link, &key, at).await?;
                    self.looked_at()?.learned(&key, now.as_ref())
                }
            };
        }
        Ok(())
    }

    /// The next message of the watch, and the revision that it was sent at.
    async fn message(
        &self,
        link: &EndpointConnection,
        watch: &mut Watch,
        known: staleness::ClusterMark,
    ) -> Result<(WatchResponse, Revision), EtcdError> {
        let message = watch.message().await.map_err(|trouble| self.broken(link, trouble))?;
        if message.canceled() {
            return Err(self.shared.links.watch_cancelled(link, &message).await);
        }
        let at = self.shared.accept(link, message.header(), ReadKind::Local, known)?;
        Ok((message, at))
    }

    fn looked_at(&self) -> Result<Arc<QueueView>, EtcdError> {
        self.view.upgrade().ok_or_else(|| EtcdError::elsewhere("nobody looks any more"))
    }

    async fn read(&self, link: &EndpointConnection) -> Result<Queue, EtcdError> {
        queue::read(&self.shared, link, &self.election).await
    }

    async fn watch(&self, link: &EndpointConnection) -> Result<Watch, EtcdError> {
        self.shared.links.call(link, PATIENCE, link.watch(keys::prefix(&self.election))).await
    }

    fn broken(&self, link: &EndpointConnection, trouble: EtcdError) -> EtcdError {
        self.shared.links.blame(link, &trouble);
        trouble
    }
}
