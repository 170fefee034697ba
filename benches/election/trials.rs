//! How many trials, and how many at once.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    thread,
};

/// How much is measured.
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

/// An election that nobody else has ever stood in.
pub(crate) fn election(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("bench-{what}-{}", NEXT.fetch_add(1, SeqCst))
}

/// Runs `count` trials, `at_once` of them at a time. One that panics leaves `None`; its report is on stderr.
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
