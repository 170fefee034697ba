//! The end of a term that hands over to a certain candidate.
//!
//! The belief has ended before, and the work has stopped. One [transaction](crate::choosing::handoff) deletes
//! our key and those of ours before the target, so there is exactly one handoff. Without an answer the same is
//! sent again: it does nothing if it was carried out. Only then the lease is revoked, which may hand over to
//! another candidate.

use etcd_client::{Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::time::{sleep, timeout};

use super::{
    LeaderKey,
    error::{EtcdError, Remedy},
    keepalive::{LeaseGuard, renew_once, short_pause},
    keys::{self, MadeKey},
    plan::{EtcdPlan, plan_txn},
    queue::{self, Head},
    succession::AcceptedTransfer,
};
use crate::{
    choosing::{
        TransferError, Transferred,
        handoff::{HandoffEnd, HandoffKeys, Plan},
    },
    clock::Timestamp,
    leadership::TermHandle,
};

impl LeaderKey {
    /// Waits until the holder of the term that just ended has stopped its work.
    ///
    /// The lease lives on meanwhile, for at most one TTL more: the target would lose its turn if it expired.
    /// A holder that takes longer than that loses it, as in any other loss.
    pub(super) async fn let_go(&self, holder: &mut TermHandle) {
        let ttl = self.ttl.as_duration();
        let renewing = async {
            loop {
                if let Ok(connection) = self.shared.connections.connection().await {
                    let _ = renew_once(&self.shared, &connection, self.lease, self.ttl).await;
                }
                sleep(self.ttl.renewal_interval()).await;
            }
        };
        tokio::select! {
            biased;
            () = holder.let_go() => return,
            _ = timeout(ttl, renewing) => {}
        }
        let _ = timeout(ttl, holder.let_go()).await;
    }

    /// Hands over, and revokes the lease. `record` gives the entry of the history for an end of the term.
    pub(super) async fn hand_over(
        &self,
        lease: LeaseGuard,
        transfer: &AcceptedTransfer,
        record: impl Fn(HandoffEnd) -> Option<TxnOp>,
    ) -> Result<Transferred, TransferError> {
        let AcceptedTransfer { keys, shown, .. } = transfer;
        let deadline = Timestamp::now() + self.ttl.as_duration();
        match self.until_answered(keys, record, deadline).await {
            Ok(end) => {
                lease.revoke_at_leisure();
                match end {
                    HandoffEnd::Transferred => {
                        let token = keys::token(keys.target.created);
                        Ok(Transferred { to: shown.clone(), token })
                    }
                    HandoffEnd::Void => Err(TransferError::Void(shown.clone())),
                }
            }
            Err(error) => {
                let _ = lease.revoke(deadline + self.ttl.patience()).await;
                Err(TransferError::Unconfirmed(error.message))
            }
        }
    }

    async fn until_answered(
        &self,
        keys: &HandoffKeys<MadeKey>,
        record: impl Fn(HandoffEnd) -> Option<TxnOp>,
        deadline: Timestamp,
    ) -> Result<HandoffEnd, EtcdError> {
        let mut txn = transaction(keys, record);
        let mut least = Some(transaction(&HandoffKeys { order: None, ..keys.clone() }, |_| None));
        loop {
            let left = deadline.since(Timestamp::now());
            let tried = async {
                let answer = self.commit(txn.clone()).await?;
                if answer.succeeded() { Ok(end(&answer)) } else { self.end_seen(keys).await }
            };
            let error = match timeout(left, tried).await {
                Ok(Ok(end)) => return Ok(end),
                Ok(Err(error)) => error,
                Err(_) => EtcdError::unanswered(left),
            };
            if matches!(error.remedy, Remedy::Human | Remedy::Request)
                && let Some(least) = least.take()
            {
                // One key that etcd denies refuses all of it, and then nothing was done.
                txn = least;
                continue;
            }
            if Timestamp::now() >= deadline || matches!(error.remedy, Remedy::Human | Remedy::Request) {
                return Err(error);
            }
            tracing::debug!(%error, "the handoff is not confirmed, sending it again");
            sleep(short_pause()).await;
        }
    }

    /// Our key is gone, maybe by an earlier try whose answer did not come: returns whether the target leads.
    async fn end_seen(&self, keys: &HandoffKeys<MadeKey>) -> Result<HandoffEnd, EtcdError> {
        let connection = self.shared.connections.connection().await?;
        let election = self.election().ok_or_else(|| EtcdError::elsewhere("the key names no election"))?;
        let queue = queue::read(&self.shared, &connection, &election).await?;
        let target = &keys.target;
        Ok(match queue.head() {
            Head::Candidate { key, entry } if *key == *target.key && entry.key.created == target.created => {
                HandoffEnd::Transferred
            }
            _ => HandoffEnd::Void,
        })
    }
}

fn transaction(keys: &HandoffKeys<MadeKey>, record: impl Fn(HandoffEnd) -> Option<TxnOp>) -> Txn {
    let plan: EtcdPlan = keys.plan();
    plan_txn(&plan, &|plan| match plan {
        Plan::Record(end) => record(*end),
        _ => None,
    })
}

/// Returns which of the two ends the transaction came to.
fn end(answer: &TxnResponse) -> HandoffEnd {
    match answer.op_responses().into_iter().next() {
        Some(TxnOpResponse::Txn(by_target)) if by_target.succeeded() => HandoffEnd::Transferred,
        _ => HandoffEnd::Void,
    }
}
