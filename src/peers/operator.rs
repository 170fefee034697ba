//! An operator of a group: gives orders to its leader, and reads what was ordered before.

use std::time::Duration;

use prost::bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Answered, Client, Member, PeerStatus, Secret, Timing,
    operate::{self, OrderProgress},
    refusal::shown,
    terms,
    transport::{Disconnect, Target, Timeouts},
    wire::proto::{self, order::Order, outcome::Outcome},
};
use crate::{
    choosing::{Controls, OrderedBy, PastTerm, TransferError, Transferred},
    leadership::FencingToken,
    names::CandidateName,
    observe::State,
    raft::orders::TermStart,
};

/// Time for the servers to say who leads.
const LEADER_WITHIN: Duration = Duration::from_secs(4);

/// Time to connect to one server, and for its answers to questions.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time for an order to be committed, beyond any wait that it names.
const COMMITTED_WITHIN: Duration = Duration::from_secs(30);

/// Reason why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// Only a leader can.
    #[error("no leader is known: {0}")]
    NoLeader(String),
    /// The leader refused, with a reason.
    #[error("'{name}' leads, and refuses: {why}")]
    Refused {
        /// The leader.
        name: CandidateName,
        /// Its reason.
        why: String,
    },
    /// The leader takes no orders from this caller; with the remedy.
    #[error("'{name}' leads, and refuses: {why}")]
    Forbidden {
        /// The leader.
        name: CandidateName,
        /// Its reason.
        why: String,
    },
    /// The outcome is not known: ask again.
    #[error("no answer of '{name}', which leads: {problem}")]
    Unanswered {
        /// The leader.
        name: CandidateName,
        /// The error.
        problem: String,
    },
}

/// An operator of a group's election.
///
/// With TLS its certificate decides whether the leader obeys; without TLS, the group's secret; with neither, it has to
/// be on the leader's host.
#[derive(Debug, Clone)]
pub struct Operator {
    client: Client,
    secret: Option<Secret>,
}

impl Client {
    /// Gives orders to this group's leader, with the group's secret if it has one and no TLS.
    pub fn operator(&self, secret: Option<Secret>) -> Operator {
        Operator { client: self.clone(), secret }
    }
}

impl Operator {
    /// Has the leader hand over to that member, and returns once that leads.
    ///
    /// The leader brings the member up to date while it leads, for at most `within`. Only then it stops.
    ///
    /// # Errors
    ///
    /// See [`TransferError`]: mostly the leader leads on.
    ///
    /// # Cancel safety
    ///
    /// A transfer that was ordered goes on.
    pub async fn transfer(
        &self,
        to: &str,
        within: Duration,
        by: OrderedBy,
    ) -> Result<Transferred, TransferError> {
        self.transfer_from(None, to, within, by).await
    }

    /// The same, if the leader still has that token.
    ///
    /// # Errors
    ///
    /// As for [`transfer`](Self::transfer).
    ///
    /// # Cancel safety
    ///
    /// A transfer that was ordered goes on.
    pub async fn transfer_from(
        &self,
        token: Option<FencingToken>,
        to: &str,
        within: Duration,
        by: OrderedBy,
    ) -> Result<Transferred, TransferError> {
        if !self.client.group().members().iter().any(|member| member.name.as_str() == to) {
            return Err(TransferError::Absent(to.to_owned()));
        }
        let order = Order::Transfer(proto::TransferOrder {
            member: to.to_owned(),
            token: token.map_or(0, FencingToken::get),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            by: Some(by.into()),
        });
        let leader = self.leader().await.map_err(TransferError::from)?;
        match self.order(&leader, order, within, || ()).await.map_err(TransferError::from)? {
            OrderProgress::Led(token) => Ok(Transferred { to: to.to_owned(), token }),
            OrderProgress::Void(_) => Err(TransferError::Void(to.to_owned())),
            OrderProgress::Unconfirmed(why) => Err(TransferError::Unconfirmed(why)),
            _ => Err(TransferError::Unconfirmed("the leader said nothing of the outcome".to_owned())),
        }
    }

    /// From now on that member leads only while no other can; if `hard`, not even then. If it leads, it hands over.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    ///
    /// # Cancel safety
    ///
    /// An order that was given goes on.
    pub async fn cordon(&self, name: &str, hard: bool, by: OrderedBy) -> Result<(), OperateError> {
        let (member, by) = (name.to_owned(), Some(by.into()));
        self.control(Order::Cordon(proto::CordonOrder { member, hard, by })).await
    }

    /// Takes a cordon back.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    ///
    /// # Cancel safety
    ///
    /// An order that was given goes on.
    pub async fn uncordon(&self, name: &str, _by: OrderedBy) -> Result<(), OperateError> {
        self.control(Order::Uncordon(proto::UncordonOrder { member: name.to_owned() })).await
    }

    /// From now on nothing moves by priority or transfer; cordons and crashes do.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    ///
    /// # Cancel safety
    ///
    /// An order that was given goes on.
    pub async fn pause(&self, by: OrderedBy) -> Result<(), OperateError> {
        self.control(Order::Pause(proto::PauseOrder { by: Some(by.into()) })).await
    }

    /// Takes a pause back.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    ///
    /// # Cancel safety
    ///
    /// An order that was given goes on.
    pub async fn resume(&self, _by: OrderedBy) -> Result<(), OperateError> {
        self.control(Order::Resume(proto::ResumeOrder {})).await
    }

    /// The standing orders, as the leader has them or, without one, the server with the latest term.
    ///
    /// # Errors
    ///
    /// [`OperateError::NoLeader`] if no server answers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    pub async fn controls(&self) -> Result<Controls, OperateError> {
        let best = self.best_informed().await?;
        Ok(best.1.controls)
    }

    /// The last `most` terms, the newest first, as the leader knows them or, without one, the server with the latest
    /// term.
    ///
    /// # Errors
    ///
    /// [`OperateError::NoLeader`] if no server answers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    pub async fn history(&self, most: usize) -> Result<Vec<PastTerm>, OperateError> {
        let (member, _) = self.best_informed().await?;
        let failed = |problem: String| {
            OperateError::NoLeader(format!("'{}' has not answered: {problem}", member.name))
        };
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let mut target = self.target(&member);
        let connected = timeout(PATIENCE, target.connect(&over)).await;
        let connected = connected.map_err(|_| failed(target.unanswered().to_string()))?;
        let connection = connected.map_err(|ending| failed(ending.to_string()))?;
        let mut client = connection.client();
        let answer = timeout(PATIENCE, client.history(proto::HistoryQuestion {})).await;
        let answer = answer.map_err(|_| failed(format!("not within {PATIENCE:?}")))?;
        let answer = answer.map_err(|status| failed(Disconnect::from(status).to_string()))?.into_inner();
        let starts = answer.terms.into_iter().map(TermStart::try_from).collect::<Result<Vec<_>, _>>();
        let starts = starts.map_err(|malformed| failed(malformed.to_string()))?;
        let mut past = terms::past_terms(self.client.group(), &starts);
        past.truncate(most);
        Ok(past)
    }

    /// Has the leader replace a member's disk by another one: see [`Client::replace`].
    pub(super) async fn replace(
        &self,
        order: proto::ReplaceOrder,
        within: Duration,
        told: impl FnOnce(),
    ) -> Result<(), OperateError> {
        let leader = self.leader_within(within).await?;
        // The new disk may have much to catch up with.
        self.order(&leader, Order::Replace(order), Duration::MAX / 2, told).await.map(drop)
    }

    async fn control(&self, order: Order) -> Result<(), OperateError> {
        let leader = self.leader().await?;
        match self.order(&leader, order, Duration::ZERO, || ()).await? {
            OrderProgress::Done => Ok(()),
            OrderProgress::Unconfirmed(problem) => {
                Err(OperateError::Unanswered { name: leader.name, problem })
            }
            other => Err(OperateError::Unanswered { name: leader.name, problem: format!("{other:?}") }),
        }
    }

    async fn leader(&self) -> Result<Member, OperateError> {
        self.leader_within(LEADER_WITHIN).await
    }

    async fn leader_within(&self, within: Duration) -> Result<Member, OperateError> {
        let (snapshot, answered) = self.client.survey(within).await;
        let token = match snapshot.observation.state {
            State::Leader(leader) => leader.token,
            State::Unknown { problem, .. } => return Err(OperateError::NoLeader(problem)),
            State::Vacant { .. } => return Err(OperateError::NoLeader("no server leads".to_owned())),
        };
        let leader = answered.iter().find(|answered| leads(answered, token));
        let leader = leader.map(|answered| answered.member.clone());
        leader.ok_or_else(|| OperateError::NoLeader("the leader does not answer".to_owned()))
    }

    /// The leader, or else the server with the latest term; and its status.
    async fn best_informed(&self) -> Result<(Member, PeerStatus), OperateError> {
        let (snapshot, answered) = self.client.survey(LEADER_WITHIN).await;
        let token = match snapshot.observation.state {
            State::Leader(leader) => Some(leader.token),
            _ => None,
        };
        let best = answered.into_iter().max_by_key(|answered| {
            let leads = token.is_some_and(|token| leads(answered, token));
            (leads, answered.status.as_ref().ok().map(|status| status.term))
        });
        match best {
            Some(Answered { member, status: Ok(status), .. }) => Ok((member, status)),
            Some(Answered { status: Err(problem), .. }) => Err(OperateError::NoLeader(problem)),
            None => Err(OperateError::NoLeader("no server answers".to_owned())),
        }
    }

    fn target(&self, member: &Member) -> Target {
        Target::new(member.address.clone(), self.client.tls().cloned(), Timeouts::of(&Timing::DEFAULT))
    }

    /// Gives an order, and waits for its outcome for that long, and some more. `told` is called when it has begun.
    async fn order(
        &self,
        leader: &Member,
        order: Order,
        within: Duration,
        told: impl FnOnce(),
    ) -> Result<OrderProgress, OperateError> {
        let order = operate::to_bytes(order);
        let mut target = self.target(leader);
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let failed = |problem: String| OperateError::Unanswered { name: leader.name.clone(), problem };
        let connected = timeout(PATIENCE, target.connect(&over)).await;
        let connected = connected.map_err(|_| failed(target.unanswered().to_string()))?;
        let connection = connected.map_err(|ending| failed(ending.to_string()))?;
        let (say, said) = mpsc::channel(2);
        // There is room for both messages.
        let _ = say.send(proto::Operation::default()).await;
        let ended = |status: tonic::Status| failed(Disconnect::from(status).to_string());
        let mut outcomes =
            connection.client().operate(ReceiverStream::new(said)).await.map_err(ended)?.into_inner();
        let mut told = Some(told);
        let until = Instant::now().checked_add(within.saturating_add(COMMITTED_WITHIN));
        loop {
            let next = async { outcomes.message().await.map_err(ended) };
            let next = match until {
                Some(until) => timeout_at(until, next)
                    .await
                    .map_err(|_| failed("it has not told the outcome in time".to_owned()))?,
                None => next.await,
            };
            let name = leader.name.clone();
            match next?.and_then(|next| next.outcome) {
                Some(Outcome::Challenge(challenge)) => {
                    let operation = self.proved(leader, &order, &challenge).map_err(failed)?;
                    let _ = say.send(operation).await;
                }
                Some(Outcome::Begun(_)) => {
                    if let Some(told) = told.take() {
                        told();
                    }
                }
                Some(Outcome::Done(_)) => return Ok(OrderProgress::Done),
                Some(Outcome::Led(token)) => return Ok(OrderProgress::Led(FencingToken::new(token))),
                Some(Outcome::Void(leader)) => return Ok(OrderProgress::Void(shown(&leader))),
                Some(Outcome::Unconfirmed(why)) => return Ok(OrderProgress::Unconfirmed(shown(&why))),
                Some(Outcome::Refused(why)) => return Err(OperateError::Refused { name, why: shown(&why) }),
                Some(Outcome::Forbidden(why)) => {
                    return Err(OperateError::Forbidden { name, why: shown(&why) });
                }
                None => return Err(failed("it closed the connection".to_owned())),
            }
        }
    }

    /// The order, with the proof that its sender has the secret.
    fn proved(&self, leader: &Member, order: &Bytes, challenge: &[u8]) -> Result<proto::Operation, String> {
        let challenge = challenge.try_into().map_err(|_| "its challenge is malformed".to_owned())?;
        let election = self.client.election().as_str();
        let proof = operate::proof(election, leader.name.as_str(), &challenge, order);
        let proof = self.secret.as_ref().map(|secret| secret.prove(&proof)).unwrap_or_default();
        Ok(proto::Operation { order: order.clone(), proof })
    }
}

/// Returns true if that server says that it leads with this token.
fn leads(answered: &Answered, token: FencingToken) -> bool {
    let look = answered.status.as_ref().ok();
    look.is_some_and(|look| {
        look.leader.as_ref().is_some_and(|known| known.name == look.name && known.token == token)
    })
}

impl From<OperateError> for TransferError {
    fn from(error: OperateError) -> Self {
        match error {
            OperateError::NoLeader(why) => Self::NoLeader(why),
            OperateError::Refused { name, why } => Self::Refused { leader: name.to_string(), why },
            OperateError::Forbidden { why, .. } => Self::Forbidden(why),
            OperateError::Unanswered { .. } => Self::Unconfirmed(error.to_string()),
        }
    }
}
