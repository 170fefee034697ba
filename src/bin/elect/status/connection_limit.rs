//! A limit on connections, which no client can exhaust for long.
//!
//! When all permits are taken, the next client gets the permit of the connection whose next request we have
//! awaited longest. So a thousand clients that connect and send nothing close each other's connections, and a
//! load balancer's check, which sends its request at once, is answered among them. Refusing the newest
//! instead would keep it out until the time limit of the head.
//!
//! A client of `/events` keeps its permit: we do not wait for it. There are always fewer of those than
//! permits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The permits of one server.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimit(Arc<LimitState>);

#[derive(Debug)]
struct LimitState {
    limit: usize,
    taken: Mutex<TakenPermits>,
}

#[derive(Debug, Default)]
struct TakenPermits {
    /// All permits, including those that are revoked and about to be returned.
    count: usize,
    /// Numbers in the order in which the waits began.
    last: u64,
    /// Connections whose request is awaited, the longest wait first.
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// A connection's permit, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limit: ConnectionLimit,
    /// Its place among those that are waited for.
    number: Mutex<u64>,
    needed: Arc<Notify>,
}

impl ConnectionLimit {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(LimitState { limit, taken: Mutex::default() }))
    }

    /// Takes a permit, if needed that of the connection with the longest wait; `None` if all are kept.
    pub(crate) fn take(&self) -> Option<ConnectionPermit> {
        let mut taken = self.taken();
        if taken.count >= self.0.limit {
            let (_, longest) = taken.waiting.pop_first()?;
            longest.notify_one();
        }
        let needed = Arc::new(Notify::new());
        taken.count += 1;
        let number = Mutex::new(taken.wait_for(Arc::clone(&needed)));
        drop(taken);
        Some(ConnectionPermit { limit: self.clone(), number, needed })
    }

    fn taken(&self) -> MutexGuard<'_, TakenPermits> {
        locked(&self.0.taken)
    }
}

impl TakenPermits {
    /// Adds a permit at the end of those that are waited for.
    fn wait_for(&mut self, needed: Arc<Notify>) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, needed);
        self.last
    }
}

impl ConnectionPermit {
    /// Waits until another client needs it.
    ///
    /// Cancel safe.
    pub(crate) async fn needed(&self) {
        self.needed.notified().await;
    }

    /// The response was sent: the wait for the next request begins.
    pub(crate) fn renew(&self) {
        let mut number = locked(&self.number);
        let mut taken = self.limit.taken();
        if let Some(needed) = taken.waiting.remove(&number) {
            *number = taken.wait_for(needed);
        }
    }

    /// Keeps the permit: the client waits for us from now on.
    pub(crate) fn keep(&self) {
        self.limit.taken().waiting.remove(&locked(&self.number));
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.keep();
        self.limit.taken().count -= 1;
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No change in here can panic half way.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_needed(permit: &ConnectionPermit) -> bool {
        timeout(Duration::ZERO, permit.needed()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_awaited_makes_room_for_the_newest() {
        let limit = ConnectionLimit::new(2);
        let (first, second) = (limit.take().unwrap(), limit.take().unwrap());
        first.renew();
        let _third = limit.take().unwrap();
        assert!(is_needed(&second).await);
        assert!(!is_needed(&first).await, "it had asked for something since");
    }

    #[tokio::test]
    async fn a_kept_permit_is_never_needed() {
        let limit = ConnectionLimit::new(2);
        let (kept, other) = (limit.take().unwrap(), limit.take().unwrap());
        kept.keep();
        let _third = limit.take().unwrap();
        assert!(is_needed(&other).await);
        assert!(!is_needed(&kept).await);
    }

    #[test]
    fn without_a_free_permit_there_is_none() {
        let limit = ConnectionLimit::new(1);
        let kept = limit.take().unwrap();
        kept.keep();
        assert!(limit.take().is_none());
        drop(kept);
        assert!(limit.take().is_some());
    }

    #[test]
    fn never_more_connections_are_waited_for_than_there_are_permits() {
        let limit = ConnectionLimit::new(8);
        let all: Vec<_> = (0..100).map(|_| limit.take().unwrap()).collect();
        assert_eq!(limit.taken().waiting.len(), 8);
        drop(all);
        assert_eq!(limit.taken().count, 0);
    }
}
