//! One attempt to win, as pure states: what has been seen, and what to do next.
//!
//! ```text
//!   key seen in the queue ──► Look ──► somebody before us ──► WatchAhead ──► gone ──► Look …
//!                              │
//!                              └─────► nobody before us ──┐
//!   etcd's Campaign returned ─────────────────────────────┴──► Win
//! ```
//!
//! A win takes both. The *look* (a linearizable read of our own key and of whoever is
//! before it, at one revision) is what makes it safe: `Campaign` returns success for a key
//! that is long gone (etcd-io/etcd#11007), and waiting for one predecessor to go says
//! nothing of the others (microsoft/etcd3#176). `Campaign`'s return is waited for because
//! a call that is cut off later makes etcd resign in our name, in the background.
//!
//! Nobody can come before us later: `create_revision` only grows. So a look that once
//! found us first stays true for as long as our key and lease live, and those are watched
//! from the grant on, by others ([`watch`](super::watch), [`lease`](super::lease)). Where the
//! watch has missed events, our key may have gone unseen, and only a new look counts.
//!
//! The look starts with the event that the predecessor is gone, while etcd is still busy
//! answering `Campaign`, so that verifying the win costs next to nothing.

use super::layout::{LeaseId, Revision};

/// An attempt that has not been won yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Campaign {
    lease: LeaseId,
    /// Our key's `create_revision`, once we know it.
    created: Option<Revision>,
    /// Whether etcd's `Campaign` has returned.
    returned: bool,
    /// A look found nobody before us.
    first: bool,
    look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Look {
    Idle,
    /// A look is under way.
    UnderWay {
        /// Somebody before us went meanwhile: if it shows somebody, that may be from before.
        stale: bool,
        /// Events were missed meanwhile: whatever it shows may be from before.
        void: bool,
        after_return: bool,
    },
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Our key was put: we are in the queue.
    Queued { created: Revision },
    /// etcd's `Campaign` returned success, for a key with this `create_revision`.
    Returned { created: Revision },
    /// The candidate right before us is gone.
    AheadGone,
    /// Events were missed, of our own key or of the one before it.
    Missed,
    /// Our own key is gone.
    OwnKeyGone,
    /// The answer to a look.
    Looked(Queue),
}

/// What a linearizable read shows at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    /// When this was so.
    pub(crate) revision: Revision,
    /// Our own key, if it is there.
    pub(crate) own: Option<OwnKey>,
    /// The key right before ours: the largest `create_revision` below our own.
    pub(crate) ahead: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnKey {
    pub(crate) created: Revision,
    pub(crate) lease: LeaseId,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, until something else is seen.
    Wait,
    /// Read the queue linearizably, given our key's `create_revision`.
    Look { created: Revision },
    /// In the queue, behind somebody: watch that key for its deletion, from this revision on.
    WatchAhead { created: Revision, key: Vec<u8>, from: Revision },
    /// First in the queue, and only `Campaign`'s return is missing: it must come soon.
    ExpectReturn,
    /// We lead, by a verified win.
    Win { created: Revision },
    /// This attempt can't be won any more. Start over, with a new lease.
    Abandon(Why),
}

/// Why an attempt can't be won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    #[error("the key is gone from the queue")]
    KeyGone,
    #[error("events were missed before the key was seen in the queue")]
    Missed,
    #[error("the key in the queue is not the one this attempt made")]
    NotOurs,
    #[error("etcd announced a win while somebody else was first")]
    Phantom,
}

impl Campaign {
    pub(crate) fn new(lease: LeaseId) -> Self {
        Self { lease, created: None, returned: false, first: false, look: Look::Idle }
    }

    /// Takes what was seen, and says what to do about it.
    pub(crate) fn see(&mut self, seen: Seen) -> Next {
        match seen {
            Seen::Queued { created } => self.queued(created),
            Seen::Returned { created } => {
                if self.created.is_some_and(|known| known != created) {
                    return Next::Abandon(Why::NotOurs);
                }
                self.created = Some(created);
                self.returned = true;
                if self.first { Next::Win { created } } else { self.look(created) }
            }
            Seen::AheadGone => match self.created {
                Some(created) if !self.first => self.look(created),
                _ => Next::Wait,
            },
            Seen::Missed => self.missed(),
            Seen::OwnKeyGone => Next::Abandon(Why::KeyGone),
            Seen::Looked(queue) => self.looked(queue),
        }
    }

    fn queued(&mut self, created: Revision) -> Next {
        match self.created {
            Some(known) if known == created => Next::Wait,
            Some(_) => Next::Abandon(Why::NotOurs),
            None => {
                self.created = Some(created);
                self.look(created)
            }
        }
    }

    /// What was known of our own key is not known any more.
    fn missed(&mut self) -> Next {
        self.first = false;
        let Some(created) = self.created else {
            // Our key may have come and gone, and Campaign may then wait for ever.
            return Next::Abandon(Why::Missed);
        };
        match &mut self.look {
            Look::UnderWay { void, .. } => {
                *void = true;
                Next::Wait
            }
            Look::Idle => self.look(created),
        }
    }

    /// One look at a time: what happens meanwhile makes it stale, and it is repeated.
    fn look(&mut self, created: Revision) -> Next {
        match &mut self.look {
            Look::UnderWay { stale, .. } => {
                *stale = true;
                Next::Wait
            }
            Look::Idle => {
                self.look = Look::UnderWay { stale: false, void: false, after_return: self.returned };
                Next::Look { created }
            }
        }
    }

    fn looked(&mut self, queue: Queue) -> Next {
        let (Look::UnderWay { stale, void, after_return }, Some(created)) = (self.look, self.created) else {
            // An answer that nobody asked for proves nothing.
            return Next::Wait;
        };
        self.look = Look::Idle;
        if void {
            return self.look(created);
        }
        match queue.own {
            None => return Next::Abandon(Why::KeyGone),
            Some(own) if own != (OwnKey { created, lease: self.lease }) => {
                return Next::Abandon(Why::NotOurs);
            }
            Some(_) => {}
        }
        match queue.ahead {
            None => {
                self.first = true;
                if self.returned { Next::Win { created } } else { Next::ExpectReturn }
            }
            Some(_) if after_return => Next::Abandon(Why::Phantom),
            Some(_) if stale => self.look(created),
            Some(key) => Next::WatchAhead { created, key, from: queue.revision.next() },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: LeaseId = LeaseId(7);
    const CREATED: Revision = Revision(10);

    fn queue(own: Option<OwnKey>, ahead: Option<&str>) -> Seen {
        Seen::Looked(Queue { revision: Revision(20), own, ahead: ahead.map(|key| key.into()) })
    }

    fn own() -> Option<OwnKey> {
        Some(OwnKey { created: CREATED, lease: OURS })
    }

    #[test]
    fn contract_1_wins_by_a_look_and_the_return_in_either_order() {
        let mut campaign = Campaign::new(OURS);
        assert_eq!(campaign.see(Seen::Queued { created: CREATED }), Next::Look { created: CREATED });
        assert_eq!(campaign.see(queue(own(), None)), Next::ExpectReturn);
        assert_eq!(campaign.see(Seen::Returned { created: CREATED }), Next::Win { created: CREATED });

        let mut campaign = Campaign::new(OURS);
        assert_eq!(campaign.see(Seen::Returned { created: CREATED }), Next::Look { created: CREATED });
        assert_eq!(campaign.see(queue(own(), None)), Next::Win { created: CREATED });
    }

    #[test]
    fn contract_1_phantom_win_is_refused() {
        // Campaign returns success, but the key is long gone.
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Returned { created: CREATED });
        assert_eq!(campaign.see(queue(None, None)), Next::Abandon(Why::KeyGone));

        // … or is there on another lease, or made anew.
        for (created, lease) in [(CREATED, LeaseId(8)), (Revision(11), OURS)] {
            let mut campaign = Campaign::new(OURS);
            let _ = campaign.see(Seen::Returned { created: CREATED });
            let answer = queue(Some(OwnKey { created, lease }), None);
            assert_eq!(campaign.see(answer), Next::Abandon(Why::NotOurs));
        }

        // … or somebody is before it.
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Returned { created: CREATED });
        assert_eq!(campaign.see(queue(own(), Some("leader/1"))), Next::Abandon(Why::Phantom));
    }

    #[test]
    fn contract_1_looks_again_after_one_predecessor_went() {
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Queued { created: CREATED });
        assert_eq!(
            campaign.see(queue(own(), Some("leader/2"))),
            Next::WatchAhead { created: CREATED, key: b"leader/2".into(), from: Revision(21) }
        );
        // leader/2 gave up its place, but leader/1 still leads.
        assert_eq!(campaign.see(Seen::AheadGone), Next::Look { created: CREATED });
        assert!(matches!(campaign.see(queue(own(), Some("leader/1"))), Next::WatchAhead { .. }));
    }

    #[test]
    fn a_look_that_was_overtaken_is_repeated() {
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Queued { created: CREATED });
        // Campaign returns while the look is under way: that look may be from before.
        assert_eq!(campaign.see(Seen::Returned { created: CREATED }), Next::Wait);
        assert_eq!(campaign.see(queue(own(), Some("leader/1"))), Next::Look { created: CREATED });
        assert_eq!(campaign.see(queue(own(), None)), Next::Win { created: CREATED });
    }

    #[test]
    fn contract_1_a_gap_in_the_watch_takes_back_what_was_seen() {
        // First in the queue; then a gap, in which our key may have been deleted.
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Queued { created: CREATED });
        assert_eq!(campaign.see(queue(own(), None)), Next::ExpectReturn);
        assert_eq!(campaign.see(Seen::Missed), Next::Look { created: CREATED });
        assert_eq!(campaign.see(Seen::Returned { created: CREATED }), Next::Wait);
        assert_eq!(campaign.see(queue(None, None)), Next::Abandon(Why::KeyGone));

        // The gap comes while a look is under way: its answer may be from before the gap.
        let mut campaign = Campaign::new(OURS);
        let _ = campaign.see(Seen::Returned { created: CREATED });
        assert_eq!(campaign.see(Seen::Missed), Next::Wait);
        assert_eq!(campaign.see(queue(own(), None)), Next::Look { created: CREATED });
        assert_eq!(campaign.see(queue(own(), None)), Next::Win { created: CREATED });

        // The gap has swallowed even the news that our key was put.
        let mut campaign = Campaign::new(OURS);
        assert_eq!(campaign.see(Seen::Missed), Next::Abandon(Why::Missed));
    }

    #[test]
    fn an_answer_that_nobody_asked_for_proves_nothing() {
        let mut campaign = Campaign::new(OURS);
        assert_eq!(campaign.see(queue(own(), None)), Next::Wait);
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let own_key = prop_oneof![
            6 => Just(own()),
            1 => Just(None),
            1 => Just(Some(OwnKey { created: Revision(11), lease: OURS })),
            1 => Just(Some(OwnKey { created: CREATED, lease: LeaseId(8) })),
        ];
        prop_oneof![
            Just(Seen::Queued { created: CREATED }),
            Just(Seen::Returned { created: CREATED }),
            Just(Seen::AheadGone),
            Just(Seen::Missed),
            (own_key, prop::option::of(Just("leader/1"))).prop_map(|(own, ahead)| queue(own, ahead)),
        ]
    }

    proptest! {
        /// Whatever is seen, in whatever order: a win comes only after the return, and only
        /// from a look that was asked for and showed our own key with nobody before it.
        #[test]
        fn contract_1_no_win_without_return_and_clean_look(all in prop::collection::vec(seen(), 0..25)) {
            let mut campaign = Campaign::new(OURS);
            let (mut asked, mut void, mut clean, mut returned) = (false, false, false, false);
            for seen in all {
                returned |= matches!(seen, Seen::Returned { .. });
                // What was seen before a gap counts no more; nor does a look that was under way.
                if seen == Seen::Missed {
                    (clean, void) = (false, asked);
                }
                if let Seen::Looked(queue) = &seen {
                    clean |= !void && asked && queue.own == own() && queue.ahead.is_none();
                    (asked, void) = (false, false);
                }
                match campaign.see(seen) {
                    Next::Look { .. } => {
                        prop_assert!(!asked, "one look at a time");
                        asked = true;
                    }
                    Next::Win { created } => {
                        prop_assert!(returned && clean);
                        prop_assert_eq!(created, CREATED);
                        return Ok(());
                    }
                    Next::Abandon(_) => return Ok(()),
                    Next::Wait | Next::WatchAhead { .. } | Next::ExpectReturn => {}
                }
            }
        }

        /// A candidate that is first, and learns all there is to learn, does win.
        #[test]
        fn contract_6_never_gets_stuck(noise in prop::collection::vec(prop_oneof![
            Just(Seen::Queued { created: CREATED }), Just(Seen::AheadGone),
        ], 0..10), returned_first in any::<bool>()) {
            let mut campaign = Campaign::new(OURS);
            let mut looking = false;
            let mut all = vec![Seen::Queued { created: CREATED }];
            if returned_first { all.insert(0, Seen::Returned { created: CREATED }) }
            all.extend(noise);
            if !returned_first { all.push(Seen::Returned { created: CREATED }) }
            for seen in all {
                match campaign.see(seen) {
                    Next::Look { .. } => looking = true,
                    Next::Win { .. } => return Ok(()),
                    _ => {}
                }
            }
            prop_assert!(looking);
            prop_assert_eq!(campaign.see(queue(own(), None)), Next::Win { created: CREATED });
        }
    }
}
