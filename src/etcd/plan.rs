//! Transactions of a transfer, from the [plan](crate::choosing::handoff) that the rules and the model share.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::keys::MadeKey;
use crate::choosing::handoff;

/// A plan on etcd: keys are those of the queue and of orders, names are names of keys.
pub(crate) type EtcdPlan = handoff::Plan<MadeKey, Vec<u8>>;

/// Returns the transaction of a plan. `operation` gives the writes, and `None` for one to leave out.
///
/// A plan that is one operation becomes a transaction without conditions.
pub(crate) fn plan_txn(plan: &EtcdPlan, operation: &impl Fn(&EtcdPlan) -> Option<TxnOp>) -> Txn {
    let EtcdPlan::If { there, absent, then, otherwise } = plan else {
        return Txn::new().and_then(step(plan, operation).into_iter().collect::<Vec<_>>());
    };
    let made = |made: &MadeKey| (made.key.clone(), made.created.0);
    let compares = there.iter().map(made).chain(absent.iter().map(|name| (name.clone(), 0)));
    let compares = compares.map(|(key, created)| Compare::create_revision(key, CompareOp::Equal, created));
    let steps = |plans: &[EtcdPlan]| -> Vec<TxnOp> {
        plans.iter().filter_map(|plan| step(plan, operation)).collect()
    };
    let transaction = Txn::new().when(compares.collect::<Vec<_>>()).and_then(steps(then));
    // Only once: a caller may add an alternative to a plan that has none.
    if otherwise.is_empty() { transaction } else { transaction.or_else(steps(otherwise)) }
}

fn step(plan: &EtcdPlan, operation: &impl Fn(&EtcdPlan) -> Option<TxnOp>) -> Option<TxnOp> {
    match plan {
        EtcdPlan::If { .. } => Some(TxnOp::txn(plan_txn(plan, operation))),
        EtcdPlan::Delete(made) => Some(TxnOp::delete(made.key.clone(), None)),
        EtcdPlan::Record(_) | EtcdPlan::PlaceOrder | EtcdPlan::AnswerOrder => operation(plan),
    }
}
