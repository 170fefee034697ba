//! `/events`: the whole status at every change, and once a second as a sign of life.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{report::StatusReport, store::StatusStore};

/// Interval without changes. A page takes a silence of three times this for a lost server.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Changes in quick succession are sent together.
const CALM: Duration = Duration::from_millis(20);

/// Time before a browser reconnects.
const RETRY: &str = "retry: 1000\n\n";

/// Slots for clients of `/events`. Each costs a connection and a rendering a second.
#[derive(Debug, Clone)]
pub(crate) struct Listeners {
    most: usize,
    taken: Arc<AtomicUsize>,
}

/// One of those slots, until it is dropped.
#[derive(Debug)]
struct Listening(Listeners);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listeners {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Starts to send events to one more client; `None` if there are enough of them.
    pub(crate) fn listen(&self, store: &StatusStore) -> Option<mpsc::Receiver<Bytes>> {
        let taken = |count: usize| (count < self.most).then_some(count + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let listening = Listening(self.clone());
        // One event at a time: what waits for a slow client would be outdated.
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(send_events(store.clone(), sender, listening));
        Some(events)
    }
}

/// Sends events until the client is gone, or was cut off.
async fn send_events(store: StatusStore, sender: mpsc::Sender<Bytes>, _listening: Listening) {
    let mut changes = store.changes();
    if sender.send(Bytes::from_static(RETRY.as_bytes())).await.is_err() {
        return;
    }
    loop {
        // Later changes are in the next event.
        changes.mark_unchanged();
        store.request_names();
        // A slot first: the event is of the moment at which it can be sent.
        let Ok(room) = sender.reserve().await else { return };
        room.send(event(&store));
        tokio::select! {
            () = sender.closed() => return,
            () = sleep(CALM) => {}
        }
        tokio::select! {
            () = sender.closed() => return,
            _ = timeout(HEARTBEAT - CALM, changes.changed()) => {}
        }
    }
}

fn event(store: &StatusStore) -> Bytes {
    let snapshot = store.snapshot();
    let json = StatusReport::of(store.identity(), &snapshot).json();
    Bytes::from(format!("event: status\ndata: {json}\n\n"))
}
