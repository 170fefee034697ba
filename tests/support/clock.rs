//! Time since boot, on the contract's clock: CLOCK_BOOTTIME, which continues in suspend.
//!
//! One clock for the whole machine, so stamps taken for different processes can be compared.

use std::{fmt, ops, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// A moment, as time since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
        Self(now.into())
    }

    /// A moment written down by another process.
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    pub(crate) fn as_nanos(self) -> u64 {
        self.0.as_nanos().try_into().expect("no machine is up for 584 years")
    }

    /// Time since this moment.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

/// The time from the earlier to the later moment; zero if they are swapped, as for `Instant`.
impl ops::Sub for BootTime {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later)
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s since boot", self.0.as_secs_f64())
    }
}
