//! Events for tests, with times in milliseconds.

use std::time::Duration;

use super::{Bounds, Case, Invariant};
use crate::{
    history::{At, Ending, Event, EventKind, History, Token, WriteTarget},
    terms::Terms,
};

pub(crate) fn at(millis: u64) -> At {
    At(millis * 1_000_000)
}

pub(crate) fn bounds() -> Bounds {
    Bounds::on_etcd(Duration::from_secs(3))
}

fn event(millis: u64, what: EventKind) -> Event {
    Event { at: at(millis), what }
}

pub(crate) fn proved(millis: u64, who: &str, token: Token, until: u64) -> Event {
    event(millis, EventKind::Proved { who: who.into(), token, until: at(until) })
}

pub(crate) fn held(millis: u64, who: &str, token: Token) -> Event {
    event(millis, EventKind::Held { who: who.into(), token })
}

pub(crate) fn ended(millis: u64, who: &str, token: Token, last: Option<u64>, how: Ending) -> Event {
    event(millis, EventKind::Ended { who: who.into(), token, last: last.map(at), how })
}

pub(crate) fn alive(millis: u64, who: &str, token: Token) -> Event {
    event(millis, EventKind::Alive { who: who.into(), token })
}

pub(crate) fn wrote(millis: u64, place: WriteTarget, order: u64, token: Token) -> Event {
    event(millis, EventKind::Wrote { place, order, token })
}

pub(crate) fn deposed(millis: u64, token: Token) -> Event {
    event(millis, EventKind::Deposed { token })
}

pub(crate) fn gone(millis: u64, token: Token, order: u64) -> Event {
    event(millis, EventKind::Gone { token, order })
}

pub(crate) fn began(millis: u64, fault: usize, kind: &str) -> Event {
    event(millis, EventKind::Began { fault, kind: kind.into(), text: String::new() })
}

pub(crate) fn over(millis: u64, fault: usize) -> Event {
    event(millis, EventKind::Over { fault })
}

pub(crate) fn queue(millis: u64, names: &[&str]) -> Event {
    event(millis, EventKind::Queue { names: names.iter().map(ToString::to_string).collect() })
}

pub(crate) fn exited(millis: u64, who: &str, code: Option<i32>) -> Event {
    event(millis, EventKind::Exited { who: who.into(), code })
}

pub(crate) fn healed(millis: u64) -> Event {
    event(millis, EventKind::Healed)
}

pub(crate) fn closed(millis: u64) -> Event {
    event(millis, EventKind::Closed)
}

macro_rules! of_a_process {
    ($($name:ident $variant:ident)*) => {$(
        pub(crate) fn $name(millis: u64, who: &str) -> Event {
            event(millis, EventKind::$variant { who: who.into() })
        }
    )*};
}

of_a_process! {
    started Started
    killed Killed
    frozen Frozen
    thawed Thawed
    told Told
}

/// Violations of one invariant by these events.
pub(super) fn broken(invariant: &dyn Invariant, events: Vec<Event>) -> Vec<String> {
    let history = History::of(events);
    let terms = Terms::of(history.events());
    invariant.broken_by(&Case { history: &history, terms: &terms, bounds: bounds() })
}
