//! Committed records, in order, for readers.
//!
//! The reader keeps its position and asks for the next records, so a slow one costs nothing and delays no other.
//! The log reaches back for some thousand entries ([`Window`](super::state::Window)); a reader that falls behind it
//! is told which records it missed.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use super::{driver::DriverOrder, state::records_after};
use crate::{
    leadership::FencingToken,
    raft::{identity::Index, node::Node},
};

/// Records in one answer.
const AT_ONCE: usize = 256;

/// A committed record: every server of the group has it at this index, or will have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its index in the log. Grows by more than one if the log has other entries in between.
    pub index: u64,
    /// The term in which it was proposed.
    pub token: FencingToken,
    /// The proposed bytes.
    pub bytes: Arc<[u8]>,
}

/// Records up to `through` are not kept any more, and the reader has not had all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("records up to index {through} are not kept any more")]
#[non_exhaustive]
pub struct Missed {
    /// The last index that is gone.
    pub through: u64,
}

/// A reader's question.
#[derive(Debug)]
pub(super) struct Reading {
    after: Index,
    answer: oneshot::Sender<Found>,
}

#[derive(Debug)]
enum Found {
    /// Records, and the index up to which the log was read for them.
    Records(Vec<Record>, Index),
    Missed(Index),
}

/// Answers a reader from the log.
pub(super) fn read(Reading { after, answer }: Reading, node: &Node) {
    let (log, committed) = (node.log(), node.committed());
    let kept_after = log.snapshot().at.index;
    let found = if after < kept_after {
        Found::Missed(kept_after)
    } else {
        let committed_entries = log.slice(kept_after.next(), committed, usize::MAX, usize::MAX);
        let records = records_after(committed_entries, after).take(AT_ONCE).map(|(at, bytes)| Record {
            index: at.index.get(),
            token: FencingToken::new(at.term.get()),
            bytes: Arc::clone(bytes),
        });
        let records: Vec<Record> = records.collect();
        let all = records.len() < AT_ONCE;
        let through = records.last().filter(|_| !all).map_or(committed, |last| Index::new(last.index));
        Found::Records(records, through)
    };
    // The reader may have gone.
    let _ = answer.send(found);
}

/// Committed records, in order: see [`Peer::committed`](super::Peer::committed).
#[derive(Debug)]
#[must_use = "dropping this stops reading"]
pub struct Records {
    orders: mpsc::UnboundedSender<DriverOrder>,
    committed: watch::Receiver<Index>,
    after: Index,
    found: VecDeque<Record>,
}

impl Records {
    pub(super) fn new(
        orders: mpsc::UnboundedSender<DriverOrder>,
        committed: watch::Receiver<Index>,
        after: u64,
    ) -> Self {
        Self { orders, committed, after: Index::new(after), found: VecDeque::new() }
    }

    /// The next record; `None` once the server has stopped.
    ///
    /// # Errors
    ///
    /// [`Missed`] if records are gone that this reader has not had. The next call goes on behind them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no record is lost.
    pub async fn next(&mut self) -> Option<Result<Record, Missed>> {
        loop {
            if let Some(record) = self.found.pop_front() {
                return Some(Ok(record));
            }
            let after = self.after;
            self.committed.wait_for(|committed| *committed > after).await.ok()?;
            let (answer, found) = oneshot::channel();
            self.orders.send(DriverOrder::Read(Reading { after, answer })).ok()?;
            match found.await.ok()? {
                Found::Records(records, through) => {
                    self.found = records.into();
                    self.after = through.max(after);
                }
                Found::Missed(through) => {
                    self.after = through;
                    return Some(Err(Missed { through: through.get() }));
                }
            }
        }
    }
}
