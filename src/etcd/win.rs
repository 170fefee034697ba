//! The rule of a verified win, as pure states: inputs so far, and the next step.
//!
//! ```text
//!   position in the queue ─► behind another ─► … ─► first ──┐
//!   etcd answered that it put our key ──────────────────────┴──► Win
//! ```
//!
//! A win takes both, in either order. *First* is shown by the [view](super::view) of the queue: a
//! linearizable read, continued event by event, so that at one revision our own key existed, on our lease,
//! with no key before it or at the same revision. The answer to the put has our `create_revision`: a key of
//! our name that another process made has another. (etcd's own `Campaign` proves less: it returns success for
//! a key that is long gone, etcd-io/etcd#11007.)
//!
//! No key can come before ours later: `create_revision` only grows. So first stays first while our key lives.
//! The moment the view becomes unsure (a broken watch), its earlier positions do not count until it is sure
//! again.

use super::{
    keys::{LeaseId, Revision},
    queue::QueuePlace,
    view::QueuePosition,
};

/// An attempt that has not been won yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WinRule {
    lease: LeaseId,
    /// Our key's `create_revision`, once we know it.
    created: Option<Revision>,
    /// True once the view has shown us in the queue.
    queued: bool,
    /// True while the view is sure of our position.
    sure: bool,
    /// True while the view is sure that no key is before ours.
    first: bool,
    /// True once etcd has answered that it put our key.
    put: bool,
}

/// An input of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WinInput {
    /// The position of our key in the view.
    Position(QueuePosition),
    /// etcd put our key, and this is its `create_revision`.
    Put { created: Revision },
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WinStep {
    /// Nothing, for however long it takes.
    Wait,
    /// In the queue, behind another candidate: wait, for however long it takes.
    Follow { created: Revision },
    /// Only one of the two that make a win is missing, and is due soon.
    Expect,
    /// We lead, by a verified win.
    Win { created: Revision },
    /// This attempt can't be won any more. Start over, with a new lease.
    Abandon(AttemptFailure),
}

/// Reason that an attempt can't be won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttemptFailure {
    #[error("the key is gone from the queue")]
    KeyGone,
    #[error("the key in the queue is not the one this attempt made")]
    NotOurs,
}

impl WinRule {
    pub(crate) fn new(lease: LeaseId) -> Self {
        Self { lease, created: None, queued: false, sure: false, first: false, put: false }
    }

    /// Takes an input, and returns the next step.
    pub(crate) fn see(&mut self, seen: WinInput) -> WinStep {
        match seen {
            WinInput::Put { created } => {
                self.put = true;
                let shown = self.queued && self.sure;
                let next = |rule: &Self| if shown { rule.settle(created) } else { WinStep::Expect };
                self.made(created).unwrap_or_else(|| next(self))
            }
            WinInput::Position(QueuePosition::Unsure { .. }) => {
                (self.sure, self.first) = (false, false);
                if self.put { WinStep::Expect } else { WinStep::Wait }
            }
            WinInput::Position(QueuePosition::At { revision, place }) => {
                self.sure = true;
                match place {
                    QueuePlace::Absent => self.absent(revision),
                    QueuePlace::Behind(key) | QueuePlace::First(key) => {
                        if key.lease.is_some_and(|lease| lease != self.lease) {
                            return WinStep::Abandon(AttemptFailure::NotOurs);
                        }
                        self.queued = true;
                        self.first = matches!(place, QueuePlace::First(_));
                        self.made(key.created).unwrap_or_else(|| self.settle(key.created))
                    }
                }
            }
        }
    }

    /// Records our key's revision; it never changes while the key lives.
    fn made(&mut self, created: Revision) -> Option<WinStep> {
        let known = *self.created.get_or_insert(created);
        (known != created).then_some(WinStep::Abandon(AttemptFailure::NotOurs))
    }

    /// Tells a key that is not there yet from one that is gone.
    fn absent(&mut self, revision: Revision) -> WinStep {
        self.first = false;
        let gone = self.queued || self.created.is_some_and(|created| created <= revision);
        match (gone, self.put) {
            (true, _) => WinStep::Abandon(AttemptFailure::KeyGone),
            (false, true) => WinStep::Expect,
            (false, false) => WinStep::Wait,
        }
    }

    fn settle(&self, created: Revision) -> WinStep {
        match (self.first, self.put) {
            (true, true) => WinStep::Win { created },
            (true, false) => WinStep::Expect,
            (false, _) => WinStep::Follow { created },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{clock::Timestamp, etcd::queue::Key};

    const OURS: LeaseId = LeaseId(7);
    const CREATED: Revision = Revision(10);
    const PUT: WinInput = WinInput::Put { created: CREATED };
    const UNSURE: WinInput = WinInput::Position(QueuePosition::Unsure { since: Timestamp::from_nanos(1) });

    fn key() -> Key {
        Key { created: CREATED, lease: Some(OURS) }
    }

    fn at(revision: i64, place: QueuePlace) -> WinInput {
        WinInput::Position(QueuePosition::At { revision: Revision(revision), place })
    }

    fn first() -> WinInput {
        at(20, QueuePlace::First(key()))
    }

    fn behind() -> WinInput {
        at(15, QueuePlace::Behind(key()))
    }

    fn after(all: &[WinInput]) -> WinStep {
        let mut campaign = WinRule::new(OURS);
        all.iter().map(|seen| campaign.see(*seen)).last().unwrap()
    }

    const WON: WinStep = WinStep::Win { created: CREATED };

    #[test]
    fn contract_1_wins_by_the_view_and_the_answer_in_either_order() {
        assert_eq!(after(&[first()]), WinStep::Expect);
        assert_eq!(after(&[first(), PUT]), WON);
        assert_eq!(after(&[PUT]), WinStep::Expect);
        assert_eq!(after(&[PUT, first()]), WON);
        assert_eq!(after(&[behind()]), WinStep::Follow { created: CREATED });
        assert_eq!(after(&[behind(), PUT]), WinStep::Follow { created: CREATED });
        assert_eq!(after(&[PUT, behind()]), WinStep::Follow { created: CREATED });
        assert_eq!(after(&[behind(), PUT, first()]), WON);
    }

    #[test]
    fn contract_1_phantom_win_is_refused() {
        let gone = WinStep::Abandon(AttemptFailure::KeyGone);
        // etcd put it, but its deletion was seen.
        assert_eq!(after(&[behind(), at(16, QueuePlace::Absent)]), gone);
        assert_eq!(after(&[first(), at(21, QueuePlace::Absent)]), gone);
        // … or came and went without being seen.
        assert_eq!(after(&[PUT, at(10, QueuePlace::Absent)]), gone);
        // … or is on another lease, or made anew.
        let foreign = Key { lease: Some(LeaseId(8)), ..key() };
        let anew = Key { created: Revision(11), ..key() };
        for other in [foreign, anew] {
            assert_eq!(
                after(&[PUT, at(20, QueuePlace::First(other))]),
                WinStep::Abandon(AttemptFailure::NotOurs)
            );
        }
    }

    #[test]
    fn contract_1_a_view_from_before_our_key_does_not_end_the_attempt() {
        assert_eq!(after(&[at(5, QueuePlace::Absent)]), WinStep::Wait);
        assert_eq!(after(&[PUT, at(5, QueuePlace::Absent)]), WinStep::Expect);
        assert_eq!(after(&[PUT, at(5, QueuePlace::Absent), first()]), WON);
    }

    #[test]
    fn contract_1_what_was_seen_before_the_view_broke_does_not_count() {
        assert_eq!(after(&[first(), UNSURE]), WinStep::Wait);
        assert_eq!(after(&[first(), UNSURE, PUT]), WinStep::Expect);
        assert_eq!(
            after(&[first(), UNSURE, PUT, at(30, QueuePlace::Absent)]),
            WinStep::Abandon(AttemptFailure::KeyGone)
        );
        assert_eq!(after(&[first(), UNSURE, PUT, at(30, QueuePlace::First(key()))]), WON);
    }

    fn seen() -> impl Strategy<Value = WinInput> {
        let keys = prop_oneof![
            6 => Just(key()),
            1 => Just(Key { lease: None, ..key() }),
            1 => Just(Key { created: Revision(11), ..key() }),
            1 => Just(Key { lease: Some(LeaseId(8)), ..key() }),
        ];
        let places = prop_oneof![
            1 => Just(QueuePlace::Absent),
            3 => keys.clone().prop_map(QueuePlace::Behind),
            3 => keys.prop_map(QueuePlace::First),
        ];
        prop_oneof![
            1 => Just(PUT),
            1 => Just(UNSURE),
            5 => (5..30i64, places).prop_map(|(revision, place)| at(revision, place)),
        ]
    }

    proptest! {
        /// For all inputs in all orders: a win comes only after the answer, and only while the newest
        /// position is our own key with no key before it.
        #[test]
        fn contract_1_no_win_without_answer_and_first_position(all in prop::collection::vec(seen(), 0..25)) {
            let mut campaign = WinRule::new(OURS);
            let (mut clear, mut put) = (false, false);
            for seen in all {
                match seen {
                    WinInput::Put { .. } => put = true,
                    WinInput::Position(QueuePosition::At { place: QueuePlace::First(seen), .. }) => {
                        clear = seen.created == CREATED && seen.lease.is_none_or(|lease| lease == OURS);
                    }
                    WinInput::Position(_) => clear = false,
                }
                match campaign.see(seen) {
                    WinStep::Win { created } => {
                        prop_assert!(clear && put);
                        prop_assert_eq!(created, CREATED);
                        return Ok(());
                    }
                    WinStep::Abandon(_) => return Ok(()),
                    WinStep::Wait | WinStep::Follow { .. } | WinStep::Expect => {}
                }
            }
        }

        /// A candidate that is first, and gets all inputs, does win.
        #[test]
        fn contract_6_never_gets_stuck(
            noise in prop::collection::vec(prop_oneof![
                Just(behind()), Just(UNSURE), Just(at(5, QueuePlace::Absent)),
            ], 0..10),
            put_at in 0..10usize,
        ) {
            let mut campaign = WinRule::new(OURS);
            for (turn, seen) in noise.into_iter().enumerate() {
                if turn == put_at {
                    prop_assert_ne!(campaign.see(PUT), WinStep::Wait);
                }
                if matches!(campaign.see(seen), WinStep::Abandon(_)) {
                    return Ok(());
                }
            }
            let _ = campaign.see(PUT);
            prop_assert_eq!(campaign.see(first()), WON);
        }
    }
}
