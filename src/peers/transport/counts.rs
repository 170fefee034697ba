//! How often what went wrong.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportError {
    /// A message for a member that does not read: its queue was full.
    Overflow,
    /// A message for a member that there is no connection to.
    Apart,
    /// A pair that may not talk: see `handshake`.
    Refused,
    /// What no server of ours says.
    Malformed,
    /// More in one message than any server of ours puts into one.
    Oversized,
    /// A connection without a first message in time.
    Silent,
    /// A connection that ended before anybody had said who they are.
    Left,
    /// A connection, or a question, for which there was no room.
    Crowded,
}

impl TransportError {
    const ALL: [Self; 8] = [
        Self::Overflow,
        Self::Apart,
        Self::Refused,
        Self::Malformed,
        Self::Oversized,
        Self::Silent,
        Self::Left,
        Self::Crowded,
    ];

    /// Counts caused by the other side.
    pub(crate) const REFUSED: [Self; 6] =
        [Self::Refused, Self::Malformed, Self::Oversized, Self::Silent, Self::Left, Self::Crowded];

    /// For labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Apart => "apart",
            Self::Refused => "refused_peer",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::Silent => "silent",
            Self::Left => "left",
            Self::Crowded => "crowded",
        }
    }
}

/// How often each happened, since the start.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; TransportError::ALL.len()]);

impl Counts {
    pub(super) fn count(&self, mishap: TransportError) {
        self.0[mishap as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, mishap: TransportError) -> u64 {
        self.0[mishap as usize].load(Ordering::Relaxed)
    }
}
