//! An operator of an election on etcd: orders to hand over, standing orders, and the history.
//!
//! An operator writes `<election>.order` and `<election>.control:…`, and reads the rest. It deletes no
//! candidate's key: the leader alone carries an order out, or refuses it.
//!
//! ```text
//! transfer:  read the queue ─► grant a lease ─► watch ─► put the order, if leader and target are there
//!                                                              └─► the leader's key is gone, or its answer is there
//! ```

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, WatchStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Etcd, EtcdShared, campaign,
    connection::EndpointConnection,
    control::{self, StoredControl},
    error::{EtcdError, Remedy},
    history,
    keepalive::{LeaseGuard, short_pause},
    keys::{self, MadeKey, Revision},
    observe,
    order::StoredOrder,
    plan::{EtcdPlan, plan_txn},
    queue::{Head, PATIENCE, Queue},
    rights,
    staleness::ReadKind,
};
use crate::{
    choosing::{Controls, OrderedBy, PastTerm, TransferError, Transferred},
    clock::Timestamp,
    names::{CandidateName, ElectionName, displayed},
    timing::Ttl,
};

/// Time that the order's lease has beyond the operator's own wait: the operator revokes it, and etcd's clock
/// ends it only if the operator is gone.
const LEASE_BEYOND: Duration = Duration::from_secs(5);

/// Time between two looks if no event comes: a watch may break unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time limit of the withdrawal of an order.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(2);

/// Attempts at a write, if other clients write to the same key meanwhile.
const ATTEMPTS: usize = 5;

/// Reason that an operator's request failed on etcd. It changed nothing, unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdOperateError {
    /// The name is not one that a candidate can have.
    #[error("no candidate has that name: {0}")]
    Name(#[from] crate::names::InvalidName),
    /// etcd denies it to this user; with the remedy.
    #[error("{0}")]
    Forbidden(String),
    /// The key is another program's, and stays as it is.
    #[error("the key '{key}' is another program's: delete it (etcdctl del), or use another election")]
    ForeignKey {
        /// The key, displayable.
        key: String,
    },
    /// etcd did not confirm it; a write may have been done. Asking again does no harm.
    #[error("etcd did not confirm it: {0}")]
    Unconfirmed(String),
}

/// An operator of one election on etcd: see [`Etcd::operator`].
///
/// Its user needs rights of its own: `docs/deploy.md` lists them, and a refusal names the commands that grant
/// them.
#[derive(Debug, Clone)]
pub struct EtcdOperator {
    etcd: Etcd,
    election: ElectionName,
}

impl EtcdOperator {
    pub(super) fn new(etcd: Etcd, election: ElectionName) -> Self {
        Self { etcd, election }
    }

    /// Has the leader hand over to the candidate of that name, or with that key, and returns once that is the
    /// first. `within` (Tokio's clock) limits the wait; the order ends with it.
    ///
    /// # Errors
    ///
    /// See [`TransferError`]: mostly the leader leads on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call withdraws the order in the background. A leader that has accepted it carries it out.
    pub async fn transfer(
        &self,
        to: &str,
        within: Duration,
        by: OrderedBy,
    ) -> Result<Transferred, TransferError> {
        let asked = TransferTask {
            shared: Arc::clone(&self.etcd.shared),
            election: self.election.clone(),
            to: to.to_owned(),
            within,
            by,
        };
        let stopped = |error: tokio::task::JoinError| TransferError::Unconfirmed(error.to_string());
        let running = tokio_util::task::AbortOnDropHandle::new(self.etcd.shared.spawn(asked.run()));
        running.await.unwrap_or_else(|error| Err(stopped(error)))
    }

    /// From now on that candidate leads only while no other can; if `hard`, not even then. If it leads, it
    /// hands over. It need not be there.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether it is done.
    pub async fn cordon(&self, name: &str, hard: bool, by: OrderedBy) -> Result<(), EtcdOperateError> {
        let key = keys::cordon_key(&self.election, &candidate(name)?);
        self.set(key, Some(StoredControl { hard, by })).await
    }

    /// Takes a cordon back. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether it is done.
    pub async fn uncordon(&self, name: &str, _by: OrderedBy) -> Result<(), EtcdOperateError> {
        self.set(keys::cordon_key(&self.election, &candidate(name)?), None).await
    }

    /// From now on nothing moves by priority or transfer; cordons and crashes do.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether it is done.
    pub async fn pause(&self, by: OrderedBy) -> Result<(), EtcdOperateError> {
        self.set(keys::pause_key(&self.election), Some(StoredControl { hard: false, by })).await
    }

    /// Takes a pause back.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the call leaves open whether it is done.
    pub async fn resume(&self, _by: OrderedBy) -> Result<(), EtcdOperateError> {
        self.set(keys::pause_key(&self.election), None).await
    }

    /// Reads the standing orders.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn controls(&self) -> Result<Controls, EtcdOperateError> {
        let reading = |shared: Arc<EtcdShared>, election: ElectionName| async move {
            let connection = shared.connections.connection().await?;
            Ok(control::read_controls(&shared, &connection, &election).await?.0)
        };
        self.asked(reading).await
    }

    /// Reads the last `most` terms, the newest first; the present one first, once its leader has written it.
    /// At most 100 are kept.
    ///
    /// # Errors
    ///
    /// See [`EtcdOperateError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn history(&self, most: usize) -> Result<Vec<PastTerm>, EtcdOperateError> {
        let reading = |shared: Arc<EtcdShared>, election: ElectionName| async move {
            let connection = shared.connections.connection().await?;
            Ok(history::read_history(&shared, &connection, &election).await?)
        };
        let mut terms = self.asked(reading).await?;
        terms.truncate(most);
        Ok(terms)
    }

    async fn set(&self, key: Vec<u8>, control: Option<StoredControl>) -> Result<(), EtcdOperateError> {
        self.asked(|shared, _| async move { set_control(&shared, key, control).await }).await
    }

    /// Runs a request on the thread of the connections.
    async fn asked<T: Send + 'static, F>(
        &self,
        request: impl FnOnce(Arc<EtcdShared>, ElectionName) -> F,
    ) -> Result<T, EtcdOperateError>
    where
        F: Future<Output = Result<T, SetError>> + Send + 'static,
    {
        let running = self.etcd.shared.spawn(request(Arc::clone(&self.etcd.shared), self.election.clone()));
        let done = running.await.map_err(|stopped| EtcdOperateError::Unconfirmed(stopped.to_string()))?;
        done.map_err(|error| match error {
            SetError::Foreign(key) => EtcdOperateError::ForeignKey { key: displayed(&key) },
            SetError::Etcd(error) if error.is_denied() => {
                EtcdOperateError::Forbidden(rights::denied(&self.election, &error))
            }
            SetError::Etcd(error) if error.remedy == Remedy::Human => {
                EtcdOperateError::Forbidden(error.message)
            }
            SetError::Etcd(error) => EtcdOperateError::Unconfirmed(error.message),
        })
    }
}

fn candidate(name: &str) -> Result<CandidateName, EtcdOperateError> {
    Ok(name.parse()?)
}

enum SetError {
    /// Another program's key.
    Foreign(Vec<u8>),
    Etcd(EtcdError),
}

impl From<EtcdError> for SetError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

/// Puts a standing order, or deletes it; not if another program has its key.
async fn set_control(
    shared: &EtcdShared,
    key: Vec<u8>,
    control: Option<StoredControl>,
) -> Result<(), SetError> {
    let connection = shared.connections.connection().await?;
    for _ in 0..ATTEMPTS {
        let there = answer(shared, &connection, Txn::new().and_then([TxnOp::get(key.clone(), None)])).await?;
        let there = there.1.into_iter().next();
        if there.as_ref().is_some_and(|kv| StoredControl::from_json(kv.value()).is_none()) {
            return Err(SetError::Foreign(key));
        }
        let change = match (&control, &there) {
            (Some(control), _) => TxnOp::put(key.clone(), control.to_json(), None),
            (None, Some(_)) => TxnOp::delete(key.clone(), None),
            (None, None) => return Ok(()),
        };
        let changed = there.map_or(0, |kv| kv.mod_revision());
        let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, changed);
        let (done, _) = answer(shared, &connection, Txn::new().when([unchanged]).and_then([change])).await?;
        if done {
            return Ok(());
        }
        sleep(short_pause()).await;
    }
    Err(EtcdError::elsewhere("another program writes to the same key").into())
}

/// Runs a transaction; returns whether its conditions held, and the keys that it read.
async fn answer(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    transaction: Txn,
) -> Result<(bool, Vec<KeyValue>), EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let answer = shared.connections.call(connection, PATIENCE, client.txn(transaction)).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    let read = answer.op_responses().into_iter().filter_map(|response| match response {
        TxnOpResponse::Get(mut read) => Some(read.take_kvs()),
        _ => None,
    });
    Ok((answer.succeeded(), read.flatten().collect()))
}

/// A candidate in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct QueuedKey {
    made: MadeKey,
    name: String,
}

/// The leader, and the candidate that an order names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OrderParties {
    leader: QueuedKey,
    target: QueuedKey,
}

/// Finds leader and target in the queue.
fn parties(queue: &Queue, to: &str) -> Result<OrderParties, TransferError> {
    let of = |(key, entry): (&[u8], &super::queue::QueueEntry)| QueuedKey {
        made: MadeKey { key: key.to_vec(), created: entry.key.created },
        name: observe::name_of(key, entry),
    };
    let leader = match queue.head() {
        Head::Candidate { key, entry } => of((key, entry)),
        Head::Blocked { key, .. } => {
            let blocked = format!("the key '{}' keeps all candidates from leading", displayed(key));
            return Err(TransferError::NoLeader(blocked));
        }
        Head::Empty | Head::Unread => {
            return Err(TransferError::NoLeader("no candidate is there".to_owned()));
        }
    };
    let is_meant = |one: &QueuedKey| one.name == to || one.made.key == to.as_bytes();
    let waiting = queue.iter().filter(|(_, entry)| entry.candidate).map(of).skip(1);
    let mut meant: Vec<_> = waiting.filter(is_meant).collect();
    match (meant.pop(), meant.is_empty()) {
        (Some(target), true) => Ok(OrderParties { leader, target }),
        (Some(last), false) => {
            let keys = meant.iter().chain([&last]).map(|one| displayed(&one.made.key)).collect();
            Err(TransferError::Ambiguous { name: to.to_owned(), keys })
        }
        (None, _) if is_meant(&leader) => {
            Err(TransferError::Refused { leader: leader.name, why: "it leads already".to_owned() })
        }
        (None, _) => Err(TransferError::Absent(to.to_owned())),
    }
}

/// One call of [`EtcdOperator::transfer`].
struct TransferTask {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    to: String,
    within: Duration,
    by: OrderedBy,
}

impl TransferTask {
    async fn run(self) -> Result<Transferred, TransferError> {
        let until = Instant::now() + self.within.min(Ttl::MAX.as_duration() / 2);
        let (lease, parties, mut watch) = match timeout_at(until, self.place()).await {
            Ok(placed) => placed?,
            Err(_) => {
                return Err(TransferError::Unconfirmed(format!(
                    "etcd did not take the order within {:?}",
                    self.within
                )));
            }
        };
        let outcome = self.outcome(&parties, &mut watch, until).await;
        // Also after an answer: until then no other order can be placed.
        let _ = lease.revoke(Timestamp::now() + WITHDRAWN_WITHIN).await;
        outcome
    }

    /// Places the order, and watches it and the leader's key.
    async fn place(&self) -> Result<(LeaseGuard, OrderParties, Option<WatchStream>), TransferError> {
        let mut lease = None;
        loop {
            match self.try_to_place(&mut lease).await {
                Ok(Some((parties, watch))) => {
                    if let Some(lease) = lease {
                        return Ok((lease, parties, Some(watch)));
                    }
                }
                Ok(None) => {}
                Err(PlaceError::Transfer(error)) => return Err(error),
                Err(PlaceError::Etcd(error)) => {
                    if matches!(error.remedy, Remedy::Human | Remedy::Request) {
                        return Err(TransferError::Forbidden(rights::denied(&self.election, &error)));
                    }
                    tracing::debug!(%error, "could not place the order");
                }
            }
            sleep(short_pause()).await;
        }
    }

    /// Returns `None` if leader or target changed meanwhile.
    async fn try_to_place(
        &self,
        lease: &mut Option<LeaseGuard>,
    ) -> Result<Option<(OrderParties, WatchStream)>, PlaceError> {
        let connection = self.shared.connections.connection().await?;
        let queue = observe::named_queue(&self.shared, &connection, &self.election).await?;
        let parties = parties(&queue, &self.to)?;
        let lease = match lease {
            Some(lease) => lease,
            None => lease.insert(self.grant(&connection).await?),
        };
        let watch = self.watch(&connection, &parties).await?;
        let order = StoredOrder {
            target: parties.target.made.clone(),
            shown: parties.target.name.clone(),
            token: keys::token(parties.leader.made.created),
            by: self.by.clone(),
            refused: None,
        };
        let order_key = keys::order_key(&self.election);
        let OrderParties { leader, target } = &parties;
        let plan = EtcdPlan::place_order(leader.made.clone(), target.made.clone(), order_key.clone());
        let put =
            TxnOp::put(order_key.clone(), order.to_json(), Some(PutOptions::new().with_lease(lease.id().0)));
        let place = plan_txn(&plan, &|step| (*step == EtcdPlan::PlaceOrder).then(|| put.clone()));
        let place = place.or_else([TxnOp::get(order_key.clone(), None)]);
        let (placed, there) = answer(&self.shared, &connection, place).await?;
        if placed {
            return Ok(Some((parties, watch)));
        }
        match there.first() {
            None => Ok(None),
            // Placed before, by a request whose answer did not come.
            Some(kv) if kv.lease() == lease.id().0 => Ok(Some((parties, watch))),
            Some(kv) => {
                let why = match StoredOrder::from_json(kv.value()) {
                    Some(other) => format!(
                        "an order of {}, to hand over to '{}', is under way",
                        other.by.operator, other.shown
                    ),
                    None => format!(
                        "the key '{}' is another program's: delete it, or use another election",
                        displayed(&order_key)
                    ),
                };
                Err(PlaceError::Transfer(TransferError::Refused { leader: parties.leader.name, why }))
            }
        }
    }

    async fn grant(&self, connection: &EndpointConnection) -> Result<LeaseGuard, EtcdError> {
        let seconds = self.within.saturating_add(LEASE_BEYOND).as_secs();
        let ttl = Ttl::new(Duration::from_secs(seconds)).unwrap_or(Ttl::MAX);
        Ok(campaign::grant(&self.shared, connection, ttl).await?.0)
    }

    async fn watch(
        &self,
        connection: &EndpointConnection,
        parties: &OrderParties,
    ) -> Result<WatchStream, EtcdError> {
        let mut client = connection.watcher();
        let opening = async {
            let mut watch = client.watch(keys::order_key(&self.election), None).await?;
            watch.watch(parties.leader.made.key.clone(), None).await?;
            Ok(watch)
        };
        self.shared.connections.call(connection, PATIENCE, opening).await
    }

    /// Waits until the order has an outcome.
    async fn outcome(
        &self,
        parties: &OrderParties,
        watch: &mut Option<WatchStream>,
        until: Instant,
    ) -> Result<Transferred, TransferError> {
        let mut problem = "the leader has not answered".to_owned();
        loop {
            match self.look(parties).await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(error) => problem = error.message,
            }
            if Instant::now() >= until {
                return Err(TransferError::Unconfirmed(format!("not within {:?}: {problem}", self.within)));
            }
            let look_at = until.min(Instant::now() + LOOK_EVERY);
            match watch {
                Some(stream) => match timeout_at(look_at, stream.message()).await {
                    // A watch that is refused or broken costs time, and no more.
                    Ok(Ok(Some(message))) if !message.canceled() => {}
                    Ok(_) => *watch = None,
                    Err(_) => {}
                },
                None => tokio::time::sleep_until(look_at.min(Instant::now() + LOOK_EVERY / 5)).await,
            }
        }
    }

    /// Looks at the order, the leader's key and the target's at one revision.
    async fn look(
        &self,
        parties: &OrderParties,
    ) -> Result<Option<Result<Transferred, TransferError>>, EtcdError> {
        let connection = self.shared.connections.connection().await?;
        let order_key = keys::order_key(&self.election);
        let all = [&order_key, &parties.leader.made.key, &parties.target.made.key];
        let read = Txn::new().and_then(all.map(|key| TxnOp::get(key.clone(), None)));
        let (_, kvs) = answer(&self.shared, &connection, read).await?;
        let find = |key: &[u8]| kvs.iter().find(|kv| kv.key() == key);
        let there =
            |made: &MadeKey| find(&made.key).is_some_and(|kv| Revision(kv.create_revision()) == made.created);
        if there(&parties.leader.made) {
            let order = find(&order_key).and_then(|kv| StoredOrder::from_json(kv.value()));
            let leader = || parties.leader.name.clone();
            return Ok(match order {
                Some(StoredOrder { refused: Some(why), .. }) => {
                    Some(Err(TransferError::Refused { leader: leader(), why }))
                }
                Some(_) => None,
                None => {
                    let gone = format!("the order is gone, and '{}' leads still", leader());
                    Some(Err(TransferError::Unconfirmed(gone)))
                }
            });
        }
        if !there(&parties.target.made) {
            return Ok(Some(Err(TransferError::Void(parties.target.name.clone()))));
        }
        let queue = observe::named_queue(&self.shared, &connection, &self.election).await?;
        let (to, token) = (parties.target.name.clone(), keys::token(parties.target.made.created));
        let waits = queue.iter().any(|(key, _)| key == parties.target.made.key);
        Ok(Some(match queue.head() {
            Head::Candidate { key, .. } if key == parties.target.made.key => Ok(Transferred { to, token }),
            // It went between the two reads.
            _ if !waits => Err(TransferError::Unconfirmed(format!(
                "'{to}' was there when '{}' gave up, and is gone again",
                parties.leader.name
            ))),
            _ => Err(TransferError::Unconfirmed(format!(
                "'{}' gave up without carrying the order out, and '{to}' still waits: give it again",
                parties.leader.name
            ))),
        }))
    }
}

enum PlaceError {
    Transfer(TransferError),
    Etcd(EtcdError),
}

impl From<EtcdError> for PlaceError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

impl From<TransferError> for PlaceError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::{
        keys::LeaseId,
        queue::{Key, QueueEntry},
    };

    fn queue(all: &[(&str, i64, &str)]) -> Queue {
        let entry = |(key, created, name): &(&str, i64, &str)| {
            let made = Key { created: Revision(*created), lease: Some(LeaseId(1)) };
            let entry = QueueEntry { key: made, candidate: true, name: Some((*name).to_owned()) };
            (key.as_bytes().to_vec(), entry)
        };
        Queue::read(Revision(100), all.iter().map(entry))
    }

    #[test]
    fn an_order_names_one_waiting_candidate_by_name_or_key() {
        let queue = queue(&[("e/1", 5, "a"), ("e/2", 6, "b"), ("e/3", 7, "c"), ("e/4", 8, "c")]);
        let found = |to: &str| parties(&queue, to).map(|parties| parties.target.made.created.0);
        assert_eq!(found("b"), Ok(6));
        assert_eq!(found("e/3"), Ok(7));
        assert_eq!(found("x"), Err(TransferError::Absent("x".into())));
        let keys = vec!["e/3".to_owned(), "e/4".to_owned()];
        let several = found("c").unwrap_err();
        assert_eq!(several, TransferError::Ambiguous { name: "c".into(), keys });
        assert_eq!(
            several.to_string(),
            "several candidates are called 'c': give one of their keys, e/3, e/4"
        );
        let leads = TransferError::Refused { leader: "a".into(), why: "it leads already".into() };
        assert_eq!(found("a"), Err(leads));
    }

    #[test]
    fn there_is_nothing_to_order_without_a_leader() {
        assert!(matches!(parties(&queue(&[]), "a"), Err(TransferError::NoLeader(_))));
        let pair = queue(&[("e/1", 5, "a"), ("e/2", 5, "b")]);
        assert!(matches!(parties(&pair, "a"), Err(TransferError::NoLeader(_))));
    }
}
