//! Admission of members and their votes: every order of starts, first meetings, votes, lost, restored and copied
//! disks.
//!
//! The judgements are the production code ([`MemberRecord::judge`]); around them is the work of the store, the
//! ledger and the connections, each write durable at once. Elections are votes and nothing else: no term may have
//! two leaders, and a member whose disk is unchanged is never refused.
//!
//! | disks | shown |
//! |---|---|
//! | lost | *prevented*: one leader a term, as no server votes before all others know its directory |
//! | copied while the original is connected with all | *prevented*: no server admits the copy |
//! | put back to an older copy | *noticed* by each that knows better, if it was started once since |
//!
//! Bounded: at most two of the servers campaign, one of them is copied or put back, and of two servers the first
//! one calls the other, as they do. Writes are counted only where disks are put back: elsewhere no judgement
//! depends on them.
//!
//! Not shown, as it does not hold: an older copy that was started again in between, and has by then as many writes
//! as the original had, is taken for it; a vote that it has forgotten may be given a second time before it is
//! noticed; and a copy and its original that different members admit vote once each. All three have a test that
//! finds them.

use std::ops::Range;

use stateright::{Checker, Model, Property};

use super::refute;
use crate::raft::membership::{
    DirectoryId, Identity, MemberRecord, Objection, Run, RunId, VotingRights, WriteCount,
};

/// Members. Disks have a number each: those of the members, and one for a copy.
const SERVERS: usize = 3;
const COPY: usize = SERVERS;

/// The server whose disk is copied, or put back: it calls one of the others, and the other one calls it.
const UNLUCKY: usize = 1;

/// The bounds, and the removed safeguard.
#[derive(Debug, Clone, Default)]
struct Group {
    /// The last term.
    terms: u8,
    /// The members that campaign. All vote.
    standing: Range<usize>,
    /// True if all have met at the beginning.
    met: bool,
    /// Restarts of any server.
    restarts: u8,
    lost: u8,
    /// True if one disk may be put back to an earlier state.
    put_back: bool,
    /// True if one server's disk may be copied, once that server is connected with all others.
    copied: bool,
    /// True if it may be copied before, too.
    apart: bool,
    without: Option<Safeguard>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Safeguard {
    /// A server votes only once all others have recorded it.
    AllHaveMet,
    Directories,
    Writes,
    /// The present connection is pinged.
    Ping,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    disks: Vec<Disk>,
    servers: Vec<Option<Server>>,
    /// The server of which there is a copy.
    copied: Option<usize>,
    saved: Option<(usize, Disk)>,
    restarts: u8,
    lost: u8,
    /// The disk on which each term's leader was elected.
    leaders: Vec<Option<usize>>,
    broken: Option<Broken>,
}

/// Durable state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Disk {
    identity: Identity,
    writes: WriteCount,
    /// True if more than starts are counted.
    counts: bool,
    records: Vec<Option<MemberRecord>>,
    voting_rights: VotingRights,
    term: u8,
    vote: Option<usize>,
    /// True if it differs from its server's writes.
    tampered: bool,
    /// Servers that knew of more writes when it was put back.
    known_better_by: Vec<usize>,
}

/// A process on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    /// Disks whose servers it admits.
    admitted: Vec<bool>,
    /// The members that voted for it in its term, if it is a candidate.
    votes: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Broken {
    TwoLeadersOfATerm,
    MemberRefused,
    LetIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start(usize),
    Restart(usize),
    /// The first calls the second, which records the first.
    Call(usize, usize),
    /// The first answers the second, which records the first, and learns that it is recorded there.
    Answer(usize, usize),
    /// The second confirms to the first, which was called, that it is recorded.
    Confirm(usize, usize),
    /// The first tells the second its own number of writes, and the others'.
    Tell(usize, usize),
    Stand(usize),
    /// The first votes for the second.
    Vote(usize, usize),
    Lose(usize),
    Save(usize),
    PutBack,
    Copy(usize),
}

/// Returns true if the one connects to the other.
fn calls(one: usize, other: usize) -> bool {
    one < other
}

impl Disk {
    fn new(directory: u8, counts: bool) -> Self {
        let run = Run { number: 0, id: RunId::from_bytes([0; 16]), began: WriteCount(0) };
        Self {
            identity: Identity { directory: DirectoryId::from_bytes([directory; 16]), run },
            writes: WriteCount(0),
            counts,
            records: vec![None; SERVERS],
            voting_rights: VotingRights::Waiting,
            term: 0,
            vote: None,
            tampered: false,
            known_better_by: Vec::new(),
        }
    }

    fn wrote(&mut self) {
        self.writes.0 += u64::from(self.counts);
    }

    /// Votes from now on if all others have recorded its server.
    fn has_met(&mut self, me: usize) {
        let met = (0..SERVERS).filter(|it| *it != me).all(|it| self.records[it].is_some_and(|it| it.mutual));
        if met && self.voting_rights == VotingRights::Waiting {
            self.voting_rights = VotingRights::Full;
        }
    }
}

impl World {
    /// The member that a server on that disk is, or claims to be.
    fn member(&self, disk: usize) -> usize {
        if disk == COPY { self.copied.unwrap_or(COPY) } else { disk }
    }

    fn start(&mut self, disk: usize) {
        // The id is drawn at random: no other start has it.
        let starts = self.disks.iter().map(|it| it.identity.run.number).sum::<u64>() as u8;
        let it = &mut self.disks[disk];
        it.writes.0 += 1;
        let (number, id) =
            (it.identity.run.number + 1, [disk as u8, starts, u8::from(it.tampered), self.lost]);
        let id = RunId::from_bytes(std::array::from_fn(|place| id[place % id.len()]));
        it.identity.run = Run { number, id, began: it.writes };
        self.servers[disk] = Some(Server { admitted: vec![false; SERVERS + 1], votes: vec![false; SERVERS] });
    }

    /// The process ends, with all its connections.
    fn stop(&mut self, disk: usize) {
        self.servers[disk] = None;
        self.servers.iter_mut().flatten().for_each(|it| it.admitted[disk] = false);
    }

    fn admits(&self, judge: usize, said: usize) -> bool {
        self.servers[judge].as_ref().is_some_and(|it| it.admitted[said]) && self.servers[said].is_some()
    }

    fn connected(&self, one: usize, other: usize) -> bool {
        self.admits(one, other) && self.admits(other, one)
    }

    fn hello(&mut self, said: usize, judge: usize, without: Option<Safeguard>) {
        let (member, said_disk) = (self.member(said), self.disks[said].clone());
        let member_of_judge = self.member(judge);
        let another =
            (0..=COPY).find(|it| *it != said && self.member(*it) == member && self.connected(judge, *it));
        let (identity, writes) = (said_disk.identity, said_disk.writes);
        let known = self.disks[judge].records[member];
        let judged = known.map_or(Ok(()), |known| {
            let known = match without {
                Some(Safeguard::Directories) if known.identity.directory != identity.directory => {
                    MemberRecord::first(identity, writes)
                }
                Some(Safeguard::Writes) => MemberRecord { writes: WriteCount(0), ..known },
                _ => known,
            };
            known.judge(&identity, another.is_some() && without != Some(Safeguard::Ping))?;
            if known.identity.run == identity.run { known.judge_writes(writes) } else { Ok(()) }
        });
        if let Err(objection) = judged {
            return self.refuse(judge, said, objection);
        }
        if said_disk.known_better_by.contains(&judge) || another.is_some() {
            self.broken.get_or_insert(Broken::LetIn);
        }
        let first = MemberRecord::first(identity, writes);
        let now = known.map_or(first, |known| MemberRecord {
            identity,
            writes: known.writes.max(writes),
            mutual: known.mutual,
        });
        let now = MemberRecord { mutual: now.mutual || calls(self.member(judge), member), ..now };
        let disk = &mut self.disks[judge];
        let is_news = known.is_none_or(|known| (known.identity, known.mutual) != (now.identity, now.mutual));
        disk.records[member] = Some(now);
        if is_news {
            disk.wrote();
        }
        disk.has_met(member_of_judge);
        if let Some(judge) = &mut self.servers[judge] {
            another.iter().for_each(|another| judge.admitted[*another] = false);
            judge.admitted[said] = true;
        }
    }

    fn refuse(&mut self, judge: usize, said: usize, objection: Objection) {
        if !self.disks[judge].tampered && !self.disks[said].tampered {
            self.broken.get_or_insert(Broken::MemberRefused);
        }
        if objection.is_proof() {
            self.disks[said].voting_rights = VotingRights::Revoked;
            self.stop(said);
        }
    }

    fn confirm(&mut self, said: usize, judge: usize) {
        let (to, me) = (self.member(judge), self.member(said));
        let disk = &mut self.disks[said];
        if let Some(record) = &mut disk.records[to] {
            record.mutual = true;
            disk.wrote();
        }
        disk.has_met(me);
    }

    fn tell(&mut self, from: usize, to: usize) {
        let (member, teller) = (self.member(from), self.disks[from].clone());
        let own =
            MemberRecord { writes: teller.writes, ..MemberRecord::first(teller.identity, teller.writes) };
        let told = teller.records.iter().enumerate().filter_map(|(of, record)| Some((of, (*record)?)));
        for (of, record) in told.chain([(member, own)]) {
            if let Some(known) = &mut self.disks[to].records[of]
                && known.identity == record.identity
            {
                known.writes = known.writes.max(record.writes);
            }
        }
    }

    fn vote(&mut self, voter: usize, candidate: usize) {
        let (term, member) = (self.disks[candidate].term, self.member(candidate));
        let disk = &mut self.disks[voter];
        let is_new = disk.term < term;
        (disk.term, disk.vote) = (term, Some(member));
        disk.wrote();
        let as_member = self.member(voter);
        if is_new && let Some(server) = &mut self.servers[voter] {
            server.votes = vec![false; SERVERS];
        }
        let Some(server) = &mut self.servers[candidate] else { return };
        server.votes[as_member] = true;
        if server.votes.iter().filter(|vote| **vote).count() > SERVERS / 2 {
            let leader = self.leaders[usize::from(term)].get_or_insert(candidate);
            if *leader != candidate {
                self.broken = Some(Broken::TwoLeadersOfATerm);
            }
        }
    }
}

impl Group {
    fn may_vote(&self, disk: &Disk) -> bool {
        match disk.voting_rights {
            VotingRights::Full => true,
            VotingRights::Waiting => self.without == Some(Safeguard::AllHaveMet),
            VotingRights::Revoked => false,
        }
    }

    fn may_vote_for(&self, world: &World, voter: usize, candidate: usize) -> bool {
        let (voters, theirs) = (&world.disks[voter], &world.disks[candidate]);
        let stands = world.servers[candidate].as_ref().is_some_and(|it| it.votes.contains(&true));
        let counted = world.servers[candidate].as_ref().is_some_and(|it| it.votes[world.member(voter)]);
        let free = voters.term < theirs.term
            || voters.term == theirs.term && voters.vote.is_none_or(|vote| vote == world.member(candidate));
        stands && !counted && free && self.may_vote(voters) && world.connected(voter, candidate)
    }
}

impl Model for Group {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            disks: (0..=COPY).map(|place| Disk::new(place as u8, self.put_back)).collect(),
            servers: vec![None; SERVERS + 1],
            copied: None,
            saved: None,
            restarts: 0,
            lost: 0,
            leaders: vec![None; usize::from(self.terms) + 1],
            broken: None,
        };
        if self.met {
            (0..SERVERS).for_each(|server| world.start(server));
            let pairs = || (0..SERVERS).flat_map(|one| (0..SERVERS).map(move |other| (one, other)));
            let calls = || pairs().filter(|(one, other)| calls(*one, *other));
            for (one, other) in calls() {
                world.hello(one, other, None);
                world.hello(other, one, None);
                world.confirm(other, one);
            }
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for one in 0..=COPY {
            let (disk, is_up) = (&world.disks[one], world.servers[one].is_some());
            let exists = one != COPY || world.copied.is_some();
            if exists && !is_up && disk.voting_rights != VotingRights::Revoked {
                actions.push(Action::Start(one));
            }
            if !is_up {
                continue;
            }
            if world.restarts < self.restarts {
                actions.push(Action::Restart(one));
            }
            if world.lost < self.lost && one != COPY {
                actions.push(Action::Lose(one));
            }
            if self.put_back && world.saved.is_none() && one == UNLUCKY {
                actions.push(Action::Save(one));
            }
            let with_all = (0..SERVERS).all(|other| other == one || world.connected(one, other));
            if self.copied && world.copied.is_none() && (with_all || self.apart) && one == UNLUCKY {
                actions.push(Action::Copy(one));
            }
            if self.may_vote(disk) && disk.term < self.terms && self.standing.contains(&world.member(one)) {
                actions.push(Action::Stand(one));
            }
            for other in (0..=COPY).filter(|other| world.member(*other) != world.member(one)) {
                if world.servers[other].is_none() {
                    continue;
                }
                let is_caller = calls(world.member(one), world.member(other));
                if !world.admits(other, one) && is_caller {
                    actions.push(Action::Call(one, other));
                }
                if !world.admits(other, one) && !is_caller && world.admits(one, other) {
                    actions.push(Action::Answer(one, other));
                }
                if world.connected(one, other) {
                    let record = disk.records[world.member(other)];
                    if record.is_some_and(|record| !record.mutual) {
                        actions.push(Action::Confirm(one, other));
                    }
                    if self.put_back {
                        actions.push(Action::Tell(one, other));
                    }
                }
                if self.may_vote_for(world, one, other) {
                    actions.push(Action::Vote(one, other));
                }
            }
        }
        let is_newer = |(of, saved): &(usize, Disk)| !world.disks[*of].tampered && world.disks[*of] != *saved;
        if world.saved.as_ref().is_some_and(is_newer) {
            actions.push(Action::PutBack);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Start(disk) => next.start(disk),
            Action::Restart(disk) => {
                next.restarts += 1;
                next.stop(disk);
                next.start(disk);
            }
            Action::Call(said, judge) | Action::Answer(said, judge) => {
                next.hello(said, judge, self.without);
            }
            Action::Confirm(said, judge) => next.confirm(said, judge),
            Action::Tell(from, to) => next.tell(from, to),
            Action::Stand(candidate) => {
                let member = next.member(candidate);
                let disk = &mut next.disks[candidate];
                (disk.term, disk.vote) = (disk.term + 1, Some(member));
                disk.wrote();
                let votes = (0..SERVERS).map(|it| it == member).collect();
                next.servers[candidate].iter_mut().for_each(|it| it.votes.clone_from(&votes));
            }
            Action::Vote(voter, candidate) => next.vote(voter, candidate),
            Action::Lose(disk) => {
                next.lost += 1;
                next.stop(disk);
                next.disks[disk] = Disk { tampered: true, ..Disk::new(100 + next.lost, self.put_back) };
            }
            Action::Save(disk) => next.saved = Some((disk, next.disks[disk].clone())),
            Action::PutBack => {
                let (disk, saved) = next.saved.clone()?;
                next.stop(disk);
                let knows = |it: &usize| {
                    let known = next.disks[*it].records[disk];
                    *it != disk && known.is_some_and(|known| known.writes > saved.writes)
                };
                let known_better_by = (0..SERVERS).filter(knows).collect();
                next.disks[disk] = Disk { tampered: true, known_better_by, ..saved };
            }
            Action::Copy(disk) => {
                next.copied = Some(disk);
                next.disks[COPY] = Disk { tampered: true, ..next.disks[disk].clone() };
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_LEADER, |_, world: &World| world.broken != Some(Broken::TwoLeadersOfATerm)),
            Property::always(NONE_REFUSED, |_, world: &World| world.broken != Some(Broken::MemberRefused)),
            Property::always(NONE_LET_IN, |_, world: &World| world.broken != Some(Broken::LetIn)),
            Property::sometimes("a leader", |_, world: &World| world.leaders.iter().any(Option::is_some)),
        ]
    }
}

const ONE_LEADER: &str = "one leader a term";
const NONE_REFUSED: &str = "a member whose disk is as it was is not refused";
const NONE_LET_IN: &str = "a disk that is not a member's is let in by none that knows better";

impl Group {
    /// Disks are lost, also before all have met.
    fn that_loses_disks() -> Self {
        Self { terms: 1, standing: 0..2, lost: 1, ..Self::default() }
    }

    fn with_an_old_copy() -> Self {
        Self { terms: 1, standing: 1..2, met: true, put_back: true, ..Self::default() }
    }

    fn with_a_copy() -> Self {
        Self { terms: 1, standing: 0..2, met: true, copied: true, ..Self::default() }
    }

    fn without(self, safeguard: Safeguard) -> Self {
        Self { without: Some(safeguard), ..self }
    }

    /// Walks through every state, and prints their number.
    fn prove(self, properties: &[&'static str]) {
        let checker = self.checker().threads(1).spawn_bfs().join();
        println!("{} states", checker.unique_state_count());
        properties.iter().for_each(|property| checker.assert_no_discovery(property));
        checker.assert_any_discovery("a leader");
    }
}

#[test]
fn contract_11_a_lost_disk_makes_no_second_leader_of_a_term() {
    Group::that_loses_disks().prove(&[ONE_LEADER, NONE_REFUSED]);
}

#[test]
fn contract_11_an_old_copy_is_let_in_by_none_that_knows_better() {
    Group::with_an_old_copy().prove(&[NONE_REFUSED, NONE_LET_IN]);
}

#[test]
fn contract_11_a_copy_is_let_in_by_none_while_the_original_is_connected() {
    Group::with_a_copy().prove(&[ONE_LEADER, NONE_REFUSED, NONE_LET_IN]);
}

#[test]
fn two_leaders_if_servers_vote_before_all_have_met() {
    refute(Group::that_loses_disks().without(Safeguard::AllHaveMet), ONE_LEADER);
}

#[test]
fn two_leaders_if_a_new_disk_is_taken_for_the_old_one() {
    refute(Group { met: true, ..Group::that_loses_disks() }.without(Safeguard::Directories), ONE_LEADER);
}

#[test]
fn an_old_copy_is_let_in_if_writes_are_not_counted() {
    refute(Group::with_an_old_copy().without(Safeguard::Writes), NONE_LET_IN);
}

#[test]
fn two_leaders_if_a_copy_takes_the_place_of_one_that_answers() {
    refute(Group::with_a_copy().without(Safeguard::Ping), ONE_LEADER);
}

/// Not prevented, and not noticed, as the head of `membership` says.
#[test]
fn an_old_copy_may_give_a_vote_again_before_it_is_noticed() {
    refute(Group { standing: 0..2, ..Group::with_an_old_copy() }, ONE_LEADER);
}

#[test]
fn a_copy_and_the_original_that_are_let_in_by_different_members_vote_once_each() {
    refute(Group { apart: true, restarts: 1, ..Group::with_a_copy() }, ONE_LEADER);
}

#[test]
fn an_old_copy_that_was_started_again_and_has_written_as_much_is_not_noticed() {
    refute(Group { restarts: 1, ..Group::with_an_old_copy() }, NONE_LET_IN);
}

#[test]
#[ignore = "make model: minutes"]
fn contract_11_no_second_leader_in_every_longer_order_of_events() {
    Group { restarts: 1, ..Group::that_loses_disks() }.prove(&[ONE_LEADER, NONE_REFUSED]);
    Group { standing: 0..2, ..Group::with_an_old_copy() }.prove(&[NONE_REFUSED, NONE_LET_IN]);
    Group { terms: 2, ..Group::with_a_copy() }.prove(&[ONE_LEADER, NONE_REFUSED, NONE_LET_IN]);
}
