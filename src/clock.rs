//! Timestamps of a clock that counts the time in suspend.
//!
//! A lease in etcd ages while this machine sleeps, so our trust in it must age too. `std::time::Instant` is
//! `CLOCK_MONOTONIC` on Linux and stands still in suspend; [`Timestamp`] reads `CLOCK_BOOTTIME`, which does
//! not. Neither jumps when the time of day is set.
//!
//! Systems without such a clock (outside Linux) use their monotonic clock, and the contract does not cover a
//! suspend there.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: nix::time::ClockId = nix::time::ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: nix::time::ClockId = nix::time::ClockId::CLOCK_MONOTONIC;

/// A moment since this machine started, in nanoseconds, suspended time included.
///
/// Comparable between the processes of one machine only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Reads the clock. Costs one `clock_gettime`, which needs no system call on Linux.
    pub fn now() -> Self {
        let now =
            nix::time::clock_gettime(CLOCK).expect("the boot-time clock exists on every kernel since 2.6.39");
        Self(Duration::from(now).as_nanos() as u64)
    }

    /// Creates the moment `nanos` nanoseconds after the machine started.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the machine started.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// Waits until the clock reads `deadline` or later.
///
/// Tokio's timers stand still in suspend. This waits on a kernel timer (`timerfd`) of the boot-time clock,
/// which fires as soon as the machine is awake again. Where there is none it checks the clock every 20 ms.
///
/// Call it on a Tokio runtime with its timers and I/O enabled.
///
/// # Cancel safety
///
/// Cancel safe: dropping it forgets the wait.
pub async fn sleep_until(deadline: Timestamp) {
    while Timestamp::now() < deadline {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if timer::fired(deadline).await.is_ok() {
            continue;
        }
        // No timer available (no file descriptor left, or another system): poll the clock.
        const POLL_EVERY: Duration = Duration::from_millis(20);
        let left = deadline.since(Timestamp::now());
        tokio::time::sleep(left.min(POLL_EVERY)).await;
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod timer {
    use std::{io, os::fd::OwnedFd, time::Duration};

    use nix::sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    };
    use tokio::io::{Interest, unix::AsyncFd};

    use super::Timestamp;

    /// Waits for a one-shot `timerfd` set to `deadline`.
    pub(super) async fn fired(deadline: Timestamp) -> io::Result<()> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        let at = TimeSpec::from_duration(Duration::from_nanos(deadline.as_nanos()));
        timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for any descriptor; an OwnedFd is sound with both"
        )]
        let timer = AsyncFd::with_interest(OwnedFd::from(timer), Interest::READABLE)?;
        timer.readable().await?.retain_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let first = Timestamp::now();
        assert!(Timestamp::now() >= first);
        assert!(first.as_nanos() > 0);
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let start = Timestamp::from_nanos(5);
        assert_eq!(start - Duration::from_secs(1), Timestamp::from_nanos(0));
        assert_eq!(start + Duration::MAX, Timestamp::from_nanos(u64::MAX));
        assert_eq!(start.since(start + Duration::from_nanos(1)), Duration::ZERO);
    }

    #[tokio::test]
    async fn sleep_never_ends_early() {
        for millis in [0, 1, 15] {
            let deadline = Timestamp::now() + Duration::from_millis(millis);
            sleep_until(deadline).await;
            assert!(Timestamp::now() >= deadline);
        }
    }
}
