//! Waiting for a condition that becomes true and then stays true.

use std::{thread, time::Duration};

use super::clock::BootTime;

/// Polling intervals: at first, for conditions that are nearly true, and in the long run.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);
const LONGEST_INTERVAL: Duration = Duration::from_millis(16);

/// Polls until `poll` returns a value, and returns it.
///
/// The condition must be monotone: "the token is at least n", never "is follower just now". `what` completes
/// the sentence "waited 5 s for …".
///
/// # Panics
///
/// When `within` has passed. The condition is polled once more at the very end, so a test machine that
/// stalls does not by itself fail a test.
#[track_caller]
pub(crate) fn eventually<T>(within: Duration, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let started = BootTime::now();
    let mut interval = FIRST_INTERVAL;
    loop {
        let last = started.elapsed() >= within;
        if let Some(value) = poll() {
            return value;
        }
        assert!(!last, "waited {within:?} for {what}");
        thread::sleep(interval);
        interval = LONGEST_INTERVAL.min(interval * 2);
    }
}
