//! Following a process that died at once, by the word of its kernel.
//!
//! A lease tells the living from the dead by waiting. The kernel of the same host need not wait: it knows. A
//! candidate with a [`Lifeline`] keeps a *ticket* in a directory of its host: a file with what it takes to release its
//! place in the queue, and with a lock that the process's memory holds. Every other process with the same directory is
//! a *witness*: when it finds the lock free, the memory is gone, and with it the belief to lead. It then releases that
//! place, for which etcd compares cluster, key, `create_revision` and lease ([`Etcd::release`]). So does a process that starts
//! again, for the one that it was.
//!
//! | module | |
//! |---|---|
//! | `evidence` | when a ticket proves that its process is gone (pure) |
//! | `directory` | which directory is accepted; how a ticket gets in and out |
//! | `witness` | looks, and has the dead released |
//!
//! It is the *belief* that has ended, and not what was done in it: bytes on their way arrive, children live on. Where what
//! they reach checks no token, say how long that may take: [`with_lock_delay`](Lifeline::with_lock_delay).
//!
//! What it can't see is left to the TTL, as ever: a process that is frozen, a kernel that has stopped, a cut cable.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tracing::warn;

use self::directory::Directory;
pub use self::directory::LifelineError;
pub(crate) use self::directory::TicketSlot;
use crate::{
    etcd::{Etcd, EtcdShared},
    leadership::{ReleaseError, Released, Ticket},
};

mod directory;
pub(crate) mod evidence;
mod witness;

/// Limit of a candidate's wait for its ticket before it goes on without; it may come later. In memory it takes a
/// fraction of a millisecond, on a busy disk a few.
const TICKET_WITHIN: Duration = Duration::from_millis(500);

/// A directory in which the candidates of one host keep tickets, by which a process that died is followed at once.
///
/// All that use one directory witness for each other. It may be shared by elections and clusters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifeline {
    directory: Arc<Directory>,
    lock_delay: Duration,
    /// A failure to write tickets is told once.
    told: Arc<AtomicBool>,
}

/// Result of [`Lifeline::release_dead`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "it says what was not released"]
#[non_exhaustive]
pub struct DeadReleased {
    /// Places in a queue that were given up in place of processes that are gone.
    pub given_up: usize,
    /// Why others could not be.
    pub errors: Vec<ReleaseError>,
}

impl Lifeline {
    /// Uses a directory, and makes it if it is not there. Tries whether locks do there what they must.
    ///
    /// It has to be this user's or root's, writable by no others, and on tmpfs, ext4, xfs or btrfs. Best on
    /// tmpfs, as `/run` is: on a disk, what a process left is released by witnesses that saw it alive, and not by itself when it
    /// starts again.
    ///
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    ///
    /// See [`LifelineError`]. Nothing is lost then but the speed: candidates stand without.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LifelineError> {
        let directory = Arc::new(Directory::open(directory.as_ref())?);
        Ok(Self { directory, lock_delay: Duration::ZERO, told: Arc::default() })
    }

    /// Time that witnesses wait after the end of this process before they release its place: as long as its last effects may be on
    /// their way to something that checks no token. Zero unless said.
    pub fn with_lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Looks once, and releases the places of all processes that are gone: what a unit's `ExecStopPost=` is for.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call goes on in the background.
    pub async fn release_dead(&self, etcd: &Etcd, within: Duration) -> io::Result<DeadReleased> {
        let mut all = DeadReleased::default();
        for released in witness::release_once(etcd.shared(), &self.directory, within).await? {
            match released {
                Ok(Released::GivenUp) => all.given_up += 1,
                Ok(Released::NothingHeld) => {}
                Err(error) => all.errors.push(error),
            }
        }
        Ok(all)
    }

    /// Releases what processes that die leave, for as long as `shared` lives.
    pub(crate) fn watch(&self, shared: &Arc<EtcdShared>) {
        witness::start(shared, Arc::clone(&self.directory));
    }

    /// Writes a ticket, unless the slot has it. Returns when it can be seen, or nearly at once if that can't be.
    pub(crate) async fn put(
        &self,
        candidate: &str,
        ticket: Ticket,
        slot: &Arc<TicketSlot>,
        shared: &EtcdShared,
    ) {
        if slot.has(ticket.created) {
            return;
        }
        let (directory, delay, candidate) =
            (Arc::clone(&self.directory), self.lock_delay, candidate.to_owned());
        let (slot, told) = (Arc::clone(slot), Arc::clone(&self.told));
        let putting = shared.spawn_blocking(move || {
            if let Err(error) = directory.put(&candidate, delay, ticket, &slot)
                && !told.swap(true, Ordering::Relaxed)
            {
                warn!(%error, "no ticket could be written: if this process dies, the next leader waits for the TTL");
            }
        });
        let _ = timeout(TICKET_WITHIN, putting).await;
    }
}
