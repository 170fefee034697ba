//! Faults among peers.

use std::time::Duration;

use super::{Fault, HostTarget, Random, Target};
use crate::backend::{HEARTBEAT, LONGEST, SHORTEST};

impl Random {
    pub(super) fn fault_among_peers(&mut self) -> Fault {
        match self.rng.u8(0..47) {
            0..=3 => Fault::Kill(self.whom()),
            4..=9 => Fault::Freeze(self.whom()),
            10..=11 => Fault::Restart(self.whom()),
            12 => Fault::KillGuard(Target::Leader),
            13..=14 => Fault::FreezeGuard(Target::Leader),
            15..=17 => Fault::CutOff(self.peer()),
            18..=19 => Fault::Mute(self.peer()),
            20..=21 => Fault::Deaf(self.peer()),
            22..=24 => Fault::OneWay(self.peer(), self.peer()),
            25..=26 => Fault::Apart(self.peer(), self.peer()),
            27..=28 => Fault::Exile(Target::Leader, Target::Next),
            29..=31 => {
                let quality = self.quality();
                Fault::BadLink(self.peer(), quality)
            }
            32..=34 => Fault::Stutter(self.peer()),
            35..=36 => Fault::KillMajority,
            37..=38 => Fault::FreezeOthers,
            39..=40 => Fault::KillPair(Target::Leader),
            41..=42 => Fault::FreezePair(Target::Leader),
            43..=45 => Fault::Stranger(self.whom()),
            _ => Fault::KillAll,
        }
    }

    /// A fault's duration: mostly around the end of belief and the time of the next election.
    pub(super) fn span_among_peers(&mut self, fault: Fault) -> Duration {
        match fault {
            Fault::Restart(_) => Duration::from_secs(1),
            Fault::KillAll | Fault::KillMajority => self.part_of(LONGEST),
            _ => match self.rng.u8(0..10) {
                0..=2 => Duration::from_millis(20) + self.up_to(500),
                3..=6 => self.around(SHORTEST),
                // Another candidate is elected meanwhile.
                7..=8 => SHORTEST + self.part_of(LONGEST),
                _ => LONGEST + self.part_of(2 * LONGEST),
            },
        }
    }

    /// Combinations of faults that are harmless alone, with the time from the first one and their durations.
    pub(super) fn scheme_among_peers(&mut self) -> Vec<(Duration, Duration, Fault)> {
        let none = Duration::ZERO;
        let leader = HostTarget::Of(Target::Leader);
        match self.rng.u8(0..18) {
            // It wakes just after another one was elected.
            0..=1 => vec![(none, SHORTEST + self.up_to(900), Fault::Freeze(Target::Leader))],
            // … and that one is frozen by then.
            2 => vec![
                (none, SHORTEST + self.part_of(LONGEST), Fault::Freeze(Target::Leader)),
                (SHORTEST + self.up_to(800), self.around(SHORTEST), Fault::Freeze(Target::Leader)),
            ],
            // One follower stays with it, and the others elect their own leader.
            3 => vec![(none, self.around(2 * LONGEST), Fault::Exile(Target::Leader, Target::Next))],
            // The rest can't elect a leader, repeatedly, and the restarted ones have forgotten
            // the leader they heard.
            4 => {
                let mut at = none;
                let kills = (0..3).map(|_| {
                    let kill = (at, Duration::from_millis(100) + self.up_to(400), Fault::KillMajority);
                    at += SHORTEST + self.part_of(LONGEST);
                    kill
                });
                kills.collect()
            }
            // Answers to it are delayed, arrive while it is frozen, and it wakes cut off: a leader that counts from the
            // answers believes for too long. TCP sends them again after a fifth of a second.
            5..=6 => vec![
                (none, HEARTBEAT * 9 / 5, Fault::Deaf(leader)),
                (
                    HEARTBEAT + self.up_to(40),
                    SHORTEST.mul_f64(0.55 + 0.15 * self.rng.f64()),
                    Fault::Freeze(Target::Leader),
                ),
                (HEARTBEAT * 9 / 2, 2 * LONGEST, Fault::CutOff(leader)),
            ],
            // The same while it runs: they are sent once more two fifths of a second later.
            7..=8 => vec![
                (none, Duration::from_millis(350) + self.up_to(200), Fault::Deaf(leader)),
                (Duration::from_millis(120) + self.up_to(150), 2 * LONGEST, Fault::Mute(leader)),
            ],
            // One member does not hear the leader that all others hear.
            9 => {
                vec![(
                    none,
                    LONGEST + self.part_of(2 * LONGEST),
                    Fault::Apart(leader, HostTarget::Of(Target::Next)),
                )]
            }
            // … and would win votes if voters forgot that they hear it. The leader would not be told.
            10 => vec![
                (none, LONGEST + self.part_of(LONGEST), Fault::Apart(leader, HostTarget::Of(Target::Next))),
                (SHORTEST * 9 / 10, SHORTEST * 6 / 5, Fault::Deaf(leader)),
            ],
            // One member that has not heard the leader for long asks for votes, when two others restart and
            // no longer know that they heard it just now.
            15 => {
                let kill = LONGEST + self.up_to(1_000);
                let back = Duration::from_millis(10) + self.up_to(40);
                vec![
                    (none, kill + LONGEST, Fault::Apart(leader, HostTarget::Of(Target::Next))),
                    (kill, LONGEST, Fault::CutOff(leader)),
                    (kill, back, Fault::Kill(Target::Next)),
                    (kill, back, Fault::Kill(Target::Third)),
                ]
            }
            // Cut off, and frozen across its deadline.
            11 => vec![
                (none, 2 * LONGEST, Fault::CutOff(leader)),
                (SHORTEST.mul_f64(0.6), self.around(SHORTEST) / 2, Fault::Freeze(Target::Leader)),
            ],
            // Each elected leader dies at once, for as long as there is a majority.
            12 => vec![
                (none, 2 * LONGEST, Fault::Kill(Target::Leader)),
                (SHORTEST + self.up_to(900), LONGEST, Fault::Kill(Target::Leader)),
            ],
            // Its heartbeats arrive and no answers do: it must stop before any follower misses it.
            13 => vec![(none, self.around(LONGEST), Fault::Deaf(leader))],
            // Handed over to a member that is then frozen.
            14 => vec![
                (none, Duration::from_secs(1), Fault::Restart(Target::Leader)),
                (self.up_to(30), self.around(SHORTEST), Fault::Freeze(Target::Next)),
            ],
            // Only the command's init, or the kernel, can still end the command.
            16 => vec![
                (none, self.around(LONGEST), Fault::KillPair(Target::Leader)),
                (2 * LONGEST, SHORTEST + self.part_of(LONGEST), Fault::FreezePair(Target::Leader)),
            ],
            _ => vec![(none, self.part_of(LONGEST), Fault::KillAll)],
        }
    }

    fn peer(&mut self) -> HostTarget {
        HostTarget::Of(self.whom())
    }
}
