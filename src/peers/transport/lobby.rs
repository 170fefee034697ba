//! Who may be connected to us: members always, others as long as there is room.
//!
//! Nobody can be told apart before a first word. So those who have not said it wait in a lobby of
//! limited size, for a limited time, and the one that has waited longest makes room for the next:
//! a member says its Hello at once, and is gone from there before that.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// Connections on which nobody has said anything yet.
const MOST_WAITING: usize = 32;

/// Connections that only want to know who leads. Each costs a few answers a second, and buffers.
const MOST_OBSERVERS: usize = 32;

/// Counts those who are not members, or not yet known to be.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    /// Longest waiting first. Each token ends that connection.
    waiting: Mutex<VecDeque<CancellationToken>>,
    observers: Arc<AtomicUsize>,
}

/// An observer's place; free again once dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Lobby {
    /// Lets one more in. `false` if another one had to go for that.
    pub(super) fn enter(&self, over: &CancellationToken) -> bool {
        let mut waiting = self.lock();
        waiting.push_back(over.clone());
        let longest = if waiting.len() > MOST_WAITING { waiting.pop_front() } else { None };
        drop(waiting);
        if let Some(longest) = &longest {
            longest.cancel();
        }
        longest.is_none()
    }

    /// It has said who it is, or has gone. `false` if it had to go before.
    pub(super) fn leave(&self, over: &CancellationToken) -> bool {
        let mut waiting = self.lock();
        let place = waiting.iter().position(|other| other == over);
        place.and_then(|place| waiting.remove(place)).is_some()
    }

    /// A place for one that asks who leads.
    pub(super) fn observe(&self) -> Option<Place> {
        let room = |observers: usize| (observers < MOST_OBSERVERS).then_some(observers + 1);
        let taken = self.observers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        taken.is_ok().then(|| Place(Arc::clone(&self.observers)))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<CancellationToken>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let lobby = Lobby::default();
        let callers: Vec<_> = (0..=MOST_WAITING).map(|_| CancellationToken::new()).collect();
        let room: Vec<bool> = callers.iter().map(|over| lobby.enter(over)).collect();
        assert!(room[..MOST_WAITING].iter().all(|room| *room) && !room[MOST_WAITING]);
        let ended: Vec<bool> = callers.iter().map(CancellationToken::is_cancelled).collect();
        assert!(ended[0] && !ended[1..].contains(&true));
        assert!(!lobby.leave(&callers[0]) && lobby.leave(&callers[1]));
        assert!(lobby.enter(&CancellationToken::new()), "room again");
    }

    #[test]
    fn an_observer_that_leaves_makes_room() {
        let lobby = Lobby::default();
        let mut places: Vec<_> = (0..MOST_OBSERVERS).filter_map(|_| lobby.observe()).collect();
        assert_eq!(places.len(), MOST_OBSERVERS);
        assert!(lobby.observe().is_none());
        places.pop();
        assert!(lobby.observe().is_some());
    }
}
