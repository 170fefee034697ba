//! Asks the members of a group for its leader, from outside the group.
//!
//! It asks all members at once, over and over, and [`assess`](super::assess) interprets their answers. Any client
//! that can connect may ask; with TLS, any with a certificate.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    runtime,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::tls::Mutual;
use super::{
    Group, InvalidSettings, KnownLeader, Member, OperateError, PeerStatus, Secret, Settings, Timing, Tls,
    assess::{Assessment, Problem, Reply, assess},
    status_wire::{self, StatusReply},
    transport::{Disconnect, Target, Timeouts},
    wire::proto,
};
use crate::{
    clock::Timestamp,
    leadership::FencingToken,
    names::ElectionName,
    observe::{Leader, Observation, Observer, Queued, Snapshot, State},
    timing::Backoff,
};

/// Interval of questions to a member until its first answer tells the group's election timeout.
const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// The shortest interval of questions.
const ASK_AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// An answer counts for one election timeout at most. By then there should be others.
const ASKS_IN_TIMEOUT: u32 = 4;

/// Longest silence of a connected member.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time that must pass without an answer that counts before an observer is told: a shorter break is no news.
const GRACE: Duration = Duration::from_secs(1);

/// Wait for the remaining answers once a leader is known.
const SETTLE: Duration = Duration::from_millis(200);

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The age after which the answers are assessed again without new ones.
const THINK_AGAIN: Duration = Duration::from_millis(50);

/// Reports that may wait: each member's tasks wait for room.
const REPORTS: usize = 16;

/// Asks the servers of a group.
#[derive(Debug, Clone)]
pub struct Client {
    inquiry: Arc<Inquiry>,
}

/// The answer of one server, or the reason for its absence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// The server.
    pub member: Member,
    /// Its status, or the problem.
    pub status: Result<PeerStatus, String>,
}

impl Answered {
    /// The answer of that member: for tests of programs that show it.
    pub fn new(member: Member, status: Result<PeerStatus, String>) -> Self {
        Self { member, status }
    }
}

#[derive(Debug)]
struct Inquiry {
    group: Group,
    election: ElectionName,
    tls: Option<Mutual>,
}

impl Client {
    /// Makes a client of this group for that election. Does not connect yet.
    ///
    /// The servers' addresses may differ from those that they use among each other.
    ///
    /// # Errors
    ///
    /// TLS with less than an authority, a certificate and its key: servers admit no other client.
    pub fn new(group: Group, election: ElectionName, tls: Option<&Tls>) -> Result<Self, InvalidSettings> {
        let mutual = |tls: &Tls| tls.mutual().map_err(|why| InvalidSettings::OneSidedTls(why.to_string()));
        let tls = tls.map(mutual).transpose()?;
        Ok(Self { inquiry: Arc::new(Inquiry { group, election, tls }) })
    }

    /// Asks the group of a member, as that member would.
    pub(super) fn of(settings: &Settings) -> Self {
        let (group, election) = (settings.group().clone(), settings.election().clone());
        Self { inquiry: Arc::new(Inquiry { group, election, tls: settings.mutual_tls().cloned() }) }
    }

    /// The leader and the candidates, by the servers' answers within that time (of tokio's clock).
    ///
    /// Returns as soon as all servers have answered, or have shown that they won't. A server that is only slow is
    /// waited for: briefly if a leader is known, and otherwise to the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    pub async fn snapshot(&self, within: Duration) -> Snapshot {
        self.survey(within).await.0
    }

    /// Each server's answer within that time (of tokio's clock), sorted by name.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    pub async fn statuses(&self, within: Duration) -> Vec<Answered> {
        self.survey(within).await.1
    }

    /// Both, by one question to each server: as [`snapshot`](Self::snapshot) and as [`statuses`](Self::statuses).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only asks.
    pub async fn survey(&self, within: Duration) -> (Snapshot, Vec<Answered>) {
        let mut asked = self.ask();
        asked.settle(within).await;
        let assessment = asked.assess(None);
        let candidates = asked.candidates(&assessment);
        let state = match assessment {
            Assessment::Leader(known) => State::Leader(told(known)),
            Assessment::Vacant => State::Vacant { blocked_by: None },
            Assessment::Unknown(problem) => State::Unknown { last_known: None, problem },
        };
        let snapshot = Snapshot { observation: Observation { at: SystemTime::now(), state }, candidates };
        let replies = self.inquiry.group.members().iter().zip(asked.replies);
        let answered =
            replies.map(|(member, reply)| Answered { member: member.clone(), status: newest(reply) });
        (snapshot, answered.collect())
    }

    /// The election as it goes on: first the present state, then every change.
    ///
    /// Asks each server several times in an election timeout. Reports are the servers' answers, no older than that:
    /// the states are those of [`State`], and a token is never followed by a lower one. A break of less than a
    /// second is not reported. It never ends by itself.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with I/O and timers.
    pub fn observe(&self) -> Observer {
        self.observe_on(&runtime::Handle::current())
    }

    /// The same, on that runtime.
    pub(super) fn observe_on(&self, runtime: &runtime::Handle) -> Observer {
        let client = self.clone();
        let spawn = |observing| runtime.spawn(observing);
        Observer::driven(spawn, |told| async move {
            let telling = Telling { told, last: None, newest: None, last_known: None };
            telling.tell_on(client.ask()).await;
        })
    }

    /// Has the leader replace a member's disk by another one, and returns once it is committed that the new one
    /// counts.
    ///
    /// `directory` is the first eight digits of the new one's id, or more, as its server's log shows them. `secret`
    /// is the group's, if it has one and no TLS. `told` is called when the leader has begun. A replacement that has
    /// begun goes on by itself, also under another leader; asking again waits for it.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    ///
    /// # Cancel safety
    ///
    /// A replacement that has begun goes on.
    pub async fn replace(
        &self,
        member: &str,
        directory: &str,
        secret: Option<&Secret>,
        within: Duration,
        told: impl FnOnce(),
    ) -> Result<(), OperateError> {
        let order = proto::ReplaceOrder { member: member.to_owned(), directory: directory.to_owned() };
        self.operator(secret.cloned()).replace(order, within, told).await
    }

    pub(super) fn group(&self) -> &Group {
        &self.inquiry.group
    }

    pub(super) fn election(&self) -> &ElectionName {
        &self.inquiry.election
    }

    pub(super) fn tls(&self) -> Option<&Mutual> {
        self.inquiry.tls.as_ref()
    }

    fn ask(&self) -> Asked {
        let (tell, reports) = mpsc::channel(REPORTS);
        let mut asking = JoinSet::new();
        for (place, member) in self.inquiry.group.members().iter().enumerate() {
            let inquiry = Arc::clone(&self.inquiry);
            asking.spawn(inquiry.keep_asking(place, member.clone(), tell.clone()));
        }
        let replies = self.inquiry.group.members().iter().map(|member| Reply::of(member.name.clone()));
        Asked { replies: replies.collect(), reports, _asking: asking }
    }
}

fn newest(reply: Reply) -> Result<PeerStatus, String> {
    match (reply.problem, reply.answer) {
        (None, Some(answer)) => Ok(answer.look),
        (None, None) => Err("no answer yet".to_owned()),
        (Some(problem), _) => Err(problem.what),
    }
}

fn told(known: KnownLeader) -> Leader {
    Leader { name: known.value, token: known.token, since: Some(known.since), address: known.address }
}

/// A report on one member.
type MemberReply = (usize, Result<StatusReply, Problem>);

/// All members, asked until this is dropped.
#[derive(Debug)]
struct Asked {
    replies: Vec<Reply>,
    reports: mpsc::Receiver<MemberReply>,
    _asking: JoinSet<()>,
}

impl Asked {
    /// Takes in the next report.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn hear(&mut self) {
        // The tasks that report go on until this is dropped.
        let Some((place, report)) = self.reports.recv().await else { return };
        let reply = &mut self.replies[place];
        match report {
            Ok(answer) => (reply.answer, reply.problem) = (Some(answer), None),
            Err(problem) => reply.problem = Some(problem),
        }
    }

    fn assess(&self, newest: Option<FencingToken>) -> Assessment {
        assess(Timestamp::now(), newest, &self.replies)
    }

    /// The leader and then, by name, the other members that report a candidate.
    fn candidates(&self, assessment: &Assessment) -> Vec<Queued> {
        let leader = if let Assessment::Leader(known) = assessment { Some(known) } else { None };
        let looks = self.replies.iter().filter_map(|reply| reply.answer.as_ref()).map(|answer| &answer.look);
        let first = leader.map(|known| Queued {
            name: known.value.clone(),
            token: Some(known.token),
            profile: looks.clone().find(|look| look.name == known.name).map(|look| look.profile.clone()),
        });
        let others = looks.filter(|look| look.standing && leader.is_none_or(|known| known.name != look.name));
        let profile = |look: &PeerStatus| Some(look.profile.clone());
        let waiting =
            others.map(|look| Queued { name: look.name.to_string(), token: None, profile: profile(look) });
        first.into_iter().chain(waiting).collect()
    }

    fn is_settled(&self) -> bool {
        let now = Timestamp::now();
        self.replies.iter().all(|reply| reply.is_settled(now))
    }

    /// Listens until no further answer could change the assessment.
    async fn settle(&mut self, within: Duration) {
        let mut until = Instant::now() + within;
        let mut clear = false;
        while !self.is_settled() && timeout_at(until, self.hear()).await.is_ok() {
            if !clear && matches!(self.assess(None), Assessment::Leader(_)) {
                clear = true;
                until = until.min(Instant::now() + SETTLE);
            }
        }
    }
}

impl Inquiry {
    async fn keep_asking(self: Arc<Self>, place: usize, member: Member, tell: mpsc::Sender<MemberReply>) {
        let pace = Timeouts::of(&Timing::DEFAULT);
        let mut target = Target::new(member.address.clone(), self.tls.clone(), pace);
        let mut backoff = Backoff::between(FIRST_PAUSE, LAST_PAUSE);
        loop {
            let over = CancellationToken::new();
            let _over = over.clone().drop_guard();
            let mut questions = Questions::new(place, &tell);
            let problem = match self.converse(&member, &mut target, &over, &mut questions).await {
                Err(problem) => problem,
                Ok(Unheard) => return,
            };
            if questions.answered {
                backoff.reset();
            }
            if tell.send((place, Err(problem))).await.is_err() {
                return;
            }
            drop(_over);
            sleep(backoff.pause()).await;
        }
    }

    /// Asks one member until the connection fails, which is the error, or no receiver is left.
    async fn converse(
        &self,
        member: &Member,
        target: &mut Target,
        over: &CancellationToken,
        questions: &mut Questions<'_>,
    ) -> Result<Unheard, Problem> {
        let (ask, asked) = mpsc::channel(1);
        let pace = Timeouts::of(&Timing::DEFAULT);
        let calling = async {
            let connection = target.connect(over).await?;
            let called = Timestamp::now();
            questions.ask(&ask);
            let answer = connection.client().watch(ReceiverStream::new(asked)).await;
            let answer = answer.map_err(|status| target.explained(&connection.heard, status.into()))?;
            Ok((called, answer.into_inner()))
        };
        let calling: Result<Result<_, Disconnect>, _> = timeout(pace.attempt(), calling).await;
        let unanswered = |_| slow(target.unanswered().to_string());
        let (called, mut looks) = calling.map_err(unanswered)?.map_err(ended)?;
        let mut patience = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                look = looks.message() => {
                    let look = look.map_err(|status| ended(status.into()))?;
                    let look = look.ok_or_else(|| ended(Disconnect::Closed))?;
                    let wanted = (&self.group, &self.election);
                    let answer = status_wire::read(wanted, member, look, (called, Timestamp::now()));
                    let answer = answer.map_err(|no_answer| firm(no_answer.to_string()))?;
                    if questions.answered(answer).await.is_err() {
                        return Ok(Unheard);
                    }
                    patience = Instant::now() + PATIENCE;
                }
                () = sleep_until(questions.next) => questions.ask(&ask),
                () = sleep_until(patience) => return Err(slow(format!("no answer within {PATIENCE:?}"))),
            }
        }
    }
}

/// No receiver is left.
struct Unheard;

fn slow(what: String) -> Problem {
    Problem { what, is_slow: true }
}

fn firm(what: String) -> Problem {
    Problem { what, is_slow: false }
}

fn ended(ending: Disconnect) -> Problem {
    let is_slow = matches!(ending, Disconnect::Unanswered { .. } | Disconnect::Mute);
    Problem { what: ending.to_string(), is_slow }
}

/// The questions to one member, and the receiver of its answers.
struct Questions<'a> {
    place: usize,
    tell: &'a mpsc::Sender<MemberReply>,
    every: Duration,
    next: Instant,
    answered: bool,
}

impl<'a> Questions<'a> {
    fn new(place: usize, tell: &'a mpsc::Sender<MemberReply>) -> Self {
        Self { place, tell, every: ASK_AT_LEAST_EVERY, next: Instant::now(), answered: false }
    }

    fn ask(&mut self, ask: &mpsc::Sender<proto::Question>) {
        // A second question in the queue has no use: the answer to the first is as good.
        let _ = ask.try_send(proto::Question { sent: Timestamp::now().as_nanos() });
        self.next = Instant::now() + self.every;
    }

    async fn answered(&mut self, answer: StatusReply) -> Result<(), Unheard> {
        self.answered = true;
        let every = (answer.shortest / ASKS_IN_TIMEOUT).clamp(ASK_AT_MOST_EVERY, ASK_AT_LEAST_EVERY);
        if every != self.every {
            self.every = every;
            self.next = self.next.min(Instant::now() + every);
        }
        self.tell.send((self.place, Ok(answer))).await.map_err(|_| Unheard)
    }
}

/// One observer, and the last state that it was told.
struct Telling {
    told: mpsc::Sender<Observation>,
    last: Option<State>,
    newest: Option<FencingToken>,
    last_known: Option<(Instant, SystemTime)>,
}

impl Telling {
    async fn tell_on(mut self, mut asked: Asked) {
        let began = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.told.closed() => return,
                // Time alone may change the assessment.
                _ = timeout(THINK_AGAIN, asked.hear()) => {}
            }
            let assessment = asked.assess(self.newest);
            let (now, at) = (Instant::now(), SystemTime::now());
            let state = match assessment {
                Assessment::Leader(known) => {
                    self.newest = Some(known.token);
                    self.last_known = Some((now, at));
                    State::Leader(told(known))
                }
                Assessment::Vacant => {
                    self.last_known = Some((now, at));
                    State::Vacant { blocked_by: None }
                }
                Assessment::Unknown(problem) => {
                    let since = self.last_known.map_or(began, |(at, _)| at);
                    let hopeless = self.last.is_none() && asked.is_settled();
                    if now.duration_since(since) < GRACE && !hopeless {
                        continue;
                    }
                    State::Unknown { last_known: self.last_known.map(|(_, at)| at), problem }
                }
            };
            self.tell_if_new(Observation { at, state }).await;
        }
    }

    async fn tell_if_new(&mut self, observation: Observation) {
        let known = match (&self.last, &observation.state) {
            (Some(State::Leader(before)), State::Leader(now)) => {
                before.token == now.token && before.name == now.name
            }
            // Changes of the problem are not reported, only that nothing is known.
            (Some(State::Unknown { .. }), State::Unknown { .. }) => true,
            (before, now) => before.as_ref() == Some(now),
        };
        if !known {
            self.last = Some(observation.state.clone());
            let _ = self.told.send(observation).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::transport::tests::{Server, Street, leads, until};

    /// Longer than anything takes here.
    const WITHIN: Duration = Duration::from_secs(20);

    fn client(street: &Street) -> Client {
        Client::new(street.group(), "leader".parse().unwrap(), None).unwrap()
    }

    /// With timeouts in which a busy machine, too, gets answers.
    fn patient(street: &Street, name: &str) -> Settings {
        let ms = Duration::from_millis;
        street.settings(name).with_timing(Timing::new(ms(200), ms(2000), ms(4000)).unwrap())
    }

    fn start(street: &Street) -> [Server; 3] {
        ["a", "b", "c"].map(|name| street.start_as(patient(street, name)))
    }

    /// From now on this server claims to lead.
    fn lead(server: &Server, name: &str, token: u64) {
        server.show(|look| {
            look.term = token;
            look.leader = Some(leads(name, token, Duration::from_secs(10)));
        });
    }

    fn withdraw(server: &Server) {
        server.show(|look| look.leader = None);
    }

    async fn next(observer: &mut Observer) -> String {
        match timeout(WITHIN, observer.next()).await.expect("something changes").unwrap().state {
            State::Leader(leader) => format!("{} {}", leader.name, leader.token),
            State::Vacant { .. } => "vacant".to_owned(),
            State::Unknown { last_known, problem } => format!("unknown {} {problem}", last_known.is_some()),
        }
    }

    #[tokio::test]
    async fn a_snapshot_says_who_leads() {
        let street = Street::of(&["a", "b", "c"]);
        let [_a, b, _c] = start(&street);
        lead(&b, "b", 7);
        let snapshot = client(&street).snapshot(WITHIN).await;
        let State::Leader(leader) = snapshot.observation.state else { panic!("{snapshot:?}") };
        assert_eq!((leader.name.as_str(), leader.token), ("b", FencingToken::new(7)));
        let candidates =
            snapshot.candidates.iter().map(|queued| (queued.name.as_str(), queued.token.is_some()));
        assert_eq!(candidates.collect::<Vec<_>>(), [("b", true), ("a", false), ("c", false)]);
    }

    #[tokio::test]
    async fn a_snapshot_says_that_there_is_no_leader() {
        let street = Street::of(&["a", "b", "c"]);
        let servers = start(&street);
        let snapshot = client(&street).snapshot(WITHIN).await;
        assert_eq!(snapshot.observation.state, State::Vacant { blocked_by: None });
        drop(servers);
    }

    #[tokio::test]
    async fn a_snapshot_says_who_does_not_answer() {
        let street = Street::of(&["a", "b", "c"]);
        let elsewhere = Street::of(&["x", "y"]);
        let (b, c) = (elsewhere.address("x"), elsewhere.address("y"));
        let group = format!("a={},b={b},c={c}", street.address("a"));
        drop(elsewhere);
        let group: Group = group.parse().unwrap();
        let _a = street.start_as(patient(&street, "a"));
        let client = Client::new(group, "leader".parse().unwrap(), None).unwrap();
        let snapshot = client.snapshot(WITHIN).await;
        let State::Unknown { last_known: None, problem } = snapshot.observation.state else {
            panic!("{snapshot:?}")
        };
        let unreachable = "nothing can be reached at";
        assert!(problem.starts_with("1 of 3 servers answers; b: "), "{problem}");
        assert!(problem.contains(&format!("{unreachable} {b}")), "{problem}");
        assert!(problem.contains(&format!("{unreachable} {c}")), "{problem}");
    }

    #[tokio::test]
    async fn an_observer_hears_of_each_change_and_of_no_older_token() {
        let street = Street::of(&["a", "b", "c"]);
        let [a, b, c] = start(&street);
        let mut observer = client(&street).observe();
        assert_eq!(next(&mut observer).await, "vacant");
        lead(&a, "a", 5);
        assert_eq!(next(&mut observer).await, "a 5");
        lead(&b, "b", 6);
        assert_eq!(next(&mut observer).await, "b 6");
        // 'a' has claimed to lead all the time; now no other server does.
        withdraw(&b);
        let unknown = next(&mut observer).await;
        assert!(unknown.contains("'a' reports token 5, and 6 was seen before"), "{unknown}");
        withdraw(&a);
        assert_eq!(next(&mut observer).await, "vacant");
        drop((a, b, c));
        let unknown = next(&mut observer).await;
        assert!(unknown.starts_with("unknown true 0 of 3 servers answer; a: "), "{unknown}");
    }

    #[tokio::test]
    async fn each_server_is_shown_with_its_look_or_its_problem() {
        let street = Street::of(&["a", "b", "c"]);
        let other = patient(&street, "c").with_election("other".parse().unwrap());
        let servers = ["a", "b"].map(|name| street.start_as(patient(&street, name)));
        let _c = street.start_as(other);
        until("the first two are connected", || servers[0].contact("b").connected).await;
        lead(&servers[0], "a", 2);
        let looks = client(&street).statuses(WITHIN).await;
        let names: Vec<_> = looks.iter().map(|answered| answered.member.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(looks[0].status.as_ref().unwrap().leader.as_ref().unwrap().token, FencingToken::new(2));
        assert!(looks[1].status.is_ok());
        assert_eq!(
            looks[2].status.as_ref().unwrap_err(),
            "it takes part in the election 'other', and not in 'leader'; ask with its --election"
        );
    }
}
