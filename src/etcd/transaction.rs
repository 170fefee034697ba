//! Writes to etcd that only the current leader can make.

use std::sync::Arc;

use etcd_client::{Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::{
    Etcd, LeaderKey,
    error::{EtcdError, Remedy},
};
use crate::leadership::LeadershipHandle;

/// Reason that a guarded transaction did not run, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// Not run: this process does not lead any more.
    #[error("not run: leadership is over")]
    NotLeading,
    /// Not run: etcd refuses this transaction for any leader.
    #[error("not run: {0}")]
    Refused(String),
    /// etcd did not confirm it: it may have run, or may run yet, but only under this term.
    #[error("not confirmed, it may have run: {0}")]
    Unconfirmed(String),
}

impl Etcd {
    /// Runs a transaction in etcd if, at that moment and according to etcd, this term of leadership is still
    /// the current one.
    ///
    /// The check and the writes are one step in etcd: however long this process was paused before, a deposed
    /// leader's transaction is not run. `transaction` may have its own conditions; the answer shows whether
    /// they held.
    ///
    /// # Errors
    ///
    /// See [`TransactionError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether the transaction runs.
    pub async fn transaction(
        &self,
        leadership: &LeadershipHandle,
        transaction: Txn,
    ) -> Result<TxnResponse, TransactionError> {
        if !leadership.holds() {
            return Err(TransactionError::NotLeading);
        }
        let Some(ticket) = leadership.ticket() else {
            return Err(TransactionError::Refused("this leadership was not won on etcd".into()));
        };
        let (leader_key, cluster) = (LeaderKey::of(Arc::clone(&self.shared), ticket), ticket.cluster);
        // On the renewing thread's runtime, where the connection lives.
        let running = self.shared.spawn(async move {
            leader_key.is_in(cluster).await?;
            leader_key.guarded([TxnOp::txn(transaction)]).await
        });
        let answer = running.await.map_err(|stopped| TransactionError::Unconfirmed(stopped.to_string()))?;
        let answer = answer.map_err(|error| match error.remedy {
            Remedy::Request | Remedy::Human => TransactionError::Refused(error.message),
            _ => TransactionError::Unconfirmed(error.message),
        })?;
        if !answer.succeeded() {
            return Err(TransactionError::NotLeading);
        }
        match answer.op_responses().into_iter().next() {
            Some(TxnOpResponse::Txn(inner)) => Ok(inner),
            _ => Err(TransactionError::Unconfirmed(
                "etcd's answer does not have the form of the request".into(),
            )),
        }
    }
}

impl LeaderKey {
    /// Fails unless this is the cluster that the term was won in: another one, restored from the same
    /// snapshot, may have the same key with the same revision.
    async fn is_in(&self, cluster: u64) -> Result<(), EtcdError> {
        if self.shared.cluster().is_none() {
            self.read(self.key.clone()).await?;
        }
        match self.shared.cluster() {
            Some(known) if known == cluster => Ok(()),
            _ => Err(EtcdError {
                remedy: Remedy::Human,
                message: "this term was won in another cluster of etcd".into(),
            }),
        }
    }
}
