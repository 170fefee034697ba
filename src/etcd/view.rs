//! The queue of one election, known exactly as of a revision.
//!
//! A linearizable read of the queue, continued by a watch: etcd promises that a watch delivers every event,
//! in order, and whole revisions at a time. So at the end of each message we know the whole queue as it was
//! at one revision, as surely as by a read at that moment, and without a request. That makes verifying a win
//! free: the event that deletes the last key before ours proves that we are first.
//!
//! All candidates of one election in one process share one view, and so one watch. When the watch breaks,
//! every position becomes [`QueuePosition::Unsure`] at once, and the queue is read again; so events in
//! between, or their compaction, do not matter.

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
    followed::{FollowedKeys, KeysSeen},
    keys::{self, LeaseId, MadeKey, Revision},
    queue::{self, Head, PATIENCE, Queue, QueueEntry, QueuePlace, Want},
    staleness::{self, ReadKind},
    watches::{Watch, WatchRange},
};
use crate::{
    clock::Timestamp,
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::{LeaderWatch, QueueHead},
    timing::Backoff,
};

/// The position of one key in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueuePosition {
    /// Unknown since then (boot-time clock).
    Unsure { since: Timestamp },
    /// The key's place at a revision.
    At { revision: Revision, place: QueuePlace },
}

/// A view and its watchers. Kept up to date while any handle to it exists.
pub(crate) struct QueueView {
    election: ElectionName,
    known: Mutex<ViewState>,
    task: OnceLock<AbortOnDropHandle<()>>,
    /// The order to hand over and the standing orders, followed once a candidate asks for them.
    orders: OnceLock<(FollowedKeys, FollowedKeys)>,
}

struct ViewState {
    /// The queue at its revision, or the time since when it is unknown.
    queue: Result<Queue, Timestamp>,
    watchers: BTreeMap<Vec<u8>, watch::Sender<QueuePosition>>,
    head: watch::Sender<Option<QueueHead>>,
    /// Notified of each change.
    changes: watch::Sender<()>,
}

impl QueueView {
    /// Returns the election's view, shared if it exists already.
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
        let (watchers, head, changes) = (BTreeMap::new(), watch::Sender::new(None), watch::Sender::new(()));
        let known = Mutex::new(ViewState { queue, watchers, head, changes });
        let (election, task, orders) = (election.clone(), OnceLock::new(), OnceLock::new());
        let view = Arc::new(Self { election, known, task, orders });
        let (shared_too, election) = (Arc::clone(shared), view.election.clone());
        let follower = QueueFollower { shared: shared_too, election, view: Arc::downgrade(&view) };
        let task = AbortOnDropHandle::new(shared.runtime.spawn(follower.follow()));
        // Set once, right here.
        let _ = view.task.set(task);
        view
    }

    /// Watches one key from now on.
    pub(crate) fn watch_key(self: &Arc<Self>, key: Vec<u8>) -> KeyWatch {
        let mut known = self.known();
        let position = match &mut known.queue {
            Ok(queue) => {
                // A key is watched before it is put. One that an earlier attempt has put may lie behind the
                // kept keys: it counts as gone, and its candidate joins the queue again.
                queue.track(&key, None);
                position(queue, &key)
            }
            Err(since) => QueuePosition::Unsure { since: *since },
        };
        let (sender, positions) = watch::channel(position);
        known.watchers.insert(key.clone(), sender);
        drop(known);
        let mut key_watch = KeyWatch { view: Arc::clone(self), key, positions };
        key_watch.positions.mark_changed();
        key_watch
    }

    /// Returns the order to hand over, and the standing orders; each with its changes.
    pub(crate) fn orders(
        &self,
        shared: &Arc<EtcdShared>,
    ) -> (watch::Receiver<KeysSeen>, watch::Receiver<KeysSeen>) {
        let (order, controls) = self.orders.get_or_init(|| {
            let order = WatchRange::Key(keys::order_key(&self.election));
            let controls = WatchRange::Prefix(keys::control_prefix(&self.election));
            let order = FollowedKeys::start(shared, order, "orders to hand over");
            (order, FollowedKeys::start(shared, controls, "standing orders"))
        });
        (order.subscribe(), controls.subscribe())
    }

    /// Returns a receiver that is notified of each change of the queue.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.known().changes.subscribe()
    }

    /// Returns the kept keys, first come first, each with whether it is a candidate's; `None` while they are
    /// unknown.
    pub(crate) fn kept(&self) -> Option<Vec<(MadeKey, bool)>> {
        let known = self.known();
        let queue = known.queue.as_ref().ok()?;
        let made = |key: &[u8], entry: &QueueEntry| MadeKey { key: key.to_vec(), created: entry.key.created };
        Some(queue.iter().map(|(key, entry)| (made(key, entry), entry.candidate)).collect())
    }

    /// Follows the head of the queue.
    pub(crate) fn leader_watch(self: &Arc<Self>) -> LeaderWatch {
        let head = self.known().head.subscribe();
        // The closures hold the view, and the view the sender.
        let view = Arc::clone(self);
        let same_view = Arc::clone(&view);
        LeaderWatch::new(head, move || view.tokens(), move |name| same_view.called(name))
    }

    /// Returns the tokens of the first keys in the queue, and of our own; or the time since when they are
    /// unknown.
    fn tokens(&self) -> Result<Vec<FencingToken>, Timestamp> {
        let known = self.known();
        let queue = known.queue.as_ref().map_err(|since| *since)?;
        Ok(queue.revisions().into_iter().map(keys::token).collect())
    }

    /// Returns the tokens of the candidates that are known under this name.
    fn called(&self, name: &str) -> Vec<FencingToken> {
        let known = self.known();
        let Ok(queue) = &known.queue else { return Vec::new() };
        let named = queue.iter().filter(|(_, entry)| entry.candidate && entry.name.as_deref() == Some(name));
        named.map(|(_, entry)| keys::token(entry.key.created)).collect()
    }

    fn known(&self) -> MutexGuard<'_, ViewState> {
        // No change in here can panic half way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a queue that was read again. If it may lack watched keys, returns it with the keys to read as
    /// well.
    fn read(&self, mut queue: Queue) -> Option<(Queue, Vec<Vec<u8>>)> {
        let mut known = self.known();
        let missed: Vec<_> = known.watchers.keys().filter(|key| queue.may_miss(key)).cloned().collect();
        if !missed.is_empty() {
            return Some((queue, missed));
        }
        for key in known.watchers.keys() {
            queue.track(key, None);
        }
        known.head.send_if_modified(|head| show(&queue, head));
        for (key, watcher) in &known.watchers {
            watcher.send_replace(position(&queue, key));
        }
        known.queue = Ok(queue);
        known.changes.send_replace(());
        None
    }

    /// Applies a whole message of the watch. Returns the next data to request.
    fn apply(&self, events: &[Event]) -> Option<Want> {
        self.change(|queue| {
            let mut changed = Vec::new();
            for (kind, kv) in events.iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
                let put = kind == EventType::Put;
                let now = put.then(|| QueueEntry::of(&self.election, kv)).flatten();
                if queue.apply(Revision(kv.mod_revision()), kv.key(), now) {
                    changed.push(kv.key().to_vec());
                }
            }
            changed
        })
    }

    /// Applies etcd's answer for one key. Returns the next data to request.
    fn learned(&self, key: &[u8], now: Option<&KeyValue>) -> Option<Want> {
        let mut settled = false;
        let next = self.change(|queue| {
            settled = queue.learned(&self.election, key, now);
            vec![key.to_vec()]
        });
        next.filter(|_| settled)
    }

    /// Changes the queue, and notifies the watchers of it.
    fn change(&self, change: impl FnOnce(&mut Queue) -> Vec<Vec<u8>>) -> Option<Want> {
        let mut known = self.known();
        let ViewState { queue: Ok(queue), watchers, head, changes } = &mut *known else { return None };
        let first = |queue: &Queue| queue.iter().next().map(|(key, _)| key.to_vec());
        let before = first(queue);
        let mut changed = change(queue);
        let after = first(queue);
        if before != after {
            changed.extend(before.into_iter().chain(after));
        }
        head.send_if_modified(|head| show(queue, head));
        if !changed.is_empty() {
            changes.send_replace(());
        }
        for key in changed {
            if let Some(watcher) = watchers.get(&key) {
                watcher.send_replace(position(queue, &key));
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
            for watcher in known.watchers.values() {
                watcher.send_replace(QueuePosition::Unsure { since });
            }
        }
    }
}

fn position(queue: &Queue, key: &[u8]) -> QueuePosition {
    QueuePosition::At { revision: queue.at(), place: queue.place(key) }
}

/// Writes the head of the queue; `true` if it changed.
fn show(queue: &Queue, known: &mut Option<QueueHead>) -> bool {
    let head = match queue.head() {
        Head::Empty => QueueHead::Empty,
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
    let changed = known.as_ref() != Some(&head);
    *known = Some(head);
    changed
}

/// The position of one key in a view. The newest counts; older ones may be skipped.
pub(crate) struct KeyWatch {
    view: Arc<QueueView>,
    key: Vec<u8>,
    positions: watch::Receiver<QueuePosition>,
}

impl KeyWatch {
    /// Returns the next position; the present one at first.
    ///
    /// Cancel safe.
    pub(crate) async fn position(&mut self) -> QueuePosition {
        match self.positions.changed().await {
            Ok(()) => *self.positions.borrow_and_update(),
            // This handle holds the view, and the view the sender.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        let mut known = self.view.known();
        known.watchers.remove(&self.key);
        if let Ok(queue) = &mut known.queue {
            queue.untrack(&self.key);
        }
    }
}

/// Keeps a view up to date.
struct QueueFollower {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    view: Weak<QueueView>,
}

impl QueueFollower {
    async fn follow(self) {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.follow_over_a_stream(&mut backoff).await {
                Err(error) => error,
                Ok(never) => match never {},
            };
            let Some(view) = self.view.upgrade() else { return };
            view.lost();
            tracing::debug!(%error, election = %self.election, "lost the watch of the queue, reading it again");
            drop(view);
            let unreachable = error.remedy == Remedy::Unreachable;
            if self.shared.connections.pause(backoff.pause(), unreachable).await == Paused::Reachable {
                backoff.reset();
            }
        }
    }

    async fn follow_over_a_stream(&self, backoff: &mut Backoff) -> Result<Infallible, EtcdError> {
        let connection = self.shared.connections.connection().await?;
        tokio::select! {
            biased;
            () = self.shared.connections.abandoned(&connection) => Err(EtcdError::elsewhere("the connection was abandoned")),
            broken = self.follow_over_connection(&connection, backoff) => broken,
        }
    }

    async fn follow_over_connection(
        &self,
        connection: &EndpointConnection,
        backoff: &mut Backoff,
    ) -> Result<Infallible, EtcdError> {
        let known = self.shared.known();
        // Both at once: the watch shows all events after its creation, so the read must only not be older
        // than that.
        let (mut queue, mut watch) = tokio::try_join!(self.read(connection), self.watch(connection))?;
        let made = timeout(PATIENCE, self.message(connection, &mut watch, known)).await;
        let (made, at) = made.map_err(|_| self.broken(connection, EtcdError::unanswered(PATIENCE)))??;
        while queue.at() < at {
            queue = self.read(connection).await?;
        }
        self.show(connection, queue).await?;
        backoff.reset();
        let mut message = made;
        loop {
            let want = self.view()?.apply(message.events());
            self.settle(connection, want).await?;
            (message, _) = self.message(connection, &mut watch, known).await?;
        }
    }

    /// Shows a queue that was read.
    async fn show(&self, connection: &EndpointConnection, queue: Queue) -> Result<(), EtcdError> {
        let mut shown = self.view()?.read(queue);
        while let Some((mut queue, missed)) = shown {
            for key in missed {
                let now = queue::key_at(&self.shared, connection, &key, queue.at()).await?;
                queue.track(&key, now);
            }
            shown = self.view()?.read(queue);
        }
        let want = self.view()?.change(|_| Vec::new());
        Box::pin(self.settle(connection, want)).await
    }

    /// Requests data until the head of the queue is known. Events wait meanwhile.
    async fn settle(&self, connection: &EndpointConnection, mut want: Option<Want>) -> Result<(), EtcdError> {
        while let Some(wanted) = want {
            want = match wanted {
                Want::Reading => return self.show(connection, self.read(connection).await?).await,
                Want::Entry(key, at) => {
                    let now = queue::value_at(&self.shared, connection, &key, at).await?;
                    self.view()?.learned(&key, now.as_ref())
                }
            };
        }
        Ok(())
    }

    /// Returns the next message of the watch, and the revision that it was sent at.
    async fn message(
        &self,
        connection: &EndpointConnection,
        watch: &mut Watch,
        known: staleness::ClusterMark,
    ) -> Result<(WatchResponse, Revision), EtcdError> {
        let message = watch.message().await.map_err(|error| self.broken(connection, error))?;
        if message.canceled() {
            return Err(self.shared.connections.watch_cancelled(connection, &message).await);
        }
        let at = self.shared.accept(connection, message.header(), ReadKind::Local, known)?;
        Ok((message, at))
    }

    fn view(&self) -> Result<Arc<QueueView>, EtcdError> {
        self.view.upgrade().ok_or_else(|| EtcdError::elsewhere("the view has no user any more"))
    }

    async fn read(&self, connection: &EndpointConnection) -> Result<Queue, EtcdError> {
        queue::read(&self.shared, connection, &self.election).await
    }

    async fn watch(&self, connection: &EndpointConnection) -> Result<Watch, EtcdError> {
        self.shared
            .connections
            .call(connection, PATIENCE, connection.watch(WatchRange::Prefix(keys::prefix(&self.election))))
            .await
    }

    fn broken(&self, connection: &EndpointConnection, error: EtcdError) -> EtcdError {
        self.shared.connections.blame(connection, &error);
        error
    }
}
