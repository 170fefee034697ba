//! The thread "elect-disk": a [`Store`], and a queue in front of it.
//!
//! ```text
//!  write, write, write ──► queue ──► all of them, in one transaction ──► Done::Persisted(the last)
//!  meet ────────────────►       ──► what is new is remembered ──► its future
//! ```
//!
//! Writes that queue up during one `fdatasync` share the next. Writes become durable in the order in which they
//! were requested, so the last one's [`Persisted`] covers all before it.
//!
//! The queue has no bound of its own. The core bounds it by the entries, bytes and answers that may wait for the
//! disk ([`Limits`](crate::raft::message::Limits)), and so do the number of members and their connections.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{
    Settings, SyncTimes, Timing,
    ledger::{Ledger, Meeting},
    measured::DiskMeter,
    store::{Store, StoreError},
};
use crate::{
    clock::Timestamp,
    raft::{
        action::{Persisted, Write},
        identity::NodeId,
        membership::{Admission, DirectoryId, MemberRecord, Objection, VotingRights},
    },
};

/// The disk's events.
#[derive(Debug)]
pub(crate) enum Done {
    /// This one, and all before it, are durable.
    Persisted(Persisted),
    /// That directory is a member's first one, and recorded.
    First(NodeId, DirectoryId),
    /// All others have recorded this server: it may vote.
    Met,
    /// Another member said that this server must not vote any more. Sent at once, and durable as soon as the disk
    /// can.
    Revoked(String),
    /// The disk has failed. Sent once. Writes not yet persisted never will be, and messages that rest on them must
    /// not be sent.
    Failed(StoreError),
}

/// Reason why a member is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnknownDirectory {
    /// It is not the member on record.
    #[error(transparent)]
    Objection(#[from] Objection),
    /// It was not met before, and the disk here has failed. A server that forgot it could not tell it from another
    /// one.
    #[error("this member was not met before, and can't be remembered, as the disk here has failed")]
    Unrecorded,
}

impl UnknownDirectory {
    /// The part that the other side may hear: everything but directories.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Objection(Objection::OtherDirectory { .. }) => {
                "this member has another data directory than when it was first met: two servers run under its name, or \
                 it lost its disk, and with it its vote; give it back the directory that it had, or have this one take its \
                 place: elect peers replace"
                    .to_owned()
            }
            Self::Objection(_) | Self::Unrecorded => self.to_string(),
        }
    }

    /// Returns true if it proves to the other side that it must not vote any more.
    pub(crate) fn revokes(&self) -> bool {
        matches!(self, Self::Objection(objection) if objection.is_proof())
    }
}

/// A handle to the thread. The thread ends when the handle is gone, after everything queued is durable.
#[derive(Debug)]
pub(crate) struct Disk {
    jobs: mpsc::Sender<Job>,
    ledger: Arc<Ledger>,
    syncs: Arc<Syncs>,
    done: UnboundedSender<Done>,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests wait for the directory to be free"))]
    ended: oneshot::Receiver<Closed>,
}

#[derive(Debug)]
enum Job {
    Write(Write),
    Meet(NodeId, Meeting, oneshot::Sender<Result<(), UnknownDirectory>>),
    Confirm(NodeId, oneshot::Sender<Result<(), UnknownDirectory>>),
    Revoke(String),
}

/// Never sent. Dropped after the directory was closed.
#[derive(Debug)]
struct Closed;

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no thread left.
    pub(crate) fn start(
        store: Store,
        ledger: Arc<Ledger>,
        syncs: Syncs,
        done: UnboundedSender<Done>,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (ends, ended) = oneshot::channel();
        let syncs = Arc::new(syncs);
        let keeper =
            DiskWorker { ledger: Arc::clone(&ledger), syncs: Arc::clone(&syncs), done: done.clone() };
        thread::Builder::new().name("elect-disk".into()).spawn(move || {
            keeper.run(store, &queue);
            drop(ends);
        })?;
        Ok(Self { jobs, ledger, syncs, done, ended })
    }

    /// Requests a write. Never waits; after the disk has failed it does nothing.
    pub(crate) fn write(&self, write: Write) {
        // A thread that has ended has reported why.
        let _ = self.jobs.send(Job::Write(write));
    }

    /// Times of durable writes.
    pub(crate) fn syncs(&self) -> &Arc<Syncs> {
        &self.syncs
    }

    /// Records of the other members.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Judges a member that was met: see [`MemberRecord::judge`]. New facts about it are recorded, durably, before
    /// the answer.
    ///
    /// # Errors
    ///
    /// Refuses a member that is not the one on record.
    ///
    /// # Cancel safety
    ///
    /// The request is sent at once. If the future is dropped, new facts may still be recorded.
    pub(crate) fn meet(
        &self,
        node: NodeId,
        meeting: Meeting,
    ) -> impl Future<Output = Result<(), UnknownDirectory>> + Send + use<> {
        let asked = match self.ledger.judge(node, &meeting) {
            Ok(None) => None,
            Ok(Some(_)) => Some(Ok(self.ask(|answer| Job::Meet(node, meeting, answer)))),
            Err(objection) => Some(Err(objection)),
        };
        async move {
            match asked {
                None => Ok(()),
                Some(Ok(asked)) => asked.await.unwrap_or(Err(UnknownDirectory::Unrecorded)),
                Some(Err(objection)) => Err(objection.into()),
            }
        }
    }

    /// A member said that it has recorded this server. Recorded, durably, before the answer.
    ///
    /// # Errors
    ///
    /// The disk has failed.
    ///
    /// # Cancel safety
    ///
    /// As [`meet`](Self::meet).
    pub(crate) fn confirmed(
        &self,
        node: NodeId,
    ) -> impl Future<Output = Result<(), UnknownDirectory>> + Send + use<> {
        let asked = self.ledger.confirmed(node).map(|_| self.ask(|answer| Job::Confirm(node, answer)));
        async move {
            match asked {
                None => Ok(()),
                Some(asked) => asked.await.unwrap_or(Err(UnknownDirectory::Unrecorded)),
            }
        }
    }

    /// Another member knows that this server must not vote any more.
    pub(crate) fn revoked(&self, why: String) {
        if self.ledger.voting_rights() == VotingRights::Revoked {
            return;
        }
        self.ledger.set_voting_rights(VotingRights::Revoked);
        let _ = self.done.send(Done::Revoked(why.clone()));
        let _ = self.jobs.send(Job::Revoke(why));
    }

    fn ask(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<(), UnknownDirectory>>) -> Job,
    ) -> oneshot::Receiver<Result<(), UnknownDirectory>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.jobs.send(job(answer));
        answered
    }

    /// Ends the thread, and waits until everything queued is durable and the directory is free.
    ///
    /// # Cancel safety
    ///
    /// The end begins with the call, and dropping the future only ends the waiting.
    #[cfg(test)]
    pub(crate) fn close(self) -> impl Future<Output = ()> + Send + use<> {
        let Self { jobs, ended, .. } = self;
        drop(jobs);
        async move {
            let _ = ended.await;
        }
    }
}

/// Times of durable writes: of each transaction with its `fdatasync`.
#[derive(Debug)]
pub(crate) struct Syncs {
    timing: Timing,
    data: PathBuf,
    meter: Mutex<DiskMeter>,
}

impl Syncs {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { timing: *settings.timing(), data: settings.data().to_owned(), meter: Mutex::default() }
    }

    pub(crate) fn times(&self) -> SyncTimes {
        self.meter().times()
    }

    /// Does something that ends with a sync, and warns if that took too long for the timing.
    fn timed<T>(&self, synced: impl FnOnce() -> T) -> T {
        let began = Timestamp::now();
        let outcome = synced();
        let now = Timestamp::now();
        let advice = self.meter().synced(now, now.since(began), &self.timing);
        if let Some(advice) = advice {
            tracing::warn!(data = %self.data.display(), "{advice}");
        }
        outcome
    }

    fn meter(&self) -> MutexGuard<'_, DiskMeter> {
        // Nothing in here panics half way through a change.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's state, besides its store.
struct DiskWorker {
    ledger: Arc<Ledger>,
    syncs: Arc<Syncs>,
    done: UnboundedSender<Done>,
}

impl DiskWorker {
    fn run(self, mut store: Store, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let jobs = std::iter::once(first).chain(queue.try_iter());
            // redb could panic over damage that it did not find when it opened the directory. Waiting callers see
            // that as a failed disk.
            let kept = catch_unwind(AssertUnwindSafe(|| self.keep(&mut store, jobs)));
            let kept = kept.unwrap_or_else(|_| Err(store.broken()));
            if let Err(error) = kept {
                // Later callers find the queue closed.
                let _ = self.done.send(Done::Failed(error));
                return;
            }
        }
    }

    fn keep(&self, store: &mut Store, jobs: impl Iterator<Item = Job>) -> Result<(), StoreError> {
        let (mut writes, mut others) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                other => others.push(other),
            }
        }
        if let Some(last) = writes.pop() {
            let known = self.ledger.take_raised();
            writes.push(last);
            self.syncs.timed(|| store.write(&writes, &known))?;
            self.ledger.wrote(store.writes());
            if let Some(last) = writes.pop() {
                let _ = self.done.send(Done::Persisted(last.persisted()));
            }
        }
        for job in others {
            match job {
                Job::Write(_) => {}
                Job::Meet(node, meeting, answer) => {
                    // An earlier request may have recorded it meanwhile.
                    let judgement = match self.ledger.judge(node, &meeting) {
                        Ok(None) => Ok(()),
                        Ok(Some((record, entrance))) => self.record(store, node, record, entrance).map(Ok)?,
                        Err(objection) => Err(objection.into()),
                    };
                    let _ = answer.send(judgement);
                }
                Job::Confirm(node, answer) => {
                    if let Some(record) = self.ledger.confirmed(node) {
                        self.record(store, node, record, Admission::Founder)?;
                    }
                    let _ = answer.send(Ok(()));
                }
                Job::Revoke(why) => {
                    self.syncs.timed(|| store.revoke(&why))?;
                    self.ledger.wrote(store.writes());
                }
            }
        }
        Ok(())
    }

    /// Records a member; and, once all others know this server, that it votes.
    ///
    /// A member that a log names is no founder of the group, and its meeting gives no vote.
    fn record(
        &self,
        store: &mut Store,
        node: NodeId,
        record: MemberRecord,
        entrance: Admission,
    ) -> Result<(), StoreError> {
        let unmet = self.ledger.unmet();
        let waiting = store.voting_rights() == VotingRights::Waiting;
        let founder = entrance != Admission::Named;
        let met_all = founder && record.mutual && unmet.iter().all(|unmet| *unmet == node);
        let voting_rights = if waiting && met_all { VotingRights::Full } else { store.voting_rights() };
        self.syncs.timed(|| store.keep_met(node, record, entrance, voting_rights))?;
        self.ledger.wrote(store.writes());
        self.ledger.record(node, record, entrance);
        if entrance == Admission::First {
            let _ = self.done.send(Done::First(node, record.identity.directory));
        }
        if waiting && met_all {
            self.ledger.set_voting_rights(VotingRights::Full);
            let _ = self.done.send(Done::Met);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::{
        peers::{Settings, store::Owner},
        raft::{
            action::Ballot,
            identity::{Index, Position, Term},
            log::{Change, Entry, Payload},
            membership::{Identity, Run, RunId, WriteCount},
        },
    };

    const B: NodeId = NodeId::new(1);
    const C: NodeId = NodeId::new(2);

    /// A first run on that directory.
    fn identity(byte: u8) -> Identity {
        let run = Run { number: 1, id: RunId::from_bytes([byte; 16]), began: WriteCount(2) };
        Identity { directory: DirectoryId::from_bytes([byte; 16]), run }
    }

    fn meeting(byte: u8) -> Meeting {
        let (writes, known_writes) = (WriteCount(9), WriteCount(0));
        Meeting {
            identity: identity(byte),
            writes,
            known_writes,
            another_answers: false,
            mutual: false,
            claim: Index::ZERO,
        }
    }

    fn mutual(byte: u8) -> Meeting {
        Meeting { mutual: true, ..meeting(byte) }
    }

    fn ledger(store: &Store) -> Arc<Ledger> {
        let (known, voting_rights) = (store.known().clone(), store.voting_rights());
        Arc::new(Ledger::new(identity(77), store.writes(), known, voting_rights, [B, C]))
    }

    fn settings() -> Settings {
        let group = "a=h:1,b=h:2,c=h:3".parse().unwrap();
        Settings::new(&"a".parse().unwrap(), group, "unused").unwrap()
    }

    fn owner() -> Owner {
        Owner::of(&settings())
    }

    fn open(directory: &TempDir) -> crate::peers::store::Opened {
        Store::open(directory.path(), &owner()).unwrap()
    }

    fn start(directory: &TempDir) -> (Disk, UnboundedReceiver<Done>) {
        let (done, dones) = unbounded_channel();
        let store = open(directory).store;
        let ledger = ledger(&store);
        (Disk::start(store, ledger, Syncs::of(&settings()), done).unwrap(), dones)
    }

    fn write(number: u64, bytes: usize) -> Write {
        let at = Position { term: Term::new(1), index: Index::new(number) };
        let entry = Entry { at, payload: Payload::Record(Arc::from(vec![number as u8; bytes])) };
        let ballot = Ballot { term: Term::new(number), vote: None };
        Write::numbered(number, ballot, Some(Change { snapshot: None, tail: Some((at.index, vec![entry])) }))
    }

    /// Generous: no slow disk takes that long.
    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time")
    }

    #[tokio::test]
    async fn writes_are_persisted_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, mut dones) = start(&directory);
        (1..=500).for_each(|number| disk.write(write(number, 30)));
        let mut persisted = Vec::new();
        while persisted.last() != Some(&write(500, 0).persisted()) {
            match within(dones.recv()).await {
                Some(Done::Persisted(one)) => persisted.push(one),
                other => panic!("{other:?}"),
            }
        }
        let expected = |one: &Persisted| (1..=500).position(|number| write(number, 0).persisted() == *one);
        let numbers: Vec<_> = persisted.iter().map(|one| expected(one).unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        drop(disk);
    }

    #[test]
    fn what_piled_up_is_made_durable_together() {
        let directory = tempfile::tempdir().unwrap();
        let (jobs, queue) = mpsc::channel();
        (1..=500).for_each(|number| jobs.send(Job::Write(write(number, 30))).unwrap());
        drop(jobs);
        let (done, mut dones) = unbounded_channel();
        let store = open(&directory).store;
        DiskWorker { ledger: ledger(&store), syncs: Arc::new(Syncs::of(&settings())), done }
            .run(store, &queue);
        let Ok(Done::Persisted(all)) = dones.try_recv() else { panic!("nothing was persisted") };
        assert_eq!(all, write(500, 0).persisted());
        assert!(dones.try_recv().is_err());
        assert_eq!(open(&directory).stored.entries.len(), 500);
    }

    #[tokio::test]
    async fn what_was_queued_is_durable_and_the_directory_free_once_it_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let (disk, mut dones) = start(&directory);
            (1..=50).for_each(|number| disk.write(write(round * 50 + number, 30)));
            within(disk.close()).await;
            let mut last = None;
            while let Some(done) = dones.recv().await {
                last = Some(done);
            }
            let Some(Done::Persisted(last)) = last else { panic!("{last:?}") };
            assert_eq!(last, write(round * 50 + 50, 0).persisted());
            assert_eq!(open(&directory).stored.entries.len() as u64, round * 50 + 50);
        }
    }

    #[tokio::test]
    async fn contract_11_a_member_is_known_by_its_first_directory_even_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (before, now) = (identity(1).directory, identity(2).directory);
        let stranger = UnknownDirectory::Objection(Objection::OtherDirectory { before, now });
        let (disk, _dones) = start(&directory);
        assert_eq!(within(disk.meet(B, meeting(1))).await, Ok(()));
        assert_eq!(within(disk.meet(B, meeting(1))).await, Ok(()));
        assert_eq!(within(disk.meet(B, meeting(2))).await, Err(stranger));
        assert_eq!(within(disk.meet(C, meeting(2))).await, Ok(()), "another member");
        within(disk.close()).await;

        let (disk, _dones) = start(&directory);
        assert_eq!(within(disk.meet(B, meeting(2))).await, Err(stranger));
        assert_eq!(within(disk.meet(B, meeting(1))).await, Ok(()));
        assert!(stranger.to_string().contains("another data directory than when it was first met (0202"));
    }

    #[tokio::test]
    async fn contract_11_runs_and_writes_are_remembered_too() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, _dones) = start(&directory);
        let run = |number, id: u8| {
            let run = Run { number, id: RunId::from_bytes([id; 16]), began: WriteCount(number * 20) };
            Meeting { identity: Identity { run, ..identity(1) }, ..meeting(1) }
        };
        assert_eq!(within(disk.meet(B, run(2, 2))).await, Ok(()));
        disk.ledger().raise(B, &identity(1).directory, WriteCount(50));
        disk.write(write(1, 30));
        within(disk.close()).await;

        let (disk, _dones) = start(&directory);
        assert_eq!(disk.ledger().writes_of(B).on(&identity(1).directory), WriteCount(50), "with the write");
        assert!(within(disk.meet(B, run(1, 1))).await.is_err(), "an older start");
        assert!(within(disk.meet(B, run(2, 3))).await.is_err(), "the same start of a copy");
        let older = Meeting {
            known_writes: disk.ledger().writes_of(B).on(&identity(1).directory),
            writes: WriteCount(49),
            ..run(2, 2)
        };
        assert!(within(disk.meet(B, older)).await.is_err(), "fewer writes than it had");
        assert_eq!(within(disk.meet(B, run(3, 3))).await, Ok(()), "it began behind what was known");
        let second = Meeting { another_answers: true, writes: WriteCount(60), ..run(4, 4) };
        let twice = Err(UnknownDirectory::Objection(Objection::InUseTwice));
        assert_eq!(within(disk.meet(B, second)).await, twice);
    }

    /// The leader's count of writes may overtake the member's own.
    #[tokio::test]
    async fn what_a_member_said_before_it_was_asked_is_not_held_against_it() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, _dones) = start(&directory);
        assert_eq!(within(disk.meet(B, meeting(1))).await, Ok(()));
        let known = || disk.ledger().writes_of(B).on(&identity(1).directory);
        let asked = known();
        disk.ledger().raise(B, &identity(1).directory, WriteCount(100));
        assert_eq!(within(disk.meet(B, Meeting { known_writes: asked, ..meeting(1) })).await, Ok(()));
        assert_eq!(known(), WriteCount(100));
    }

    #[tokio::test]
    async fn a_server_votes_once_all_others_have_recorded_it_and_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, mut dones) = start(&directory);
        assert_eq!(within(disk.meet(B, mutual(1))).await, Ok(()));
        assert_eq!(within(disk.meet(C, meeting(2))).await, Ok(()));
        assert_eq!(disk.ledger().unmet(), [C], "it has not said that it knows us");
        assert_eq!(disk.ledger().voting_rights(), VotingRights::Waiting);
        assert_eq!(within(disk.confirmed(C)).await, Ok(()));
        let mut news = Vec::new();
        while !matches!(news.last(), Some(Done::Met)) {
            news.extend(within(dones.recv()).await);
        }
        within(disk.close()).await;
        assert_eq!(open(&directory).store.voting_rights(), VotingRights::Full);
    }

    #[tokio::test]
    async fn contract_11_a_server_whose_right_is_revoked_does_not_start_again() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, mut dones) = start(&directory);
        disk.revoked("'b' says so".to_owned());
        disk.revoked("'c' says so".to_owned());
        assert!(matches!(within(dones.recv()).await, Some(Done::Revoked(why)) if why == "'b' says so"));
        within(disk.close()).await;
        assert!(dones.try_recv().is_err(), "said once");
        let refused = Store::open(directory.path(), &owner()).unwrap_err();
        assert!(refused.to_string().contains("'b' says so"), "{refused}");
    }

    #[tokio::test]
    async fn of_those_that_are_met_first_at_once_one_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, _dones) = start(&directory);
        // The thread is busy, so that all of them are requested before it has judged one.
        (1..=20).for_each(|number| disk.write(write(number, 30_000)));
        let meetings: Vec<_> = (1..=5).map(|byte| disk.meet(B, meeting(byte))).collect();
        let mut let_in = Vec::new();
        for (byte, meeting) in (1..).zip(meetings) {
            if within(meeting).await.is_ok() {
                let_in.push(byte);
            }
        }
        assert_eq!(let_in.len(), 1);
        within(disk.close()).await;
        let known = open(&directory).store.known().clone();
        assert_eq!(
            known.first.into_values().map(|record| record.identity).collect::<Vec<_>>(),
            [identity(let_in[0])]
        );
    }

    #[tokio::test]
    async fn a_known_member_is_judged_without_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut opened = open(&directory);
        let known = MemberRecord::first(identity(1), WriteCount(9));
        opened.store.keep_met(B, known, Admission::First, VotingRights::Waiting).unwrap();
        let (jobs, queue) = mpsc::channel();
        let (_ends, ended) = oneshot::channel();
        let (done, _dones) = unbounded_channel();
        // No thread works on the queue.
        let syncs = Arc::new(Syncs::of(&settings()));
        let disk = Disk { jobs, ledger: ledger(&opened.store), syncs, done, ended };
        assert_eq!(within(disk.meet(B, meeting(1))).await, Ok(()));
        assert!(within(disk.meet(B, meeting(2))).await.is_err());
        assert!(queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_failed_disk_says_so_once_and_takes_no_new_jobs() {
        let (store, fail) = crate::peers::store::tests::failing(&owner());
        let (done, mut dones) = unbounded_channel();
        let ledger = ledger(&store);
        let disk = Disk::start(store, ledger, Syncs::of(&settings()), done).unwrap();
        disk.write(write(1, 30));
        assert!(matches!(within(dones.recv()).await, Some(Done::Persisted(_))));
        fail();
        disk.write(write(2, 30));
        let failed = within(dones.recv()).await;
        assert!(matches!(failed, Some(Done::Failed(StoreError::Full { .. }))), "{failed:?}");
        disk.write(write(3, 30));
        assert_eq!(within(disk.meet(B, meeting(1))).await, Err(UnknownDirectory::Unrecorded));
        within(disk.close()).await;
        assert!(within(dones.recv()).await.is_none());
    }
}
