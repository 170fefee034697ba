//! Candidates whose clock runs at another rate.
//!
//! Debian's libfaketime, preloaded, scales the clocks that a process reads and the times that it waits. It cannot do
//! that to etcd, which is static, and need not: only the rate of a candidate's clock *against* etcd's counts.
//!
//! It gives every process a boot-time clock of its own, unrelated to the machine's in rate
//! and origin. `elect run` and its guard share that clock in reality, and would not understand each other; and a
//! process's stamps have to be converted to the machine's clock before the check. So only programs on the library get
//! one: they write `/proc/uptime` beside each stamp, which no library fakes.

use std::{fs, path::Path, process::Command, time::Duration};

use super::history::{At, EventKind};

const LIBRARY: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// The resolution of `/proc/uptime`.
const RESOLUTION: Duration = Duration::from_millis(10);

/// The rate of a candidate's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ClockRate {
    True,
    /// So many seconds for each of etcd's.
    Off(f64),
}

impl ClockRate {
    /// Another rate, if this machine supports it.
    pub(crate) fn off(rate: f64) -> Option<Self> {
        library().map(|_| Self::Off(rate))
    }

    /// Gives a process that clock.
    pub(crate) fn set(self, command: &mut Command) {
        if let (Self::Off(rate), Some(library)) = (self, library()) {
            command.env("LD_PRELOAD", library).env("FAKETIME", format!("+0 x{rate}"));
        }
    }
}

/// Removes what the library left of a killed process.
pub(crate) fn sweep(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

fn library() -> Option<&'static Path> {
    LIBRARY.iter().map(Path::new).find(|path| path.exists())
}

/// The kernel's boot-time clock, which no library fakes, rounded down to [`RESOLUTION`].
pub(crate) fn uptime() -> At {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    At(Duration::from_secs_f64(seconds.unwrap_or_default()).as_nanos() as u64)
}

/// Converts a process's clock, by its rate and known readings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockMapping {
    rate: f64,
    /// Its reading at the machine's boot.
    origin: f64,
}

impl ClockMapping {
    /// From pairs of the clock's reading and the [`uptime`] just before or after: an uptime may
    /// be up to its resolution behind the truth. `None` without any.
    pub(crate) fn of(rate: f64, shown: impl IntoIterator<Item = (At, At)>) -> Option<Self> {
        // The true time lies in [u, u + resolution), so the origin in (shown - rate (u + resolution), shown - rate u].
        let origins = shown.into_iter().map(|(shown, uptime)| shown.0 as f64 - rate * uptime.0 as f64);
        let mut origins: Vec<f64> = origins.collect();
        origins.sort_by(f64::total_cmp);
        // The least is the closest; but a process frozen between its two readings would be far too low.
        let origin = *origins.get(origins.len() / 20)?;
        Some(Self { rate, origin })
    }

    pub(crate) fn truth(self, shown: At) -> At {
        At(((shown.0 as f64 - self.origin) / self.rate).max(0.0) as u64)
    }

    /// The same, for all stamps of an event.
    pub(crate) fn put_right(self, what: EventKind) -> EventKind {
        match what {
            EventKind::Proved { who, token, until } => {
                EventKind::Proved { who, token, until: self.truth(until) }
            }
            EventKind::Ended { who, token, last, how } => {
                EventKind::Ended { who, token, last: last.map(|last| self.truth(last)), how }
            }
            other => other,
        }
    }

    /// The largest error of [`truth`](Self::truth).
    pub(crate) const ERROR: Duration = RESOLUTION;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// With enough readings, the error is far below the resolution of one reading.
        #[test]
        fn a_dial_tells_the_true_time(
            rate in 0.5..2.0f64, start in 0..1_000_000u64, looks in prop::collection::vec(0..60_000_000u64, 50..200),
        ) {
            let shown = |micros: u64| At(1_700_000_000_000_000_000 + ((micros * 1_000) as f64 * rate) as u64);
            let resolution = RESOLUTION.as_micros() as u64;
            let uptime = |micros: u64| At((micros / resolution) * resolution * 1_000);
            let looks = looks.into_iter().map(|look| look + start);
            let dial = ClockMapping::of(rate, looks.map(|look| (shown(look), uptime(look)))).unwrap();
            for micros in [0, 1_000_000, 59_000_000] {
                let truth = dial.truth(shown(micros + start));
                let off = truth.0.abs_diff((micros + start) * 1_000);
                prop_assert!(off <= ClockMapping::ERROR.as_nanos() as u64, "{off} ns off");
            }
        }
    }
}
