//! The messages between supervisor and guard: lines of JSON, by one pipe in each direction.
//!
//! The pipes have no names, so no other process can write to them. The guard takes over its two ends by
//! opening `/proc/self/fd/N` and closes the inherited ones; no third process ever holds the supervisor's end.
//! So when the orders end, the supervisor is dead.
//!
//! No write ever waits. Each side sends a few dozen bytes for one message of the other's, and the kernel
//! buffers 64 KiB: if there is no room, the other side has not read for minutes, and counts as stuck.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use leader_election::{clock::Timestamp, leadership::Ticket};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::unix::pipe;

/// The longest line: an order to start, whose ticket has the key of an election with a long name.
const LONGEST_LINE: usize = 16 * 1024;

/// A message from the supervisor to the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuardOrder {
    /// Start the command. Only after the end of the one before was reported.
    Start(Box<Start>),
    /// Leadership is proved until then.
    Until(WireTimestamp),
    /// Send this signal to the command's group.
    Signal(i32),
    /// The same, and kill the rest when its time is over.
    Stop(i32),
    /// Kill the command now, and everything else of the term. Answered with [`GuardReport::Cleared`].
    Kill,
    /// Start the hook of the term under way.
    Hook,
    /// The term is over, and etcd knows: nothing has to be released any more.
    Over,
}

/// Data to start the command, and to release leadership after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) token: String,
    pub(crate) cluster: String,
    pub(crate) until: WireTimestamp,
    /// `None`: nothing has to be released.
    pub(crate) ticket: Option<Ticket>,
    /// The init that a witness waits for: the command may start under no other. `None`: under any.
    pub(crate) init: Option<u32>,
}

/// A message from the guard to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuardReport {
    /// Ready for orders.
    Ready,
    /// The init of the next run waits. No command runs.
    InitWaits {
        pid: u32,
    },
    Started {
        pid: i32,
    },
    /// Confirms that leadership is proved until then; the guard acts by it.
    Heard(WireTimestamp),
    /// The command and all that it started are gone.
    Ended {
        how: CommandExit,
        /// True if the guard ended it because time ran out, and not by an order.
        ran_out: bool,
    },
    /// The hook of the term has ended; its remaining processes may live until the term is over.
    HookEnded {
        how: CommandExit,
        /// True if it was killed at its time limit.
        timed_out: bool,
    },
    /// Nothing is left of the term.
    Cleared,
}

/// The way a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CommandExit {
    Exited(i32),
    Signalled(i32),
    NotStarted(String),
}

impl fmt::Display for CommandExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

impl CommandExit {
    /// Returns the command's own exit code, if it had one.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(*code),
            Self::Signalled(_) | Self::NotStarted(_) => None,
        }
    }
}

/// A moment of the boot-time clock, in nanoseconds: the two processes share that clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireTimestamp(u64);

impl From<Timestamp> for WireTimestamp {
    fn from(at: Timestamp) -> Self {
        Self(at.as_nanos())
    }
}

impl From<WireTimestamp> for Timestamp {
    fn from(WireTimestamp(nanos): WireTimestamp) -> Self {
        Self::from_nanos(nanos)
    }
}

/// The writing end of a pipe.
#[derive(Debug)]
pub(crate) struct PipeSender<T> {
    pipe: File,
    says: PhantomData<fn(T)>,
}

impl<T: Serialize> PipeSender<T> {
    pub(crate) fn new(end: impl Into<OwnedFd>) -> io::Result<Self> {
        let end = end.into();
        fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: File::from(end), says: PhantomData })
    }

    /// Sends a message, without waiting.
    ///
    /// # Errors
    ///
    /// If the other side is gone, or has not read for long.
    pub(crate) fn send(&mut self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.pipe.write_all(&line)
    }
}

/// The reading end of a pipe.
#[derive(Debug)]
pub(crate) struct PipeReceiver<T> {
    pipe: pipe::Receiver,
    unread: Vec<u8>,
    hears: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> PipeReceiver<T> {
    pub(crate) fn new(end: impl Into<OwnedFd>) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(end.into())?;
        Ok(Self { pipe, unread: Vec::new(), hears: PhantomData })
    }

    /// Waits for the next message; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the data is not a message.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: data that was read is kept for a later call.
    pub(crate) async fn next(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(message) = self.already_here()? {
                return Ok(Some(message));
            }
            if self.unread.len() > LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without an end"));
            }
            self.pipe.readable().await?;
            let mut buffer = [0; 4096];
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<T: DeserializeOwned> PipeReceiver<T> {
    /// Returns the next of the messages that were read together with the last.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub(crate) fn already_here(&mut self) -> io::Result<Option<T>> {
        next_in(&mut self.unread)
    }
}

/// Takes the next message out of the buffer.
fn next_in<T: DeserializeOwned>(unread: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(end) = unread.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line: Vec<u8> = unread.drain(..=end).collect();
    Ok(Some(serde_json::from_slice(&line)?))
}

/// The reading end for a process that has no runtime, and polls.
#[derive(Debug)]
pub(crate) struct PolledPipe<T> {
    pipe: File,
    unread: Vec<u8>,
    hears: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> PolledPipe<T> {
    pub(crate) fn new(end: impl Into<OwnedFd>) -> io::Result<Self> {
        let end = end.into();
        fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: File::from(end), unread: Vec::new(), hears: PhantomData })
    }

    /// Reads the available data. `false` at the end.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.unread.extend_from_slice(&buffer[..length]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the next of the messages that were read.
    ///
    /// # Errors
    ///
    /// If the data is not a message.
    pub(crate) fn already_here(&mut self) -> io::Result<Option<T>> {
        next_in(&mut self.unread)
    }
}

impl<T> AsFd for PolledPipe<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Lets the next started process inherit a descriptor.
pub(crate) fn make_inheritable(end: impl AsFd) -> io::Result<()> {
    fcntl(end, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes over an inherited end for reading: opens it again, and closes the inherited one.
pub(crate) fn inherited_source(number: i32) -> io::Result<OwnedFd> {
    inherited(number, File::options().read(true))
}

/// Does the same for writing.
pub(crate) fn inherited_sink(number: i32) -> io::Result<OwnedFd> {
    inherited(number, File::options().write(true))
}

fn inherited(number: i32, how: &std::fs::OpenOptions) -> io::Result<OwnedFd> {
    // Opened by std, so it is not inherited any further.
    let end = how.open(format!("/proc/self/fd/{number}"))?;
    nix::unistd::close(number)?;
    Ok(end.into())
}

/// Creates a pipe of which no end is inherited, unless [`make_inheritable`] is called.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (PipeSender<GuardOrder>, PipeReceiver<GuardOrder>) {
        let (reader, writer) = pipe().unwrap();
        (PipeSender::new(writer).unwrap(), PipeReceiver::new(reader).unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_then_the_end() {
        let (mut sender, mut receiver) = both();
        let orders = [
            GuardOrder::Until(WireTimestamp(u64::MAX)),
            GuardOrder::Signal(10),
            GuardOrder::Stop(15),
            GuardOrder::Kill,
            GuardOrder::Over,
        ];
        for order in &orders {
            sender.send(order).unwrap();
        }
        drop(sender);
        for order in orders {
            assert_eq!(receiver.next().await.unwrap(), Some(order));
        }
        assert_eq!(receiver.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn no_write_waits_for_a_reader_that_does_not_read() {
        let (mut sender, _receiver) = both();
        let full = (0..100_000).find_map(|_| sender.send(&GuardOrder::Over).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_refused() {
        let (reader, writer) = pipe().unwrap();
        let mut receiver = PipeReceiver::<GuardOrder>::new(reader).unwrap();
        File::from(writer).write_all(&[b'x'; 2 * LONGEST_LINE]).unwrap();
        assert!(receiver.next().await.is_err());
    }

    #[tokio::test]
    async fn an_inherited_end_is_taken_over_whole() {
        use std::os::fd::IntoRawFd;
        let (reader, writer) = pipe().unwrap();
        let number = writer.into_raw_fd();
        let mut sender = PipeSender::<GuardOrder>::new(inherited_sink(number).unwrap()).unwrap();
        let mut receiver = PipeReceiver::<GuardOrder>::new(reader).unwrap();
        sender.send(&GuardOrder::Kill).unwrap();
        drop(sender);
        assert_eq!(receiver.next().await.unwrap(), Some(GuardOrder::Kill));
        assert_eq!(receiver.next().await.unwrap(), None, "no other writing end is open");
    }
}
