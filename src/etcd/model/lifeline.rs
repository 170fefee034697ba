//! Processes that die, and a witness that releases their terms.
//!
//! The decision is the production code itself: [`Judge`] decides whether a ticket proves that its process is
//! gone. Around it:
//!
//! * **A process** dies at any time. Its memory is gone then, and with it its belief; its lease and its key
//!   stay. It may restart, and campaign with a new lease.
//! * **A ticket** exists from the moment that its key does: no ticket comes earlier, and one that comes later
//!   only takes evidence away. Its lock is held by the memory of the process that holds the lease.
//! * **The witness** may check any ticket at any time, the file itself or one of its likenesses
//!   ([`Likeness`]). A process once found dead stays dead: the release may be sent at any later time, arrive
//!   at any later time, and any number of times, also after the process has restarted.
//! * **False tickets** are written by the owner of the directory: a live lease, with another
//!   `create_revision` than its key has.
//!
//! * **Commands**, where the leaders have some ([`Command`]), run until their process, as long as it lives, has ended
//!   them; that is before it gives leadership up, and before its belief ends. After its death they end at any time up
//!   to then: the guard and the kernel see to that. The ticket names the process with which all of a command ends. The
//!   witness may get that one's pidfd while the holder lives, or never. A command may be restarted, under another
//!   process: the ticket names that one first.
//!
//! The tie between a lock and memory is not modelled, nor that between a pidfd and all of a
//! command: `tests/lifeline.rs` asks the kernel.

use super::{Action as Any, *};
use crate::lifeline::evidence::{
    FileSystem, Judge, Probe, ProcessId, ProcessSeen, TicketRecord,
    tests::{PROCESS, judge, record},
};

/// A safeguard of the lifeline that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The mapping goes with the attempt, and not with the last belief.
    UnmapsEarly,
    /// An attempt that keeps its lease drops the ticket of the one before, and writes its own.
    MapsAnew,
    /// Tickets of other kernels count.
    IgnoresTheBoot,
    /// The directory of tickets may lie on a file system that copies files and shows them as the same.
    AcceptsOverlay,
    /// Copies count.
    AcceptsCopies,
    /// A key is deleted by its name.
    ReleasesWithoutComparing,
    /// The end of the process that holds the lock counts for its command's.
    IgnoresTheCommand,
    /// A witness that got no pidfd takes the command for ended.
    NeedsNoPidfd,
    /// A command is restarted under a process that no ticket names.
    RestartsUnnamed,
}

/// A file that looks like a live process's ticket, and has a free lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// The file itself, whose lock is held while the process lives.
    Original,
    /// Another file with the same content.
    Copy,
    /// The file itself, as another kernel sees it.
    OtherBoot,
    /// A copy that an overlay file system shows as the same file. Only such a directory has it.
    Overlay,
}

impl Likeness {
    const ALL: [Self; 4] = [Self::Original, Self::Copy, Self::OtherBoot, Self::Overlay];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The kernel ends a candidate's process.
    Die(usize),
    WitnessLooks(LeaseId, Likeness),
    /// etcd handles a release by the witness.
    EtcdReleases(Key),
    /// A leader starts its command.
    Start(usize),
    /// A leader's command has ended, and is started again under another process.
    Restart(usize),
    /// The witness gets the pidfd of the process that the ticket names.
    PassOn(usize),
    /// All of a dead leader's command has ended.
    End(LeaseId),
}

/// The command of one term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Command {
    lease: LeaseId,
    /// The number of its present run, and of the process that all of it ends with.
    run: u64,
    runs: bool,
    /// The process that the ticket names.
    named: u64,
    /// The process of which the witness has the pidfd.
    passed: Option<u64>,
    /// The time that the guard and the kernel leave it.
    validity: Validity,
    /// Its supervisor is dead.
    orphaned: bool,
}

impl Command {
    /// Enough to have the ticket name a process that is gone.
    const RUNS: u64 = 2;

    fn process(run: u64) -> ProcessId {
        ProcessId { nonce: run, ..PROCESS }
    }

    fn seen(&self) -> ProcessSeen {
        match self.passed {
            None => ProcessSeen::Unknown,
            Some(run) if self.runs && run == self.run => ProcessSeen::Alive(Self::process(run)),
            Some(run) => ProcessSeen::Ended(Self::process(run)),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    /// The keys whose processes it found dead.
    dead: Vec<Key>,
    /// A release came before the lease could have ended. Only the properties see it.
    was_early: bool,
    /// That was the place of a leader with a command. Only the properties see it.
    followed_a_command: bool,
    commands: Vec<Command>,
}

impl Witness {
    fn command(&mut self, lease: LeaseId) -> Option<&mut Command> {
        self.commands.iter_mut().find(|command| command.lease == lease)
    }

    pub(super) fn tick(&mut self) {
        for command in self.commands.iter_mut().filter(|command| command.orphaned) {
            command.validity = one_tick_later(&command.validity);
            command.runs &= command.validity.holds_at(NOW);
        }
    }

    /// A leader ends its command before its belief, and before it gives leadership up.
    pub(super) fn follow(&mut self, candidates: &[Candidate]) {
        self.commands.retain_mut(|command| {
            let leader = candidates
                .iter()
                .find(|one| one.believes() && one.hold().is_some_and(|hold| hold.lease == command.lease));
            match leader.and_then(Candidate::hold) {
                Some(hold) => command.validity = hold.validity.clone(),
                None if !command.orphaned => return false,
                None => {}
            }
            true
        });
    }

    pub(super) fn finds_dead(&mut self, key: Option<Key>) {
        let new = key.filter(|key| !self.dead.contains(key));
        self.dead.extend(new);
        self.dead.sort_by_key(|key| key.created);
    }

    /// A release of a key that is gone changes nothing any more.
    pub(super) fn forget_what_is_gone(&mut self, etcd: &Etcd) {
        self.dead.retain(|key| etcd.has(key.created));
        self.commands.retain(|command| command.runs || etcd.key(command.lease).is_some());
    }
}

impl Election {
    fn lacks(&self, safeguard: Mutant) -> bool {
        self.mutant == Some(super::Mutant::Lifeline(safeguard))
    }

    /// Lists the steps that processes, the witness and its releases may take.
    pub(super) fn deaths(&self, world: &World, actions: &mut Vec<Any>) {
        let mut may = |action| actions.push(Any::Lifeline(action));
        for who in 0..world.candidates.len() {
            if world.candidates[who].hold().is_some() {
                may(Action::Die(who));
            }
        }
        for key in &world.etcd.queue {
            for likeness in Likeness::ALL {
                if self.finds_dead(world, key, likeness) && !world.witness.dead.contains(key) {
                    may(Action::WitnessLooks(key.lease, likeness));
                }
            }
            // Of a false ticket.
            may(Action::EtcdReleases(Key { created: Revision(key.created.0 + 1), ..*key }));
        }
        for key in &world.witness.dead {
            may(Action::EtcdReleases(*key));
        }
        if self.commands {
            commands(world, may);
        }
    }

    pub(super) fn lifeline(&self, world: &mut World, action: Action) {
        match action {
            Action::Die(who) => {
                let candidate = &mut world.candidates[who];
                if let Some(command) = candidate.hold().and_then(|hold| world.witness.command(hold.lease)) {
                    command.orphaned = true;
                }
                *candidate = Candidate { view: None, stage: Stage::Idle(Past::Other) };
            }
            Action::WitnessLooks(lease, _) => world.witness.finds_dead(world.etcd.key(lease)),
            Action::EtcdReleases(key) => {
                let there = world.etcd.key(key.lease);
                let same = there == Some(key) || self.lacks(Mutant::ReleasesWithoutComparing);
                if same && there.is_some() {
                    let lives_on =
                        world.etcd.lease(key.lease).is_some_and(|one| !one.given_up && one.age < TTL - DRIFT);
                    let early = self.remembers && lives_on;
                    world.witness.was_early |= early;
                    world.witness.followed_a_command |= early && world.witness.command(key.lease).is_some();
                    world.etcd.end(key.lease);
                }
            }
            Action::Start(who) => {
                let hold = world.candidates[who].holding();
                let (lease, validity) = (hold.lease, hold.validity.clone());
                let command =
                    Command { lease, run: 1, runs: true, named: 1, passed: None, validity, orphaned: false };
                world.witness.commands.push(command);
            }
            Action::Restart(who) => {
                let command = world.command_of(who);
                command.run += 1;
                if !self.lacks(Mutant::RestartsUnnamed) {
                    command.named = command.run;
                }
            }
            Action::PassOn(who) => {
                let command = world.command_of(who);
                command.passed = Some(command.named);
            }
            Action::End(lease) => {
                world.witness.command(lease).expect("only a command that runs ends").runs = false;
            }
        }
    }

    /// Returns true if the witness would take the process that put a key for dead.
    fn finds_dead(&self, world: &World, key: &Key, likeness: Likeness) -> bool {
        let holder =
            world.candidates.iter().find(|one| one.hold().is_some_and(|hold| hold.lease == key.lease));
        let mapped = holder.is_some_and(|one| !(one.leads() && self.lacks(Mutant::UnmapsEarly)));
        let command = world.witness.commands.iter().find(|command| command.lease == key.lease);
        let named = command.map(|command| Command::process(command.named));
        let named = named.filter(|_| !self.lacks(Mutant::IgnoresTheCommand));
        let record = record(key.lease.0, key.created.0).with_process(named);
        let seen = match (command.map_or(ProcessSeen::Unknown, Command::seen), named) {
            (ProcessSeen::Unknown, Some(named)) if self.lacks(Mutant::NeedsNoPidfd) => {
                ProcessSeen::Ended(named)
            }
            (seen, _) => seen,
        };
        let judged = |record: &TicketRecord, inode, judge| judged(record, inode, judge, seen);
        match likeness {
            Likeness::Original => !mapped && judged(&record, record.file.inode, judge()),
            Likeness::Copy => {
                let same = self.lacks(Mutant::AcceptsCopies);
                judged(&record, record.file.inode + u64::from(!same), judge())
            }
            Likeness::OtherBoot => {
                let own = if self.lacks(Mutant::IgnoresTheBoot) { "this" } else { "another" };
                let boot = crate::lifeline::evidence::BootId(own.into());
                judged(&record, record.file.inode, Judge { boot, ..judge() })
            }
            // Nothing in the file shows it.
            Likeness::Overlay => {
                let accepted = self.lacks(Mutant::AcceptsOverlay) || FileSystem::Overlay.is_fit();
                accepted && judged(&record, record.file.inode, judge())
            }
        }
    }
}

/// Lists the steps that commands and their processes may take.
fn commands(world: &World, mut may: impl FnMut(Action)) {
    for (who, candidate) in world.candidates.iter().enumerate().filter(|(_, one)| one.believes()) {
        let lease = candidate.hold().expect("a leader holds a lease").lease;
        match world.witness.commands.iter().find(|command| command.lease == lease) {
            None => may(Action::Start(who)),
            Some(command) => {
                if command.run < Command::RUNS {
                    may(Action::Restart(who));
                }
                if command.passed != Some(command.named) {
                    may(Action::PassOn(who));
                }
            }
        }
    }
    for command in world.witness.commands.iter().filter(|command| command.orphaned && command.runs) {
        may(Action::End(command.lease));
    }
}

impl World {
    fn command_of(&mut self, who: usize) -> &mut Command {
        let lease = self.candidates[who].holding().lease;
        self.witness.command(lease).expect("a leader's command")
    }
}

const ONE_COMMAND: &str = "one command at a time";

pub(super) fn one_command() -> Property<Election> {
    Property::always(ONE_COMMAND, |_, world: &World| {
        world.witness.commands.iter().filter(|command| command.runs).count() <= 1
    })
}

/// The model would prove little if no witness were ever faster than etcd.
pub(super) fn is_of_use() -> Property<Election> {
    Property::sometimes("a dead leader is followed before its lease ends", |_, world: &World| {
        world.witness.was_early && world.believers().len() == 1
    })
}

/// Nor if none released a place of a leader that had a command.
pub(super) fn is_of_use_with_commands() -> Property<Election> {
    Property::sometimes("a command follows another before the other's lease ends", |_, world: &World| {
        world.witness.followed_a_command && world.witness.commands.iter().any(|command| command.runs)
    })
}

/// The verdict on a file whose lock is free, in the case that needs the least: the witness has just begun.
fn judged(record: &TicketRecord, inode: u64, judge: Judge, process: ProcessSeen) -> bool {
    let mut file = record.file;
    file.inode = inode;
    let (owner, record) = (judge.owner, Some(record));
    let probe = Probe { file, owner, record, seen_held: false, from_the_start: true, process };
    judge.dead(probe).is_ok()
}

fn sound() -> Election {
    Election { lifeline: true, prompt: true, ..Election::sound() }
}

fn without(safeguard: Mutant) -> Election {
    Election { mutant: Some(super::Mutant::Lifeline(safeguard)), ..sound() }
}

#[test]
fn contract_1_one_leader_though_the_dead_are_released() {
    prove(Election { attempts: 3, ..sound() });
}

#[test]
fn contract_1_one_leader_though_the_dead_are_released_and_leases_kept() {
    prove(Election { keeps: true, breaks: true, ..sound() });
}

#[test]
fn contract_12_the_dead_are_followed_before_their_lease_ends() {
    prove(Election { remembers: true, ..sound() });
}

fn with_commands() -> Election {
    Election { commands: true, third_party: ThirdParty::Absent, ..sound() }
}

#[test]
fn contract_13_one_command_though_its_leader_dies_first() {
    prove(with_commands());
}

#[test]
fn contract_13_one_command_though_leases_are_kept_and_watches_break() {
    prove(Election { keeps: true, breaks: true, third_party: ThirdParty::Waiting, ..with_commands() });
}

#[test]
fn contract_12_a_command_is_followed_before_its_lease_ends() {
    prove(Election { remembers: true, third_party: ThirdParty::Waiting, ..with_commands() });
}

#[test]
fn contract_13_two_commands_if_a_release_comes_before_the_command_is_gone() {
    refute(Election { commands: true, ..without(Mutant::IgnoresTheCommand) }, ONE_COMMAND);
}

#[test]
fn contract_13_two_commands_if_a_witness_needs_no_pidfd() {
    refute(Election { commands: true, ..without(Mutant::NeedsNoPidfd) }, ONE_COMMAND);
}

#[test]
fn contract_13_two_commands_if_one_is_restarted_under_a_process_that_no_ticket_names() {
    refute(Election { commands: true, ..without(Mutant::RestartsUnnamed) }, ONE_COMMAND);
}

#[test]
fn contract_1_two_leaders_if_a_ticket_is_unmapped_early() {
    refute(without(Mutant::UnmapsEarly), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_a_kept_lease_has_a_ticket_of_each_attempt() {
    refute(Election { keeps: true, ..without(Mutant::MapsAnew) }, ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_tickets_of_other_boots_count() {
    refute(without(Mutant::IgnoresTheBoot), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_an_overlay_has_the_tickets() {
    refute(without(Mutant::AcceptsOverlay), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_copies_of_tickets_count() {
    refute(without(Mutant::AcceptsCopies), ONE_LEADER);
}

#[test]
fn contract_1_two_leaders_if_a_release_compares_nothing() {
    refute(without(Mutant::ReleasesWithoutComparing), ONE_LEADER);
}
