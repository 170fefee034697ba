//! A few keys of etcd, followed: a read, continued by a watch.
//!
//! For what a leader and its successors are told: orders, standing orders, an answer. Nothing here is safe to
//! decide leadership by, and nothing needs to be: while the watch is broken the last known values stay, and
//! whatever follows from them is compared by etcd itself.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{Event, EventType, GetOptions, KeyValue};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    EtcdShared,
    connection::{EndpointConnection, Paused},
    error::{EtcdError, Remedy},
    keys::{LeaseId, Revision},
    queue::PATIENCE,
    staleness::{ClusterMark, ReadKind},
    watches::{Watch, WatchRange},
};
use crate::timing::Backoff;

/// The most keys that are kept: far more than operators make.
const MOST: usize = 1000;

/// Time after which keys that etcd denied are tried again: a role may have got the right.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The longest value that is kept; no value of ours is longer.
const LONGEST: usize = 16 << 10;

/// The state of the followed keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeysSeen {
    Unread,
    /// etcd does not let this user read them.
    Denied,
    Read(BTreeMap<Vec<u8>, ValueSeen>),
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueSeen {
    pub(crate) value: Vec<u8>,
    pub(crate) created: Revision,
    pub(crate) lease: LeaseId,
}

impl ValueSeen {
    fn of(kv: &KeyValue) -> Self {
        let value = if kv.value().len() > LONGEST { Vec::new() } else { kv.value().to_vec() };
        Self { value, created: Revision(kv.create_revision()), lease: LeaseId(kv.lease()) }
    }
}

impl KeysSeen {
    /// Returns the value of a key.
    pub(crate) fn value(&self, key: &[u8]) -> Option<&ValueSeen> {
        match self {
            Self::Unread | Self::Denied => None,
            Self::Read(keys) => keys.get(key),
        }
    }
}

/// Keys that are kept up to date while this exists.
#[derive(Debug)]
pub(crate) struct FollowedKeys {
    seen: watch::Receiver<KeysSeen>,
    _task: AbortOnDropHandle<()>,
}

impl FollowedKeys {
    /// Follows keys from now on; `what` names them in a warning if that is forbidden.
    pub(crate) fn start(shared: &Arc<EtcdShared>, range: WatchRange, what: &'static str) -> Self {
        let (shown, seen) = watch::channel(KeysSeen::Unread);
        let follower = RangeFollower { shared: Arc::clone(shared), range, what, shown };
        let task = AbortOnDropHandle::new(shared.spawn(follower.follow()));
        Self { seen, _task: task }
    }

    /// Returns the keys, and each change of them.
    pub(crate) fn subscribe(&self) -> watch::Receiver<KeysSeen> {
        self.seen.clone()
    }
}

/// Waits for a change; for ever if none can come.
pub(crate) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

struct RangeFollower {
    shared: Arc<EtcdShared>,
    range: WatchRange,
    what: &'static str,
    shown: watch::Sender<KeysSeen>,
}

impl RangeFollower {
    async fn follow(self) {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.follow_over_a_stream(&mut backoff).await {
                Err(error) => error,
                Ok(never) => match never {},
            };
            if error.remedy == Remedy::Human {
                // Keys that were read before stay as they are: a password may be about to change.
                let denied = self.shown.send_if_modified(|shown| {
                    let unread = *shown == KeysSeen::Unread;
                    if unread {
                        *shown = KeysSeen::Denied;
                    }
                    unread
                });
                if denied {
                    let what = self.what;
                    tracing::warn!(%error, "etcd does not let this user see {what}: they have no effect here");
                }
                sleep(TRY_AGAIN).await;
                continue;
            }
            tracing::debug!(%error, range = ?self.range, "lost the watch, reading again");
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
        if *self.shown.borrow() == KeysSeen::Denied {
            // A refused watch costs a stream.
            self.read(connection).await?;
        }
        let known = self.shared.known();
        let creating = connection.watch(self.range.clone());
        let mut watch = self.shared.connections.call(connection, PATIENCE, creating).await?;
        let created = timeout(PATIENCE, self.message(connection, &mut watch, known)).await;
        created.map_err(|_| self.broken(connection, EtcdError::unanswered(PATIENCE)))??;
        // Read after the watch was created, so no change is missed in between.
        let (read, at) = self.read(connection).await?;
        self.shown.send_if_modified(|shown| {
            let changed = *shown != read;
            *shown = read;
            changed
        });
        backoff.reset();
        loop {
            let events = self.message(connection, &mut watch, known).await?;
            self.shown.send_if_modified(|shown| apply(shown, at, &events));
        }
    }

    async fn message(
        &self,
        connection: &EndpointConnection,
        watch: &mut Watch,
        known: ClusterMark,
    ) -> Result<Vec<Event>, EtcdError> {
        let message = watch.message().await.map_err(|error| self.broken(connection, error))?;
        if message.canceled() {
            return Err(self.shared.connections.watch_cancelled(connection, &message).await);
        }
        self.shared.accept(connection, message.header(), ReadKind::Local, known)?;
        Ok(message.events().to_vec())
    }

    async fn read(&self, connection: &EndpointConnection) -> Result<(KeysSeen, Revision), EtcdError> {
        let known = self.shared.known();
        let options = GetOptions::new().with_limit(MOST as i64);
        let (key, options) = match &self.range {
            WatchRange::Prefix(prefix) => (prefix.clone().into_bytes(), options.with_prefix()),
            WatchRange::Key(key) => (key.clone(), options),
        };
        let mut client = connection.kv();
        let reading = client.get(key, Some(options));
        let answer = self.shared.connections.call(connection, PATIENCE, reading).await?;
        let at = self.shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
        let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), ValueSeen::of(kv)));
        Ok((KeysSeen::Read(keys.collect()), at))
    }

    fn broken(&self, connection: &EndpointConnection, error: EtcdError) -> EtcdError {
        self.shared.connections.blame(connection, &error);
        error
    }
}

/// Applies the changes after a read; `true` if there were any.
fn apply(shown: &mut KeysSeen, read_at: Revision, events: &[Event]) -> bool {
    let KeysSeen::Read(keys) = shown else { return false };
    let mut changed = false;
    for (kind, kv) in events.iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
        if kv.mod_revision() <= read_at.0 {
            continue;
        }
        changed |= match kind {
            EventType::Put if keys.len() < MOST || keys.contains_key(kv.key()) => {
                let now = ValueSeen::of(kv);
                keys.insert(kv.key().to_vec(), now.clone()) != Some(now)
            }
            EventType::Put => false,
            EventType::Delete => keys.remove(kv.key()).is_some(),
        };
    }
    changed
}
