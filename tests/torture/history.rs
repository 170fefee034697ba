//! The events of a run, typed and on one clock: the checker's only input.
//!
//! Each process writes down what it knows itself, stamped by the boot-time clock, which all processes of a
//! machine share: candidates their beliefs, commands their signs of life, stores the accepted writes, the
//! nemesis its faults. A history is those notes in one order.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::support::clock::BootTime;

/// A moment of the boot-time clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct At(pub(crate) u64);

impl At {
    pub(crate) fn now() -> Self {
        BootTime::now().into()
    }

    /// The time from `earlier` to `self`; zero if they are swapped.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl From<BootTime> for At {
    fn from(time: BootTime) -> Self {
        Self(time.as_nanos())
    }
}

/// Seconds; [`History::seconds`] counts them from the start of a run.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// A fencing token, as written down.
pub(crate) type Token = u64;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) at: At,
    #[serde(flatten)]
    pub(crate) what: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum EventKind {
    /// A process has the proof that it leads with `token` until `until`.
    Proved { who: String, token: Token, until: At },
    /// A process asked its guard, just after `at`, and was told that it leads.
    Held { who: String, token: Token },
    /// A process knows that its term is over. `last`: when it last believed that it leads, if
    /// known.
    Ended { who: String, token: Token, last: Option<At>, how: Ending },
    /// A command of `elect run` shows that it lives.
    Alive { who: String, token: Token },
    /// A write took effect, as the `order`th of that place.
    Wrote { place: WriteTarget, order: u64, token: Token },
    /// A process is about to propose a record for the group's log, in this term.
    Proposed { who: String, token: Token, record: String },
    /// The result of a proposal: committed at this index, or never.
    Answered { who: String, record: String, index: Option<u64> },
    /// A process reads the committed records after this index: at first, or having missed some.
    Reads { who: String, after: u64 },
    /// A process read this committed record.
    Committed { who: String, index: u64, token: Token, record: String },
    /// etcd deleted the key of this term, or of a candidate that would have had this token, at this revision.
    Gone { token: Token, order: u64 },
    /// The store has refused a write: its token was older than the newest.
    Refused { place: WriteTarget, token: Token },

    /// A candidate's process has started.
    Started { who: String },
    /// A process is about to get SIGKILL.
    Killed { who: String },
    /// A process is frozen, now or a moment later.
    Frozen { who: String },
    /// A process resumes, now or a moment later.
    Thawed { who: String },
    /// A process was told to stop by SIGTERM.
    Told { who: String },
    /// A process has exited; without a code, by a signal.
    Exited { who: String, code: Option<i32> },

    /// A fault begins, or a momentary fault happens.
    Began { fault: usize, kind: String, text: String },
    /// A fault is over.
    Over { fault: usize },
    /// A third party is about to have etcd delete the key of this term, or of a candidate that would have
    /// had this token.
    Deposed { token: Token },
    /// All faults are over.
    Healed,
    /// The queue, in order; among peers, the members that lead or follow the leader.
    Queue { names: Vec<String> },
    /// Observation ends here; processes are being stopped.
    Closed,
}

/// The reason for a term's end, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// The deadline passed.
    Expired,
    /// The process resigned.
    Resigned,
    /// It heard that the term was over.
    Taken,
}

/// A place that leaders write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WriteTarget {
    /// Keys in etcd, by `Leadership::transaction`.
    Etcd,
    /// The log of a group of peers, by `Peers::propose`.
    Log,
    /// A store that compares tokens.
    Store,
    /// A file that takes anything.
    File,
}

impl WriteTarget {
    /// Reports whether it refuses tokens older than its newest.
    pub(crate) fn guarded(self) -> bool {
        self != Self::File
    }
}

impl fmt::Display for WriteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd by transaction",
            Self::Log => "the peers' log",
            Self::Store => "the store that compares tokens",
            Self::File => "the unguarded file",
        })
    }
}

/// All events of a run, in the order of their stamps.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    events: Vec<Event>,
}

impl History {
    pub(crate) fn of(mut events: Vec<Event>) -> Self {
        // Stable: one process's events of one instant keep their order.
        events.sort_by_key(|event| event.at);
        Self { events }
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    pub(crate) fn start(&self) -> At {
        self.events.first().map_or(At(0), |event| event.at)
    }

    /// The end of observation.
    pub(crate) fn end(&self) -> At {
        let closed = self.events.iter().find(|event| event.what == EventKind::Closed);
        closed.or(self.events.last()).map_or(At(0), |event| event.at)
    }

    /// The end of all faults, if they ended.
    pub(crate) fn healed(&self) -> Option<At> {
        self.events.iter().rfind(|event| event.what == EventKind::Healed).map(|event| event.at)
    }

    /// Seconds since the start, for people.
    pub(crate) fn seconds(&self, at: At) -> f64 {
        at.since(self.start()).as_secs_f64()
    }
}
