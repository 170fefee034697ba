//! Choosing who leads among peers, in real processes: an operator hands leadership to a named member, takes one out,
//! stops all moves, and reads afterwards why leadership moved.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use leader_election::{
    choosing::{OrderedBy, PastTerm, TermEnding, TransferError, TransferReason},
    peers::{Client, Operator, Secret},
};
use support::{
    elect::Elect,
    eventually::eventually,
    peers::{Group, Lead, growing_tokens, leads_after, leads_on, saw_a_change, settled, told},
    server::{FOLLOWER, Server, led_one_at_a_time},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const WITHIN: Duration = Duration::from_secs(10);

/// Longer than any election here takes, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

fn by() -> OrderedBy {
    OrderedBy::new("ann@desk".to_owned(), SystemTime::now())
}

/// An operator on this host.
struct Console {
    runtime: Runtime,
    operator: Operator,
}

impl Console {
    fn of(group: &Group) -> Self {
        Self::with(group, None)
    }

    fn with(group: &Group, secret: Option<Secret>) -> Self {
        let client = Client::new(group.list().parse().unwrap(), "leader".parse().unwrap(), None).unwrap();
        Self { runtime: Runtime::new().unwrap(), operator: client.operator(secret) }
    }

    fn transfer(&self, to: &str) -> Result<u64, TransferError> {
        let transferred = self.runtime.block_on(self.operator.transfer(to, WITHIN, by()))?;
        assert_eq!(transferred.to, to);
        Ok(transferred.token.get())
    }

    fn refusal(&self, to: &str) -> String {
        match self.transfer(to) {
            Err(TransferError::Refused { why, .. }) => why,
            other => panic!("the transfer to {to} is not refused: {other:?}"),
        }
    }

    fn cordon(&self, name: &str, hard: bool) {
        self.runtime.block_on(self.operator.cordon(name, hard, by())).unwrap();
    }

    fn uncordon(&self, name: &str) {
        self.runtime.block_on(self.operator.uncordon(name, by())).unwrap();
    }

    fn history(&self) -> Vec<PastTerm> {
        self.runtime.block_on(self.operator.history(20)).unwrap()
    }

    /// Waits until the history's newest term has that token.
    fn history_from(&self, token: u64) -> Vec<PastTerm> {
        eventually(SOON, "the newest term is in the history", || {
            Some(self.history()).filter(|past| past.first().is_some_and(|term| term.token.get() == token))
        })
    }
}

/// The end of a past term, without times.
fn ended(term: &PastTerm) -> String {
    match &term.ended {
        None => "leads".to_owned(),
        Some(TermEnding::Transferred { to, reason: TransferReason::Ordered(by) }) => {
            format!("to {to}, ordered by {}", by.operator)
        }
        Some(TermEnding::Transferred { to, reason }) => format!("to {to}, {reason:?}"),
        Some(other) => format!("{other:?}"),
    }
}

fn other_than(lead: Lead) -> usize {
    (lead.place + 1) % 3
}

#[test]
fn a_transfer_goes_to_the_named_one_with_exactly_one_handoff() {
    let group = Group::of(3);
    let servers = group.start_all();
    let console = Console::of(&group);
    let mut lead = settled(&servers);
    let first = lead;
    for round in 1..=4 {
        let to = (lead.place + 1 + round % 2) % 3;
        assert_eq!(console.transfer(group.name(to)), Ok(lead.token + 1), "the very next term");
        let next = leads_after(&servers, lead.token);
        assert_eq!(next, Lead { place: to, token: lead.token + 1 });
        lead = next;
    }
    assert_eq!(growing_tokens(&servers), (first.token..=lead.token).collect::<Vec<_>>());
    led_one_at_a_time(&servers);
    let past = console.history_from(lead.token);
    assert_eq!((ended(&past[0]), past.len()), ("leads".to_owned(), 5));
    for pair in past.windows(2) {
        assert_eq!(ended(&pair[1]), format!("to {}, ordered by ann@desk", pair[0].leader));
        assert!(pair[1].from <= pair[1].until && pair[1].until <= pair[0].from, "{pair:?}");
    }
}

#[test]
fn a_transfer_that_can_not_be_is_refused_and_the_leader_leads_on() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let console = Console::of(&group);
    let lead = settled(&servers);
    let (leader, to) = (group.name(lead.place), group.name(other_than(lead)));
    assert_eq!(console.transfer("server9"), Err(TransferError::Absent("server9".to_owned())));
    assert!(console.refusal(leader).contains("the leader itself"));

    console.runtime.block_on(console.operator.pause(by())).unwrap();
    assert!(console.refusal(to).contains("paused"));
    let controls = console.runtime.block_on(console.operator.controls()).unwrap();
    assert_eq!(controls.paused.map(|by| by.operator).as_deref(), Some("ann@desk"));
    console.runtime.block_on(console.operator.resume(by())).unwrap();

    console.cordon(to, false);
    assert!(console.refusal(to).contains("cordoned"));
    console.uncordon(to);

    let start = servers[lead.place].mark();
    servers[other_than(lead)].freeze();
    assert!(console.refusal(to).contains("does not answer"));
    leads_on(&servers[lead.place], servers[lead.place].mark(), 3);
    assert!(!saw_a_change(&servers[lead.place], start));
    servers[other_than(lead)].thaw();
    eventually(SOON, "the thawed one leads", || console.transfer(to).ok());
}

#[test]
fn a_cordon_moves_the_leader_and_survives_a_restart_of_all() {
    let group = Group::of(3);
    let servers = group.start_all();
    let console = Console::of(&group);
    let lead = settled(&servers);
    let name = group.name(lead.place).to_owned();
    console.cordon(&name, true);
    let next = leads_after(&servers, lead.token);
    assert_ne!(next.place, lead.place);
    assert_eq!(
        ended(&console.history_from(next.token)[1]),
        format!("to {}, LastResort", group.name(next.place))
    );
    drop(servers);

    let mut servers = group.start_all();
    let again = leads_after(&servers, next.token);
    assert_ne!(again.place, lead.place);
    let controls = console.runtime.block_on(console.operator.controls()).unwrap();
    assert!(controls.cordons.keys().map(|name| name.as_str()).eq([name.as_str()]), "{controls:?}");
    // Not even when no other can; but it votes.
    let third = 3 - lead.place - again.place;
    servers[again.place].kill();
    let last = leads_after(&servers, again.token);
    assert_eq!(last.place, third);

    console.uncordon(&name);
    assert_eq!(console.transfer(&name), Ok(last.token + 1));
}

#[test]
fn a_soft_cordon_keeps_a_server_back_only_while_another_one_can_lead() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let console = Console::of(&group);
    let lead = settled(&servers);
    let others = [other_than(lead), 3 - lead.place - other_than(lead)];
    others.iter().for_each(|other| console.cordon(group.name(*other), false));
    assert!(!saw_a_change(&servers[lead.place], servers[lead.place].mark()));
    servers[lead.place].kill();
    let last_resort = leads_after(&servers, lead.token);
    assert!(others.contains(&last_resort.place));
    // The one that is not cordoned comes back, and gets leadership at once.
    servers[lead.place] = group.start(lead.place);
    let next = leads_after(&servers, last_resort.token);
    assert_eq!(next.place, lead.place);
}

#[test]
fn the_history_tells_a_crash_from_an_end_in_order() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let console = Console::of(&group);
    let first = settled(&servers);
    servers[first.place].kill();
    let second = leads_after(&servers, first.token);
    servers[first.place] = group.start(first.place);
    servers[first.place].wait_for_line(told(FOLLOWER), SOON);
    servers[second.place].stop(0);
    let third = leads_after(&servers, second.token);
    let past = console.history_from(third.token);
    let read: Vec<_> = past.iter().map(|term| (term.leader.clone(), ended(term))).collect();
    let name = |lead: Lead| group.name(lead.place).to_owned();
    let expected = [(name(third), "leads"), (name(second), "Resigned"), (name(first), "Lost")]
        .map(|(a, b)| (a, b.to_owned()));
    assert_eq!(read, expected);

    // It is in the log, on each server.
    drop(servers);
    let servers = group.start_all();
    let fourth = leads_after(&servers, third.token);
    assert_eq!(console.history_from(fourth.token)[2..], past[1..]);
}

#[test]
fn contract_11_who_has_not_the_secret_transfers_nothing() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, "a".repeat(40)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let group = Group::of(3);
    let flags = ["--secret-file", file.to_str().unwrap()];
    let start = |place| group.start_as(place, Elect::new(group.command_line(place)).args(flags));
    let servers: Vec<Server> = (0..3).map(start).collect();
    let lead = settled(&servers);
    let to = group.name(other_than(lead));
    for secret in [None, Some(Secret::new(&[b'b'; 40]).unwrap())] {
        let refused = Console::with(&group, secret).transfer(to);
        assert!(
            matches!(&refused, Err(TransferError::Forbidden(why)) if why.contains("--secret-file")),
            "{refused:?}"
        );
    }
    let console = Console::with(&group, Some(Secret::new(&[b'a'; 40]).unwrap()));
    assert_eq!(console.transfer(to), Ok(lead.token + 1));
}
