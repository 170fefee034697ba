//! Room for connections: always for members, for others within limits.
//!
//! A connection can't be told from another before its first message. Until then it waits among a limited number,
//! for a limited time. If there is no room for the next one, the address with the most waiting connections gives up
//! its oldest. So a flood from one address costs that address only, however long a handshake takes. Addresses at
//! which the list has members have a limit of their own, which a flood from many other addresses does not reach.
//!
//! Observers are limited likewise. One that asks no more makes room first.
//!
//! Pure: the time comes in as `now`.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Waiting connections of members' addresses, and of others. All members' first attempts fit in several times over.
const MOST_WAITING: usize = 32;

/// Connections of observers and operators. Each costs a few answers a second, and buffers.
const MOST_OBSERVERS: usize = 32;

/// An observer that has not asked for so long is idle. This program's ask at least each second.
const IDLE: Duration = Duration::from_secs(3);

/// Limits the connections that are not members', or not yet known to be.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    waiting: Mutex<PendingVisitors>,
    observers: Arc<WatchingClients>,
}

/// Connections without a first message; longest waiting first.
#[derive(Debug, Default)]
struct PendingVisitors {
    at_members_addresses: VecDeque<Visitor>,
    elsewhere: VecDeque<Visitor>,
}

/// A connection and its source.
#[derive(Debug)]
struct Visitor {
    source: Source,
    /// Ends it.
    over: CancellationToken,
}

/// Counts as one address: an IPv6 host has a whole /64 to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address => address,
        })
    }
}

impl Admissions {
    /// Admits one more. `false` if another one had to go for that.
    pub(super) fn enter(&self, from: IpAddr, is_members: bool, over: &CancellationToken) -> bool {
        let mut waiting = self.waiting();
        let admissions = if is_members { &mut waiting.at_members_addresses } else { &mut waiting.elsewhere };
        admissions.push_back(Visitor { source: Source::of(from), over: over.clone() });
        let crowded = (admissions.len() > MOST_WAITING)
            .then(|| first_of_the_most(admissions.iter().map(|it| it.source)));
        let must_go = crowded.flatten().and_then(|place| admissions.remove(place));
        drop(waiting);
        if let Some(visitor) = &must_go {
            visitor.over.cancel();
        }
        must_go.is_none()
    }

    /// It has sent its first message, or has ended. `false` if it had to go before.
    pub(super) fn leave(&self, over: &CancellationToken) -> bool {
        let mut waiting = self.waiting();
        let PendingVisitors { at_members_addresses, elsewhere } = &mut *waiting;
        [at_members_addresses, elsewhere]
            .into_iter()
            .any(|admissions| take(admissions, |it| &it.over == over).is_some())
    }

    /// A slot for an observer, if one is free or another observer can go; true if one had to.
    pub(super) fn observe(
        &self,
        from: IpAddr,
        over: &CancellationToken,
        now: Instant,
    ) -> Option<(ObserverSlot, bool)> {
        let source = Source::of(from);
        let mut observing = self.observers.lock();
        let must_go = match observing.len() < MOST_OBSERVERS {
            true => None,
            false => Some(replaceable(&observing, source, now)?),
        };
        let must_go = must_go.and_then(|place| observing.remove(place));
        observing.push_back(WatchingClient { visitor: Visitor { source, over: over.clone() }, asked: now });
        drop(observing);
        if let Some(observer) = &must_go {
            observer.visitor.over.cancel();
        }
        let place = ObserverSlot { observers: Arc::clone(&self.observers), over: over.clone() };
        Some((place, must_go.is_some()))
    }

    fn waiting(&self) -> MutexGuard<'_, PendingVisitors> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Observers; the one that asked longest ago first.
#[derive(Debug, Default)]
struct WatchingClients(Mutex<VecDeque<WatchingClient>>);

#[derive(Debug)]
struct WatchingClient {
    visitor: Visitor,
    asked: Instant,
}

impl WatchingClients {
    fn lock(&self) -> MutexGuard<'_, VecDeque<WatchingClient>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An observer's slot; free again once dropped.
#[derive(Debug)]
pub(super) struct ObserverSlot {
    observers: Arc<WatchingClients>,
    over: CancellationToken,
}

impl ObserverSlot {
    /// The observer has asked.
    pub(super) fn asked(&self, now: Instant) {
        let mut observing = self.observers.lock();
        if let Some(observer) = take(&mut observing, |it| it.visitor.over == self.over) {
            observing.push_back(WatchingClient { asked: now, ..observer });
        }
    }
}

impl Drop for ObserverSlot {
    fn drop(&mut self) {
        take(&mut self.observers.lock(), |it| it.visitor.over == self.over);
    }
}

/// The observer that goes for one from `source`: an idle one; otherwise one of an address that has more of them
/// than that source will have.
fn replaceable(observing: &VecDeque<WatchingClient>, source: Source, now: Instant) -> Option<usize> {
    if observing.front().is_some_and(|first| now.duration_since(first.asked) >= IDLE) {
        return Some(0);
    }
    let sources = || observing.iter().map(|it| it.visitor.source);
    let place = first_of_the_most(sources())?;
    let from = |source| sources().filter(|it| *it == source).count();
    (from(observing[place].visitor.source) > from(source) + 1).then_some(place)
}

/// The first one from the most frequent address.
fn first_of_the_most(sources: impl Iterator<Item = Source> + Clone) -> Option<usize> {
    let from = |source| sources.clone().filter(|it| *it == source).count();
    // `max_by_key` takes the last of several.
    sources
        .clone()
        .enumerate()
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .max_by_key(|(_, it)| from(*it))
        .map(|(place, _)| place)
}

fn take<T>(queue: &mut VecDeque<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    queue.iter().position(is_it).and_then(|place| queue.remove(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: [u8; 4] = [10, 0, 0, 1];
    const OTHER: [u8; 4] = [10, 0, 0, 9];

    /// Admits that many from there, and returns the token that ends each.
    fn come(admissions: &Admissions, from: [u8; 4], count: usize) -> Vec<CancellationToken> {
        let come = |over: &CancellationToken| admissions.enter(from.into(), from == MEMBER, over);
        (0..count).map(|_| CancellationToken::new()).inspect(|over| _ = come(over)).collect()
    }

    fn gone(connections: &[CancellationToken]) -> usize {
        connections.iter().filter(|over| over.is_cancelled()).count()
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let admissions = Admissions::default();
        let callers = come(&admissions, OTHER, MOST_WAITING + 1);
        assert!(callers[0].is_cancelled());
        assert_eq!(gone(&callers), 1);
        assert!(!admissions.leave(&callers[0]) && admissions.leave(&callers[1]));
        assert!(admissions.enter(OTHER.into(), false, &CancellationToken::new()), "room again");
    }

    #[test]
    fn a_flood_costs_only_its_own_address() {
        let admissions = Admissions::default();
        let observer = come(&admissions, [10, 0, 0, 5], 2);
        let flood = come(&admissions, OTHER, 1_000);
        assert_eq!((gone(&observer), gone(&flood)), (0, 1_000 - MOST_WAITING + 2));
        let late = come(&admissions, [10, 0, 0, 6], 2);
        come(&admissions, OTHER, 1_000);
        assert_eq!(gone(&late) + gone(&observer), 0);
    }

    #[test]
    fn a_flood_from_everywhere_does_not_reach_the_members_addresses() {
        let admissions = Admissions::default();
        let member = come(&admissions, MEMBER, 3);
        let flood: usize =
            (0..1_000_u16).map(|i| come(&admissions, [10, 1, (i >> 8) as u8, i as u8], 1).len()).sum();
        assert_eq!((gone(&member), flood), (0, 1_000));
        assert!(admissions.leave(&member[0]));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    }

    /// Fills all slots from these addresses in turn, with the token that ends each.
    fn observed(
        admissions: &Admissions,
        from: &[[u8; 4]],
        now: Instant,
    ) -> Vec<(ObserverSlot, CancellationToken)> {
        let come = |place: usize| {
            let over = CancellationToken::new();
            let (place, replaces) = admissions.observe(from[place % from.len()].into(), &over, now).unwrap();
            assert!(!replaces);
            (place, over)
        };
        (0..MOST_OBSERVERS).map(come).collect()
    }

    #[test]
    fn an_observer_that_leaves_makes_room() {
        let (admissions, now) = (Admissions::default(), Instant::now());
        let mut places = observed(&admissions, &[OTHER], now);
        let next = || admissions.observe(OTHER.into(), &CancellationToken::new(), now);
        assert!(next().is_none(), "all of them from here, and none of them idle");
        places.pop();
        assert!(next().is_some());
    }

    #[test]
    fn an_idle_observer_makes_room() {
        let (admissions, start) = (Admissions::default(), Instant::now());
        let places = observed(&admissions, &[OTHER], start);
        let later = start + IDLE;
        places.iter().enumerate().filter(|(place, _)| *place != 7).for_each(|(_, it)| it.0.asked(later));
        let over = CancellationToken::new();
        let (_place, replaces) = admissions.observe(OTHER.into(), &over, later).unwrap();
        assert!(replaces && places[7].1.is_cancelled());
        assert!(admissions.observe(OTHER.into(), &over, later).is_none(), "the others ask");
        assert_eq!(places.iter().filter(|it| it.1.is_cancelled()).count(), 1);
    }

    #[test]
    fn observers_from_one_address_make_room_for_others() {
        let (admissions, now) = (Admissions::default(), Instant::now());
        let places = observed(&admissions, &[OTHER], now);
        let from_elsewhere = || admissions.observe([10, 0, 0, 5].into(), &CancellationToken::new(), now);
        let kept: Vec<_> = (0..MOST_OBSERVERS).map_while(|_| from_elsewhere()).collect();
        let gone = places.iter().filter(|it| it.1.is_cancelled()).count();
        assert_eq!(
            (kept.len(), gone),
            (MOST_OBSERVERS / 2, MOST_OBSERVERS / 2),
            "as many as the first address has"
        );
    }
}
