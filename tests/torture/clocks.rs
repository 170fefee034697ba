//! Candidates whose clock runs at another rate.
//!
//! Debian's libfaketime, preloaded, scales what a process reads from its clocks and what it waits for. It cannot do
//! that to etcd, which is static; it does not have to: what counts is the rate of a candidate's clock *against* etcd's.
//!
//! It gives every process a boot-time clock of its own that has nothing to do with the machine's, neither in rate nor
//! in origin. `elect run` and its guard, who share that clock in truth, would not understand each other; and what a
//! process writes has to be put back onto the machine's clock before it is checked. So only programs on the library get
//! one: they write `/proc/uptime` beside each stamp, which no library fakes.

use std::{fs, path::Path, process::Command, time::Duration};

use super::history::{At, What};

const LIBRARY: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// What `/proc/uptime` counts in.
const RESOLUTION: Duration = Duration::from_millis(10);

/// How fast a candidate's clock runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    True,
    /// So many seconds for each of etcd's.
    Off(f64),
}

impl Pace {
    /// One that differs, where this machine can do that.
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

/// Removes what the library of a process has left that was killed.
pub(crate) fn sweep(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

fn library() -> Option<&'static Path> {
    LIBRARY.iter().map(Path::new).find(|path| path.exists())
}

/// The boot-time clock as the kernel tells it to everybody, rounded down to [`RESOLUTION`].
pub(crate) fn uptime() -> At {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    At(Duration::from_secs_f64(seconds.unwrap_or_default()).as_nanos() as u64)
}

/// How a process's own clock is to be read, from its rate and from what it showed at known times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dial {
    rate: f64,
    /// What it would have shown when the machine was started.
    origin: f64,
}

impl Dial {
    /// From pairs of what the clock showed and what [`uptime`] said just before or after: an uptime that was read may
    /// be up to its resolution behind the truth. `None` without any.
    pub(crate) fn of(rate: f64, shown: impl IntoIterator<Item = (At, At)>) -> Option<Self> {
        // The true time lies in [u, u + resolution), so the origin in (shown - rate (u + resolution), shown - rate u].
        let origins = shown.into_iter().map(|(shown, uptime)| shown.0 as f64 - rate * uptime.0 as f64);
        let mut origins: Vec<f64> = origins.collect();
        origins.sort_by(f64::total_cmp);
        // The least is the closest; but one that was frozen between its two looks would be far too low.
        let origin = *origins.get(origins.len() / 20)?;
        Some(Self { rate, origin })
    }

    pub(crate) fn truth(self, shown: At) -> At {
        At(((shown.0 as f64 - self.origin) / self.rate).max(0.0) as u64)
    }

    /// The same, for all stamps of an event.
    pub(crate) fn put_right(self, what: What) -> What {
        match what {
            What::Proved { who, token, until } => What::Proved { who, token, until: self.truth(until) },
            What::Ended { who, token, last, how } => {
                What::Ended { who, token, last: last.map(|last| self.truth(last)), how }
            }
            other => other,
        }
    }

    /// How far off [`truth`](Self::truth) may be.
    pub(crate) const ERROR: Duration = RESOLUTION;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// With enough looks, the time is known far better than the resolution of one look.
        #[test]
        fn a_dial_tells_the_true_time(
            rate in 0.5..2.0f64, start in 0..1_000_000u64, looks in prop::collection::vec(0..60_000_000u64, 50..200),
        ) {
            let shown = |micros: u64| At(1_700_000_000_000_000_000 + ((micros * 1_000) as f64 * rate) as u64);
            let resolution = RESOLUTION.as_micros() as u64;
            let uptime = |micros: u64| At((micros / resolution) * resolution * 1_000);
            let looks = looks.into_iter().map(|look| look + start);
            let dial = Dial::of(rate, looks.map(|look| (shown(look), uptime(look)))).unwrap();
            for micros in [0, 1_000_000, 59_000_000] {
                let truth = dial.truth(shown(micros + start));
                let off = truth.0.abs_diff((micros + start) * 1_000);
                prop_assert!(off <= Dial::ERROR.as_nanos() as u64, "{off} ns off");
            }
        }
    }
}
