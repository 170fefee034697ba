//! The end of a command: process 1 of its PID namespace, as a witness in any other namespace sees it.
//!
//! ```text
//!  holder (`elect run`)                                            witness
//!    names process 1 in its ticket ── DIR/<socket>.socket ──► connects when it sees the ticket held
//!    passes on a pidfd of it       ── SCM_RIGHTS ───────────► keeps it, and waits for its end
//! ```
//!
//! A pidfd becomes readable when its process has ended. Process 1 of a PID namespace ends last: the kernel kills
//! all others there, and waits until each of them is reaped, before it reports that one's end. No process can leave
//! its PID namespace. So the pidfd tells that nothing of the command is left, whatever it did to itself.
//!
//! Only a witness that got the pidfd while the holder lived knows anything. One that begins later does not, and
//! leaves the place to its TTL.
//!
//! The socket is in the directory of tickets, with mode 0600: only its owner and root can put one there, and only they
//! can connect. They can release any place there by a forged ticket, so a forged pidfd gives them nothing.

use std::{
    fs::{self, File, Permissions},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
        socket_with,
    },
    process::{Pid, PidfdFlags, pidfd_open},
};
use tracing::debug;

use super::{
    NamingError,
    directory::{TicketDirectory, TicketSlot, unique_name},
    evidence::{FileId, ProcessId, ProcessSeen},
};
use crate::leadership::Ticket;

/// End of the name of a holder's socket.
pub(super) const SOCKET: &str = ".socket";

/// The holder's side: names a process, and passes its pidfd on to witnesses.
#[derive(Debug)]
pub(crate) struct ProcessOffer {
    listener: UnixListener,
    socket: u64,
    path: PathBuf,
    state: Mutex<OfferState>,
}

#[derive(Debug, Default)]
pub(super) struct OfferState {
    /// `None`: no process is named, and no ticket written.
    named: Option<NamedProcess>,
    /// The tickets of this process that name one.
    tickets: Vec<OfferedTicket>,
}

#[derive(Debug)]
struct NamedProcess {
    id: ProcessId,
    pidfd: OwnedFd,
}

/// All that it takes to write a ticket again.
#[derive(Debug, Clone)]
pub(super) struct OfferedTicket {
    pub(super) slot: Weak<TicketSlot>,
    pub(super) candidate: String,
    pub(super) ticket: Ticket,
}

impl ProcessOffer {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let socket = fastrand::u64(..);
        let (new, path) = (directory.join(unique_name()), socket_path(directory, socket));
        let listener = UnixListener::bind(&new)?;
        let ready = || {
            listener.set_nonblocking(true)?;
            fs::set_permissions(&new, Permissions::from_mode(0o600))?;
            fs::rename(&new, &path)
        };
        ready().inspect_err(|_| drop(fs::remove_file(&new)))?;
        Ok(Self { listener, socket, path, state: Mutex::default() })
    }

    /// Locks the naming: no ticket is written meanwhile.
    pub(super) fn state(&self) -> MutexGuard<'_, OfferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the process that is to be named.
    ///
    /// # Errors
    ///
    /// It is gone, or not process 1 of its PID namespace.
    fn open(&self, process: u32) -> io::Result<NamedProcess> {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let (pidfd, file) = identified(pidfd)?;
        Ok(NamedProcess {
            id: ProcessId { pidfd: file, nonce: fastrand::u64(..), socket: self.socket },
            pidfd,
        })
    }

    /// Names another process in all tickets of this one. First the tickets that name the one before are withdrawn.
    ///
    /// # Errors
    ///
    /// If it can't be named, no ticket is left. If a ticket can't be withdrawn, all is as before.
    pub(super) fn name(
        &self,
        process: u32,
        mut put: impl FnMut(&OfferedTicket, ProcessId, &TicketSlot) -> io::Result<()>,
    ) -> Result<(), NamingError> {
        let mut state = self.state();
        let live = state.withdraw_all()?;
        let named = self.open(process).map_err(NamingError::NotNamed)?;
        let id = named.id;
        // Before a ticket shows it.
        state.named = Some(named);
        for (ticket, slot) in live {
            put(&ticket, id, &slot).map_err(NamingError::NotNamed)?;
        }
        Ok(())
    }

    /// Withdraws all tickets of this process, and names no other.
    pub(super) fn withdraw_all(&self) -> Result<(), NamingError> {
        self.state().withdraw_all().map(|_| ())
    }

    pub(super) fn socket(&self) -> u64 {
        self.socket
    }

    /// Removes the socket. Its name is no other's.
    pub(super) fn close(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Answers all witnesses that wait.
    pub(super) fn answer(&self) {
        while let Ok((witness, _)) = self.listener.accept() {
            let passed = match &self.state().named {
                Some(named) => pass_on(&witness, named),
                None => Ok(()),
            };
            if let Err(error) = passed {
                debug!(%error, "a witness did not take the pidfd");
            }
        }
    }
}

impl OfferState {
    pub(super) fn named(&self) -> Option<ProcessId> {
        self.named.as_ref().map(|named| named.id)
    }

    /// Returns the tickets, which can be written again.
    fn withdraw_all(&mut self) -> Result<Vec<(OfferedTicket, Arc<TicketSlot>)>, NamingError> {
        let live = |one: &OfferedTicket| Some((one.clone(), one.slot.upgrade()?));
        let live: Vec<_> = self.tickets.iter().filter_map(live).collect();
        for (_, slot) in &live {
            slot.withdraw().map_err(NamingError::StillNamesAnother)?;
        }
        self.named = None;
        Ok(live)
    }

    pub(super) fn remember(&mut self, ticket: OfferedTicket) {
        let other = |known: &OfferedTicket| !Weak::ptr_eq(&known.slot, &ticket.slot);
        self.tickets.retain(|known| known.slot.strong_count() > 0 && other(known));
        self.tickets.push(ticket);
    }
}

impl AsFd for ProcessOffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for ProcessOffer {
    fn drop(&mut self) {
        self.close();
    }
}

fn socket_path(directory: &Path, socket: u64) -> PathBuf {
    directory.join(format!("{socket:016x}{SOCKET}"))
}

/// Removes the socket of a holder that is gone.
pub(super) fn remove_socket(directory: &Path, socket: u64) {
    let _ = fs::remove_file(socket_path(directory, socket));
}

/// Returns whether a file is a socket without a listener.
pub(super) fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && dial(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects without waiting.
fn dial(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends the nonce, and the pidfd with it.
fn pass_on(witness: &UnixStream, named: &NamedProcess) -> io::Result<()> {
    let descriptors = [named.pidfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let nonce = named.id.nonce.to_le_bytes();
    // A new connection has room for so little.
    sendmsg(witness, &[IoSlice::new(&nonce)], &mut rights, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// The witness's side: what it knows of the process that one ticket names.
#[derive(Debug, Default)]
pub(super) enum FollowedProcess {
    /// The ticket has not been read, or its holder not been reached.
    #[default]
    NotAsked,
    /// The ticket names none.
    NotNamed,
    Asked(ProcessId, OwnedFd),
    Alive(ProcessId, OwnedFd),
    Ended(ProcessId),
}

impl FollowedProcess {
    /// Connects to the holder. Its answer comes later.
    pub(super) fn ask(directory: &TicketDirectory, named: ProcessId) -> Self {
        let path = socket_path(directory.path(), named.socket);
        let is_the_owners =
            fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.uid() == directory.owner);
        match dial(&path) {
            Ok(socket) if is_the_owners => Self::Asked(named, socket),
            Ok(_) | Err(_) => Self::NotAsked,
        }
    }

    /// Reads the holder's answer, and then checks whether the process has ended.
    pub(super) fn advance(&mut self) {
        if let Self::Asked(named, socket) = self {
            match receive(socket) {
                Ok(Some((nonce, pidfd))) if nonce == named.nonce => {
                    let named = *named;
                    *self = match identified(pidfd) {
                        Ok((pidfd, file)) if file == named.pidfd => Self::Alive(named, pidfd),
                        Ok(_) | Err(_) => Self::NotAsked,
                    };
                }
                // It names another one meanwhile, or is gone.
                Ok(_) => *self = Self::NotAsked,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => *self = Self::NotAsked,
            }
        }
        if let Self::Alive(named, pidfd) = self
            && is_readable(pidfd)
        {
            *self = Self::Ended(*named);
        }
    }

    pub(super) fn seen(&self) -> ProcessSeen {
        match self {
            Self::NotAsked | Self::NotNamed | Self::Asked(..) => ProcessSeen::Unknown,
            Self::Alive(named, _) => ProcessSeen::Alive(*named),
            Self::Ended(named) => ProcessSeen::Ended(*named),
        }
    }

    /// Returns the descriptor that is readable once [`advance`](Self::advance) has something to do.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Asked(_, descriptor) | Self::Alive(_, descriptor) => Some(descriptor.as_fd()),
            Self::NotAsked | Self::NotNamed | Self::Ended(_) => None,
        }
    }
}

/// Receives a nonce and a descriptor; `None` if anything else came, or nothing will.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u64, OwnedFd)>> {
    let mut nonce = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut nonce)], &mut rights, flags)?;
    let descriptors = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.flatten().next();
    Ok(descriptor.filter(|_| received.bytes == nonce.len()).map(|pidfd| (u64::from_le_bytes(nonce), pidfd)))
}

/// Returns a pidfd with its file's identity.
///
/// # Errors
///
/// It is another kind of descriptor, or its process is seen not to be process 1 of a PID namespace.
fn identified(pidfd: OwnedFd) -> io::Result<(OwnedFd, FileId)> {
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    if !fdinfo.lines().any(|line| line.starts_with("Pid:")) || is_process_1(&fdinfo) == Some(false) {
        return Err(io::Error::other("it is not process 1 of a PID namespace"));
    }
    let file = File::from(pidfd);
    let id = FileId::of(&file.metadata()?);
    Ok((file.into(), id))
}

/// Returns whether a pidfd's process is process 1 of its PID namespace; `None` if that can't be seen from this one.
///
/// `NSpid` has its ids, from the reader's namespace inwards.
fn is_process_1(fdinfo: &str) -> Option<bool> {
    let mut ids = fdinfo.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_ascii_whitespace();
    let outermost = ids.next()?;
    (outermost != "0").then(|| ids.last().unwrap_or(outermost) == "1")
}

fn is_readable(descriptor: &OwnedFd) -> bool {
    let mut readable = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut readable, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, process, time::Duration};

    use super::*;

    #[test]
    fn process_1_is_told_by_its_innermost_id() {
        let fdinfo = |ids: &str| format!("pos:\t0\nflags:\t02000002\nPid:\t7\nNSpid:\t{ids}\n");
        assert_eq!(is_process_1(&fdinfo("1")), Some(true));
        assert_eq!(is_process_1(&fdinfo("4711\t1")), Some(true));
        assert_eq!(is_process_1(&fdinfo("4711\t31\t1")), Some(true));
        assert_eq!(is_process_1(&fdinfo("4711\t31")), Some(false));
        assert_eq!(is_process_1(&fdinfo("1\t31")), Some(false));
        // In a container beside this one.
        assert_eq!(is_process_1(&fdinfo("0")), None);
        // Reaped.
        assert_eq!(is_process_1("Pid:\t-1\n"), None);
    }

    #[test]
    fn another_process_is_not_named() {
        let directory = tempfile::tempdir().unwrap();
        let offer = ProcessOffer::new(directory.path()).unwrap();
        let named = offer.name(process::id(), |_, _, _| unreachable!("there are no tickets"));
        assert!(process::id() == 1 || matches!(named, Err(NamingError::NotNamed(_))), "{named:?}");
        assert!(process::id() == 1 || offer.state().named().is_none());
    }

    #[test]
    fn what_is_not_a_pidfd_is_not_taken_for_one() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(identified(one.into()).is_err());
    }

    #[test]
    fn a_socket_is_left_behind_once_no_process_listens() {
        let directory = tempfile::tempdir().unwrap();
        let (listened, other) = (socket_path(directory.path(), 1), socket_path(directory.path(), 2));
        let listener = UnixListener::bind(&listened).unwrap();
        assert!(!is_left_behind(&listened));
        drop(listener);
        assert!(is_left_behind(&listened));
        fs::write(&other, "").unwrap();
        assert!(!is_left_behind(&other), "it is no socket");
    }

    #[test]
    fn a_holder_that_says_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let offer = ProcessOffer::new(directory.path()).unwrap();
        let socket = dial(&socket_path(directory.path(), offer.socket())).unwrap();
        assert_eq!(receive(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // It names none.
        offer.answer();
        assert!(matches!(receive(&socket), Ok(None)));
    }

    #[test]
    fn a_descriptor_arrives_with_its_nonce_and_nothing_else_counts() {
        let (holder, witness) = UnixStream::pair().unwrap();
        let witness = OwnedFd::from(witness);
        let own = Pid::from_raw(process::id().cast_signed()).unwrap();
        let pidfd = pidfd_open(own, PidfdFlags::empty()).unwrap();
        let id = FileId::of(&File::from(pidfd.try_clone().unwrap()).metadata().unwrap());
        let named = NamedProcess { id: ProcessId { pidfd: id, nonce: 77, socket: 0 }, pidfd };
        pass_on(&holder, &named).unwrap();
        // What was sent outlives its sender.
        drop(holder);
        let (nonce, received) = receive(&witness).unwrap().unwrap();
        assert_eq!(nonce, 77);
        assert_eq!(FileId::of(&File::from(received).metadata().unwrap()), id);

        let (holder, witness) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut &holder, &77_u64.to_le_bytes()).unwrap();
        assert!(matches!(receive(&witness.into()), Ok(None)), "no descriptor came");
    }

    #[test]
    fn a_process_is_gone_when_its_pidfd_says_so() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let named = super::super::evidence::tests::PROCESS;
        let mut followed = FollowedProcess::Alive(named, pidfd);
        followed.advance();
        assert_eq!(followed.seen(), ProcessSeen::Alive(named));
        child.kill().unwrap();
        child.wait().unwrap();
        for _ in 0..1000 {
            followed.advance();
            if followed.seen() == ProcessSeen::Ended(named) {
                return assert!(followed.descriptor().is_none());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{followed:?}");
    }
}
