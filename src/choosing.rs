//! Choosing who leads: candidates' preferences, operators' orders, and the record of past terms.
//!
//! The words and the rules that both backends share. Each backend has a protocol of its own for them: see
//! [`etcd`](crate::etcd) and [`peers`](crate::peers). Pure.

use std::{
    collections::BTreeMap,
    fmt,
    num::ParseIntError,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::{leadership::FencingToken, names::CandidateName};

// The rules below serve backends that come to use them one by one.
#[allow(dead_code, reason = "not every backend uses every rule")]
pub(crate) mod field;
#[allow(dead_code, reason = "not every backend uses every rule")]
pub(crate) mod handoff;
#[allow(dead_code, reason = "not every backend uses every rule")]
pub(crate) mod last_resort;
#[allow(dead_code, reason = "not every backend uses every rule")]
pub(crate) mod order;
#[allow(dead_code, reason = "not every backend uses every rule")]
pub(crate) mod preference;

/// A candidate's rank among those of its election: leadership moves to a higher one, never to an equal one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u32);

impl Priority {
    /// The rank of a candidate that names none: 100.
    pub const DEFAULT: Self = Self(100);

    /// The rank of a candidate that leads only while no other can: 0.
    pub const LAST_RESORT: Self = Self(0);

    /// Creates a priority from its number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns true for a candidate that leads only while no other can.
    pub fn is_last_resort(self) -> bool {
        self == Self::LAST_RESORT
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Priority {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// Time for which a leader leads at least, unless told otherwise, before it hands over by priority.
#[allow(dead_code, reason = "not every backend uses it")]
pub(crate) const MIN_TENURE: Duration = Duration::from_secs(10 * 60);

/// Data that a candidate publishes about itself, for operators and for the choice among candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CandidateProfile {
    /// Its rank.
    pub priority: Priority,
    /// The address at which clients reach its service, or its status page; any text without control characters.
    pub address: Option<String>,
    /// The failure domain that it runs in.
    pub zone: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
}

/// The origin of an operator's order, as the operator stated it, and its time of day.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OrderedBy {
    /// The operator: user and host.
    pub operator: String,
    /// Time of day, of the operator's machine.
    pub at: SystemTime,
}

impl OrderedBy {
    /// Creates the origin of an order.
    pub fn new(operator: String, at: SystemTime) -> Self {
        Self { operator, at }
    }
}

/// A cordon: its candidate does not lead while another one can.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cordon {
    /// True if its candidate does not even lead when no other can.
    pub hard: bool,
    /// The order.
    pub by: OrderedBy,
}

impl Cordon {
    /// Creates a cordon.
    pub fn new(hard: bool, by: OrderedBy) -> Self {
        Self { hard, by }
    }
}

/// The operators' standing orders in one election.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Controls {
    /// While set, nothing moves by priority or by transfer.
    pub paused: Option<OrderedBy>,
    /// Cordoned candidates.
    pub cordons: BTreeMap<CandidateName, Cordon>,
}

/// A term of leadership, from the history of its election.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastTerm {
    /// The leader's name.
    pub leader: String,
    /// Its token.
    pub token: FencingToken,
    /// Start (time of day, of the leader's machine).
    pub from: Option<SystemTime>,
    /// End (time of day, of the machine that wrote it); `None` for the present term.
    pub until: Option<SystemTime>,
    /// Its end; `None` for the present term.
    pub ended: Option<TermEnding>,
}

impl PastTerm {
    /// Creates a term that lasts, and began at an unknown time: for tests of programs that show one.
    pub fn new(leader: String, token: FencingToken) -> Self {
        Self { leader, token, from: None, until: None, ended: None }
    }
}

/// The end of a past term.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TermEnding {
    /// The leader gave leadership up.
    Resigned,
    /// The leader handed over.
    Transferred {
        /// The next leader.
        to: String,
        /// The reason.
        reason: TransferReason,
    },
    /// The next leader found the term ended: a crash, a lost connection, a deleted key.
    Lost,
}

/// The reason for a planned transfer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransferReason {
    /// An operator's order.
    Ordered(OrderedBy),
    /// The other one's priority is higher.
    Priority,
    /// The leader was cordoned, or is a last resort.
    LastResort,
    /// The leader's program asked for it.
    Program,
    /// The leader's disk hangs. Only among peers.
    Disk,
}

/// A transfer that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// The new leader.
    pub to: String,
    /// The token that it leads with.
    pub token: FencingToken,
}

/// Reason that leadership was not transferred. The leader still leads, unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is no leader to hand over.
    #[error("there is no leader: {0}")]
    NoLeader(String),
    /// No candidate of that name waits.
    #[error("'{0}' is not among the candidates that wait")]
    Absent(String),
    /// Several candidates have that name; with their keys.
    #[error("several candidates are called '{name}': give one of their keys, {}", keys.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// The keys.
        keys: Vec<String>,
    },
    /// The leader refused, with its reason.
    #[error("'{leader}' leads, and refuses: {why}")]
    Refused {
        /// The leader's name.
        leader: String,
        /// Its reason.
        why: String,
    },
    /// The backend refuses this caller; with the remedy.
    #[error("refused: {0}")]
    Forbidden(String),
    /// The leader gave up, and another candidate than the named one may lead.
    #[error("the leader gave up, and '{0}' was gone by then")]
    Void(String),
    /// The outcome was not known in time: look again.
    #[error("not confirmed in time: {0}")]
    Unconfirmed(String),
}
