//! Faults on etcd.

use std::time::Duration;

use super::{Fault, HostTarget, MemberTarget, Random, Target};
use crate::backend::TTL;

impl Random {
    pub(super) fn fault_on_etcd(&mut self) -> Fault {
        match self.rng.u8(0..44) {
            0..=3 => Fault::Kill(self.whom()),
            4..=8 => Fault::Freeze(self.whom()),
            9..=10 => Fault::Restart(self.whom()),
            11 => Fault::KillGuard(Target::Leader),
            12..=13 => Fault::FreezeGuard(Target::Leader),
            14..=16 => Fault::CutOff(self.site_on_etcd()),
            17 => Fault::Mute(self.site_on_etcd()),
            18..=19 => Fault::Deaf(self.site_on_etcd()),
            20..=21 => Fault::OneWay(HostTarget::Of(self.whom()), HostTarget::Etcd(self.member())),
            22 => Fault::OneWay(HostTarget::Etcd(self.member()), HostTarget::Of(self.whom())),
            23 => Fault::Apart(HostTarget::Of(self.whom()), HostTarget::Etcd(self.member())),
            24 => Fault::Apart(HostTarget::Etcd(MemberTarget::Leading), HostTarget::Etcd(self.member())),
            25..=26 => {
                let quality = self.quality();
                Fault::BadLink(self.site_on_etcd(), quality)
            }
            27..=28 => Fault::KillMember(self.member()),
            29..=31 => Fault::FreezeMember(self.member()),
            32 => Fault::Stutter(HostTarget::Etcd(self.member())),
            33..=34 => Fault::MoveLeader,
            35..=36 => Fault::Revoke(self.whom()),
            37 => Fault::Delete(self.whom()),
            38..=39 => Fault::KillPair(Target::Leader),
            40..=41 => Fault::FreezePair(Target::Leader),
            _ => Fault::Compact,
        }
    }

    /// A fault's duration: mostly shorter than a TTL or about as long, at times much longer.
    pub(super) fn span_on_etcd(&mut self, fault: Fault) -> Duration {
        let ttl = TTL;
        match fault {
            Fault::Restart(_) => Duration::from_secs(1),
            Fault::Kill(_) | Fault::KillPair(_) | Fault::KillAll | Fault::KillMember(_) => {
                self.up_to(1_000) + self.part_of(ttl)
            }
            Fault::FreezeEtcd => self.around(ttl),
            _ => match self.rng.u8(0..10) {
                0..=2 => Duration::from_millis(20) + self.up_to(700),
                // Around the end of belief, and of the lease.
                3..=7 => self.around(ttl),
                _ => ttl + self.part_of(2 * ttl),
            },
        }
    }

    /// Combinations of faults that are harmless alone, with the time from the first one and their durations.
    pub(super) fn scheme_on_etcd(&mut self) -> Vec<(Duration, Duration, Fault)> {
        let ttl = TTL;
        let none = Duration::ZERO;
        let leader = HostTarget::Of(Target::Leader);
        match self.rng.u8(0..15) {
            // The leader sleeps while etcd elects another leader, which restarts every lease's TTL.
            0 => vec![
                (none, self.around(ttl), Fault::Freeze(Target::Leader)),
                (self.part_of(ttl), none, Fault::MoveLeader),
            ],
            // etcd's leader is frozen and replaced; on waking, its leases are out of date.
            1 => vec![
                (none, ttl + self.part_of(ttl), Fault::FreezeMember(MemberTarget::Leading)),
                (self.up_to(500), ttl, Fault::Freeze(Target::Next)),
            ],
            // Renewals are sent, and their answers are lost; then nothing gets out.
            2 => vec![
                (none, self.around(ttl), Fault::Deaf(leader)),
                (self.part_of(ttl), self.around(ttl), Fault::Mute(leader)),
            ],
            // Cut off, and frozen across its deadline.
            3 => vec![
                (none, 2 * ttl, Fault::CutOff(leader)),
                (ttl * 3 / 5, self.around(ttl) / 2, Fault::Freeze(Target::Leader)),
            ],
            // It wakes when its successor has just begun.
            4 => vec![
                (none, ttl + Duration::from_millis(300) + self.up_to(900), Fault::Freeze(Target::Leader)),
                (self.part_of(ttl), self.around(ttl), Fault::Freeze(Target::Next)),
            ],
            5 => vec![(none, self.part_of(ttl), Fault::KillAll)],
            6 => vec![(none, self.around(ttl), Fault::FreezeEtcd)],
            // Its key is gone when its turn comes, and has been for longer than any excuse covers.
            7 => vec![
                (none, none, Fault::Delete(Target::Next)),
                (2 * ttl + Duration::from_millis(1_500), self.part_of(ttl), Fault::Kill(Target::Leader)),
            ],
            // The last answer that gets through is late, as often as there is time for: a leader that counts from answers
            // believes for too long.
            8..=10 => vec![
                (none, Duration::from_millis(600), Fault::Deaf(leader)),
                (Duration::from_millis(750) + self.up_to(150), 2 * ttl, Fault::CutOff(leader)),
            ],
            // Deposed, and not told.
            11 => vec![
                (none, self.around(ttl), Fault::Deaf(leader)),
                (self.up_to(300), none, Fault::Revoke(Target::Leader)),
            ],
            // Only the command's init, or the kernel, can still end the command.
            12 => vec![(none, self.around(ttl), Fault::KillPair(Target::Leader))],
            13 => vec![(none, ttl + self.part_of(ttl), Fault::FreezePair(Target::Leader))],
            // etcd's leader dies, and the candidate that leads can't reach one of the other members.
            _ => vec![
                (none, self.part_of(ttl), Fault::KillMember(MemberTarget::Leading)),
                (
                    self.up_to(200),
                    ttl,
                    Fault::Apart(
                        leader,
                        HostTarget::Etcd(MemberTarget::One(self.rng.usize(0..self.on.members()))),
                    ),
                ),
                (self.up_to(800), self.around(ttl) / 2, Fault::Freeze(Target::Leader)),
            ],
        }
    }

    fn member(&mut self) -> MemberTarget {
        if self.rng.bool() {
            MemberTarget::Leading
        } else {
            MemberTarget::One(self.rng.usize(0..self.on.members()))
        }
    }

    fn site_on_etcd(&mut self) -> HostTarget {
        if self.rng.u8(0..3) == 0 { HostTarget::Etcd(self.member()) } else { HostTarget::Of(self.whom()) }
    }
}
