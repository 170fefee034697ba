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
//! The tie between a lock and memory is not modelled: `tests/lifeline.rs` asks the kernel.

use super::{Action as Any, *};
use crate::lifeline::evidence::{
    FileSystem, Judge, Probe, TicketRecord,
    tests::{judge, record},
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
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    /// The keys whose processes it found dead.
    dead: Vec<Key>,
    /// A release came before the lease could have ended. Only the properties see it.
    was_early: bool,
}

impl Witness {
    pub(super) fn finds_dead(&mut self, key: Option<Key>) {
        let new = key.filter(|key| !self.dead.contains(key));
        self.dead.extend(new);
        self.dead.sort_by_key(|key| key.created);
    }

    /// A release of a key that is gone changes nothing any more.
    pub(super) fn forget_what_is_gone(&mut self, etcd: &Etcd) {
        self.dead.retain(|key| etcd.has(key.created));
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
    }

    pub(super) fn lifeline(&self, world: &mut World, action: Action) {
        match action {
            Action::Die(who) => {
                let candidate = &mut world.candidates[who];
                *candidate = Candidate { view: None, stage: Stage::Idle(Past::Other) };
            }
            Action::WitnessLooks(lease, _) => world.witness.finds_dead(world.etcd.key(lease)),
            Action::EtcdReleases(key) => {
                let there = world.etcd.key(key.lease);
                let same = there == Some(key) || self.lacks(Mutant::ReleasesWithoutComparing);
                if same && there.is_some() {
                    let lives_on =
                        world.etcd.lease(key.lease).is_some_and(|one| !one.given_up && one.age < TTL - DRIFT);
                    world.witness.was_early |= self.remembers && lives_on;
                    world.etcd.end(key.lease);
                }
            }
        }
    }

    /// Returns true if the witness would take the process that put a key for dead.
    fn finds_dead(&self, world: &World, key: &Key, likeness: Likeness) -> bool {
        let holder =
            world.candidates.iter().find(|one| one.hold().is_some_and(|hold| hold.lease == key.lease));
        let mapped = holder.is_some_and(|one| !(one.leads() && self.lacks(Mutant::UnmapsEarly)));
        let record = record(key.lease.0, key.created.0);
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

/// The model would prove little if no witness were ever faster than etcd.
pub(super) fn is_of_use() -> Property<Election> {
    Property::sometimes("a dead leader is followed before its lease ends", |_, world: &World| {
        world.witness.was_early && world.believers().len() == 1
    })
}

/// The verdict on a file whose lock is free, in the case that needs the least: the witness has just begun.
fn judged(record: &TicketRecord, inode: u64, judge: Judge) -> bool {
    let mut file = record.file;
    file.inode = inode;
    let probe =
        Probe { file, owner: judge.owner, record: Some(record), seen_held: false, from_the_start: true };
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
