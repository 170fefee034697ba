//! Choosing who leads: transfers to a named server, cordons, and the record of terms.

use super::*;
use crate::{
    choosing::{Cordon, OrderedBy, TransferReason},
    raft::{
        orders::{ControlOrder, Farewell, LONGEST_OPERATOR},
        transfer::{CannotTransfer, TransferRequest},
    },
};

const WITHIN: Duration = Duration::from_secs(5);

fn operator() -> OrderedBy {
    OrderedBy::new("ann@desk".to_owned(), std::time::SystemTime::UNIX_EPOCH)
}

fn request(to: NodeId) -> TransferRequest {
    let reason = TransferReason::Ordered(operator());
    TransferRequest { id: ProposalId(7), to, term: None, within: WITHIN, reason }
}

fn refused(effects: &[Effect]) -> Option<CannotTransfer> {
    effects.iter().find_map(|effect| match effect {
        Effect::TransferRefused { order: ProposalId(7), why } => Some(*why),
        _ => None,
    })
}

fn begun(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::TransferBegun { order: Some(ProposalId(7)), .. }))
}

/// The receivers of TimeoutNow, with the leader's last word.
fn told(effects: &[Effect]) -> Vec<(NodeId, Option<Farewell>)> {
    let word = |(to, message): (NodeId, &Message)| match message {
        Message::TimeoutNow { farewell } => Some((to, farewell.clone())),
        _ => None,
    };
    sent(effects).into_iter().filter_map(word).collect()
}

fn control(change: ControlOrder) -> Input {
    Input::Propose(vec![Proposal { id: ProposalId(9), content: NewEntry::Control(change) }])
}

fn cordon(member: NodeId, hard: bool) -> ControlOrder {
    ControlOrder::Cordon { member, cordon: Cordon::new(hard, operator()) }
}

impl Bench {
    /// That follower answers what was sent just now, as one that has all.
    fn answer(&mut self, follower: NodeId) -> Vec<Effect> {
        let mut effects = self.acknowledge(follower);
        effects.extend(self.sync());
        effects
    }

    /// A leader of three, with both others up to date.
    fn followed() -> Self {
        let mut bench = Self::leader();
        bench.answer(C);
        bench.pass(Duration::from_millis(1));
        bench
    }
}

#[test]
fn a_transfer_begins_once_its_target_has_answered_and_has_all() {
    let mut bench = Bench::leader();
    bench.step(Input::Propose(vec![proposal(1, b"late")]));
    bench.sync();
    bench.acknowledge(B);
    let effects = bench.step(Input::Transfer(request(C)));
    assert!(matches!(sent(&effects)[..], [(C, Message::Append { .. })]), "it is asked at once: {effects:?}");
    bench.pass(Timing::DEFAULT.heartbeat());
    let (term, echo) = (bench.node().term().get(), bench.now);
    let behind = Message::Appended { matched: Index::new(1), echo, stands: Some(Priority::DEFAULT) };
    assert!(!begun(&bench.hear(C, term, behind)), "it lacks an entry");
    assert!(!begun(&bench.acknowledge(B)));
    let effects = bench.answer(C);
    assert!(begun(&effects));
    assert_eq!(lost(&effects), Some(Loss::Transferred));
    assert_eq!(told(&effects), [], "the holder is at work still");

    let effects = bench.step(Input::LetGo);
    let reason = Some(TransferReason::Ordered(operator()));
    assert_eq!(told(&effects), [(C, Some(Farewell { at: TimeOfDay(0), reason }))]);
    assert_eq!(bench.node().role(), "follower");
    assert_eq!(until(&bench.acknowledge(B)), None, "and it takes nothing back");
}

#[test]
fn a_target_that_does_not_answer_costs_no_leadership() {
    let mut bench = Bench::followed();
    bench.step(Input::Transfer(request(C)));
    let end = bench.now + Timing::DEFAULT.shortest() + Timing::DEFAULT.heartbeat() * 2;
    let mut why = None;
    while bench.now < end && why.is_none() {
        bench.now = bench.node().deadline();
        let effects = bench.step(Input::Tick);
        why = refused(&effects);
        assert_eq!(lost(&effects), None);
        bench.answer(B);
    }
    assert_eq!(why, Some(CannotTransfer::Silent));
    assert_eq!(bench.node().role(), "leader");
    assert!(!begun(&bench.answer(C)), "it comes too late");
}

#[test]
fn a_target_that_never_catches_up_costs_no_leadership() {
    let mut bench = Bench::followed();
    let within = Timing::DEFAULT.longest() * 3;
    bench.step(Input::Propose(vec![proposal(1, b"late")]));
    bench.sync();
    bench.step(Input::Transfer(TransferRequest { within, ..request(C) }));
    let asked = bench.now;
    let mut why = None;
    while bench.now < asked + within * 2 && why.is_none() {
        bench.now = bench.node().deadline();
        why = refused(&bench.step(Input::Tick));
        bench.answer(B);
        let (term, echo) = (bench.node().term().get(), bench.now);
        let behind = Message::Appended { matched: Index::new(1), echo, stands: Some(Priority::DEFAULT) };
        bench.hear(C, term, behind);
    }
    assert_eq!((why, bench.node().role()), (Some(CannotTransfer::Behind), "leader"));
    assert!(bench.now >= asked + within);
}

#[test]
fn a_transfer_is_refused_with_its_reason_by_a_leader_that_leads_on() {
    let transfer = |bench: &mut Bench, request| refused(&bench.step(Input::Transfer(request)));
    let mut bench = Bench::followed();
    let leads = Term::new(1);
    assert_eq!(transfer(&mut bench, request(ME)), Some(CannotTransfer::ItLeads));
    let other = TransferRequest { term: Some(Term::new(9)), ..request(B) };
    assert_eq!(transfer(&mut bench, other), Some(CannotTransfer::OtherToken { leads }));
    // It withdrew, or its disk hangs: by the answer to what is sent now.
    assert_eq!(transfer(&mut bench, TransferRequest { term: Some(leads), ..request(B) }), None);
    assert_eq!(transfer(&mut bench, request(C)), Some(CannotTransfer::OneAtATime));
    assert_eq!(refused(&bench.is_answered(B, false)), Some(CannotTransfer::DoesNotStand));
    bench.step(control(cordon(B, false)));
    assert_eq!(transfer(&mut bench, request(B)), Some(CannotTransfer::Cordoned));
    bench.step(control(ControlOrder::Pause(operator())));
    assert_eq!(transfer(&mut bench, request(C)), Some(CannotTransfer::Paused));
    assert_eq!(bench.node().role(), "leader");

    let mut fresh = Bench::candidate(3);
    fresh.hear(B, 1, Message::VoteGranted);
    assert_eq!(transfer(&mut fresh, request(B)), Some(CannotTransfer::NothingCommitted));
    let mut follower = Bench::of(3);
    follower.hear(B, 1, append(at(0, 0), &[]));
    assert_eq!(transfer(&mut follower, request(C)), Some(CannotTransfer::NotLeading { leader: Some(B) }));
}

#[test]
fn a_target_that_falls_silent_makes_the_order_void_and_the_best_other_one_leads() {
    let mut bench = Bench::followed();
    bench.step(Input::Transfer(request(C)));
    assert!(begun(&bench.answer(C)));
    let mut effects = Vec::new();
    for _ in 0..10 {
        bench.pass(Timing::DEFAULT.heartbeat());
        effects.extend(bench.step(Input::Tick));
        effects.extend(bench.answer(B));
    }
    assert_eq!(told(&effects), [(B, Some(Farewell { at: TimeOfDay(0), reason: None }))]);
    assert_eq!(bench.node().role(), "follower");
}

#[test]
fn a_leader_that_resigns_while_its_target_catches_up_hands_over_to_that() {
    let mut bench = Bench::followed();
    bench.step(Input::Propose(vec![proposal(1, b"late")]));
    bench.sync();
    bench.answer(B);
    bench.step(Input::Transfer(request(C)));
    let mut effects = bench.step(Input::Resign);
    assert!(begun(&effects) && told(&effects).is_empty(), "C lacks an entry");
    effects.extend(bench.answer(C));
    assert_eq!(told(&effects).first().map(|(to, _)| *to), Some(C));
}

#[test]
fn a_leader_that_is_deposed_refuses_a_transfer_that_has_not_begun() {
    let mut bench = Bench::followed();
    bench.step(Input::Transfer(request(C)));
    let effects = bench.step(Input::Receive(envelope(B, ME, 5, Message::Outdated)));
    assert_eq!(refused(&effects), Some(CannotTransfer::LostMeanwhile));
    assert_eq!(lost(&effects), Some(Loss::Superseded));
}

impl Bench {
    /// A follower of B whose log ends with these orders.
    fn ordered(changes: impl IntoIterator<Item = ControlOrder>) -> Self {
        let mut bench = Self::of(3);
        let mut orders = bench.node().log().orders().clone();
        for change in changes {
            orders = orders.with(change);
        }
        let last = Entry { at: at(2, 1), payload: Payload::Controls(orders) };
        bench.hear(B, 1, append(at(0, 0), &[entry(1, 1), last]));
        bench
    }

    /// Time from now on until it asks for votes, if it does within ten of the longest timeouts.
    fn campaigns_after(&mut self) -> Option<Duration> {
        let start = self.now;
        while self.now < start + Timing::DEFAULT.longest() * 10 {
            if !sent(&self.expire()).is_empty() {
                return Some(self.now.since(start));
            }
        }
        None
    }
}

#[test]
fn a_cordoned_server_campaigns_only_after_all_others_had_the_time() {
    let longest = Timing::DEFAULT.longest();
    let free = Bench::ordered([]).campaigns_after().unwrap();
    assert!(free <= longest);
    let soft = Bench::ordered([cordon(ME, false)]).campaigns_after().unwrap();
    assert!(soft >= longest * 2 && soft <= longest * 3, "{soft:?}");
    assert_eq!(Bench::ordered([cordon(ME, true)]).campaigns_after(), None);
    let uncordoned = [cordon(ME, true), ControlOrder::Uncordon { member: ME }];
    assert!(Bench::ordered(uncordoned).campaigns_after().unwrap() <= longest);
    assert!(Bench::ordered([cordon(C, true)]).campaigns_after().unwrap() <= longest, "another one is");
}

#[test]
fn a_cordon_survives_a_restart_and_is_gone_with_an_entry_that_is_overwritten() {
    let mut again = Bench::ordered([cordon(ME, true)]).restart();
    assert_eq!(again.campaigns_after(), None);
    let previous = at(1, 1);
    again.hear(C, 2, append(previous, &[entry(2, 2)]));
    assert!(again.campaigns_after().is_some(), "the later leader's log has no cordon");
}

#[test]
fn a_cordoned_server_votes_and_hands_its_newer_log_on() {
    let mut bench = Bench::ordered([cordon(ME, true)]);
    bench.pass(Timing::DEFAULT.longest() * 2);
    bench.is_asked(C);
    bench.expire();
    bench.hear(C, 1, Message::PreVoteGranted { echo: bench.now });
    bench.hear(C, 2, Message::VoteGranted);
    assert_eq!(bench.node().role(), "caretaker");

    let mut soft = Bench::ordered([cordon(ME, false)]);
    soft.pass(Timing::DEFAULT.longest() * 2);
    soft.is_asked(C);
    soft.expire();
    soft.hear(C, 1, Message::PreVoteGranted { echo: soft.now });
    soft.hear(C, 2, Message::VoteGranted);
    assert_eq!(soft.node().role(), "caretaker", "another one stands, and lacks only its log");

    let mut voter = Bench::ordered([cordon(ME, true)]);
    voter.pass(Timing::DEFAULT.longest());
    assert_eq!(votes(&voter.hear(C, 2, ask(at(2, 1)))), 1);
}

#[test]
fn a_last_resort_leads_if_no_other_stands() {
    let mut bench = Bench::ordered([cordon(ME, false)]);
    bench.campaigns_after().unwrap();
    bench.hear(C, 1, Message::PreVoteGranted { echo: bench.now });
    bench.hear(C, 2, Message::VoteGranted);
    assert_eq!(bench.node().role(), "leader");
    assert!(gained(&bench.acknowledge(C)));
}

#[test]
fn the_log_tells_of_past_terms_and_a_snapshot_keeps_them() {
    let mut bench = Bench::of(3);
    let farewell = Farewell { at: TimeOfDay(40), reason: Some(TransferReason::Program) };
    let start = |index, term, who, farewell: Option<Farewell>| {
        let (value, since) = (Arc::from(*b"x"), TimeOfDay(10 * term));
        let announcement = crate::raft::log::Proclamation { who, value, since, address: None, farewell };
        Entry { at: at(index, term), payload: Payload::Leadership(announcement) }
    };
    let entries =
        [start(1, 1, B, None), start(2, 1, B, None), start(3, 4, C, Some(farewell.clone())), entry(4, 4)];
    let previous = Position::START;
    let committed = Message::Append {
        previous,
        entries: entries.to_vec(),
        commit: Index::new(4),
        sent: Timestamp::from_nanos(1),
    };
    bench.hear(C, 4, committed);
    let terms = bench.node().log().terms_at(Index::new(4));
    let short: Vec<_> = terms.iter().map(|start| (start.who, start.term.get())).collect();
    assert_eq!(short, [(B, 1), (C, 4)]);
    assert_eq!(terms[1].farewell, Some(farewell));
    assert_eq!(bench.node().log().terms_at(Index::new(2)).len(), 1);

    bench.step(Input::Compact(crate::raft::log::Compacted { at: at(4, 4), data: Arc::from([]) }));
    bench.sync();
    assert_eq!(bench.node().log().snapshot().at, at(4, 4));
    assert_eq!(bench.node().log().terms_at(Index::new(4)), terms);
    assert_eq!(bench.restart().node().log().terms_at(Index::new(4)), terms);
}

#[test]
fn a_snapshot_keeps_the_standing_orders() {
    let mut bench = Bench::ordered([cordon(C, true)]);
    let (term, sent) = (bench.node().term().get(), bench.now);
    bench.hear(
        B,
        term,
        Message::Append { previous: at(2, 1), entries: Vec::new(), commit: Index::new(2), sent },
    );
    bench.step(Input::Compact(crate::raft::log::Compacted { at: at(2, 1), data: Arc::from([]) }));
    bench.sync();
    assert_eq!(bench.node().log().snapshot().at, at(2, 1));
    assert!(bench.restart().node().log().orders().cordon(C).is_some());
}

#[test]
fn orders_without_bound_are_refused() {
    let mut bench = Bench::of(3);
    let by = OrderedBy::new("x".repeat(LONGEST_OPERATOR + 1), std::time::SystemTime::UNIX_EPOCH);
    let orders = bench.node().log().orders().with(ControlOrder::Pause(by.clone()));
    let stranger = bench.node().log().orders().with(cordon(NodeId::new(3), false));
    for orders in [orders, stranger] {
        let entry = Entry { at: at(1, 1), payload: Payload::Controls(orders) };
        assert_eq!(bench.hear(B, 1, append(at(0, 0), &[entry])), vec![]);
    }
    let farewell = Some(Farewell { at: TimeOfDay(0), reason: Some(TransferReason::Ordered(by)) });
    assert_eq!(bench.hear(B, 1, Message::TimeoutNow { farewell }), vec![]);
    let refusals = bench.node().refusals();
    assert_eq!((refusals.of(IgnoreReason::Impossible), refusals.of(IgnoreReason::TooLarge)), (2, 1));
}

#[test]
fn the_last_word_of_a_leader_is_in_its_successors_first_entry() {
    let mut bench = Bench::of(3);
    bench.hear(B, 1, append(at(0, 0), &[]));
    let farewell = Some(Farewell { at: TimeOfDay(3), reason: None });
    bench.hear(B, 1, Message::TimeoutNow { farewell: farewell.clone() });
    bench.hear(C, 2, Message::VoteGranted);
    assert_eq!(bench.node().role(), "leader");
    assert_eq!(bench.node().log().terms_at(Index::new(1))[0].farewell, farewell);
}
