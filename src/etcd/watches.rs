//! Many watches over one stream.
//!
//! etcd serves any number of watches on one stream. One stream for each would cost etcd two goroutines and us
//! kilobytes, so all views on a connection share one. A watch keeps its guarantee on a shared stream: every
//! event, in order, whole revisions at a time.
//!
//! ```text
//!  watch() ── Create, Cancel ──► asking ──► etcd ──► hearing ──► by watch id ──► Watch::message()
//! ```
//!
//! etcd answers requests on a stream in their order (its `recvLoop` and `ctrlStream`). That matters for a
//! refused watch: from 3.5 on the refusal does not name it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use etcd_client::{
    WatchClient, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream, WatchStream,
};
use tokio::sync::mpsc;

use super::error::EtcdError;

/// Chosen by us, from 1 on, and never used twice on one stream.
type WatchId = i64;

/// etcd's id for a watch that it did not create.
const NONE: WatchId = -1;

/// The keys of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WatchRange {
    /// All keys with this prefix.
    Prefix(String),
    /// One key.
    Key(Vec<u8>),
}

/// The watches over one connection.
#[derive(Default)]
pub(crate) struct Watches {
    /// The stream for further watches, while it has any.
    open: tokio::sync::Mutex<Weak<SharedStream>>,
}

impl Watches {
    /// Watches keys from now on. The first message tells that etcd created the watch, or
    /// refused it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a watch that was begun is cancelled.
    pub(crate) async fn watch(
        &self,
        client: impl FnOnce() -> WatchClient,
        range: WatchRange,
    ) -> Result<Watch, etcd_client::Error> {
        let mut open = self.open.lock().await;
        if let Some(watch) = open.upgrade().and_then(|stream| Watch::on(stream, &range)) {
            return Ok(watch);
        }
        let watch = SharedStream::open(client(), range).await?;
        *open = Arc::downgrade(&watch.stream);
        Ok(watch)
    }
}

/// One watch. Dropping it ends it.
pub(crate) struct Watch {
    stream: Arc<SharedStream>,
    id: WatchId,
    messages: mpsc::UnboundedReceiver<Box<WatchResponse>>,
}

impl Watch {
    /// Adds a watch; `None` if the stream takes no more.
    fn on(stream: Arc<SharedStream>, range: &WatchRange) -> Option<Self> {
        let mut routes = lock(&stream.routes);
        let (id, messages) = routes.add()?;
        // Under the lock: requests go out in the order in which their answers are awaited. A failed send
        // means that the stream is broken, and the first message will report it.
        let _ = stream.orders.send(WatchOrder::Create { id, range: range.clone() });
        drop(routes);
        Some(Self { stream, id, messages })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// If the stream is broken. It stays broken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no message is lost.
    pub(crate) async fn message(&mut self) -> Result<WatchResponse, EtcdError> {
        match self.messages.recv().await {
            Some(message) => Ok(*message),
            None => Err(lock(&self.stream.routes).end.clone().unwrap_or_else(closed)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.stream.routes).remove(self.id);
        // A failed send means that the stream is gone, and the watch with it.
        let _ = self.stream.orders.send(WatchOrder::Cancel(self.id));
    }
}

fn closed() -> EtcdError {
    EtcdError::elsewhere("etcd closed the watch")
}

enum WatchOrder {
    Create { id: WatchId, range: WatchRange },
    Cancel(WatchId),
}

/// A stream, open while it has a watch.
struct SharedStream {
    orders: mpsc::UnboundedSender<WatchOrder>,
    routes: Arc<Mutex<WatchRoutes<Box<WatchResponse>>>>,
}

impl SharedStream {
    /// Opens a stream, with a first watch on it.
    async fn open(mut client: WatchClient, range: WatchRange) -> Result<Watch, etcd_client::Error> {
        let mut routes = WatchRoutes::new();
        let (id, messages) = routes.add().expect("it is new, so it takes some");
        let (key, options) = request(id, range);
        let opened = client.watch(key, Some(options)).await?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let routes = Arc::new(Mutex::new(routes));
        tokio::spawn(pump(opened, ordered, Arc::clone(&routes)));
        let stream = Arc::new(Self { orders, routes });
        Ok(Watch { stream, id, messages })
    }
}

fn lock<M>(routes: &Mutex<WatchRoutes<M>>) -> MutexGuard<'_, WatchRoutes<M>> {
    // Each change is complete before anything can panic.
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No start revision: once there is a newer one, etcd puts the watch among those that have to catch up, which
/// it serves every 100 ms only.
///
/// No fragments: a message must hold whole revisions. One that is too large breaks the stream.
fn request(id: WatchId, range: WatchRange) -> (Vec<u8>, WatchOptions) {
    let options = WatchOptions::new().with_watch_id(id);
    match range {
        WatchRange::Prefix(prefix) => (prefix.into_bytes(), options.with_prefix()),
        WatchRange::Key(key) => (key, options),
    }
}

/// Serves a stream until it breaks, or has no watch left.
async fn pump(
    opened: WatchStream,
    ordered: mpsc::UnboundedReceiver<WatchOrder>,
    routes: Arc<Mutex<WatchRoutes<Box<WatchResponse>>>>,
) {
    let (requests, messages) = opened.split();
    // Both at once: etcd reads no further while its answers are not read.
    let error = tokio::select! {
        biased;
        error = receive(messages, &routes) => error,
        error = ask(requests, ordered) => error,
    };
    lock(&routes).close(error);
}

async fn ask(
    mut requests: WatchRequestSender,
    mut ordered: mpsc::UnboundedReceiver<WatchOrder>,
) -> EtcdError {
    while let Some(order) = ordered.recv().await {
        let asked = match order {
            WatchOrder::Create { id, range } => {
                let (key, options) = request(id, range);
                requests.watch(key, Some(options)).await
            }
            WatchOrder::Cancel(id) => requests.cancel(id).await,
        };
        if let Err(error) = asked {
            return error.into();
        }
    }
    closed()
}

async fn receive(
    mut messages: WatchResponseStream,
    routes: &Mutex<WatchRoutes<Box<WatchResponse>>>,
) -> EtcdError {
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => Box::new(message),
            Ok(None) => return closed(),
            Err(error) => return error.into(),
        };
        let sender = MessageHeader {
            id: message.watch_id(),
            created: message.created(),
            canceled: message.canceled(),
        };
        if let Err(Confused) = lock(routes).deliver(sender, message) {
            // etcd uses the watch ids of its client; `etcd grpc-proxy` assigns its own.
            return EtcdError::proxy();
        }
    }
}

/// The watch of a message, and its kind.
#[derive(Debug, Clone, Copy)]
struct MessageHeader {
    id: WatchId,
    created: bool,
    canceled: bool,
}

/// An answer that does not match the requests.
#[derive(Debug, PartialEq, Eq)]
struct Confused;

/// Routes the messages of a stream to its watches.
struct WatchRoutes<M> {
    to: BTreeMap<WatchId, mpsc::UnboundedSender<M>>,
    /// Requested and not answered yet, in that order.
    awaited: VecDeque<WatchId>,
    last: WatchId,
    /// True if the stream takes no more watches.
    closed: bool,
    /// Reason that no more messages come.
    end: Option<EtcdError>,
}

impl<M> WatchRoutes<M> {
    fn new() -> Self {
        Self { to: BTreeMap::new(), awaited: VecDeque::new(), last: 0, closed: false, end: None }
    }

    /// Registers a watch that is about to be requested; `None` if this stream takes no more.
    fn add(&mut self) -> Option<(WatchId, mpsc::UnboundedReceiver<M>)> {
        if self.closed {
            return None;
        }
        self.last += 1;
        let (sender, messages) = mpsc::unbounded_channel();
        self.to.insert(self.last, sender);
        self.awaited.push_back(self.last);
        Some((self.last, messages))
    }

    fn remove(&mut self, id: WatchId) {
        self.to.remove(&id);
    }

    /// Ends the stream: no more messages, no more requests.
    fn close(&mut self, why: EtcdError) {
        self.closed = true;
        self.end = Some(why);
        self.to.clear();
    }

    /// Delivers a message. One for a watch that was cancelled meanwhile is dropped.
    fn deliver(&mut self, sender: MessageHeader, message: M) -> Result<(), Confused> {
        let id = if sender.created { self.answered(sender)? } else { sender.id };
        if let Some(to) = self.to.get(&id) {
            let _ = to.send(message);
        }
        Ok(())
    }

    /// Returns the watch that an answer is for.
    fn answered(&mut self, sender: MessageHeader) -> Result<WatchId, Confused> {
        let id = self.awaited.pop_front().ok_or(Confused)?;
        if sender.canceled {
            // The login of this stream may have expired. The next stream has a new one.
            self.closed = true;
        }
        let refused = sender.canceled && sender.id == NONE;
        if sender.id == id || refused { Ok(id) } else { Err(Confused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(id: WatchId) -> MessageHeader {
        MessageHeader { id, created: true, canceled: false }
    }

    fn refused(id: WatchId) -> MessageHeader {
        MessageHeader { id, created: true, canceled: true }
    }

    fn event(id: WatchId) -> MessageHeader {
        MessageHeader { id, created: false, canceled: false }
    }

    type Inbox = mpsc::UnboundedReceiver<&'static str>;

    fn three() -> (WatchRoutes<&'static str>, [Inbox; 3]) {
        let mut routes = WatchRoutes::new();
        let inboxes = [1, 2, 3].map(|expected| {
            let (id, inbox) = routes.add().unwrap();
            assert_eq!(id, expected);
            inbox
        });
        (routes, inboxes)
    }

    #[test]
    fn each_watch_gets_its_own_messages_in_their_order() {
        let (mut routes, [mut a, mut b, mut c]) = three();
        for id in 1..=3 {
            routes.deliver(created(id), "created").unwrap();
        }
        routes.deliver(event(2), "one").unwrap();
        routes.deliver(event(1), "two").unwrap();
        routes.deliver(event(2), "three").unwrap();
        assert_eq!([b.try_recv(), b.try_recv(), b.try_recv()], [Ok("created"), Ok("one"), Ok("three")]);
        assert_eq!([a.try_recv(), a.try_recv()], [Ok("created"), Ok("two")]);
        assert_eq!(c.try_recv(), Ok("created"));
        assert!(c.try_recv().is_err());
    }

    #[test]
    fn a_refusal_without_an_id_is_the_oldest_watchs_and_the_stream_takes_no_more() {
        let (mut routes, [mut a, mut b, mut c]) = three();
        routes.deliver(created(1), "created").unwrap();
        routes.deliver(refused(NONE), "denied").unwrap();
        routes.deliver(created(3), "created").unwrap();
        assert_eq!([a.try_recv(), b.try_recv(), c.try_recv()], [Ok("created"), Ok("denied"), Ok("created")]);
        assert!(routes.add().is_none());
        routes.deliver(event(3), "event").unwrap();
        assert_eq!(c.try_recv(), Ok("event"), "those that are there go on");
    }

    #[test]
    fn a_watch_that_is_given_up_before_its_answer_leaves_the_others_theirs() {
        let (mut routes, [_, b, mut c]) = three();
        drop(b);
        routes.remove(2);
        for sender in [created(1), refused(NONE), created(3)] {
            routes.deliver(sender, "answer").unwrap();
        }
        routes.deliver(event(2), "too late").unwrap();
        assert_eq!(c.try_recv(), Ok("answer"));
    }

    #[test]
    fn contract_7_an_answer_that_was_not_asked_for_is_not_taken() {
        let (mut routes, _inboxes) = three();
        assert_eq!(routes.deliver(created(2), "the second before the first"), Err(Confused));
        let mut routes = WatchRoutes::new();
        assert_eq!(routes.deliver(created(1), "never asked"), Err(Confused));
    }

    #[test]
    fn when_it_ends_no_watch_gets_messages() {
        let (mut routes, [mut a, ..]) = three();
        routes.deliver(created(1), "created").unwrap();
        routes.close(closed());
        assert_eq!(a.try_recv(), Ok("created"));
        assert_eq!(a.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert!(routes.add().is_none());
    }
}
