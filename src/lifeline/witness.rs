//! Reads the tickets of a directory, and releases the terms of dead processes.
//!
//! ```text
//! thread "elect-witness":  inotify, and once a second ─► open, try the lock ─► judge ── dead ──┐
//!                               ▲                                                              ▼
//!                               └── outcome ◄── delete the key, if it is the ticket's ◄── lock delay
//! ```
//!
//! inotify is a hint, and a little early: the kernel reports the last close of a file before it releases its
//! lock. So a reported file is checked repeatedly for a moment.
//!
//! A ticket may name another process that has to be gone, too ([`process`](super::process)). The same thread asks for
//! its pidfd, waits for its end, and passes on the one that this process names.
//!
//! Files are read on a thread of its own: the disk of the directory must not delay renewals.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::{Arc, Weak, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use super::{
    directory::{NEW, TICKET, TicketDirectory, is_free},
    evidence::{Doubt, FileId, Judge, Probe, TicketRecord},
    process::{FollowedProcess, ProcessOffer, SOCKET, is_left_behind, remove_socket},
};
use crate::{
    clock::{self, Timestamp},
    etcd::{self, EtcdShared},
    leadership::{ReleaseError, Released},
};

/// Interval at which each ticket is checked, whatever inotify reports.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// More are left to their TTL: checking each once a second would take a tenth of a processor's time.
const MAX_TICKETS: usize = 65_536;

/// Named processes that are followed, at a descriptor each: a program may have 1,024, and needs some for other things.
const MAX_PROCESSES: usize = 256;

/// Far more than a ticket with the longest name of an election has.
const MAX_SIZE: u64 = 16 * 1024;

/// Time limit of a release before the ticket is checked again.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// Concurrent releases. More processes than that rarely die at once, and etcd has other clients.
const AT_ONCE: usize = 16;

/// Tickets that wait for a release. While there are more, the thread waits, and finds them at its next check.
const WAITING: usize = 64;

/// Age after which an unfinished ticket has no writer any more: writing one takes a fraction of this.
const UNFINISHED: Duration = Duration::from_secs(60);

/// Age up to which a ticket that proves nothing is kept for an operator to read.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Pauses between checks of a reported file: its lock is released a moment later. A process with much memory,
/// or on a busy machine, takes longer.
const HURRY: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
];

/// A ticket whose process is gone.
#[derive(Debug)]
pub(super) struct Dead {
    name: OsString,
    file: FileId,
    record: TicketRecord,
    /// Time at which its lock was found free.
    found: Timestamp,
}

/// Outcome for a ticket that was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing is left to do for it.
    Over,
    /// To be released again.
    Again,
    /// Not for this witness.
    NotOurs,
}

/// A witness's memory of a ticket.
#[derive(Debug)]
struct Memory {
    file: FileId,
    seen_held: bool,
    from_the_start: bool,
    process: FollowedProcess,
    handed_on: bool,
    /// True if it is not checked any more.
    left_alone: bool,
}

impl Memory {
    fn new(file: FileId, from_the_start: bool) -> Self {
        let process = FollowedProcess::default();
        Self { file, seen_held: false, from_the_start, process, handed_on: false, left_alone: false }
    }

    /// Returns whether it is still to be checked.
    fn is_open(&self) -> bool {
        !(self.handed_on || self.left_alone)
    }
}

/// Checks a directory repeatedly; independent of etcd.
#[derive(Debug)]
pub(super) struct DirectoryScans {
    directory: Arc<TicketDirectory>,
    judge: Judge,
    known: BTreeMap<OsString, Memory>,
    began: bool,
    /// The socket of this process, whose own tickets need no witness here.
    own_socket: Option<u64>,
}

impl DirectoryScans {
    pub(super) fn new(directory: Arc<TicketDirectory>) -> Self {
        Self { judge: directory.judge(), directory, known: BTreeMap::new(), began: false, own_socket: None }
    }

    /// Checks all tickets; removes old files.
    pub(super) fn scan(&mut self) -> io::Result<Vec<Dead>> {
        let from_the_start = !std::mem::replace(&mut self.began, true);
        let mut dead = Vec::new();
        let mut found = Vec::new();
        for entry in fs::read_dir(self.directory.path())? {
            let name = entry?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(NEW.as_bytes()) {
                self.tidy_up(&name, UNFINISHED);
            } else if bytes.ends_with(TICKET.as_bytes()) && found.len() < MAX_TICKETS {
                dead.extend(self.look(&name, from_the_start).ok().and_then(|(_, dead)| dead));
                found.push(name);
            } else if bytes.ends_with(SOCKET.as_bytes()) && from_the_start {
                self.tidy_up_socket(&name);
            }
        }
        found.sort_unstable();
        self.known.retain(|name, _| found.binary_search(name).is_ok());
        Ok(dead)
    }

    /// Checks one ticket; returns whether it has to be checked again soon, and whether its process is gone.
    fn look(&mut self, name: &OsString, from_the_start: bool) -> io::Result<(bool, Option<Dead>)> {
        let path = self.directory.path().join(name);
        let opened = open(&path);
        if opened.is_err() {
            self.known.remove(name);
        }
        let (file, metadata) = opened?;
        self.examine(name, file, &metadata, from_the_start)
    }

    /// Does so with the opened file.
    fn examine(
        &mut self,
        name: &OsString,
        mut file: File,
        metadata: &fs::Metadata,
        from_the_start: bool,
    ) -> io::Result<(bool, Option<Dead>)> {
        let path = self.directory.path().join(name);
        let id = FileId::of(metadata);
        let followed = self.known.values().filter(|known| known.process.descriptor().is_some()).count();
        let known = self.known.entry(name.clone()).or_insert_with(|| Memory::new(id, from_the_start));
        if known.file != id {
            *known = Memory::new(id, from_the_start);
        }
        if !known.is_open() {
            return Ok((false, None));
        }
        if !is_free(&file)? {
            if !std::mem::replace(&mut known.seen_held, true) {
                debug!(ticket = %path.display(), "a ticket of a process that lives");
            }
            if let FollowedProcess::NotAsked = known.process
                && followed < MAX_PROCESSES
            {
                known.process = match read(&mut file)?.map(|record| record.process) {
                    Some(Some(named)) if Some(named.socket) != self.own_socket => {
                        FollowedProcess::ask(&self.directory, named)
                    }
                    Some(_) => FollowedProcess::NotNamed,
                    None => FollowedProcess::NotAsked,
                };
            }
            let was_alive = matches!(known.process, FollowedProcess::Alive(..));
            known.process.advance();
            if !was_alive && matches!(known.process, FollowedProcess::Alive(..)) {
                debug!(ticket = %path.display(), "the process that it names is followed");
            }
            return Ok((true, None));
        }
        // It was withdrawn while its process lived: that came before the lock was free.
        if file.metadata()?.nlink() == 0 {
            self.known.remove(name);
            return Ok((false, None));
        }
        // What the holder sent before it died is there.
        known.process.advance();
        let record = read(&mut file)?;
        let probe = Probe {
            file: id,
            owner: metadata.uid(),
            record: record.as_ref(),
            seen_held: known.seen_held,
            from_the_start: known.from_the_start,
            process: known.process.seen(),
        };
        match self.judge.dead(probe).cloned() {
            Ok(record) => {
                known.handed_on = true;
                Ok((false, Some(Dead { name: name.clone(), file: id, record, found: Timestamp::now() })))
            }
            Err(Doubt::ProcessLives) => Ok((true, None)),
            Err(doubt) => {
                known.left_alone = true;
                known.process = FollowedProcess::NotNamed;
                debug!(ticket = %path.display(), %doubt, "a ticket proves nothing");
                if doubt != Doubt::OtherOwner {
                    self.tidy_up(name, A_DAY);
                }
                Ok((false, None))
            }
        }
    }

    /// Removes a file that is this old, and not locked.
    fn tidy_up(&self, name: &OsString, after: Duration) {
        let tidy = || -> io::Result<()> {
            let (file, metadata) = open(&self.directory.path().join(name))?;
            let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
            if age > after && metadata.uid() == self.directory.owner && is_free(&file)? {
                self.directory.remove(name, FileId::of(&metadata))?;
            }
            Ok(())
        };
        // It is checked again when a witness starts.
        let _ = tidy();
    }

    fn tidy_up_socket(&self, name: &OsString) {
        let path = self.directory.path().join(name);
        let is_the_owners =
            fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.uid() == self.directory.owner);
        if is_the_owners && is_left_behind(&path) {
            let _ = fs::remove_file(&path);
        }
    }

    /// Lists the descriptors to wait for, with their tickets.
    fn descriptors(&self) -> impl Iterator<Item = (&OsString, BorrowedFd<'_>)> {
        let open = self.known.iter().filter(|(_, known)| known.is_open());
        open.filter_map(|(name, known)| Some((name, known.process.descriptor()?)))
    }

    fn settle(&mut self, dead: &Dead, outcome: Outcome) {
        let known = self.known.get_mut(&dead.name).filter(|known| known.file == dead.file);
        match (outcome, known) {
            (Outcome::Over, _) => {
                remove(&self.directory, dead);
                self.known.remove(&dead.name);
            }
            // A proof stays valid.
            (Outcome::Again, Some(known)) => (known.handed_on, known.seen_held) = (false, true),
            (Outcome::NotOurs, Some(known)) => known.left_alone = true,
            (Outcome::Again | Outcome::NotOurs, None) => {}
        }
    }
}

/// Removes a ticket that was followed up, and the socket of its process.
fn remove(directory: &TicketDirectory, dead: &Dead) {
    let _ = directory.remove(&dead.name, dead.file);
    if let Some(named) = dead.record.process {
        remove_socket(directory.path(), named.socket);
    }
}

/// Opens a ticket's file, without blocking, and without following a link elsewhere.
fn open(path: &Path) -> io::Result<(File, fs::Metadata)> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn read(file: &mut File) -> io::Result<Option<TicketRecord>> {
    let mut text = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut text)?;
    Ok(TicketRecord::parse(&text))
}

/// Checks once, and releases the terms found, if any.
pub(super) async fn release_once(
    shared: &Arc<EtcdShared>,
    directory: &Arc<TicketDirectory>,
    within: Duration,
) -> io::Result<Vec<Result<Released, ReleaseError>>> {
    let mut scans = DirectoryScans::new(Arc::clone(directory));
    let dead = shared.spawn_blocking(move || scans.scan()).await.map_err(io::Error::other)??;
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut releases = Vec::new();
    for dead in dead {
        let (shared, directory, at_once) = (Arc::clone(shared), Arc::clone(directory), Arc::clone(&at_once));
        releases.push(shared.clone().spawn(async move {
            let _turn = turn(&dead, &at_once).await;
            let ticket = dead.record.ticket.clone();
            let released = etcd::release(shared, ticket, Timestamp::now() + within).await;
            if released.is_ok() {
                remove(&directory, &dead);
            }
            released
        }));
    }
    let mut all = Vec::new();
    for release in releases {
        all.push(release.await.map_err(io::Error::other)?);
    }
    Ok(all)
}

/// Waits for the end of the lock delay, and then for a place among the concurrent releases.
async fn turn<'a>(dead: &Dead, at_once: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
    clock::sleep_until(dead.found + dead.record.lock_delay()).await;
    // Never closed.
    at_once.acquire().await.ok()
}

/// Starts the checks, for as long as `shared` lives.
pub(super) fn start(
    shared: &Arc<EtcdShared>,
    directory: Arc<TicketDirectory>,
    offer: Option<Arc<ProcessOffer>>,
) {
    let (found, dead) = mpsc::channel(WAITING);
    let (outcomes, settled) = std_mpsc::channel();
    let backend = Arc::downgrade(shared);
    let mut looks = DirectoryScans::new(directory);
    looks.own_socket = offer.as_ref().map(|offer| offer.socket());
    let looking = move || Watching { looks, offer, backend, found, settled }.run();
    if let Err(error) = thread::Builder::new().name("elect-witness".into()).spawn(looking) {
        warn!(%error, "the processes of this host are not watched: their terms end by their TTL");
        return;
    }
    let release = release_all(Arc::downgrade(shared), dead, outcomes);
    shared.spawn(release);
}

/// The thread.
struct Watching {
    looks: DirectoryScans,
    offer: Option<Arc<ProcessOffer>>,
    backend: Weak<EtcdShared>,
    found: mpsc::Sender<Dead>,
    settled: std_mpsc::Receiver<(Dead, Outcome)>,
}

impl Watching {
    fn run(mut self) {
        let mut hints = Hints::new(self.looks.directory.path());
        // By name: the number of checks of a file, and the time of the next.
        let mut hurried: BTreeMap<OsString, (usize, Instant)> = BTreeMap::new();
        let mut scan_at = Instant::now();
        // A runtime of the caller's outlives the backend, and the task at the other end with it.
        while self.backend.strong_count() > 0 && !self.found.is_closed() {
            while let Ok((dead, outcome)) = self.settled.try_recv() {
                self.looks.settle(&dead, outcome);
            }
            let now = Instant::now();
            if now >= scan_at {
                hints.renew(self.looks.directory.path());
                match self.looks.scan() {
                    Ok(dead) => self.hand_on(dead),
                    Err(error) => debug!(%error, "the directory of tickets can't be read"),
                }
                scan_at = Instant::now() + LOOK_AGAIN;
            }
            let due: Vec<_> =
                hurried.iter().filter(|(_, (_, at))| *at <= now).map(|(name, _)| name.clone()).collect();
            for name in due {
                let looked = self.looks.look(&name, false);
                match (looked, hurried.get_mut(&name)) {
                    (Ok((true, _)), Some((looks, at))) if *looks + 1 < HURRY.len() => {
                        *looks += 1;
                        *at = Instant::now() + HURRY[*looks];
                    }
                    (looked, _) => {
                        hurried.remove(&name);
                        self.hand_on(looked.ok().and_then(|(_, dead)| dead));
                    }
                }
            }
            let next = hurried.values().map(|(_, at)| *at).min().map_or(scan_at, |at| at.min(scan_at));
            let (hint, ready) = self.wait(&mut hints, next.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            hurried.extend(ready.into_iter().map(|name| (name, (0, now))));
            match hint {
                Hint::None => {}
                Hint::Files(names) => {
                    let tickets = names.into_iter().filter(is_ticket);
                    hurried.extend(tickets.map(|name| (name, (0, now))));
                }
                Hint::Anything => scan_at = Instant::now(),
            }
        }
    }

    /// Waits for a hint, or until one of these is ready: a witness that asks for the pidfd, an answer, a pidfd. Returns
    /// the tickets of the last two.
    fn wait(&self, hints: &mut Hints, at_most: Duration) -> (Hint, Vec<OsString>) {
        let mut others: Vec<_> = self.looks.descriptors().map(|(_, descriptor)| descriptor).collect();
        let tickets = others.len();
        others.extend(self.offer.as_ref().map(|offer| offer.as_fd()));
        let (hint, ready) = hints.wait(&others, at_most);
        if ready.get(tickets) == Some(&true) {
            self.offer.iter().for_each(|offer| offer.answer());
        }
        let names = self.looks.descriptors().zip(ready).filter(|(_, ready)| *ready);
        (hint, names.map(|((name, _), _)| name.clone()).collect())
    }

    fn hand_on(&self, dead: impl IntoIterator<Item = Dead>) {
        for dead in dead {
            // The receiver is gone: this thread ends soon, too.
            let _ = self.found.blocking_send(dead);
        }
    }
}

fn is_ticket(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.ends_with(TICKET.as_bytes()) && !bytes.starts_with(NEW.as_bytes())
}

enum Hint {
    None,
    /// These were closed for the last time, or are new.
    Files(Vec<OsString>),
    /// Some were left out.
    Anything,
}

#[cfg(target_os = "linux")]
use self::inotify::Hints;

#[cfg(target_os = "linux")]
mod inotify {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    /// inotify's events of a directory; none if inotify is not available.
    ///
    /// Witnesses open files only to read, so their own closes are not reported.
    pub(super) struct Hints {
        inotify: Option<Inotify>,
        watching: bool,
    }

    impl Hints {
        pub(super) fn new(_: &Path) -> Self {
            let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
            let inotify = Inotify::init(flags).inspect_err(|error| {
                warn!(%error, "no inotify: a process that dies is noticed within a second, and not at once");
            });
            Self { inotify: inotify.ok(), watching: false }
        }

        /// Watches, if it does not; the directory may have been created again.
        pub(super) fn renew(&mut self, path: &Path) {
            if let (Some(inotify), false) = (&self.inotify, self.watching) {
                let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
                self.watching = inotify.add_watch(path, events | AddWatchFlags::IN_ONLYDIR).is_ok();
            }
        }

        /// Waits for events, or until one of the others can be read; returns which of them can.
        pub(super) fn wait(&mut self, others: &[BorrowedFd<'_>], at_most: Duration) -> (Hint, Vec<bool>) {
            let own = self.inotify.as_ref().map(|inotify| inotify.as_fd());
            let all = others.iter().copied().chain(own);
            let mut all: Vec<_> = all.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
            wait_for(&mut all, at_most);
            let ready: Vec<_> = all.iter().map(|one| one.any().unwrap_or(true)).collect();
            let hint = if ready.get(others.len()) == Some(&true) { self.read() } else { Hint::None };
            (hint, ready)
        }

        fn read(&mut self) -> Hint {
            let Some(inotify) = &self.inotify else { return Hint::None };
            let events = inotify.read_events().unwrap_or_default();
            let lost = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_UNMOUNT;
            if events.iter().any(|event| event.mask.intersects(lost)) {
                self.watching = !events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
                    && self.watching;
                return Hint::Anything;
            }
            Hint::Files(events.into_iter().filter_map(|event| event.name).collect())
        }
    }

    fn wait_for(readable: &mut [PollFd<'_>], at_most: Duration) {
        // `poll` counts milliseconds; shorter waits are slept through.
        let whole = u16::try_from(at_most.as_millis()).unwrap_or(u16::MAX);
        let ready = poll(readable, PollTimeout::from(whole)).is_ok_and(|ready| ready > 0);
        if !ready && whole == 0 {
            thread::sleep(at_most);
        }
    }
}

#[cfg(not(target_os = "linux"))]
struct Hints;

#[cfg(not(target_os = "linux"))]
impl Hints {
    fn new(_: &Path) -> Self {
        Self
    }

    fn renew(&mut self, _: &Path) {}

    fn wait(&mut self, _: &[BorrowedFd<'_>], at_most: Duration) -> (Hint, Vec<bool>) {
        thread::sleep(at_most);
        (Hint::None, Vec::new())
    }
}

/// Releases the dead processes' terms, until the thread or `shared` is gone.
async fn release_all(
    shared: Weak<EtcdShared>,
    mut dead: mpsc::Receiver<Dead>,
    outcomes: std_mpsc::Sender<(Dead, Outcome)>,
) {
    // As many as there are tickets: those in their lock delay wait here.
    let mut releases = JoinSet::new();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let next = tokio::select! {
            biased;
            Some(done) = releases.join_next() => {
                if let Ok(settled) = done {
                    // The thread may be shutting down.
                    let _ = outcomes.send(settled);
                }
                continue;
            }
            next = dead.recv() => next,
        };
        let Some(dead) = next else { return };
        let (shared, at_once) = (Weak::clone(&shared), Arc::clone(&at_once));
        releases.spawn(async move {
            let _turn = turn(&dead, &at_once).await;
            let outcome = match shared.upgrade() {
                Some(shared) => release(shared, &dead).await,
                None => Outcome::Again,
            };
            (dead, outcome)
        });
    }
}

async fn release(shared: Arc<EtcdShared>, dead: &Dead) -> Outcome {
    let TicketRecord { name, ticket, .. } = &dead.record;
    let token = ticket.created;
    let released = etcd::release(shared, ticket.clone(), Timestamp::now() + RELEASE_WITHIN).await;
    match released {
        Ok(Released::GivenUp) => {
            info!(candidate = %name, token, "released the place of a process that is gone");
            Outcome::Over
        }
        Ok(Released::NothingHeld) => {
            debug!(candidate = %name, token, "a process that is gone held no place any more");
            Outcome::Over
        }
        Err(ReleaseError::OtherCluster { .. } | ReleaseError::Malformed) => Outcome::NotOurs,
        Err(error @ ReleaseError::Refused(_)) => {
            warn!(candidate = %name, %error, "can't release the place of a process that is gone");
            Outcome::NotOurs
        }
        Err(error @ ReleaseError::Unconfirmed(_)) => {
            debug!(candidate = %name, %error, "the place of a process that is gone is not released yet");
            Outcome::Again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{directory::TicketSlot, evidence::tests::record},
        *,
    };

    /// A witness may be held up between opening a ticket and trying its lock, for as long as it likes.
    #[test]
    fn a_ticket_that_was_withdrawn_before_its_lock_was_free_proves_nothing() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = Arc::new(TicketDirectory::open(place.path()).unwrap());
        for withdrawn in [false, true] {
            let slot = TicketSlot::default();
            directory.put("server1", Duration::ZERO, record(5, 9).ticket, None, &slot).unwrap();
            let mut scans = DirectoryScans::new(Arc::clone(&directory));
            assert!(scans.scan().unwrap().is_empty(), "its process lives");
            let mut names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let name = names.find(is_ticket).unwrap();
            let (file, metadata) = open(&place.path().join(&name)).unwrap();
            if withdrawn {
                slot.withdraw().unwrap();
                assert!(!is_free(&file).unwrap(), "it is withdrawn, and locked");
            } else {
                // A dead process removes nothing.
                fs::hard_link(place.path().join(&name), place.path().join("kept")).unwrap();
            }
            drop(slot);
            assert!(is_free(&file).unwrap());
            let (_, dead) = scans.examine(&name, file, &metadata, false).unwrap();
            assert_eq!(dead.is_some(), !withdrawn);
        }
    }
}
