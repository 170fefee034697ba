//! Watching our own key, and that of the candidate right before us.
//!
//! A watch starts at a given revision, and goes on where it stopped after every break,
//! so no event is missed. Where etcd has compacted what lies between, the watch starts
//! after the gap and says [`KeyEvent::Gap`]: the queue must be looked at again.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use etcd_client::{EventType, WatchOptions};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    layout::{LeaseId, Revision},
    lease::short_pause,
    link::Link,
    trouble::Trouble,
};

/// Something happened to a watched key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyEvent {
    /// A key was put.
    Put { key: Vec<u8>, created: Revision, lease: LeaseId },
    /// A key is gone.
    Deleted { key: Vec<u8> },
    /// Events were missed.
    Gap,
}

/// How many events may wait to be looked at; then etcd is read more slowly.
const EVENTS: usize = 64;

/// A watch on a few keys, kept up until it is dropped.
pub(crate) struct KeyWatch {
    events: mpsc::Receiver<KeyEvent>,
    more: mpsc::Sender<(Vec<u8>, Revision)>,
    _task: AbortOnDropHandle<()>,
}

impl KeyWatch {
    /// Watches `own` from the revision `from` on.
    pub(crate) fn start(shared: &Arc<Shared>, own: Vec<u8>, from: Revision) -> Self {
        let (told, events) = mpsc::channel(EVENTS);
        let (more, wanted) = mpsc::channel(1);
        let watcher = Watcher {
            shared: Arc::clone(shared),
            next: BTreeMap::from([(own.clone(), from)]),
            own,
            wanted,
            told,
        };
        let task = AbortOnDropHandle::new(shared.spawn(watcher.watch()));
        Self { events, more, _task: task }
    }

    /// The next event.
    ///
    /// Cancel safe.
    pub(crate) async fn event(&mut self) -> KeyEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The watcher never ends by itself.
            None => std::future::pending().await,
        }
    }

    /// Watches `key` too, from the revision `from` on, in place of the one before it.
    pub(crate) async fn also(&self, key: Vec<u8>, from: Revision) {
        // The watcher lives as long as `self`.
        let _ = self.more.send((key, from)).await;
    }
}

struct Watcher {
    shared: Arc<Shared>,
    own: Vec<u8>,
    /// For each key, the revision to go on from.
    next: BTreeMap<Vec<u8>, Revision>,
    wanted: mpsc::Receiver<(Vec<u8>, Revision)>,
    told: mpsc::Sender<KeyEvent>,
}

impl Watcher {
    async fn watch(mut self) {
        loop {
            let trouble = match self.watch_over_a_stream().await {
                Err(trouble) => trouble,
                Ok(never) => match never {},
            };
            if self.told.is_closed() {
                return;
            }
            tracing::debug!(%trouble, "watch broke, resuming");
            tokio::time::sleep(short_pause()).await;
        }
    }

    async fn watch_over_a_stream(&mut self) -> Result<Infallible, Trouble> {
        let shared = Arc::clone(&self.shared);
        let link = shared.links.link().await?;
        let mut client = link.watcher();
        let from = self.next[&self.own];
        // A first answer may take until etcd has a leader; who moves the link interrupts us.
        let opening = client.watch(self.own.clone(), Some(start_at(from)));
        let mut stream = tokio::select! {
            opened = opening => opened.map_err(|error| self.broken(&link, error.into()))?,
            () = shared.links.abandoned(&link) => return Err(Trouble::elsewhere("the link was abandoned")),
        };
        for (key, from) in self.next.iter().filter(|(key, _)| **key != self.own) {
            stream
                .watch(key.clone(), Some(start_at(*from)))
                .await
                .map_err(|error| self.broken(&link, error.into()))?;
        }
        loop {
            let message = tokio::select! {
                biased;
                () = shared.links.abandoned(&link) => return Err(Trouble::elsewhere("the link was abandoned")),
                Some((key, from)) = self.wanted.recv() => {
                    let own = self.next[&self.own];
                    self.next = BTreeMap::from([(self.own.clone(), own), (key.clone(), from)]);
                    stream
                        .watch(key, Some(start_at(from)))
                        .await
                        .map_err(|error| self.broken(&link, error.into()))?;
                    continue;
                }
                message = stream.message() => message,
            };
            let message = message
                .map_err(Trouble::from)
                .and_then(|message| message.ok_or_else(|| Trouble::elsewhere("etcd closed the watch")))
                .map_err(|trouble| self.broken(&link, trouble))?;
            if message.canceled() {
                let compacted = message.compact_revision();
                if compacted > 0 {
                    self.skip_to(Revision(compacted)).await;
                    return Err(Trouble::elsewhere("events were compacted away"));
                }
                let why =
                    Trouble::elsewhere(format!("etcd cancelled the watch: {}", message.cancel_reason()));
                return Err(self.broken(&link, why));
            }
            for event in message.events() {
                self.tell(event).await;
            }
        }
    }

    /// Leaves out what was compacted away, and says so.
    ///
    /// It is said before the watch is back; but the watch goes on from the end of the gap,
    /// and a look that is answered now shows everything up to then.
    async fn skip_to(&mut self, revision: Revision) {
        for next in self.next.values_mut() {
            *next = revision.max(*next);
        }
        let _ = self.told.send(KeyEvent::Gap).await;
    }

    async fn tell(&mut self, event: &etcd_client::Event) {
        let Some(kv) = event.kv() else { return };
        let happened = Revision(kv.mod_revision());
        let Some(next) = self.next.get_mut(kv.key()) else { return };
        if happened < *next {
            // Seen already, before the stream broke.
            return;
        }
        *next = happened.next();
        let key = kv.key().to_vec();
        let event = match event.event_type() {
            EventType::Put => {
                KeyEvent::Put { key, created: Revision(kv.create_revision()), lease: LeaseId(kv.lease()) }
            }
            EventType::Delete => KeyEvent::Deleted { key },
        };
        let _ = self.told.send(event).await;
    }

    fn broken(&self, link: &Link, trouble: Trouble) -> Trouble {
        self.shared.links.blame(link, &trouble);
        trouble
    }
}

fn start_at(revision: Revision) -> WatchOptions {
    WatchOptions::new().with_start_revision(revision.0).with_fragment()
}
