//! Watching our own key, and that of the candidate right before us.
//!
//! A watch starts at a given revision, and goes on where it stopped after every break,
//! so no event is missed. Where etcd has compacted what lies between, the watch starts
//! after the gap and says [`KeyEvent::Gap`]: the queue must be looked at again. Where no watch
//! can be had for a whole TTL it says [`KeyEvent::Blind`]: whoever renews a lease without
//! seeing the key could believe in it for ever after somebody deleted it.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    layout::{LeaseId, Revision},
    link::Link,
    progress::Answer,
    trouble::Trouble,
};
use crate::timing::{Backoff, Ttl};

/// Something happened to a watched key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyEvent {
    /// A key was put.
    Put { key: Vec<u8>, created: Revision, lease: LeaseId },
    /// A key is gone.
    Deleted { key: Vec<u8> },
    /// Events were missed.
    Gap,
    /// Nothing could be seen for a whole TTL.
    Blind,
}

/// How many events may wait to be looked at; then etcd is read more slowly.
const EVENTS: usize = 64;

/// A watch on a few keys, kept up until it is dropped.
pub(crate) struct KeyWatch {
    events: mpsc::Receiver<KeyEvent>,
    ahead: watch::Sender<Option<(Vec<u8>, Revision)>>,
    _task: AbortOnDropHandle<()>,
}

impl KeyWatch {
    /// Watches `own` from the revision `from` on.
    pub(crate) fn start(shared: &Arc<Shared>, own: Vec<u8>, from: Revision, ttl: Ttl) -> Self {
        let (told, events) = mpsc::channel(EVENTS);
        let (ahead, wanted) = watch::channel(None);
        let watcher = Watcher {
            shared: Arc::clone(shared),
            next: BTreeMap::from([(own.clone(), from)]),
            own,
            ttl,
            blind_since: Some(Instant::now()),
            wanted,
            told,
        };
        let task = AbortOnDropHandle::new(shared.spawn(watcher.watch()));
        Self { events, ahead, _task: task }
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
    pub(crate) fn also(&self, key: Vec<u8>, from: Revision) {
        self.ahead.send_replace(Some((key, from)));
    }
}

struct Watcher {
    shared: Arc<Shared>,
    own: Vec<u8>,
    /// For each key, the revision to go on from.
    next: BTreeMap<Vec<u8>, Revision>,
    ttl: Ttl,
    /// Since when there is no watch; `None` while there is one.
    blind_since: Option<Instant>,
    wanted: watch::Receiver<Option<(Vec<u8>, Revision)>>,
    told: mpsc::Sender<KeyEvent>,
}

impl Watcher {
    async fn watch(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let trouble = match self.watch_over_a_stream().await {
                Err(trouble) => trouble,
                Ok(never) => match never {},
            };
            if self.told.is_closed() {
                return;
            }
            tracing::debug!(%trouble, "watch broke, resuming");
            let blind_since = *self.blind_since.get_or_insert_with(|| {
                backoff.reset();
                Instant::now()
            });
            if blind_since.elapsed() >= self.ttl.as_duration() {
                let _ = self.told.send(KeyEvent::Blind).await;
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn watch_over_a_stream(&mut self) -> Result<Infallible, Trouble> {
        let link = self.shared.links.link().await?;
        let known = self.shared.known();
        let mut stream = self.open(&link).await?;
        let patience = self.shared.call_patience(self.ttl);
        let seen_by = Instant::now() + patience;
        loop {
            let message = tokio::select! {
                biased;
                () = self.shared.links.abandoned(&link) => {
                    return Err(Trouble::elsewhere("the link was abandoned"));
                }
                Ok(()) = self.wanted.changed() => {
                    if let Some((key, from)) = self.take_wanted() {
                        let adding = stream.watch(key, Some(start_at(from)));
                        adding.await.map_err(|error| self.broken(&link, error.into()))?;
                    }
                    continue;
                }
                message = stream.message() => message,
                () = sleep_until(seen_by), if self.blind_since.is_some() => {
                    return Err(self.broken(&link, Trouble::unanswered(patience)));
                }
            };
            let message = message
                .map_err(Trouble::from)
                .and_then(|message| message.ok_or_else(|| Trouble::elsewhere("etcd closed the watch")))
                .map_err(|trouble| self.broken(&link, trouble))?;
            if message.canceled() {
                return Err(self.cancelled(&link, &message).await);
            }
            self.shared.accept(&link, message.header(), Answer::Local, known)?;
            self.blind_since = None;
            for event in message.events() {
                self.tell(event).await;
            }
        }
    }

    /// Puts the newest wish into the list of what is watched.
    fn take_wanted(&mut self) -> Option<(Vec<u8>, Revision)> {
        let (key, from) = self.wanted.borrow_and_update().clone()?;
        self.next.retain(|watched, _| *watched == self.own);
        self.next.insert(key.clone(), from);
        Some((key, from))
    }

    /// Opens a stream that watches all keys from where each was left.
    async fn open(&mut self, link: &Link) -> Result<WatchStream, Trouble> {
        if self.wanted.has_changed().unwrap_or(false) {
            self.take_wanted();
        }
        let mut client = link.watcher();
        let opening = client.watch(self.own.clone(), Some(start_at(self.next[&self.own])));
        let patience = self.shared.call_patience(self.ttl);
        let mut stream = self.shared.links.call(link, patience, opening).await?;
        for (key, from) in self.next.iter().filter(|(key, _)| **key != self.own) {
            let adding = stream.watch(key.clone(), Some(start_at(*from)));
            adding.await.map_err(|error| self.broken(link, error.into()))?;
        }
        Ok(stream)
    }

    /// Etcd ended the watch: for what it has compacted, or because something is wrong with it.
    async fn cancelled(&mut self, link: &Link, message: &WatchResponse) -> Trouble {
        let compacted = message.compact_revision();
        if compacted > 0 {
            self.skip_to(Revision(compacted)).await;
            return Trouble::elsewhere("events were compacted away");
        }
        let trouble = Trouble::watch_cancelled(message.cancel_reason());
        self.shared.links.watch_cancelled(link, trouble).await
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
