//! The thread "elect-disk": a [`Store`], and a queue in front of it.
//!
//! ```text
//!  write, write, write ──► queue ──► all of them, in one transaction ──► Done::Persisted(the last)
//!  meet ────────────────►       ──► remembered, if it is the first ──► its future
//! ```
//!
//! Whatever piled up during one `fdatasync` shares the next. Writes become durable in the order in which they
//! were asked for, so the last one's [`Persisted`] speaks for all before it.
//!
//! The queue has no bound of its own. What waits in it is bounded by the core, which lets only so many
//! entries and answers wait for the disk ([`Limits`](crate::raft::message::Limits)), and by the number of
//! members and their connections.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::store::{DirectoryId, Store, StoreError};
use crate::raft::{
    action::{Persisted, Write},
    identity::NodeId,
};

/// What became of writes.
#[derive(Debug)]
pub(crate) enum Done {
    /// This one, and all before it, are durable.
    Persisted(Persisted),
    /// The disk has failed. This is said once. Nothing that was not yet persisted is going to be, and what
    /// rests on it must not be said.
    Failed(StoreError),
}

/// Why a member is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stranger {
    /// There are two servers under one name, or there is one that lost its disk, and with it its vote.
    #[error(
        "this member has another data directory than when it was first met ({now}, and not {before}): two \
         servers run under its name, or it lost its disk, and with it its vote; give it back the directory \
         that it had"
    )]
    OtherDirectory { node: NodeId, before: DirectoryId, now: DirectoryId },
    /// It was not met before, and our disk has failed. If we forgot it, we could not tell it from another one.
    #[error("this member was not met before, and can't be remembered, as the disk here has failed")]
    Unrecorded { node: NodeId },
}

impl Stranger {
    /// What the other side may hear of it: everything but directories.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::OtherDirectory { .. } => "this member has another data directory than when it was first met: two \
                 servers run under its name, or it lost its disk, and with it its vote; give it back the directory \
                 that it had"
                .to_owned(),
            Self::Unrecorded { .. } => self.to_string(),
        }
    }
}

/// A handle to the thread. The thread ends when the handle is gone, after all that was queued is durable.
#[derive(Debug)]
pub(crate) struct Disk {
    jobs: mpsc::Sender<Job>,
    known: Known,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests wait for the directory to be free"))]
    ended: oneshot::Receiver<Ended>,
}

#[derive(Debug)]
enum Job {
    Write(Write),
    Meet(Meeting),
}

#[derive(Debug)]
struct Meeting {
    node: NodeId,
    directory: DirectoryId,
    answer: oneshot::Sender<Result<(), Stranger>>,
}

/// Never sent. It is dropped after the directory was closed.
#[derive(Debug)]
struct Ended;

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no thread left.
    pub(crate) fn start(store: Store, done: UnboundedSender<Done>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (ends, ended) = oneshot::channel();
        let known = Known::new(store.known().clone());
        let keeper = Keeper { known: known.clone(), done };
        thread::Builder::new().name("elect-disk".into()).spawn(move || {
            keeper.run(store, &queue);
            drop(ends);
        })?;
        Ok(Self { jobs, known, ended })
    }

    /// Asks for a write. Never waits; once the disk has failed, nothing comes of it.
    pub(crate) fn write(&self, write: Write) {
        // A thread that is gone has said why.
        let _ = self.jobs.send(Job::Write(write));
    }

    /// Whether a member that was met may be listened to: if it has the directory that it always had, or was
    /// never met before. Then this one is remembered, durably, before the answer.
    ///
    /// # Errors
    ///
    /// Refuses a member that has another directory than before.
    ///
    /// # Cancel safety
    ///
    /// The question is asked at once. If the future is dropped, the directory may still be remembered.
    pub(crate) fn meet(
        &self,
        node: NodeId,
        directory: DirectoryId,
    ) -> impl Future<Output = Result<(), Stranger>> + Send + use<> {
        let known = self.known.judge(node, directory);
        let asked = known.is_none().then(|| {
            let (answer, answered) = oneshot::channel();
            let _ = self.jobs.send(Job::Meet(Meeting { node, directory, answer }));
            answered
        });
        async move {
            match (known, asked) {
                (Some(known), _) => known,
                (None, Some(asked)) => asked.await.unwrap_or(Err(Stranger::Unrecorded { node })),
                (None, None) => Err(Stranger::Unrecorded { node }),
            }
        }
    }

    /// Ends the thread, and waits until all that was queued is durable and the directory is free.
    ///
    /// # Cancel safety
    ///
    /// The end is under way as soon as this is called, and dropping the future only ends the waiting.
    #[cfg(test)]
    pub(crate) fn close(self) -> impl Future<Output = ()> + Send + use<> {
        let Self { jobs, ended, .. } = self;
        drop(jobs);
        async move {
            let _ = ended.await;
        }
    }
}

/// The directories of the other members, as they are on the disk.
#[derive(Debug, Clone)]
struct Known(Arc<Mutex<BTreeMap<NodeId, DirectoryId>>>);

impl Known {
    fn new(known: BTreeMap<NodeId, DirectoryId>) -> Self {
        Self(Arc::new(Mutex::new(known)))
    }

    /// `None` of a member that was not met.
    fn judge(&self, node: NodeId, now: DirectoryId) -> Option<Result<(), Stranger>> {
        let before = *self.all().get(&node)?;
        Some(if before == now { Ok(()) } else { Err(Stranger::OtherDirectory { node, before, now }) })
    }

    fn add(&self, node: NodeId, directory: DirectoryId) {
        self.all().insert(node, directory);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, DirectoryId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has, besides its store.
struct Keeper {
    known: Known,
    done: UnboundedSender<Done>,
}

impl Keeper {
    fn run(self, mut store: Store, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let jobs = std::iter::once(first).chain(queue.try_iter());
            // redb could panic over damage that it did not find when it opened the directory. To those who wait
            // that is a disk that failed.
            let kept = catch_unwind(AssertUnwindSafe(|| self.keep(&mut store, jobs)));
            let kept = kept.unwrap_or_else(|_| Err(store.broken()));
            if let Err(error) = kept {
                // Whoever asked for anything since finds the queue closed.
                let _ = self.done.send(Done::Failed(error));
                return;
            }
        }
    }

    fn keep(&self, store: &mut Store, jobs: impl Iterator<Item = Job>) -> Result<(), StoreError> {
        let (mut writes, mut meetings) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                Job::Meet(meeting) => meetings.push(meeting),
            }
        }
        store.write(&writes)?;
        if let Some(last) = writes.pop() {
            let _ = self.done.send(Done::Persisted(last.persisted()));
        }
        for Meeting { node, directory, answer } in meetings {
            // Another one may have been first, and be known by now.
            let judgement = match self.known.judge(node, directory) {
                Some(judgement) => judgement,
                None => {
                    store.keep_met(node, directory)?;
                    self.known.add(node, directory);
                    Ok(())
                }
            };
            let _ = answer.send(judgement);
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
        },
    };

    const B: NodeId = NodeId::new(1);
    const C: NodeId = NodeId::new(2);

    fn id(byte: u8) -> DirectoryId {
        DirectoryId::from_bytes([byte; 16])
    }

    fn owner() -> Owner {
        let group = "a=h:1,b=h:2,c=h:3".parse().unwrap();
        Owner::of(&Settings::new(&"a".parse().unwrap(), group, "unused").unwrap())
    }

    fn open(directory: &TempDir) -> crate::peers::store::Opened {
        Store::open(directory.path(), &owner()).unwrap()
    }

    fn start(directory: &TempDir) -> (Disk, UnboundedReceiver<Done>) {
        let (done, dones) = unbounded_channel();
        (Disk::start(open(directory).store, done).unwrap(), dones)
    }

    fn write(number: u64, bytes: usize) -> Write {
        let at = Position { term: Term::new(1), index: Index::new(number) };
        let entry = Entry { at, payload: Payload::Record(Arc::from(vec![number as u8; bytes])) };
        let ballot = Ballot { term: Term::new(number), vote: None };
        Write::numbered(number, ballot, Some(Change { snapshot: None, tail: Some((at.index, vec![entry])) }))
    }

    /// Generous: a disk may be slow, and is never that slow.
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
        Keeper { known: Known::new(BTreeMap::new()), done }.run(open(&directory).store, &queue);
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
    async fn a_member_is_known_by_its_first_directory_even_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let stranger = Stranger::OtherDirectory { node: B, before: id(1), now: id(2) };
        let (disk, _dones) = start(&directory);
        assert_eq!(within(disk.meet(B, id(1))).await, Ok(()));
        assert_eq!(within(disk.meet(B, id(1))).await, Ok(()));
        assert_eq!(within(disk.meet(B, id(2))).await, Err(stranger));
        assert_eq!(within(disk.meet(C, id(2))).await, Ok(()), "another member");
        within(disk.close()).await;

        let (disk, _dones) = start(&directory);
        assert_eq!(within(disk.meet(B, id(2))).await, Err(stranger));
        assert_eq!(within(disk.meet(B, id(1))).await, Ok(()));
        assert!(matches!(stranger, Stranger::OtherDirectory { node: B, .. }), "{stranger}");
        assert!(stranger.to_string().contains("another data directory than when it was first met (0202"));
    }

    #[tokio::test]
    async fn of_those_that_are_met_first_at_once_one_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, _dones) = start(&directory);
        // The thread is busy, so that all of them are asked about before it has judged one.
        (1..=20).for_each(|number| disk.write(write(number, 30_000)));
        let meetings: Vec<_> = (1..=5).map(|byte| disk.meet(B, id(byte))).collect();
        let mut let_in = Vec::new();
        for (byte, meeting) in (1..).zip(meetings) {
            if within(meeting).await.is_ok() {
                let_in.push(byte);
            }
        }
        assert_eq!(let_in.len(), 1);
        within(disk.close()).await;
        assert_eq!(*open(&directory).store.known(), [(B, id(let_in[0]))].into());
    }

    #[tokio::test]
    async fn a_known_member_is_judged_without_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut opened = open(&directory);
        opened.store.keep_met(B, id(1)).unwrap();
        let (jobs, queue) = mpsc::channel();
        let (_ends, ended) = oneshot::channel();
        // Nobody works on the queue.
        let disk = Disk { jobs, known: Known::new(opened.store.known().clone()), ended };
        assert_eq!(within(disk.meet(B, id(1))).await, Ok(()));
        assert!(within(disk.meet(B, id(2))).await.is_err());
        assert!(queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_failed_disk_says_so_once_and_lets_nobody_new_in() {
        let (store, fail) = crate::peers::store::tests::failing(&owner());
        let (done, mut dones) = unbounded_channel();
        let disk = Disk::start(store, done).unwrap();
        disk.write(write(1, 30));
        assert!(matches!(within(dones.recv()).await, Some(Done::Persisted(_))));
        fail();
        disk.write(write(2, 30));
        let failed = within(dones.recv()).await;
        assert!(matches!(failed, Some(Done::Failed(StoreError::Full { .. }))), "{failed:?}");
        disk.write(write(3, 30));
        assert_eq!(within(disk.meet(B, id(1))).await, Err(Stranger::Unrecorded { node: B }));
        assert!(within(dones.recv()).await.is_none());
        within(disk.close()).await;
    }
}
