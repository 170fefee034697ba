//! Number of trials, in all and at once.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

use crate::report::{sample::Sample, who::Who};

/// The extent of the measurements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    quick: bool,
}

impl Scale {
    pub(crate) fn from_env() -> Self {
        Self { quick: env::var_os("BENCH_QUICK").is_some_and(|quick| quick != "0" && !quick.is_empty()) }
    }

    pub(crate) fn is_quick(self) -> bool {
        self.quick
    }

    /// `full`, or `quick` of them.
    pub(crate) fn of(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// An election that has never had a candidate.
pub(crate) fn election(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("bench-{what}-{}", NEXT.fetch_add(1, SeqCst))
}

/// Runs so many trials of each, one at a time, each going first in its turn; in milliseconds.
///
/// A trial that panics is not in the sample; it is added to `failed`, and its report is on stderr.
pub(crate) fn take_turns(
    contenders: &[Who],
    trials: usize,
    failed: &mut Vec<String>,
    mut trial: impl FnMut(Who) -> Duration,
) -> Vec<(Who, Sample)> {
    let mut samples: Vec<_> = contenders.iter().map(|who| (*who, Sample::default())).collect();
    for number in 0..trials {
        for turn in 0..samples.len() {
            let index = (number + turn) % samples.len();
            let (who, sample) = &mut samples[index];
            match catch_unwind(AssertUnwindSafe(|| trial(*who))) {
                Ok(took) => sample.add_time(took),
                Err(_) => failed.push(format!("a trial of {}", who.title())),
            }
        }
    }
    samples
}

/// Runs `count` trials, `at_once` of them at a time. A panicking one leaves `None`; its report is on stderr.
///
/// Only for trials that mostly wait.
pub(crate) fn concurrently<T: Send>(
    count: usize,
    at_once: usize,
    trial: impl Fn(usize) -> T + Sync,
) -> Vec<Option<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, SeqCst);
            if index >= count {
                return done;
            }
            done.push(catch_unwind(AssertUnwindSafe(|| trial(index))).ok());
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(count)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a trial's panic is caught")).collect()
    })
}
