//! Counts of errors.

use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportError {
    /// A message for a member that does not read: its queue was full.
    Overflow,
    /// A message for a member without a connection.
    Apart,
    /// A refused pair: see `handshake`.
    Refused,
    /// Bytes that no server of this program sends.
    Malformed,
    /// A message larger than any of this program.
    Oversized,
    /// A connection without a first message in time.
    Silent,
    /// A connection that ended without a first message.
    Left,
    /// A connection or question without room.
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

    /// The label of metrics.
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

/// Their numbers since the start.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; TransportError::ALL.len()]);

impl Counts {
    pub(super) fn count(&self, error: TransportError) {
        self.0[error as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, error: TransportError) -> u64 {
        self.0[error as usize].load(Ordering::Relaxed)
    }
}
