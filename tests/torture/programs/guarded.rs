//! Writes guarded by the backend: a transaction on etcd, a record among peers.

use std::sync::Arc;

use etcd_client::{Txn, TxnOp};
use leader_election::{
    Leadership,
    etcd::Etcd,
    peers::{Missed, Peer, ProposeError, Record},
};

use super::{EventDiary, WRITES};
use crate::history::{At, EventKind};

pub(super) enum GuardedWrites {
    Etcd(Etcd),
    Log(Peer),
}

impl GuardedWrites {
    /// Writes, and waits for the result.
    pub(super) async fn write(&self, leadership: &Leadership, number: u64, who: &str, diary: &EventDiary) {
        match self {
            Self::Etcd(etcd) => {
                let token = leadership.token();
                let put = Txn::new().and_then([TxnOp::put(
                    format!("{WRITES}{token}/{number}"),
                    token.to_string(),
                    None,
                )]);
                // Its result is read at the end.
                let _ = etcd.transaction(leadership, put).await;
            }
            Self::Log(peers) => propose(peers, leadership, number, who, diary).await,
        }
    }
}

async fn propose(peers: &Peer, leadership: &Leadership, number: u64, who: &str, diary: &EventDiary) {
    let token = leadership.token().get();
    let record = format!("{who}/{token}/{number}");
    diary.write(At::now(), EventKind::Proposed { who: who.into(), token, record: record.clone() });
    let index = match peers.propose(leadership, record.clone().into_bytes()).await {
        Ok(index) => Some(index),
        // It may yet be committed.
        Err(ProposeError::Unconfirmed(_)) => return,
        Err(_) => None,
    };
    diary.write(At::now(), EventKind::Answered { who: who.into(), record, index });
}

/// Writes down committed records, from the beginning of the log on.
pub(super) async fn read_on(peers: Peer, diary: Arc<EventDiary>, who: String) {
    diary.write(At::now(), EventKind::Reads { who: who.clone(), after: 0 });
    let mut records = peers.committed(0);
    while let Some(next) = records.next().await {
        let who = who.clone();
        let what = match next {
            Ok(Record { index, token, bytes, .. }) => {
                let record = String::from_utf8_lossy(&bytes).into_owned();
                EventKind::Committed { who, index, token: token.get(), record }
            }
            Err(Missed { through, .. }) => EventKind::Reads { who, after: through },
        };
        diary.write(At::now(), what);
    }
}
