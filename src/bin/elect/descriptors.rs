//! File descriptors: how many this process may have, and whether there are enough to begin.
//!
//! Running out later is survived: renewals go on over the connection that is there, and a new one waits until
//! there is a descriptor for it. Beginning with too few is not worth it, and what we build on panics there.

use std::fs::File;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};

/// What a runtime and its signals take, and then the first connection to etcd.
pub(crate) const TO_BEGIN: usize = 12;

/// The same, with a guard and its pipes, and a look through `/proc`.
#[cfg(target_os = "linux")]
pub(crate) const TO_RUN: usize = 16;

/// What a process that serves HTTP needs for everything else: two runtimes, a log, connections to etcd, one
/// for each endpoint while they are raced for, a look at the names, what resolving a name opens.
const FOR_OURSELVES: usize = 48;

/// Makes sure that so many more can be had.
///
/// # Errors
///
/// Says what to do where they can't.
pub(crate) fn ensure(more: usize) -> anyhow::Result<()> {
    let remedy = || format!("too few file descriptors: this takes {more} more; raise the limit (ulimit -n)");
    // Kept until the last one is there, and then all of them are free again.
    let opened: Result<Vec<File>, _> = (0..more).map(|_| File::open("/dev/null")).collect();
    opened.map(drop).with_context(remedy)
}

/// How many connections can be served, at most `wished`, and always leave enough for the rest of this process.
///
/// It is the limit at this moment. Whoever lowers it for a running process makes room by that.
pub(crate) fn to_serve(wished: usize) -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) => share(usize::try_from(limit).unwrap_or(usize::MAX), wished),
        Err(_) => wished,
    }
}

/// A quarter, as long as the rest is enough for ourselves; else what is left, and never nothing.
fn share(limit: usize, wished: usize) -> usize {
    (limit / 4).min(limit.saturating_sub(FOR_OURSELVES)).clamp(1, wished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_serves_keeps_enough_for_itself() {
        assert_eq!(share(1_048_576, 256), 256);
        assert_eq!(share(1024, 256), 256);
        assert_eq!(share(256, 256), 64);
        assert_eq!(share(64, 256), 16);
        assert_eq!(share(56, 256), 8);
        assert_eq!(share(20, 256), 1);
        for limit in 50..3000 {
            assert!(share(limit, 256) + FOR_OURSELVES <= limit, "{limit}");
        }
    }
}
