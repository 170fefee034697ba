//! Raft: servers that agree among themselves on a leader, and on a log.
//!
//! This is the peers backend's core. It is pure: no I/O, no clock, no randomness of its own. One
//! [`Node`](node::Node) takes one [`Input`](action::Input) at a [`Moment`](action::Moment) and
//! gives back itself and [`Actions`](action::Actions), which a driver carries out. So the same code
//! runs in the binary, in a simulation of whole groups (`sim`) and under a model checker (`model`).
//!
//! # The model in a few sentences
//!
//! Time is divided into terms, and a term has at most one leader, because it takes a majority's
//! votes and no member votes twice in a term. The leader appends entries to its log and copies them to
//! the others. Once a majority has an entry of the leader's own term on disk, it is committed, and
//! all before it: it is in the log of every later leader, because a voter votes only for a log that
//! is at least as new as its own. The term is the fencing token.
//!
//! "The paper" is Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm
//! (Extended Version)*; sections and figures are its own. "Thesis" is Ongaro, *Consensus: Bridging
//! Theory and Practice*.
//!
//! # The path of an election
//!
//! ```text
//!  election timeout ─► would you vote for me? ─► a majority would ─► term + 1, own vote ── durable ──►
//!     (drawn)             (changes nothing)        (pre-vote)                                        │
//!                                                                                                    │
//!  ◄── Gained ◄── committed ◄── a majority has it ◄── first entry of the term ◄── a majority's votes ◄┘
//! ```
//!
//! A leader claims nothing before the first entry of its own term is committed: neither a fresh one
//! nor one that led before a restart.
//!
//! # Until when a leader may believe itself
//!
//! Every message that a leader sends to followers carries the moment of its sending, by the
//! leader's clock, and each answer brings that back. Let *s* be the newest moment such that a
//! majority (the leader is one of it) has answered what was sent then or later. With *E* the
//! shortest election timeout and *m* the margin, the leader is valid until *s + E − m*, and then is
//! not even the leader any more (check-quorum, thesis §6.2). That is safe because no other member can
//! be elected before *s + E*:
//!
//! 1. Every member of that majority received the leader's message after *s*. A follower that hears
//!    a leader casts no vote for *E*, counted from when it *received* the message by its own
//!    clock ([`Core::clings`](core::Core::heard_leader_recently); thesis §4.2.3). Receiving comes after sending,
//!    so it casts no vote before *s + E*.
//! 2. The leader, itself a member, casts no vote while it is valid. When a later term makes it
//!    step down, its claim ends in the same step, before anything is sent.
//! 3. Another leader needs a majority's votes, and two majorities share a member.
//!
//! What could undo this, and what is done about it:
//!
//! * **A voter restarts**, and has forgotten whom it heard. It counts as having heard a leader at
//!   the moment it started, which is later than anything it can have heard before.
//! * **A voter moves on to a later term** by some message. It still heard whom it heard: the term
//!   is no reason to forget it. And a request for votes that it refuses for this reason does not
//!   even move its term.
//! * **A follower acknowledges, votes, and its messages overtake each other.** An acknowledgement
//!   was of an older term than the vote, and given before it; the leader's *s* is older still.
//! * **A candidate votes for itself.** It stands only after its own timeout, which is no shorter
//!   than *E* since it heard the leader.
//! * **An old leader's answer comes late.** Each step looks at the clock before anything else: a
//!   claim that is over is ended first, and [`Validity`](crate::validity::Validity) does not come
//!   back.
//! * **Clocks run at different rates.** With a leader's clock at rate *l* and a voter's at *v*,
//!   (E − m) / l ≤ E / v must hold, so v / l may be up to E / (E − m) = 10/9, as on etcd
//!   (`docs/safety.md`). A simulation with clocks further apart finds two leaders.
//! * **Leadership is transferred**: voters are asked to vote although they just heard a leader
//!   (`transfer` in RequestVote, thesis §3.10). The leader of term T has ended its claim before it
//!   says TimeoutNow, and never claims again in T, however late or often that word arrives. The
//!   word lets its receiver stand in T + 1 and no other term, and only while it is in T. Leaders
//!   before T are over: T's leader needed a majority that had waited for them, or their word that
//!   they gave up. Leaders after T are safe from it: in T + 1 a second majority of votes can't be had, and from T + 2 on no member heeds
//!   a request of T + 1. A next attempt of the same server is an ordinary one. A [`caretaker`] of term T says
//!   the same word: it was elected by ordinary votes, and never claimed.
//! * **A leader is deposed** by a later term while its claim has time left. Its holder learns of that
//!   only then, and may take until the end of the claim to stop. So the server casts no vote, not even
//!   on a transfer, before the holder has let go or the claim's end has passed ([`Core::is_held`](core::Core::is_held)). The
//!   rest of the majority that proved the claim waits for *s + E* anyway.
//! * **A group of one** hears only itself. Its *s* is when it last let itself be heard, so a
//!   process that was frozen loses its claim all the same, and begins a new term.
//!
//! # Who votes
//!
//! Only a server whose directory all others have recorded ([`VotingRights`](membership::VotingRights)), so that a disk that is lost, and with it
//! a vote, is not replaced by one that votes again. Where an operator has a disk replaced, the log says whose counts: each answer carries
//! the disk that it is of, and a leader or candidate counts it by the last entry of its own log that names disks, committed or not
//! ([`Seats`](membership::MemberDisks)). See [`membership`].
//!
//! What is assumed: processes and machines that fail by stopping; disks that keep what they said is
//! durable; one data directory for each member, used by one process at a time
//! and never put back to an older copy (which is detected, and not made safe: see [`membership`]); clocks that go on in
//! suspend.
//!
//! # What has to be durable before what
//!
//! | message | waits for the disk |
//! |---|---|
//! | RequestVote, VoteGranted | yes: term and vote |
//! | Appended, for new entries or a snapshot | yes: what it acknowledges |
//! | Appended, for a heartbeat, or for entries again | no: it acknowledges only what is durable, so a slow disk deposes no leader |
//! | Append, Install, TimeoutNow | no: the leader's term was durable before it asked for votes; its own copy of an entry counts only once durable (thesis §10.2.1) |
//! | pre-votes, Rejected, Outdated | no: they promise nothing |
//!
//! Messages that wait are kept inside until the write's [`Persisted`](action::Persisted) comes
//! back; see [`action`]. A driver may let writes pile up and make them durable together.
//!
//! # Bounds
//!
//! [`Limits`](message::Limits) names them all. A leader counts what waits for its own disk like what waits for a majority:
//! the others may commit without it. What is not of this group, or that no server that
//! follows the protocol would say, is refused and counted before it can change anything
//! ([`IgnoredCounts`](message::IgnoredCounts)).
//!
//! # Not here
//!
//! Membership changes, but for a member's disk; reads of the log through the leader; priorities. A server that withdrew
//! ([`Input::Withdraw`](action::Input)) votes and keeps the log, and never leads: where it has the
//! newest log of those that are left, it hands that on as a [`caretaker`].

pub(crate) mod action;
mod candidacy;
mod caretaker;
pub(crate) mod core;
mod follower;
pub(crate) mod identity;
mod leader;
pub(crate) mod log;
pub(crate) mod membership;
pub(crate) mod message;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod mutant;
pub(crate) mod node;
mod progress;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod sim;
pub(crate) mod timing;
