//! Protection of this process's secrets from other processes.

use anyhow::Context;

use crate::config::Config;

/// Closes this process if it knows a password, a key or a secret: other processes of the same user can read
/// neither its memory nor its environment any more, not by `/proc` and not by a debugger, and a crash writes
/// no dump. Root still can.
///
/// It holds until the next `exec`. So a child of a closed process begins open, and without the secrets in its
/// environment: see `supervise::environment`.
pub(crate) fn close(config: &Config) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    if config.knows_a_secret {
        nix::sys::prctl::set_dumpable(false).context("failed to keep this process's memory from others")?;
    }
    Ok(())
}
