//! The loop that makes a [`Node`] a server: it takes inputs in, and carries actions out.
//!
//! ```text
//!   connections ─► Receive ──┐                      ┌──► Send ────────► connections
//!   the disk ─► Persisted ───┤                      ├──► write ───────► the disk
//!   the clock ─► Tick ───────┼─► Node::step ────────┼──► Apply ───────► state, records, proposals
//!   candidates ─► Stand … ───┤                      └──► Leadership ──► the holder's guard
//!   the leader ─► Propose … ─┘
//! ```
//!
//! Each step begins with a fresh reading of the clock, and nothing is awaited between a step and its effects: a
//! loss has reached the guard before the message that lets another server lead is handed to its connection.
//!
//! After a disk failure nothing is written, so nothing is sent that would rest on a write. The server gives
//! leadership up and campaigns no more; the others still know its term and vote.
//!
//! A lost term, whatever the reason, stays its holder's until that has let go or the proved time is over: until
//! then this server neither hands over nor votes.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Group,
    disk::Done,
    operate::{OperatorOrder, OrderProgress, OrderTask},
    proposals::{Proposals, RecordReply},
    publish::{CommittedLeader, Published, PublishedState},
    records::{self, Reading},
    state::{Compaction, CurrentAnnouncement, Window},
    term::{Handover, LeaderTerm, Stopping},
    transfers::{self, AwaitedTransfers},
};
use crate::{
    candidate::{CampaignError, CampaignReply, CampaignRequest, Event, in_span_leads},
    choosing::{CandidateProfile, TransferError, TransferReason},
    clock::Timestamp,
    leadership::{
        FencingToken, Leadership, LeadershipTerm as Held, Loss, OrderOutcome, TermOrder as HolderOrder,
        TransferOutcome,
    },
    raft::{
        action::{
            Actions, Declined, Effect, Input, LeadershipChange, NewEntry, Nomination, Now, Proposal, Write,
        },
        identity::{Index, NodeId, Term},
        log::{Entry, LONGEST_ADDRESS, Payload, Snapshot, TimeOfDay},
        membership::{CannotReplace, DirectoryId, MemberDisk, MemberDisks, Objection, VotingRights},
        message::{Envelope, Message},
        node::Node,
        orders::StandingOrders,
        timing::Random,
        transfer::{CannotTransfer, TransferRequest},
    },
    validity::SharedValidity,
};

/// The executor of a step's actions. Nothing here may block, or wait.
pub(super) trait DriverIo {
    /// Sends a message, or loses it.
    fn send(&self, envelope: Envelope);
    /// Makes a write durable, after all before it.
    fn write(&self, write: Write);
    /// Tells a member that it must not vote any more, with the reason.
    fn object(&self, member: NodeId, objection: Objection);
    /// The disks that count by the log have changed: connections with others end.
    fn set_disks(&self, disks: Option<(Index, MemberDisks)>);
    /// The members to be met before this server votes, in words; `None` if it votes.
    fn waiting_for(&self) -> Option<String>;
    /// The connections, in words: the reason why there may be no leader.
    fn connectivity(&self) -> Connectivity;
}

/// The number of connected members, and a description.
#[derive(Debug, Clone)]
pub(super) struct Connectivity {
    pub(super) connected: usize,
    pub(super) description: String,
}

/// Requests of this server's users.
#[derive(Debug)]
pub(super) enum DriverOrder {
    Stand {
        standing: CampaignRequest,
        won: CampaignReply,
    },
    /// Records that are committed after this index.
    Read(Reading),
    /// An operator's order.
    Operate(OperatorOrder),
    /// Answered once no campaign, term or handover is under way.
    Drain(oneshot::Sender<()>),
}

/// A record for the log, in the term of this token and no other.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) token: FencingToken,
    pub(super) record: Arc<[u8]>,
    pub(super) answer: RecordReply,
}

/// Sources of inputs.
pub(super) struct Inputs {
    /// As many as there are callers, which wait for their answer.
    pub(super) orders: mpsc::UnboundedReceiver<DriverOrder>,
    pub(super) proposals: mpsc::Receiver<Proposed>,
    pub(super) messages: mpsc::Receiver<Envelope>,
    pub(super) disk: mpsc::UnboundedReceiver<Done>,
}

/// Proposals that are taken into one step, and so into one write and one message.
const AT_ONCE: usize = 256;

/// Time for the target of a holder's transfer to catch up.
const TRANSFERS_WITHIN: Duration = Duration::from_secs(10);

/// Longest election timeouts after a transfer began in which another leader is waited for.
const ELECTIONS_AWAITED: u32 = 4;

/// Time without a leader before candidates are told why, and the interval of further reports.
const LEADERLESS_PATIENCE: Duration = Duration::from_secs(2);

/// State outside the core.
pub(super) struct Driver<O> {
    io: O,
    /// Names and the cluster, for the guard of a term.
    identity: super::Settings,
    state: CurrentAnnouncement,
    compaction: Compaction,
    campaigns: VecDeque<PendingCampaign>,
    leader_term: Option<LeaderTerm>,
    /// A lost term that its holder may not have let go of.
    stopping: Option<Stopping>,
    handover: Option<Handover>,
    proposals: Proposals,
    draining: Vec<oneshot::Sender<()>>,
    /// The core's part in elections, if it takes part.
    announced: Option<Nomination>,
    /// Inputs that follow from the effects of a step.
    next: VecDeque<Input>,
    published: Arc<Published>,
    /// Time of a majority's last confirmation of this server's own term.
    confirmed: Timestamp,
    /// The time to tell candidates that there is no leader, unless there is one by then.
    doubt_at: Option<Timestamp>,
    failed: Option<String>,
    /// Operators' orders to this server that are under way.
    replacements: Vec<OrderedTask>,
    transfers: AwaitedTransfers,
    /// True if the holder has stopped its work for the transfer that begins.
    holder_stopped: bool,
    /// The disks that count by the log, as last passed on.
    disks: Option<(Index, MemberDisks)>,
    /// The committed standing orders, as last published.
    orders: Arc<StandingOrders>,
    /// True if a committed entry has begun a term that is not published yet.
    terms_changed: bool,
    /// The time to give up records of this server's lost terms, up to this one, that are still open.
    open_until: Option<(Timestamp, FencingToken)>,
}

/// A replacement that an operator waits for.
struct OrderedTask {
    member: NodeId,
    directory: DirectoryId,
    told: mpsc::UnboundedSender<OrderProgress>,
    /// The core's answer.
    answered: oneshot::Receiver<Result<(), Declined>>,
    begun: bool,
}

struct PendingCampaign {
    candidacy: Nomination,
    events: broadcast::Sender<Event>,
    won: CampaignReply,
    /// The leader that this candidate was last told to follow.
    follows: Option<FencingToken>,
}

impl<O: DriverIo> Driver<O> {
    pub(super) fn new(
        identity: super::Settings,
        state: CurrentAnnouncement,
        window: Window,
        published: Arc<Published>,
        io: O,
    ) -> Self {
        Self {
            io,
            identity,
            state,
            compaction: Compaction::new(window),
            campaigns: VecDeque::new(),
            leader_term: None,
            stopping: None,
            handover: None,
            proposals: Proposals::default(),
            draining: Vec::new(),
            announced: None,
            next: VecDeque::new(),
            published,
            confirmed: Timestamp::from_nanos(0),
            doubt_at: None,
            failed: None,
            replacements: Vec::new(),
            transfers: AwaitedTransfers::default(),
            holder_stopped: false,
            disks: None,
            orders: Arc::default(),
            terms_changed: true,
            open_until: None,
        }
    }

    /// Serves until this server has no users left.
    pub(super) async fn run(mut self, mut node: Node, mut inputs: Inputs) {
        let mut used = true;
        let mut proposed = Vec::with_capacity(AT_ONCE);
        let mut alarm = pin!(sleep_until(Instant::now()));
        let mut alarm_at = Timestamp::from_nanos(0);
        while used || !self.is_idle() {
            self.settle(&node);
            let due = self.due(&node);
            let now = Timestamp::now();
            if due <= now {
                node = self.on_time(node, now);
                continue;
            }
            if alarm_at != due {
                // Tokio's clock stands still in suspend: only this loop is late then, and each step reads a clock
                // that goes on.
                alarm.as_mut().reset(Instant::now() + due.since(now));
                alarm_at = due;
            }
            node = tokio::select! {
                biased;
                Some(news) = inputs.disk.recv() => match news {
                    Done::Persisted(persisted) => self.step(node, Input::Persisted(persisted)),
                    Done::First(member, directory) => self.step(node, Input::Met(member, directory)),
                    Done::Met => {
                        tracing::info!("all members have met; this server votes from now on");
                        self.step(node, Input::VotingRights(VotingRights::Full))
                    }
                    Done::Revoked(why) => {
                        let node = self.step(node, Input::VotingRights(VotingRights::Revoked));
                        self.fail(node, format!("this server casts no vote any more, as {why}"))
                    }
                    Done::Failed(error) => {
                        tracing::error!(problem = %error, "the data directory can't be written any more");
                        // No vote of it would ever be durable.
                        let node = self.step(node, Input::VotingRights(VotingRights::Revoked));
                        self.fail(node, error.to_string())
                    }
                },
                order = orders_of(&mut self.leader_term) => self.obey(node, order),
                () = let_go(&mut self.stopping) => self.stopped(node),
                place = called_off(&mut self.campaigns) => {
                    self.campaigns.remove(place);
                    self.go_on(node)
                }
                order = inputs.orders.recv(), if used => match order {
                    Some(order) => self.take(node, order),
                    None => {
                        used = false;
                        node
                    }
                },
                Some(envelope) = inputs.messages.recv() => self.step(node, Input::Receive(envelope)),
                1.. = inputs.proposals.recv_many(&mut proposed, AT_ONCE) => self.propose(node, &mut proposed),
                () = &mut alarm => {
                    alarm_at = Timestamp::from_nanos(0);
                    node
                }
            };
        }
    }

    fn is_idle(&self) -> bool {
        self.campaigns.is_empty()
            && self.leader_term.is_none()
            && self.stopping.is_none()
            && self.handover.is_none()
    }

    fn due(&self, node: &Node) -> Timestamp {
        let stopped = self.stopping.as_ref().map(|stopping| stopping.until);
        let open = self.open_until.map(|(at, _)| at);
        let handover = self.handover.as_ref().map(|handover| handover.by);
        let others = [self.doubt_at, stopped, open, handover, self.transfers.due()];
        others.into_iter().flatten().fold(node.deadline(), Timestamp::min)
    }

    fn on_time(&mut self, node: Node, now: Timestamp) -> Node {
        if self.doubt_at.is_some_and(|at| at <= now) {
            self.doubt(&node, now);
        }
        if let Some((_, token)) = self.open_until.take_if(|(at, _)| *at <= now) {
            self.proposals.unconfirmed(Term::new(token.get()));
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.until <= now) {
            return self.stopped(node);
        }
        self.follow_transfers(&node, now);
        if node.deadline() <= now { self.step(node, Input::Tick) } else { node }
    }

    /// Takes an input, and all inputs that follow from it, through the core.
    fn step(&mut self, node: Node, input: Input) -> Node {
        self.next.push_back(input);
        self.go_on(node)
    }

    /// Takes all inputs that follow from earlier effects through the core.
    fn go_on(&mut self, mut node: Node) -> Node {
        while let Some(input) = self.next.pop_front().or_else(|| self.stance()) {
            let actions;
            (node, actions) = node.step(read_clocks(), input);
            let Actions { effects, write } = actions;
            // Before any message that rests on it is sent.
            self.set_disks(&node);
            for effect in effects {
                self.perform(effect);
            }
            if let Some(write) = write
                && self.failed.is_none()
            {
                self.io.write(write);
            }
        }
        self.follow_replacements(&node);
        self.follow_transfers(&node, Timestamp::now());
        self.publish(&node);
        node
    }

    /// Tells the callers that wait for another leader about it.
    fn follow_transfers(&mut self, node: &Node, now: Timestamp) {
        let leader = self.known_leader(node).map(|leader| leader.who);
        let group = self.identity.group();
        self.transfers.follow(now, node.term(), leader, |leader| group.member(leader).name.to_string());
    }

    fn set_disks(&mut self, node: &Node) {
        let disks = node.log().disks();
        if disks != self.disks.as_ref().map(|(at, disks)| (*at, disks)) {
            self.disks = disks.map(|(at, disks)| (at, disks.clone()));
            self.io.set_disks(self.disks.clone());
        }
    }

    /// Tells operators about the progress of their orders.
    fn follow_replacements(&mut self, node: &Node) {
        let group = self.identity.group().clone();
        let leads = matches!(node, Node::Leader(_));
        self.replacements.retain_mut(|OrderedTask { member, directory, told, answered, begun }| {
            let (disk, at) = node.log().disk(*member).unzip();
            let has_it = disk.is_some_and(|disk| disk.directory() == *directory);
            if !*begun {
                let refused = match answered.try_recv() {
                    Ok(Ok(())) => None,
                    // Ordered again while it is under way.
                    Ok(Err(Declined::NotReplaced(CannotReplace::SameDirectory))) if has_it => None,
                    Ok(Err(Declined::NotReplaced(why))) => Some(why.to_string()),
                    Ok(Err(Declined::NotLeading { leader })) => Some(not_leading(&group, leader)),
                    Ok(Err(_)) | Err(_) => Some("the leader has too much to do; try again".to_owned()),
                };
                if let Some(why) = refused {
                    let _ = told.send(OrderProgress::Refused(why));
                    return false;
                }
                *begun = true;
                let _ = told.send(OrderProgress::Begun);
            }
            if !leads || !has_it {
                let _ = told.send(OrderProgress::Refused(
                    "it is under way, and another server leads now: type the command again to wait for it"
                        .to_owned(),
                ));
                return false;
            }
            if disk == Some(MemberDisk::Voting(*directory)) && at <= Some(node.committed()) {
                let _ = told.send(OrderProgress::Done);
                return false;
            }
            !told.is_closed()
        });
    }

    /// The core's next input if a campaign waits and the core takes no part, or none waits and it does. A leader
    /// has won its campaign, and takes part until its term is over, however that ends. A server whose disk failed
    /// leads on, without a claim, until its holder has let go: only then another one may.
    fn stance(&mut self) -> Option<Input> {
        if self.leader_term.is_some() || (self.failed.is_some() && self.stopping.is_some()) {
            return None;
        }
        let candidate = self.campaigns.front().filter(|_| !self.identity.never());
        let wanted = candidate.map(|campaign| campaign.candidacy.clone());
        if wanted == self.announced {
            return None;
        }
        self.announced.clone_from(&wanted);
        Some(wanted.map_or(Input::Withdraw, Input::Stand))
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(envelope) => {
                if let (Message::TimeoutNow { .. }, Some(handover)) = (&envelope.message, &mut self.handover)
                {
                    handover.handed_over();
                }
                self.io.send(envelope);
            }
            Effect::Apply(entries) => entries.iter().for_each(|entry| self.apply(entry)),
            Effect::Restore(snapshot) => self.restore(&snapshot),
            Effect::Leadership(change) => self.hear(change),
            Effect::Objection { member, objection } => self.io.object(member, objection),
            Effect::Accepted { proposal, at } => self.proposals.accepted(proposal, at),
            Effect::Declined { proposal, why } => self.proposals.declined(proposal, why),
            Effect::TransferRefused { order, why } => {
                let why = self.reason(why);
                self.transfers.refused(order, &why);
            }
            Effect::TransferBegun { order, term, reason } => {
                tracing::info!(?reason, "this server hands over");
                if let Some(order) = order {
                    self.transfers.begun(order, term);
                }
                self.holder_stopped = reason == TransferReason::Program;
                if let Some(until) = self.leader_term.as_ref().map(LeaderTerm::until) {
                    // Only `drained` waits for it: until the target has heard that it may campaign.
                    self.part(term, until, oneshot::channel().0);
                }
            }
        }
    }

    /// The reason for a refused transfer, in words.
    fn reason(&self, why: CannotTransfer) -> String {
        match why {
            CannotTransfer::NotLeading { leader } => not_leading(self.identity.group(), leader),
            why => why.to_string(),
        }
    }

    fn apply(&mut self, entry: &Entry) {
        self.terms_changed |= matches!(entry.payload, Payload::Leadership(_));
        self.state.apply(entry);
        self.proposals.applied(entry.at);
        self.published.committed(entry.at.index);
        if let Some(snapshot) = self.compaction.applied(entry, &self.state) {
            self.next.push_back(Input::Compact(snapshot));
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        // A leader of this version made it, so a malformed one is no leader's announcement.
        self.state = CurrentAnnouncement::of(snapshot).unwrap_or_else(|malformed| {
            tracing::error!(%malformed, "a snapshot that no server of this version makes");
            CurrentAnnouncement::default()
        });
        self.terms_changed = true;
        self.compaction.restored();
        self.proposals.restored(snapshot.at);
        self.published.committed(snapshot.at.index);
    }

    fn hear(&mut self, change: LeadershipChange) {
        match change {
            LeadershipChange::Gained { token, until } => {
                self.confirmed = Timestamp::now();
                self.gain(token, until);
            }
            LeadershipChange::Extended { until, .. } => {
                self.confirmed = Timestamp::now();
                let extended = self
                    .leader_term
                    .as_mut()
                    .map(|leader_term| leader_term.extend(until, self.identity.timing()));
                if extended == Some(false) {
                    self.lose(Loss::Expired);
                    self.next.push_back(Input::Resign);
                }
            }
            LeadershipChange::Lost { loss, .. } => {
                // No transfer has begun: the disk is the reason.
                if loss == Loss::Transferred && self.handover.is_none() {
                    tracing::warn!(
                        "no write of --data has become durable for two election timeouts, and another server has a working \
                         disk: this server hands over to it"
                    );
                }
                self.lose(loss);
                if std::mem::take(&mut self.holder_stopped) {
                    self.stopping = None;
                    self.next.push_back(Input::LetGo);
                }
            }
        }
    }

    fn gain(&mut self, token: FencingToken, until: Timestamp) {
        // A campaign that was just cancelled is found by its dropped guard.
        let Some(campaign) = self.campaigns.pop_front() else {
            self.next.push_back(Input::Resign);
            return;
        };
        let term = Held {
            token,
            cluster: self.identity.cluster(),
            name: self.identity.name().clone(),
            election: self.identity.election().clone(),
            validity: Arc::new(SharedValidity::new(until)),
            ticket: None,
        };
        in_span_leads(token);
        let (leadership, tenure) = Leadership::new(term);
        let _ = campaign.events.send(Event::Elected { token, until });
        self.published.leading(Some(leadership.handle()));
        self.leader_term = Some(LeaderTerm::new(tenure, campaign.events, until));
        let _ = campaign.won.send(Ok(leadership));
    }

    /// Ends this server's term, for its holder first of all.
    fn lose(&mut self, loss: Loss) {
        if let Some(leader_term) = self.leader_term.take() {
            // A term that was lost before keeps its own time, and this one shares it.
            let by = Timestamp::now() + self.identity.timing().longest();
            self.open_until = Some((self.open_until.map_or(by, |(at, _)| at), leader_term.token()));
            self.stopping = Some(leader_term.end(loss));
            self.published.leading(None);
        }
    }

    /// The holder has stopped all that rested on the lost term.
    fn stopped(&mut self, node: Node) -> Node {
        self.stopping = None;
        self.step(node, Input::LetGo)
    }

    /// Carries out an order of the term's holder.
    fn obey(&mut self, node: Node, order: HolderOrder) -> Node {
        match order {
            HolderOrder::Proclaim { value, done } => {
                let proposal =
                    Proposal { id: self.proposals.proclaim(done), content: NewEntry::Value(value.into()) };
                return self.step(node, Input::Propose(vec![proposal]));
            }
            HolderOrder::Transfer { to, done } => return self.transfer_by_holder(node, to, done),
            HolderOrder::Resign { done } => {
                self.part(node.term(), Timestamp::now(), done);
                self.lose(Loss::Resigned);
                self.stopping = None;
            }
            HolderOrder::Lapsed => self.lose(Loss::Expired),
        }
        self.step(node, Input::Resign)
    }

    /// Gives the term up: to a chosen successor, or to any.
    fn part(&mut self, term: Term, from: Timestamp, done: oneshot::Sender<OrderOutcome>) {
        let by = from + self.identity.timing().longest();
        self.handover = Some(Handover::new(done, term, by));
    }

    fn take(&mut self, node: Node, order: DriverOrder) -> Node {
        match order {
            DriverOrder::Stand { standing, won } => self.enlist(node, standing, won),
            DriverOrder::Read(reading) => {
                records::read(reading, &node);
                node
            }
            DriverOrder::Operate(order) => self.operate(node, order),
            DriverOrder::Drain(drained) => {
                self.draining.push(drained);
                node
            }
        }
    }

    /// Carries out an operator's order.
    fn operate(&mut self, node: Node, OperatorOrder { task, told }: OperatorOrder) -> Node {
        let proposal = match task {
            OrderTask::Replace { member, directory } => {
                let (answer, answered) = oneshot::channel();
                let id = self.proposals.replacement(answer);
                self.replacements.push(OrderedTask { member, directory, told, answered, begun: false });
                Proposal { id, content: NewEntry::Replacement { member, directory } }
            }
            OrderTask::Control(change) => {
                Proposal { id: self.proposals.control(told), content: NewEntry::Control(change) }
            }
            OrderTask::Transfer { to, token, within, by } => {
                let (token, reason) =
                    (token.map(|token| Term::new(token.get())), TransferReason::Ordered(by));
                return self.transfer(node, to, token, within, reason, told);
            }
        };
        self.step(node, Input::Propose(vec![proposal]))
    }

    /// Hands leadership to a member, or tells why not.
    fn transfer(
        &mut self,
        node: Node,
        to: NodeId,
        term: Option<Term>,
        within: Duration,
        reason: TransferReason,
        told: mpsc::UnboundedSender<OrderProgress>,
    ) -> Node {
        let id = self.proposals.number();
        // The holder stops, then the target needs an election; a second one if its first is lost.
        let by = Timestamp::now() + within + self.identity.timing().longest() * ELECTIONS_AWAITED;
        self.transfers.add(id, to, by, told);
        self.step(node, Input::Transfer(TransferRequest { id, to, term, within, reason }))
    }

    /// Hands over for the holder, which has stopped its work: once the transfer begins, nothing waits for it.
    fn transfer_by_holder(&mut self, node: Node, to: String, done: oneshot::Sender<TransferOutcome>) -> Node {
        let Some(target) = to.parse().ok().and_then(|name| self.identity.group().node(&name)) else {
            let _ = done.send(Err(TransferError::Absent(to)));
            return node;
        };
        let (told, progress) = mpsc::unbounded_channel();
        let leader = self.identity.name().to_string();
        tokio::spawn(async move { drop(done.send(transfers::outcome(progress, leader, to).await)) });
        let (term, within) = (Some(node.term()), TRANSFERS_WITHIN);
        self.transfer(node, target, term, within, TransferReason::Program, told)
    }

    /// Takes records into the log, if the term that they are meant for is this server's.
    fn propose(&mut self, node: Node, proposed: &mut Vec<Proposed>) -> Node {
        let leads = self.leader_term.as_ref().map(LeaderTerm::token);
        let mut proposals = Vec::with_capacity(proposed.len());
        for Proposed { token, record, answer } in proposed.drain(..) {
            if leads == Some(token) {
                let id = self.proposals.record(answer);
                proposals.push(Proposal { id, content: NewEntry::Record(record) });
            } else {
                answer.not_leading();
            }
        }
        self.step(node, Input::Propose(proposals))
    }

    fn enlist(&mut self, node: Node, standing: CampaignRequest, won: CampaignReply) -> Node {
        let refusal = if standing.election != *self.identity.election() {
            let (ours, theirs) = (self.identity.election(), &standing.election);
            Some(CampaignError::Refused(format!("these peers elect '{ours}', not '{theirs}'")))
        } else {
            self.failed.clone().map(CampaignError::Failed)
        };
        if let Some(refusal) = refusal {
            let _ = won.send(Err(refusal));
            return node;
        }
        let _ = standing.events.send(Event::Campaigning);
        let value = Arc::from(standing.name.as_str().as_bytes());
        let CandidateProfile { priority, address, .. } = self.identity.profile();
        let address = address.as_deref().filter(|address| address.len() <= LONGEST_ADDRESS).map(Arc::from);
        let candidacy = Nomination { value, address, priority: *priority };
        self.campaigns.push_back(PendingCampaign { candidacy, events: standing.events, won, follows: None });
        self.go_on(node)
    }

    /// The disk has failed, or this server must not vote any more.
    fn fail(&mut self, node: Node, why: String) -> Node {
        tracing::error!(problem = why, "this server takes no part in elections any more");
        self.failed = Some(why.clone());
        if let Some(until) = self.leader_term.as_ref().map(LeaderTerm::until) {
            // Only `drained` waits for it: without that, a process that ends at once would never tell the
            // successor.
            self.part(node.term(), until, oneshot::channel().0);
        }
        self.lose(Loss::ShutDown);
        for campaign in self.campaigns.drain(..) {
            let _ = campaign.won.send(Err(CampaignError::Failed(why.clone())));
        }
        self.go_on(node)
    }

    /// Completes the handovers that callers wait for, if they are over.
    fn settle(&mut self, node: &Node) {
        let over = |handover: &mut Handover| handover.is_over(node, Timestamp::now());
        if let Some(handover) = self.handover.take_if(over) {
            handover.done();
        }
        if self.is_idle() {
            for drained in self.draining.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    /// Publishes changes of the state.
    fn publish(&mut self, node: &Node) {
        let committed = node.committed();
        if *self.orders != *node.log().orders_at(committed) {
            self.orders = Arc::new(node.log().orders_at(committed).clone());
        }
        if std::mem::take(&mut self.terms_changed) {
            self.published.began(node.log().terms_at(committed));
        }
        let leader = self.known_leader(node);
        self.follow(leader.as_ref());
        let now = Timestamp::now();
        self.published.refused(node.refusals());
        self.published.heard(node.heard().max(self.confirmed));
        self.doubt_at = match (&leader, self.doubt_at) {
            (Some(_), _) => None,
            (None, Some(at)) => Some(at),
            (None, None) => Some(now + LEADERLESS_PATIENCE),
        };
        if node.role() == "caretaker" && self.published.role() != "caretaker" {
            tracing::info!(
                "this server has the newest log and is no candidate: it brings the candidates up to date; there is no \
                 leader until one of them has the whole log"
            );
        }
        self.published.show(PublishedState {
            role: node.role(),
            term: node.term(),
            standing: self.announced.is_some(),
            leader,
            orders: Arc::clone(&self.orders),
        });
    }

    /// The leader of this term, by a committed entry of it.
    fn known_leader(&self, node: &Node) -> Option<CommittedLeader> {
        let announcement = self.state.announced_in(node.term())?;
        let own = announcement.who == self.identity.me();
        let confirmed =
            if own { self.leader_term.is_some() } else { node.leader() == Some(announcement.who) };
        confirmed.then(|| CommittedLeader {
            who: announcement.who,
            value: Arc::clone(&announcement.value),
            token: FencingToken::new(node.term().get()),
            since: announcement.since,
            address: announcement.address.clone(),
        })
    }

    /// Tells each candidate its leader, once.
    fn follow(&mut self, leader: Option<&CommittedLeader>) {
        let Some(leader) = leader.filter(|leader| leader.who != self.identity.me()) else { return };
        for campaign in &mut self.campaigns {
            if campaign.follows.replace(leader.token) != Some(leader.token) {
                let _ = campaign.events.send(Event::Following { token: None });
            }
        }
    }

    /// Tells candidates why there is no leader, as far as this server knows.
    fn doubt(&mut self, node: &Node, now: Timestamp) {
        let Connectivity { connected, description } = self.io.connectivity();
        let why = match (self.io.waiting_for(), node.leader()) {
            (Some(waiting), _) => waiting,
            (None, Some(elected)) => {
                let name = &self.identity.group().member(elected).name;
                format!("'{name}' was elected and brings others up to date; there is no leader yet")
            }
            (None, None) => "no leader is heard, and no majority votes for one".to_owned(),
        };
        for campaign in &mut self.campaigns {
            campaign.follows = None;
            let _ = campaign.events.send(Event::Retrying {
                problem: format!("{why}: {description}"),
                unreachable: connected == 0,
                pause: LEADERLESS_PATIENCE,
            });
        }
        self.doubt_at = Some(now + LEADERLESS_PATIENCE);
    }
}

fn not_leading(group: &Group, leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("'{}' leads now; try again", group.member(leader).name),
        None => "no server leads; try again once one does".to_owned(),
    }
}

/// The clocks and a random number, for one step.
pub(super) fn read_clocks() -> Now {
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let today = TimeOfDay(u64::try_from(today.as_millis()).unwrap_or(u64::MAX));
    Now { boot_time: Timestamp::now(), today, draw: Random(fastrand::u64(..)) }
}

/// The next order of the term's holder; pending for ever without a leader here.
async fn orders_of(leader_term: &mut Option<LeaderTerm>) -> HolderOrder {
    match leader_term {
        Some(leader_term) => leader_term.order().await,
        None => pending().await,
    }
}

/// The holder of a lost term has let go of it.
async fn let_go(stopping: &mut Option<Stopping>) {
    match stopping {
        Some(stopping) => stopping.let_go().await,
        None => pending().await,
    }
}

/// The index of a campaign that no caller waits for any more.
async fn called_off(campaigns: &mut VecDeque<PendingCampaign>) -> usize {
    poll_fn(|cx| {
        let gone = campaigns.iter_mut().position(|campaign| campaign.won.poll_closed(cx).is_ready());
        gone.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[cfg(test)]
mod tests;
