//! The rules one by one, on single servers: above all the seeds' mistakes.
//!
//! The simulation shows that the rules together keep the invariants. Here each is tested alone, so that a broken
//! one is named. Tests that begin with `seed_` are bugs that the first, third and fourth seed describe of
//! themselves.

mod choosing;

use std::{sync::Arc, time::Duration};

use super::{
    action::{
        Actions, Declined, Effect, Input, LeadershipChange, NewEntry, Nomination, Now, Proposal, ProposalId,
        Stored, Write,
    },
    core::CoreConfig,
    identity::{Index, Members, NodeId, Position, Term},
    log::{Conflict, Entry, Payload, Snapshot, TimeOfDay},
    membership::{CannotReplace, DirectoryId, FirstDirectories, MemberDisk, Objection, VotingRights},
    message::{Envelope, IgnoreReason, Limits, Message},
    node::Node,
    timing::{Random, Timing},
};
use crate::{
    choosing::Priority,
    clock::Timestamp,
    leadership::{ClusterId, FencingToken, Loss},
};

const CLUSTER: ClusterId = ClusterId(1);
const ME: NodeId = NodeId::new(0);
const B: NodeId = NodeId::new(1);
const C: NodeId = NodeId::new(2);

/// One server, with a clock that is turned by hand and a disk that is as slow as a test wants.
struct Bench {
    node: Option<Node>,
    now: Timestamp,
    writes: Vec<Write>,
    disk: Stored,
}

impl Bench {
    /// One of that many, long enough after its start to vote.
    fn of(members: usize) -> Self {
        let mut bench = Self::just_started(members, Stored::nothing());
        bench.pass(Timing::DEFAULT.shortest());
        bench
    }

    fn just_started(members: usize, disk: Stored) -> Self {
        let now = Timestamp::from_nanos(1_000_000_000_000);
        let node = Node::start(config(members), disk.clone(), &at_time(now)).unwrap();
        let mut bench = Self { node: Some(node), now, writes: Vec::new(), disk };
        assert_eq!(bench.step(Input::Stand(Nomination::of(*b"me"))), vec![]);
        bench
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// One step; its write stays pending.
    fn step(&mut self, input: Input) -> Vec<Effect> {
        let (node, Actions { effects, write }) = self.node.take().unwrap().step(at_time(self.now), input);
        self.node = Some(node);
        self.writes.extend(write);
        effects
    }

    /// All pending writes become durable, one after the other.
    fn sync(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while !self.writes.is_empty() {
            let write = self.writes.remove(0);
            self.disk.apply(&write);
            effects.extend(self.step(Input::Persisted(write.persisted())));
        }
        effects
    }

    /// A message arrives, and the disk is quick.
    fn hear(&mut self, from: NodeId, term: u64, message: Message) -> Vec<Effect> {
        let mut effects = self.step(Input::Receive(envelope(from, ME, term, message)));
        effects.extend(self.sync());
        effects
    }

    /// Waits for its own deadline and lets it act.
    fn expire(&mut self) -> Vec<Effect> {
        self.now = self.now.max(self.node().deadline());
        let mut effects = self.step(Input::Tick);
        effects.extend(self.sync());
        effects
    }

    /// A candidate that B would vote for.
    fn candidate(members: usize) -> Self {
        let mut bench = Self::of(members);
        bench.expire();
        bench.would_vote();
        assert_eq!(bench.node().role(), "candidate");
        bench
    }

    fn would_vote(&mut self) -> Vec<Effect> {
        let term = self.node().term().get();
        self.hear(B, term, Message::PreVoteGranted { echo: self.now })
    }

    /// A leader of three, whose first entry B has.
    fn leader() -> Self {
        let mut bench = Self::candidate(3);
        let term = bench.node().term().get();
        bench.hear(B, term, Message::VoteGranted);
        assert_eq!(bench.node().role(), "leader");
        let effects = bench.acknowledge(B);
        assert!(gained(&effects), "{effects:?}");
        bench
    }

    /// That follower acknowledges everything, as of now.
    fn acknowledge(&mut self, follower: NodeId) -> Vec<Effect> {
        let (term, matched) = (self.node().term().get(), self.node().log().last().index);
        self.hear(
            follower,
            term,
            Message::Appended { matched, echo: self.now, stands: Some(Priority::DEFAULT) },
        )
    }

    fn restart(self) -> Self {
        let mut again = Self::just_started(3, self.disk);
        again.now = again.now.max(self.now);
        again
    }
}

/// The configuration of a member whose group has met.
fn config(members: usize) -> CoreConfig {
    CoreConfig {
        me: ME,
        members: Members::of(members).unwrap(),
        cluster: CLUSTER,
        timing: Timing::DEFAULT,
        limits: Limits::DEFAULT,
        voting_rights: VotingRights::Full,
        directory: DirectoryId::in_tests(ME),
        moves: crate::raft::preference::MoveDelays::DEFAULT,
        founders: FirstDirectories::all_of(Members::of(members).unwrap()),
        mutant: None,
    }
}

fn at_time(now: Timestamp) -> Now {
    Now { boot_time: now, today: TimeOfDay(0), draw: Random(0) }
}

fn envelope(from: NodeId, to: NodeId, term: u64, message: Message) -> Envelope {
    let directory = DirectoryId::in_tests(from);
    Envelope { cluster: CLUSTER, from, to, directory, term: Term::new(term), message }
}

fn at(index: u64, term: u64) -> Position {
    Position { term: Term::new(term), index: Index::new(index) }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { at: at(index, term), payload: Payload::Record(Arc::from(*b"x")) }
}

fn append(previous: Position, entries: &[Entry]) -> Message {
    let (commit, sent) = (Index::ZERO, Timestamp::from_nanos(7));
    Message::Append { previous, entries: entries.to_vec(), commit, sent }
}

fn ask(last: Position) -> Message {
    Message::RequestVote { last, transfer: false }
}

fn sent(effects: &[Effect]) -> Vec<(NodeId, &Message)> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Send(envelope) => Some((envelope.to, &envelope.message)),
        _ => None,
    });
    messages.collect()
}

fn is_timeout_now(message: &Message) -> bool {
    matches!(message, Message::TimeoutNow { .. })
}

fn votes(effects: &[Effect]) -> usize {
    sent(effects).iter().filter(|(_, message)| **message == Message::VoteGranted).count()
}

fn gained(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Leadership(LeadershipChange::Gained { .. })))
}

fn lost(effects: &[Effect]) -> Option<Loss> {
    effects.iter().find_map(|effect| match effect {
        Effect::Leadership(LeadershipChange::Lost { loss, .. }) => Some(*loss),
        _ => None,
    })
}

fn until(effects: &[Effect]) -> Option<Timestamp> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Leadership(
            LeadershipChange::Gained { until, .. } | LeadershipChange::Extended { until, .. },
        ) => Some(*until),
        _ => None,
    })
}

/// "There is no logic that refuses a RequestVote by the log, so there is a bug."
#[test]
fn seed_1_a_candidate_with_an_older_log_gets_no_vote() {
    let mut bench = Bench::of(3);
    bench.hear(B, 2, append(at(0, 0), &[entry(1, 1), entry(2, 2)]));
    bench.pass(Timing::DEFAULT.shortest());
    assert_eq!(votes(&bench.hear(C, 3, ask(at(9, 1)))), 0, "longer, but of an older term");
    assert_eq!(votes(&bench.hear(C, 3, ask(at(1, 2)))), 0, "shorter");
    assert_eq!(votes(&bench.hear(C, 3, ask(at(2, 2)))), 1);
}

/// "AppendEntries succeeds whenever the term is not lower."
#[test]
fn seed_1_entries_that_do_not_fit_are_rejected() {
    let mut bench = Bench::of(3);
    let effects = bench.hear(B, 1, append(at(3, 1), &[entry(4, 1)]));
    assert!(matches!(sent(&effects)[..], [(B, Message::Rejected { .. })]), "{effects:?}");
    assert_eq!(bench.node().log().last(), Position::START);
}

/// "It should at once become a follower of that term; it hears the leader many times, its own term
/// unchanged."
#[test]
fn seed_1_a_server_takes_over_the_term_of_the_leader_it_hears_at_once() {
    let mut bench = Bench::of(3);
    bench.hear(B, 4, append(at(0, 0), &[]));
    assert_eq!((bench.node().term(), bench.node().leader()), (Term::new(4), Some(B)));
}

/// "Wrong order": votes for term 2 and 3 arrive when the candidate is in term 4.
#[test]
fn seed_1_a_vote_of_an_older_term_does_not_count() {
    let mut bench = Bench::candidate(3);
    bench.expire();
    bench.would_vote();
    assert_eq!(bench.node().term(), Term::new(2));
    bench.hear(B, 1, Message::VoteGranted);
    assert_eq!(bench.node().role(), "candidate");
    bench.hear(B, 2, Message::VoteGranted);
    assert_eq!(bench.node().role(), "leader");
}

/// 6.2: "I forgot this, and several servers had half of the votes and all said they were leader."
#[test]
fn seed_3_no_server_votes_twice_in_a_term_not_even_after_a_restart() {
    let mut bench = Bench::of(3);
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 1);
    assert_eq!(votes(&bench.hear(C, 1, ask(at(0, 0)))), 0);
    let mut bench = bench.restart();
    bench.pass(Timing::DEFAULT.shortest());
    assert_eq!(votes(&bench.hear(C, 1, ask(at(0, 0)))), 0);
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 1, "the same vote, once more");
}

/// The vote counter of the seed counted answers, regardless of the sender.
#[test]
fn seed_3_one_vote_that_comes_twice_is_one_vote() {
    let mut bench = Bench::of(5);
    bench.expire();
    let term = bench.node().term().get();
    for voter in [B, B, C] {
        assert_eq!(bench.node().role(), "pre-candidate");
        bench.hear(voter, term, Message::PreVoteGranted { echo: bench.now });
    }
    bench.hear(B, 1, Message::VoteGranted);
    bench.hear(B, 1, Message::VoteGranted);
    assert_eq!(bench.node().role(), "candidate");
    bench.hear(C, 1, Message::VoteGranted);
    assert_eq!(bench.node().role(), "leader");
}

/// The seed left `LastLogIndex: 0 // todo` in its request.
#[test]
fn seed_3_a_request_for_a_vote_says_where_the_log_ends() {
    let mut bench = Bench::of(3);
    bench.hear(B, 2, append(at(0, 0), &[entry(1, 1), entry(2, 2)]));
    bench.expire();
    let effects = bench.would_vote();
    let request = Message::RequestVote { last: at(2, 2), transfer: false };
    assert_eq!(sent(&effects), [(B, &request), (C, &request)]);
}

/// 6.3: a leader that hears no member gives up by itself. The seed then set `votedFor = -1` in the same
/// term, so that it could vote twice in it.
#[test]
fn seed_3_a_leader_without_answers_stops_and_keeps_its_vote() {
    let mut bench = Bench::leader();
    let mut loss = None;
    while bench.node().role() == "leader" {
        loss = lost(&bench.expire());
    }
    assert_eq!(loss, Some(Loss::Expired));
    assert_eq!(bench.node().ballot().vote, Some(ME));
    bench.pass(Timing::DEFAULT.shortest());
    assert_eq!(votes(&bench.hear(C, 1, ask(at(9, 0)))), 0);
}

/// 6.3, the other half: it comes back, and is told so by the first answer.
#[test]
fn seed_3_a_leader_of_an_older_term_steps_down_when_told() {
    let mut bench = Bench::leader();
    let effects = bench.hear(C, 7, Message::Outdated);
    assert_eq!(lost(&effects), Some(Loss::Superseded));
    assert_eq!((bench.node().role(), bench.node().term()), ("follower", Term::new(7)));
}

/// 6.4: "why does my cluster elect again and again?" The leader did not count its answers. And the
/// seed's cure counted any single one.
#[test]
fn seed_3_a_leader_stays_by_a_majoritys_answers_and_by_no_fewer() {
    let mut bench = Bench::leader();
    for _ in 0..100 {
        bench.expire();
        bench.acknowledge(C);
        assert_eq!(bench.node().role(), "leader");
    }

    let mut five = Bench::of(5);
    five.expire();
    five.would_vote();
    five.hear(C, 0, Message::PreVoteGranted { echo: five.now });
    five.hear(B, 1, Message::VoteGranted);
    five.hear(C, 1, Message::VoteGranted);
    assert_eq!(five.node().role(), "leader");
    let start = five.now;
    while five.node().role() == "leader" {
        five.expire();
        five.acknowledge(B);
        assert!(five.now < start + Timing::DEFAULT.shortest(), "one answer is not a majority of five");
    }
}

/// The fourth seed: terms reached 123, for want of a pre-vote.
#[test]
fn seed_4_a_server_that_is_cut_off_keeps_its_term() {
    let mut bench = Bench::of(3);
    for _ in 0..100 {
        bench.expire();
    }
    assert_eq!((bench.node().role(), bench.node().term()), ("pre-candidate", Term::ZERO));
}

#[test]
fn contract_1_a_leader_claims_nothing_before_an_entry_of_its_term_is_committed() {
    let mut bench = Bench::candidate(3);
    let effects = bench.hear(B, 1, Message::VoteGranted);
    assert_eq!(bench.node().role(), "leader");
    assert!(!gained(&effects));
    let heartbeat_answered =
        Message::Appended { matched: Index::ZERO, echo: bench.now, stands: Some(Priority::DEFAULT) };
    assert!(!gained(&bench.hear(B, 1, heartbeat_answered)));
    let effects = bench.acknowledge(B);
    let token = FencingToken::new(1);
    let until = Timing::DEFAULT.valid_until(bench.now);
    assert!(effects.contains(&Effect::Leadership(LeadershipChange::Gained { token, until })), "{effects:?}");
}

#[test]
fn contract_1_a_restarted_leader_claims_nothing() {
    let mut bench = Bench::leader().restart();
    assert_eq!((bench.node().role(), bench.node().term()), ("follower", Term::new(1)));
    assert!(!gained(&bench.acknowledge(B)));
}

#[test]
fn contract_2_validity_counts_from_the_send_of_what_a_majority_answered() {
    let mut bench = Bench::leader();
    let before = bench.expire();
    assert_eq!(until(&before), None, "its own word is not an answer");
    let sent = bench.now;
    bench.pass(Duration::from_millis(120));
    let matched = bench.node().log().last().index;
    let effects =
        bench.hear(C, 1, Message::Appended { matched, echo: sent, stands: Some(Priority::DEFAULT) });
    assert_eq!(until(&effects), Some(Timing::DEFAULT.valid_until(sent)));
}

#[test]
fn contract_2_an_answer_that_comes_too_late_revives_nothing() {
    let mut bench = Bench::leader();
    let sent = bench.now;
    bench.pass(Timing::DEFAULT.shortest());
    let effects = bench.hear(
        B,
        1,
        Message::Appended { matched: Index::new(1), echo: sent, stands: Some(Priority::DEFAULT) },
    );
    assert_eq!((lost(&effects), until(&effects)), (Some(Loss::Expired), None));
}

#[test]
fn an_answer_to_what_was_never_sent_is_refused() {
    let mut bench = Bench::leader();
    let later = bench.now + Duration::from_secs(60);
    let effects = bench.hear(
        C,
        1,
        Message::Appended { matched: Index::ZERO, echo: later, stands: Some(Priority::DEFAULT) },
    );
    assert_eq!(until(&effects), None);
    bench.hear(
        C,
        1,
        Message::Appended { matched: Index::new(99), echo: bench.now, stands: Some(Priority::DEFAULT) },
    );
    assert_eq!(bench.node().refusals().of(IgnoreReason::Impossible), 2);
}

#[test]
fn a_group_of_one_elects_itself_and_stays_valid_by_its_own_clock() {
    let mut bench = Bench::of(1);
    let mut effects = bench.expire();
    effects.extend(bench.sync());
    assert!(gained(&effects), "{effects:?}");
    for _ in 0..20 {
        let effects = bench.expire();
        assert_eq!(until(&effects), Some(Timing::DEFAULT.valid_until(bench.now)));
    }
    // Frozen for longer than its validity, it begins a new term: the old claim stays ended.
    bench.pass(Duration::from_secs(1));
    assert_eq!(lost(&bench.expire()), Some(Loss::Expired));
    let effects = bench.expire();
    let token = FencingToken::new(2);
    assert!(matches!(
        effects[..],
        [.., Effect::Leadership(LeadershipChange::Gained { token: gained, .. })] if gained == token
    ));
}

#[test]
fn nothing_that_rests_on_a_write_is_said_before_it_is_durable() {
    let mut bench = Bench::of(3);
    let effects = bench.step(Input::Receive(envelope(B, ME, 1, ask(at(0, 0)))));
    assert_eq!(sent(&effects), []);
    assert_eq!(votes(&bench.sync()), 1);

    let entries = append(at(0, 0), &[entry(1, 1)]);
    let effects = bench.step(Input::Receive(envelope(B, ME, 1, entries)));
    assert_eq!(sent(&effects), []);
    let echo = Timestamp::from_nanos(7);
    // A heartbeat meanwhile is answered at once, but only for durable entries.
    let effects = bench.step(Input::Receive(envelope(B, ME, 1, append(at(1, 1), &[]))));
    assert_eq!(
        sent(&effects),
        [(B, &Message::Appended { matched: Index::ZERO, echo, stands: Some(Priority::DEFAULT) })]
    );
    let effects = bench.sync();
    assert_eq!(
        sent(&effects),
        [(B, &Message::Appended { matched: Index::new(1), echo, stands: Some(Priority::DEFAULT) })]
    );
}

#[test]
fn a_candidate_does_not_count_its_own_vote_before_it_is_durable() {
    let mut bench = Bench::of(1);
    bench.pass(Timing::DEFAULT.longest());
    bench.step(Input::Tick);
    assert_eq!(bench.node().role(), "candidate");
    bench.sync();
    assert_eq!(bench.node().role(), "leader");
}

#[test]
fn a_voter_that_hears_a_leader_votes_for_no_other_and_keeps_its_term() {
    let mut bench = Bench::of(3);
    bench.hear(B, 1, append(at(0, 0), &[]));
    bench.pass(Timing::DEFAULT.shortest() - Duration::from_nanos(1));
    let asked = Message::PreVote { last: at(9, 1), sent: bench.now };
    assert_eq!(sent(&bench.hear(C, 1, asked.clone())), []);
    assert_eq!(votes(&bench.hear(C, 2, ask(at(9, 1)))), 0);
    assert_eq!(bench.node().term(), Term::new(1));
    bench.pass(Duration::from_nanos(1));
    assert_eq!(sent(&bench.hear(C, 1, asked)).len(), 1);
    assert_eq!(votes(&bench.hear(C, 2, ask(at(9, 1)))), 1);
}

#[test]
fn a_later_term_does_not_make_a_voter_forget_the_leader_it_heard() {
    let mut bench = Bench::of(3);
    bench.hear(B, 1, append(at(0, 0), &[]));
    bench.hear(C, 5, Message::Outdated);
    assert_eq!(bench.node().term(), Term::new(5));
    assert_eq!(votes(&bench.hear(C, 6, ask(at(9, 1)))), 0);
}

#[test]
fn a_restarted_voter_waits_because_it_may_have_heard_a_leader() {
    let mut bench = Bench::just_started(3, Stored::nothing());
    bench.pass(Timing::DEFAULT.shortest() - Duration::from_nanos(1));
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 0);
    bench.pass(Duration::from_nanos(1));
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 1);
}

#[test]
fn a_leader_that_is_valid_is_not_deposed_by_a_request_for_a_vote() {
    let mut bench = Bench::leader();
    assert_eq!(bench.hear(C, 9, ask(at(99, 8))), vec![]);
    assert_eq!((bench.node().role(), bench.node().term()), ("leader", Term::new(1)));
}

#[test]
fn leadership_is_given_up_before_the_successor_is_told_and_not_taken_back() {
    let mut bench = Bench::leader();
    let effects = bench.step(Input::Resign);
    let told = effects.iter().position(|it| matches!(it, Effect::Send(e) if is_timeout_now(&e.message)));
    let ended = effects.iter().position(|it| matches!(it, Effect::Leadership(LeadershipChange::Lost { .. })));
    assert!(ended.unwrap() < told.unwrap(), "{effects:?}");
    assert_eq!(bench.node().role(), "follower");
    assert_eq!(until(&bench.acknowledge(B)), None);
    // The successor's request is granted at once, by this one and by those that heard it.
    let request = Message::RequestVote { last: at(1, 1), transfer: true };
    assert_eq!(votes(&bench.hear(B, 2, request)), 1);
}

#[test]
fn of_two_who_ask_at_one_time_only_one_begins_a_term() {
    let mut bench = Bench::of(3);
    bench.expire();
    let asked = Message::PreVote { last: at(0, 0), sent: bench.now };
    assert_eq!(sent(&bench.hear(B, 0, asked)), [(B, &Message::PreVoteGranted { echo: bench.now })]);
    // B would vote for this one, too, and has begun a term by now.
    assert_eq!(bench.would_vote(), vec![]);
    assert_eq!((bench.node().role(), bench.node().term()), ("follower", Term::new(0)));
    assert_eq!(votes(&bench.hear(B, 1, Message::RequestVote { last: at(0, 0), transfer: false })), 1);
}

#[test]
fn a_leader_that_resigned_lets_the_others_go_first_if_there_are_any() {
    let (mut of_three, mut alone) = (Bench::leader(), Bench::of(1));
    assert!(gained(&alone.expire()));
    for (bench, timeouts) in [(&mut of_three, 3), (&mut alone, 1)] {
        bench.step(Input::Resign);
        let waits = bench.node().deadline().since(bench.now);
        let longest = Timing::DEFAULT.longest();
        assert!((longest * (timeouts - 1)..=longest * timeouts).contains(&waits), "{waits:?}");
    }
}

#[test]
fn a_successor_is_brought_up_to_date_before_it_is_told_to_campaign() {
    let mut bench = Bench::leader();
    bench.step(Input::Propose(vec![proposal(1, b"late")]));
    bench.sync();
    let effects = bench.step(Input::Resign);
    assert_eq!(lost(&effects), Some(Loss::Resigned), "belief ends at once all the same");
    assert!(!sent(&effects).iter().any(|(_, message)| is_timeout_now(message)));
    let effects = bench.acknowledge(B);
    assert!(matches!(sent(&effects).last(), Some((B, Message::TimeoutNow { .. }))));
}

#[test]
fn contract_12_the_candidate_with_the_longest_log_takes_over() {
    for (b_stands, c_stands, told) in
        [(true, true, Some(B)), (false, true, Some(C)), (true, false, Some(B)), (false, false, None)]
    {
        let mut bench = Bench::leader();
        let (term, echo, last) = (bench.node().term().get(), bench.now, bench.node().log().last().index);
        bench.hear(
            B,
            term,
            Message::Appended { matched: last, echo, stands: b_stands.then_some(Priority::DEFAULT) },
        );
        bench.hear(
            C,
            term,
            Message::Appended { matched: Index::ZERO, echo, stands: c_stands.then_some(Priority::DEFAULT) },
        );
        let mut effects = bench.step(Input::Resign);
        assert_eq!(bench.node().role() == "leader", told == Some(C), "it waits until C has all");
        effects.extend(bench.hear(
            C,
            term,
            Message::Appended { matched: last, echo, stands: c_stands.then_some(Priority::DEFAULT) },
        ));
        let word = |(to, message): &(NodeId, &Message)| (is_timeout_now(message)).then_some(*to);
        assert_eq!(sent(&effects).iter().find_map(word), told);
    }
}

impl Bench {
    /// A server that takes no part and has the newest log; C asks for its vote in vain, long after the last leader.
    fn needed() -> Self {
        let mut bench = Self::of(3);
        bench.step(Input::Withdraw);
        bench.hear(B, 1, append(at(0, 0), &[entry(1, 1), entry(2, 1)]));
        bench.pass(Timing::DEFAULT.longest() * 2);
        bench.is_asked(C);
        bench
    }

    /// A candidate with an older log asks for a pre-vote.
    fn is_asked(&mut self, candidate: NodeId) {
        let (term, sent) = (self.node().term().get(), self.now);
        assert_eq!(self.hear(candidate, term, Message::PreVote { last: at(1, 1), sent }), vec![]);
    }

    /// The same, elected by C.
    fn caretaker() -> Self {
        let mut bench = Self::needed();
        bench.expire();
        bench.hear(C, 1, Message::PreVoteGranted { echo: bench.now });
        let effects = bench.hear(C, 2, Message::VoteGranted);
        assert_eq!(bench.node().role(), "caretaker");
        assert_eq!(sent(&effects).len(), 2, "heartbeats");
        bench
    }
}

#[test]
fn contract_12_a_caretaker_brings_a_candidate_up_to_date_and_hands_over() {
    let mut bench = Bench::caretaker();
    let (echo, last) = (bench.now, bench.node().log().last());
    assert_eq!(last, at(2, 1), "it appends nothing");
    let stranger = Message::Appended { matched: last.index, echo, stands: None };
    assert_eq!(bench.hear(B, 2, stranger), vec![], "B does not stand");
    let conflict = Conflict { term: None, first: Index::new(2) };
    let behind = Message::Rejected { previous: last.index, conflict, echo, stands: Some(Priority::DEFAULT) };
    let effects = bench.hear(C, 2, behind);
    assert!(matches!(sent(&effects)[..], [(C, Message::Append { .. })]), "{effects:?}");
    let why = Declined::NotLeading { leader: None };
    let declined = [Effect::Declined { proposal: ProposalId(1), why }];
    assert_eq!(bench.step(Input::Propose(vec![proposal(1, b"x")])), declined);
    let effects =
        bench.hear(C, 2, Message::Appended { matched: last.index, echo, stands: Some(Priority::DEFAULT) });
    assert_eq!(
        effects,
        [Effect::Send(envelope(ME, C, 2, Message::TimeoutNow { farewell: None }))],
        "and it claims nothing"
    );
    assert_eq!(bench.node().role(), "follower");
    let request = Message::RequestVote { last, transfer: true };
    assert_eq!(votes(&bench.hear(C, 3, request)), 1);
}

#[test]
fn only_a_server_that_is_needed_is_a_caretaker() {
    let asks = |mut bench: Bench| !sent(&bench.expire()).is_empty();
    assert!(asks(Bench::needed()));

    let mut revoked = Bench::needed();
    revoked.step(Input::VotingRights(VotingRights::Revoked));
    assert!(!asks(revoked), "it has no vote");

    let mut led = Bench::needed();
    let heartbeat = append(at(2, 1), &[]);
    led.hear(B, 1, heartbeat);
    led.is_asked(C);
    assert!(!asks(led), "there was a leader");

    let mut forgotten = Bench::needed();
    forgotten.pass(Timing::DEFAULT.longest() * 2);
    assert!(!asks(forgotten), "the candidate is gone");

    let mut stuck = Bench::needed();
    stuck.step(Input::Receive(envelope(C, ME, 7, Message::Outdated)));
    stuck.now = stuck.now.max(stuck.node().deadline());
    assert_eq!(stuck.step(Input::Tick), vec![], "its disk has not kept the last term");
}

#[test]
fn a_caretaker_without_progress_ends_and_rests() {
    let mut bench = Bench::caretaker();
    let progress = bench.now + Timing::DEFAULT.heartbeat() * 6;
    let still = |bench: &mut Bench| {
        let matched = Index::new(u64::from(bench.now >= progress));
        let behind = Message::Appended { matched, echo: bench.now, stands: Some(Priority::DEFAULT) };
        bench.hear(C, 2, behind);
        bench.expire();
        bench.is_asked(C);
        bench.node().role() == "caretaker"
    };
    while still(&mut bench) {}
    let longest = Timing::DEFAULT.longest();
    assert_eq!(bench.now, progress + longest);
    while sent(&bench.expire()).is_empty() {
        bench.is_asked(C);
    }
    assert!(bench.now >= progress + longest * 5, "it rests for as long as an election may take");
    assert!(bench.now < progress + longest * 6);
}

#[test]
fn a_server_that_was_told_to_take_over_campaigns_at_once_and_says_why() {
    let mut bench = Bench::of(3);
    bench.hear(B, 1, append(at(0, 0), &[]));
    let effects = bench.hear(B, 1, Message::TimeoutNow { farewell: None });
    let request = Message::RequestVote { last: at(0, 0), transfer: true };
    assert_eq!(sent(&effects), [(B, &request), (C, &request)]);
    // Not won: the next attempt is an ordinary one.
    bench.expire();
    assert_eq!(bench.node().role(), "pre-candidate");
    bench.would_vote();
    let last = bench.node().log().last();
    assert_eq!((bench.node().role(), last), ("candidate", Position::START));
}

#[test]
fn a_word_to_take_over_of_an_older_term_is_nothing() {
    let mut bench = Bench::of(3);
    bench.hear(C, 2, append(at(0, 0), &[]));
    assert_eq!(bench.hear(B, 1, Message::TimeoutNow { farewell: None }), vec![]);
    assert_eq!((bench.node().role(), bench.node().term()), ("follower", Term::new(2)));
}

#[test]
fn a_server_that_withdrew_votes_and_does_not_campaign() {
    let mut bench = Bench::of(3);
    bench.step(Input::Withdraw);
    assert_eq!(bench.expire(), vec![]);
    assert_eq!(bench.hear(B, 0, Message::TimeoutNow { farewell: None }), vec![]);
    assert_eq!(bench.node().role(), "follower");
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 1);
}

#[test]
fn a_second_leader_of_a_term_is_refused_and_counted() {
    let mut bench = Bench::of(3);
    bench.hear(B, 1, append(at(0, 0), &[]));
    assert_eq!(bench.hear(C, 1, append(at(0, 0), &[entry(1, 1)])), vec![]);
    assert_eq!(bench.node().leader(), Some(B));
    let mut leader = Bench::leader();
    assert_eq!(leader.hear(B, 1, append(at(0, 0), &[])), vec![]);
    assert_eq!(leader.node().role(), "leader");
    let counted = |bench: &Bench| bench.node().refusals().of(IgnoreReason::Impossible);
    assert_eq!((counted(&bench), counted(&leader)), (1, 1));
}

#[test]
fn garbage_deposes_no_leader() {
    let mut bench = Bench::leader();
    let good = envelope(B, ME, 1, Message::Outdated);
    let garbage = [
        Envelope { cluster: ClusterId(2), ..good.clone() },
        Envelope { from: NodeId::new(6), ..good.clone() },
        Envelope { to: C, ..good.clone() },
        Envelope { term: Term::new(u64::MAX), ..good },
    ];
    for envelope in garbage {
        assert_eq!(bench.step(Input::Receive(envelope)), vec![]);
    }
    assert_eq!((bench.node().role(), bench.node().term()), ("leader", Term::new(1)));
    let refusals = bench.node().refusals();
    let all = [
        IgnoreReason::OtherCluster,
        IgnoreReason::UnknownPeer,
        IgnoreReason::NotForUs,
        IgnoreReason::Impossible,
    ];
    assert_eq!(all.map(|refusal| refusals.of(refusal)), [1, 1, 1, 1]);
}

fn proposal(id: u64, record: &[u8]) -> Proposal {
    Proposal { id: ProposalId(id), content: NewEntry::Record(Arc::from(record)) }
}

#[test]
fn proposals_are_taken_by_a_leader_and_declined_by_all_others() {
    let mut follower = Bench::of(3);
    follower.hear(B, 1, append(at(0, 0), &[]));
    let effects = follower.step(Input::Propose(vec![proposal(1, b"x")]));
    let why = Declined::NotLeading { leader: Some(B) };
    assert_eq!(effects, [Effect::Declined { proposal: ProposalId(1), why }]);

    let mut leader = Bench::leader();
    let large = vec![0; Limits::DEFAULT.record + 1];
    let effects = leader.step(Input::Propose(vec![proposal(1, b"x"), proposal(2, &large)]));
    assert_eq!(effects[0], Effect::Accepted { proposal: ProposalId(1), at: at(2, 1) });
    assert_eq!(effects[1], Effect::Declined { proposal: ProposalId(2), why: Declined::TooLarge });
    leader.sync();
    let effects = leader.acknowledge(C);
    assert!(matches!(&effects[..], [Effect::Apply(applied), ..] if applied[0].at == at(2, 1)), "{effects:?}");
}

#[test]
fn a_leader_without_commits_takes_only_so_many() {
    let mut bench = Bench::leader();
    let many = (0..=Limits::DEFAULT.waiting as u64).map(|id| proposal(id, b"x")).collect();
    let effects = bench.step(Input::Propose(many));
    let busy = |effect: &&Effect| matches!(effect, Effect::Declined { why: Declined::Busy, .. });
    assert_eq!(effects.iter().filter(busy).count(), 1);
    // And no more than the bound is under way to each follower.
    let entries = |effect: &Effect| match effect {
        Effect::Send(Envelope { to: B, message: Message::Append { entries, .. }, .. }) => entries.len(),
        _ => 0,
    };
    let under_way: usize = effects.iter().map(entries).sum();
    assert!((1..=Limits::DEFAULT.in_flight).contains(&under_way), "{under_way} entries");
}

impl Bench {
    /// A follower has all, and would take over or not; the disk here gets no time.
    fn is_answered(&mut self, follower: NodeId, stands: bool) -> Vec<Effect> {
        let (term, matched) = (self.node().term().get(), self.node().log().last().index);
        let stands = stands.then_some(Priority::DEFAULT);
        let message = Message::Appended { matched, echo: self.now, stands };
        self.step(Input::Receive(envelope(follower, ME, term, message)))
    }

    /// Heartbeats that are answered, until leadership is lost; at most for that long.
    fn lead_for(&mut self, span: Duration, mut answer: impl FnMut(&mut Self)) -> Option<Loss> {
        let end = self.now + span;
        while self.now < end {
            self.now = self.node().deadline();
            let loss = lost(&self.step(Input::Tick));
            if loss.is_some() {
                return loss;
            }
            answer(self);
        }
        None
    }
}

#[test]
fn contract_12_a_leader_whose_disk_hangs_hands_over_once_its_holder_has_let_go() {
    let mut bench = Bench::leader();
    let (asked, longest) = (bench.now, Timing::DEFAULT.longest());
    bench.step(Input::Propose(vec![proposal(1, b"x")]));
    let loss = bench.lead_for(longest * 4, |bench| {
        let effects = bench.is_answered(B, true);
        assert!(!sent(&effects).iter().any(|(_, message)| is_timeout_now(message)));
    });
    assert_eq!(loss, Some(Loss::Transferred));
    assert!(bench.now >= asked + longest * 2);
    assert!(bench.now < asked + longest * 2 + Timing::DEFAULT.heartbeat());
    assert_eq!(bench.is_answered(B, true), vec![], "the holder is at work still");
    let effects = bench.step(Input::LetGo);
    assert!(matches!(sent(&effects)[..], [(B, Message::TimeoutNow { .. })]));
    assert_eq!(bench.node().role(), "follower");
}

#[test]
fn a_leader_whose_disk_hangs_leads_on_where_no_other_would_do_better() {
    let behind = |bench: &mut Bench| {
        let (term, echo) = (bench.node().term().get(), bench.now);
        let message = Message::Appended { matched: Index::new(1), echo, stands: Some(Priority::DEFAULT) };
        bench.step(Input::Receive(envelope(B, ME, term, message)));
    };
    let idle = |bench: &mut Bench| drop(bench.is_answered(B, false));
    for answer in [&behind as &dyn Fn(&mut Bench), &idle] {
        let mut bench = Bench::leader();
        bench.step(Input::Propose(vec![proposal(1, b"x")]));
        assert_eq!(bench.lead_for(Timing::DEFAULT.longest() * 6, answer), None);
    }
}

#[test]
fn a_follower_whose_disk_hangs_says_that_it_would_not_take_over() {
    let mut bench = Bench::of(3);
    bench.step(Input::Receive(envelope(B, ME, 1, append(at(0, 0), &[entry(1, 1)]))));
    for (waited, expected) in [(Timing::DEFAULT.longest(), true), (Timing::DEFAULT.longest(), false)] {
        bench.pass(waited);
        let effects = bench.step(Input::Receive(envelope(B, ME, 1, append(at(1, 1), &[]))));
        assert!(
            matches!(sent(&effects)[..], [(B, Message::Appended { stands, .. })] if stands.is_some() == expected),
            "{effects:?}"
        );
    }
}

#[test]
fn a_leader_whose_disk_hangs_takes_only_so_many_entries_and_bytes() {
    let Limits { waiting, waiting_bytes, record, .. } = Limits::DEFAULT;
    for (count, bytes, most) in [(waiting + 10, 1, waiting), (300, record, waiting_bytes / record)] {
        let mut bench = Bench::leader();
        let record = vec![0; bytes];
        let mut taken = 0;
        for first in (0..count as u64).step_by(100) {
            let batch = (first..first + 100).map(|id| proposal(id, &record)).collect();
            let effects = bench.step(Input::Propose(batch));
            taken += effects.iter().filter(|effect| matches!(effect, Effect::Accepted { .. })).count();
            bench.is_answered(B, false);
            bench.is_answered(C, false);
        }
        assert_eq!(taken, most);
        assert_eq!(bench.node().committed(), bench.node().log().last().index, "all of it is committed");
        bench.sync();
        let effects = bench.step(Input::Propose(vec![proposal(0, b"x")]));
        assert!(matches!(effects[0], Effect::Accepted { .. }), "{effects:?}");
    }
}

/// Found by the simulation as a run without an end: for each of a thousand rejections of one gap the leader sent a
/// thousand entries anew.
#[test]
fn one_gap_that_is_rejected_many_times_is_filled_once() {
    let mut bench = Bench::leader();
    let echo = bench.now;
    for id in 0..100 {
        bench.step(Input::Propose(vec![proposal(id, b"x")]));
    }
    bench.sync();
    bench.pass(Duration::from_millis(1));
    let conflict = Conflict { term: None, first: Index::new(5) };
    let rejected = |previous| Message::Rejected {
        previous: Index::new(previous),
        conflict,
        echo,
        stands: Some(Priority::DEFAULT),
    };
    assert_eq!(sent(&bench.hear(B, 1, rejected(10))).len(), 1, "it goes back");
    let filled =
        Message::Appended { matched: Index::new(60), echo: bench.now, stands: Some(Priority::DEFAULT) };
    assert_eq!(sent(&bench.hear(B, 1, filled)).len(), 1, "and the rest follows");
    for previous in 61..100 {
        assert_eq!(bench.hear(B, 1, rejected(previous)), vec![], "it knows of that gap");
    }
}

#[test]
fn answers_that_wait_for_a_stuck_disk_are_bounded() {
    let mut bench = Bench::of(3);
    for index in 1..=1000 {
        let entries = append(at(index - 1, u64::from(index > 1)), &[entry(index, 1)]);
        assert_eq!(bench.step(Input::Receive(envelope(B, ME, 1, entries))), vec![]);
    }
    let answers = bench.sync();
    assert_eq!(sent(&answers).len(), Limits::DEFAULT.held);
    let newest = Message::Appended {
        matched: Index::new(1000),
        echo: Timestamp::from_nanos(7),
        stands: Some(Priority::DEFAULT),
    };
    assert_eq!(sent(&answers).last(), Some(&(B, &newest)));
}

#[test]
fn a_value_that_is_proclaimed_goes_through_the_log() {
    let mut bench = Bench::leader();
    let content = NewEntry::Value(Arc::from(*b"new"));
    bench.step(Input::Propose(vec![Proposal { id: ProposalId(1), content }]));
    bench.sync();
    let effects = bench.acknowledge(B);
    let Some(Effect::Apply(applied)) = effects.first() else { panic!("{effects:?}") };
    let Payload::Leadership(word) = &applied[0].payload else { panic!("{applied:?}") };
    assert_eq!((word.who, &*word.value), (ME, &b"new"[..]));
}

#[test]
fn a_disk_that_no_server_of_the_group_wrote_is_refused() {
    let refused =
        |stored: Stored| Node::start(config(3), stored, &at_time(Timestamp::from_nanos(1))).is_err();
    let mut good = Stored::nothing();
    good.ballot.term = Term::new(2);
    good.entries = vec![entry(1, 1), entry(2, 2)];
    assert!(!refused(good.clone()));

    let mut gap = good.clone();
    gap.entries.remove(0);
    let mut later = good.clone();
    later.ballot.term = Term::new(1);
    let mut stranger = good.clone();
    stranger.ballot.vote = Some(NodeId::new(5));
    let mut ahead = good;
    ahead.snapshot = Snapshot {
        at: at(5, 2),
        data: Arc::from([]),
        disks: None,
        record: crate::raft::orders::ElectionRecord::default(),
    };
    for stored in [gap, later, stranger, ahead] {
        assert!(refused(stored.clone()), "{stored:?}");
    }
}

/// The majority that proved the claim waits for its end. The deposed leader, a part of it, has to wait too.
/// The objections among these effects.
fn objections(effects: &[Effect]) -> Vec<Objection> {
    let objection = |effect: &Effect| match effect {
        Effect::Objection { member: B, objection } => Some(*objection),
        _ => None,
    };
    effects.iter().filter_map(objection).collect()
}

fn rejected(previous: u64, echo: Timestamp) -> Message {
    let conflict = Conflict { term: None, first: Index::new(previous) };
    Message::Rejected { previous: Index::new(previous), conflict, echo, stands: Some(Priority::DEFAULT) }
}

#[test]
fn contract_11_a_follower_that_lacks_what_it_had_is_refused() {
    let mut leader = Bench::leader();
    let had = leader.node().log().last().index;
    let learned = leader.now;
    leader.pass(Duration::from_millis(1));
    leader.step(Input::Tick);
    let effects = leader.hear(B, 1, rejected(1, leader.now));
    assert_eq!(objections(&effects), [Objection::LostEntries { had, lacks: Index::new(1) }]);
    // Again, with each answer.
    let effects = leader.hear(B, 1, rejected(1, leader.now));
    assert_eq!(objections(&effects).len(), 1);
    assert!(learned < leader.now);
}

/// The log's last position alone is no proof.
#[test]
fn contract_11_a_rejection_that_is_late_is_no_proof_of_a_loss() {
    let mut leader = Bench::leader();
    let learned = leader.now;
    leader.pass(Duration::from_millis(60));
    leader.step(Input::Tick);
    let propose = Input::Propose(vec![proposal(1, b"record")]);
    leader.step(propose);
    leader.sync();
    // Sent before the leader knew that B has it; it may have overtaken, or have been overtaken by, the entry itself.
    assert_eq!(objections(&leader.hear(B, 1, rejected(1, learned))), []);
    // Behind its known end.
    assert_eq!(objections(&leader.hear(B, 1, rejected(2, leader.now))), []);
    // Sent in the instant when the leader learned it, and so perhaps before.
    leader.acknowledge(B);
    assert_eq!(objections(&leader.hear(B, 1, rejected(2, leader.now))), []);
    // Of a later term, in which B may follow another leader: then this server is none any more.
    leader.pass(Duration::from_millis(1));
    let later = leader.hear(B, 2, rejected(1, leader.now));
    assert_eq!((objections(&later), leader.node().role()), (vec![], "follower"));
}

#[test]
fn contract_8_a_deposed_leader_casts_no_vote_until_its_holder_has_let_go() {
    for (transfer, lets_go) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut bench = Bench::leader();
        let until = bench.now + Timing::DEFAULT.shortest() - Timing::DEFAULT.margin();
        let term = bench.node().term().get();
        let effects = bench.hear(C, term + 1, Message::Outdated);
        assert_eq!(lost(&effects), Some(Loss::Superseded));
        let last = bench.node().log().last();
        let granted = |effects: &[Effect]| {
            let granted =
                |(_, message): &(NodeId, &Message)| matches!(message, Message::PreVoteGranted { .. });
            sent(effects).iter().any(granted)
        };
        let request = Message::RequestVote { last, transfer };
        let question = |bench: &Bench| Message::PreVote { last, sent: bench.now };
        assert_eq!(votes(&bench.hear(C, term + 2, request.clone())), 0);
        let asked = question(&bench);
        let now = bench.node().term().get();
        assert!(!granted(&bench.hear(C, now, asked)));
        if lets_go {
            bench.step(Input::LetGo);
        } else {
            bench.now = until;
        }
        let asked = question(&bench);
        assert!(granted(&bench.hear(C, now, asked)));
        assert_eq!(votes(&bench.hear(C, term + 2, request)), 1);
    }
}

#[test]
fn contract_11_a_server_that_has_not_met_all_neither_votes_nor_campaigns() {
    let mut bench = Bench::of(3);
    for voting_rights in [VotingRights::Waiting, VotingRights::Revoked] {
        bench.step(Input::VotingRights(voting_rights));
        assert_eq!(bench.expire(), vec![], "it asks no member");
        bench.pass(Timing::DEFAULT.longest());
        let (term, sent) = (bench.node().term().get(), bench.now);
        assert_eq!(bench.hear(B, term, Message::PreVote { last: at(0, 0), sent }), vec![]);
        assert_eq!(votes(&bench.hear(B, term + 1, ask(at(0, 0)))), 0);
    }
    bench.step(Input::VotingRights(VotingRights::Full));
    assert_eq!(votes(&bench.hear(B, 9, ask(at(0, 0)))), 0, "what is revoked stays so");
}

#[test]
fn contract_11_a_server_that_has_met_all_votes_from_then_on() {
    let mut bench = Bench::of(3);
    bench.step(Input::VotingRights(VotingRights::Waiting));
    assert_eq!(votes(&bench.hear(B, 1, ask(at(0, 0)))), 0);
    bench.step(Input::VotingRights(VotingRights::Full));
    assert_eq!(votes(&bench.hear(B, 2, ask(at(0, 0)))), 1);
}

/// C's new disk.
const NEW: DirectoryId = DirectoryId::from_bytes([77; 16]);

fn replacement(member: NodeId, directory: DirectoryId) -> Input {
    let content = NewEntry::Replacement { member, directory };
    Input::Propose(vec![Proposal { id: ProposalId(1), content }])
}

fn not_replaced(effects: &[Effect]) -> Option<CannotReplace> {
    effects.iter().find_map(|effect| match effect {
        Effect::Declined { why: Declined::NotReplaced(why), .. } => Some(*why),
        _ => None,
    })
}

#[test]
fn contract_11_from_a_replacement_on_only_the_disk_that_the_log_names_counts() {
    let mut leader = Bench::leader();
    assert_eq!(not_replaced(&leader.step(replacement(C, NEW))), None);
    leader.sync();
    let (committed, last) = (leader.node().committed(), leader.node().log().last().index);
    assert_eq!(leader.node().log().disk(C), Some((MemberDisk::Incoming(NEW), last)));
    leader.acknowledge(C);
    assert_eq!(leader.node().committed(), committed, "that was the old disk");
    let of_the_new_one = |leader: &mut Bench| {
        let (term, matched) = (leader.node().term().get(), leader.node().log().last().index);
        let answer = envelope(C, ME, term, Message::Appended { matched, echo: leader.now, stands: None });
        leader.step(Input::Receive(Envelope { directory: NEW, ..answer }));
        leader.sync();
    };
    of_the_new_one(&mut leader);
    assert_eq!(leader.node().committed(), committed, "it does not count yet");
    leader.acknowledge(B);
    assert_eq!(leader.node().committed(), last);
    // The replacement is committed and the new disk has it, so it is admitted.
    let admitted = last.next();
    assert_eq!(leader.node().log().disk(C), Some((MemberDisk::Voting(NEW), admitted)));
    of_the_new_one(&mut leader);
    assert_eq!(leader.node().committed(), admitted, "now it counts");
}

#[test]
fn contract_11_a_disk_is_not_replaced_without_a_majority_or_two_at_a_time() {
    let why =
        |leader: &mut Bench, member, directory| not_replaced(&leader.step(replacement(member, directory)));
    let mut leader = Bench::leader();
    assert_eq!(why(&mut leader, ME, NEW), Some(CannotReplace::ItLeads));
    assert_eq!(why(&mut leader, C, DirectoryId::in_tests(B)), Some(CannotReplace::AnotherMembers));
    assert_eq!(why(&mut leader, C, DirectoryId::in_tests(C)), Some(CannotReplace::SameDirectory));
    assert_eq!(why(&mut leader, B, NEW), Some(CannotReplace::NoMajorityWithout), "C has not answered");
    assert_eq!(why(&mut leader, C, NEW), None);
    let other = DirectoryId::from_bytes([78; 16]);
    assert_eq!(why(&mut leader, B, other), Some(CannotReplace::OneAtATime));
    assert_eq!(why(&mut leader, C, other), Some(CannotReplace::OneAtATime), "the first is not committed");
}
