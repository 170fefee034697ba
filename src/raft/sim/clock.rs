//! Clocks that run at different rates from different starts.

use std::time::Duration;

use crate::clock::Timestamp;

/// A time of the simulation's own clock, true time, in nanoseconds. No server ever sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct TrueTime(pub(crate) u64);

impl TrueTime {
    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0 + span.as_nanos() as u64)
    }

    pub(crate) fn millis(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// One server's boot-time clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Its reading at the start, in nanoseconds.
    pub(crate) start: u64,
    /// Thousandths of a second that it shows for each true second.
    pub(crate) per_mille: u64,
}

impl Clock {
    /// A clock without error.
    pub(crate) const RIGHT: Self = Self { start: 10_000_000_000, per_mille: 1000 };

    pub(crate) fn shows(&self, at: TrueTime) -> Timestamp {
        Timestamp::from_nanos(self.start + at.0 * self.per_mille / 1000)
    }

    /// The first moment at which it shows `local`.
    pub(crate) fn when(&self, local: Timestamp) -> TrueTime {
        TrueTime(((local.as_nanos().saturating_sub(self.start)) * 1000).div_ceil(self.per_mille))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_when_its_clock_shows_it_and_not_before() {
        for per_mille in [950, 1000, 1050] {
            let clock = Clock { start: 77, per_mille };
            for local in (77..3000).step_by(13).map(Timestamp::from_nanos) {
                let at = clock.when(local);
                assert!(clock.shows(at) >= local);
                assert!(at.0 == 0 || clock.shows(TrueTime(at.0 - 1)) < local);
            }
        }
    }
}
