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

/// Without a change, this often. A page takes silence of three times this for a lost server.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Changes that come quicker are told together.
const CALM: Duration = Duration::from_millis(20);

/// How long a browser waits before it comes back.
const RETRY: &str = "retry: 1000\n\n";

/// Places for clients that listen. Each costs a connection and a rendering a second.
#[derive(Debug, Clone)]
pub(crate) struct Listeners {
    most: usize,
    taken: Arc<AtomicUsize>,
}

/// One of those places, until it is dropped.
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

    /// Starts to tell one more client of everything; `None` if there are enough of them.
    pub(crate) fn listen(&self, store: &StatusStore) -> Option<mpsc::Receiver<Bytes>> {
        let taken = |count: usize| (count < self.most).then_some(count + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let listening = Listening(self.clone());
        // One event at a time: what waits for a slow client would be old by then.
        let (told, events) = mpsc::channel(1);
        tokio::spawn(tell(store.clone(), told, listening));
        Some(events)
    }
}

/// Ends when the client is gone, or was cut off.
async fn tell(store: StatusStore, told: mpsc::Sender<Bytes>, _listening: Listening) {
    let mut changes = store.changes();
    if told.send(Bytes::from_static(RETRY.as_bytes())).await.is_err() {
        return;
    }
    loop {
        // What changes from here on is told in the next event.
        changes.mark_unchanged();
        store.look();
        // Room first: the event is of the moment at which it can be sent.
        let Ok(room) = told.reserve().await else { return };
        room.send(event(&store));
        tokio::select! {
            () = told.closed() => return,
            () = sleep(CALM) => {}
        }
        tokio::select! {
            () = told.closed() => return,
            _ = timeout(HEARTBEAT - CALM, changes.changed()) => {}
        }
    }
}

fn event(store: &StatusStore) -> Bytes {
    let snapshot = store.snapshot();
    let json = StatusReport::of(store.identity(), &snapshot).json();
    Bytes::from(format!("event: status\ndata: {json}\n\n"))
}
