//! Immediate failover after the death of a process, on the evidence of its kernel.
//!
//! A lease tells live holders from dead ones by waiting. The kernel of the same host need not wait. A
//! candidate with a [`Lifeline`] keeps a *ticket* in a directory of its host: a file with the data to release
//! its key, and with a lock that the process's memory holds. Every other process with the same directory is a
//! *witness*: when it finds the lock free, the memory is gone, and with it the belief to lead. It then
//! releases that key, for which etcd compares cluster, key, `create_revision` and lease ([`Etcd::release`]).
//! A restarted process does the same for its predecessor.
//!
//! | module | |
//! |---|---|
//! | `evidence` | the proof by a ticket that its process is gone (pure) |
//! | `directory` | checks of the directory; how a ticket gets in and out |
//! | `process` | the end of a command that its process starts, by a pidfd |
//! | `witness` | reads tickets, and releases the terms of dead processes |
//!
//! Only the *belief* has ended, not its effects: bytes on their way arrive, children live on. If their
//! receivers check no token, give the time they may take: [`with_lock_delay`](Lifeline::with_lock_delay).
//!
//! The TTL still covers what the kernel can't report: a frozen process, a stopped kernel, a cut cable.

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

pub use self::directory::LifelineError;
pub(crate) use self::directory::TicketSlot;
use self::{
    directory::TicketDirectory,
    process::{OfferedTicket, ProcessOffer},
};
use crate::{
    etcd::{Etcd, EtcdShared},
    leadership::{ReleaseError, Released, Ticket},
};

mod directory;
pub(crate) mod evidence;
#[cfg(not(target_os = "linux"))]
mod no_process;
#[cfg(target_os = "linux")]
mod process;
mod witness;

#[cfg(not(target_os = "linux"))]
use self::no_process as process;

/// Limit of a candidate's wait for its ticket before it goes on without; it may come later. In memory it takes a
/// fraction of a millisecond, on a busy disk a few.
const TICKET_WITHIN: Duration = Duration::from_millis(500);

/// A directory of tickets of the candidates on one host, through which a dead process is followed at once.
///
/// All processes that use one directory are witnesses for each other. It may be shared by elections and
/// clusters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifeline {
    directory: Arc<TicketDirectory>,
    lock_delay: Duration,
    tickets: bool,
    /// `None`: the end of this process is evidence enough.
    offer: Option<Arc<ProcessOffer>>,
    /// True once a failure to write tickets was logged: it is logged once.
    reported: Arc<AtomicBool>,
}

/// Reason that a process is not named in the tickets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamingError {
    /// There is no ticket now: the TTL decides.
    #[error("no ticket names the command's process: {0}")]
    NotNamed(#[source] io::Error),
    /// A ticket names the process before, and can't be removed. While that is so, no command may run but the one before.
    #[error("a ticket names another process, and can't be removed: {0}")]
    StillNamesAnother(#[source] io::Error),
}

/// Result of [`Lifeline::release_dead`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "lists what was not released"]
#[non_exhaustive]
pub struct DeadReleased {
    /// Number of keys that were released in place of dead processes.
    pub given_up: usize,
    /// Errors of the others.
    pub errors: Vec<ReleaseError>,
}

impl Lifeline {
    /// Uses a directory, and creates it if needed. Tests whether its locks behave as required.
    ///
    /// It has to be this user's or root's, writable by no others, and on tmpfs, ext4, xfs or btrfs. Best on
    /// tmpfs, as `/run` is: on a disk, only witnesses that saw the process alive release its key, and not the
    /// restarted process itself.
    ///
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    ///
    /// See [`LifelineError`]. Only the speed is lost then: candidates continue without.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LifelineError> {
        let directory = Arc::new(TicketDirectory::open(directory.as_ref())?);
        let (lock_delay, reported) = (Duration::ZERO, Arc::default());
        Ok(Self { directory, lock_delay, tickets: true, offer: None, reported })
    }

    /// Sets the time that witnesses wait after the end of this process before they release its key: as long
    /// as its last effects may be on their way to a receiver that checks no token. Zero by default.
    pub fn with_lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// For a program whose end proves nothing about its work as the leader: it is a witness for others, and writes no
    /// tickets of its own.
    pub fn witness_only(mut self) -> Self {
        self.tickets = false;
        self
    }

    /// For a program whose work as the leader is done by processes that it starts, which outlive it for a moment:
    /// witnesses also wait for their end. They are those of one PID namespace, whose process 1 is named with
    /// [`name_process`](Self::name_process). Until one is named, there is no ticket, and the TTL decides.
    ///
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    ///
    /// The socket can't be made by which witnesses get the process's pidfd.
    pub fn of_command(mut self) -> Result<Self, LifelineError> {
        let unusable = |problem| LifelineError::Unusable { path: self.path().display().to_string(), problem };
        let offer = ProcessOffer::new(self.directory.path()).map_err(unusable)?;
        self.offer = Some(Arc::new(offer));
        Ok(self)
    }

    /// Names process 1 of the PID namespace in which the work is done, by its process id. Call it before the work
    /// starts there, and before the campaign that leads to it if possible; again, before it starts in another one.
    ///
    /// Only witnesses that have seen the ticket before this process died release its key. They need Linux 5.3.
    ///
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    ///
    /// See [`NamingError`]. After [`StillNamesAnother`](NamingError::StillNamesAnother) the work must not start.
    pub fn name_process(&self, process: u32) -> Result<(), NamingError> {
        let Some(offer) = &self.offer else {
            return Err(NamingError::NotNamed(io::ErrorKind::Unsupported.into()));
        };
        offer.name(process, |OfferedTicket { candidate, ticket, .. }, process, slot| {
            self.directory.put(candidate, self.lock_delay, ticket.clone(), Some(process), slot)
        })
    }

    /// Withdraws the tickets that name a process, and writes none until the next is named: the work is about to start
    /// where no named process ends with it.
    ///
    /// Blocks for as long as the file system does.
    ///
    /// # Errors
    ///
    /// [`NamingError::StillNamesAnother`]: the work must not start.
    pub fn name_no_process(&self) -> Result<(), NamingError> {
        self.offer.as_ref().map_or(Ok(()), |offer| offer.withdraw_all())
    }

    /// Ends what [`of_command`](Self::of_command) began, for a program that exits: witnesses get no pidfd any more, and
    /// its socket is removed.
    pub fn close(&self) {
        if let Some(offer) = &self.offer {
            offer.close();
        }
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Reads the directory once, and releases the keys of all dead processes: for a unit's `ExecStopPost=`.
    ///
    /// # Errors
    ///
    /// The directory can't be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call continues the release in the background.
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

    /// Releases the keys of processes that die, for as long as `shared` lives.
    pub(crate) fn watch(&self, shared: &Arc<EtcdShared>) {
        witness::start(shared, Arc::clone(&self.directory), self.offer.clone());
    }

    /// Writes a ticket, unless the slot has it. Returns once it is visible, or after a short time if that
    /// fails.
    pub(crate) async fn put(
        &self,
        candidate: &str,
        ticket: Ticket,
        slot: &Arc<TicketSlot>,
        shared: &EtcdShared,
    ) {
        if !self.tickets || slot.has(ticket.created) {
            return;
        }
        let (directory, delay, candidate) =
            (Arc::clone(&self.directory), self.lock_delay, candidate.to_owned());
        let (slot, reported, offer) = (Arc::clone(slot), Arc::clone(&self.reported), self.offer.clone());
        let putting = shared.spawn_blocking(move || {
            let put = match offer {
                None => directory.put(&candidate, delay, ticket, None, &slot),
                Some(offer) => {
                    let mut state = offer.state();
                    let named = state.named();
                    let put = named.map(|named| directory.put(&candidate, delay, ticket.clone(), Some(named), &slot));
                    state.remember(OfferedTicket { slot: Arc::downgrade(&slot), candidate, ticket });
                    put.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = put
                && !reported.swap(true, Ordering::Relaxed)
            {
                warn!(%error, "no ticket could be written: if this process dies, the next leader waits for the TTL");
            }
        });
        let _ = timeout(TICKET_WITHIN, putting).await;
    }
}
