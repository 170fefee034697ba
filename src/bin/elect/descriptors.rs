//! File descriptors: this process's limit, and whether it is enough to start.
//!
//! Running out later is survived: renewals continue over the existing connection, and a new one waits for a
//! descriptor. A start with too few is refused, because libraries panic there.

use std::fs::File;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};

/// Descriptors for a runtime and its signals, and then the first connection to etcd.
pub(crate) const TO_BEGIN: usize = 12;

/// The same, with a guard and its pipes, and a scan of `/proc`.
#[cfg(target_os = "linux")]
pub(crate) const TO_RUN: usize = 16;

/// Descriptors of a process that serves HTTP for everything else: two runtimes, a log, connections to etcd,
/// one for each endpoint during a race, a reading of the names, files for name resolution.
const FOR_OURSELVES: usize = 48;

/// Checks that this many more are available.
///
/// # Errors
///
/// Tells the remedy if they are not.
pub(crate) fn ensure(more: usize) -> anyhow::Result<()> {
    let remedy = || format!("too few file descriptors: this takes {more} more; raise the limit (ulimit -n)");
    // Kept until the last one is open, then all are free again.
    let opened: Result<Vec<File>, _> = (0..more).map(|_| File::open("/dev/null")).collect();
    opened.map(drop).with_context(remedy)
}

/// Returns how many connections can be served, at most `wished`, with enough left for the rest of this
/// process.
///
/// By the limit at this moment. An operator who lowers it for a running process makes room by that.
pub(crate) fn to_serve(wished: usize) -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) => share(usize::try_from(limit).unwrap_or(usize::MAX), wished),
        Err(_) => wished,
    }
}

/// Returns three quarters at most; with a low limit what is left, and never zero.
fn share(limit: usize, wished: usize) -> usize {
    (limit / 4).min(limit.saturating_sub(FOR_OURSELVES)).clamp(1, wished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_leaves_enough_for_the_process_itself() {
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
