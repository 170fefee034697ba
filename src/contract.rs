//! The guarantee of [`Leadership`](crate::Leadership), on both backends.
//!
//! Assumed: the clock rates of two machines differ by less than the margin, and etcd keeps its documented
//! guarantees. Processes may be frozen or killed at any moment, and networks may lose, delay and cut.
//!
//! 1. **Verified win.** A campaign returns a `Leadership` only once the backend has confirmed the win: on etcd
//!    the queue, read linearizably, shows this candidate's key first, on its own lease; among peers an entry of the new
//!    leader's term is committed.
//! 2. **Validity counts from the send.** The [deadline](crate::LeadershipHandle::deadline) is the *send* of the last
//!    acknowledged renewal or heartbeat, plus its span, less a margin for clocks. It never moves back, and once it is over, the
//!    term is.
//! 3. **Checked at use.** [`holds`](crate::LeadershipHandle::holds) costs a clock read. A process that was frozen
//!    learns of its loss before its next guarded step.
//! 4. **Loss is certain and in time.** [`lost`](crate::LeadershipHandle::lost) resolves by the deadline at the latest,
//!    with the reason.
//! 5. **Fencing.** Each term's [token](crate::FencingToken) is larger than all before it in the same cluster. A resource that
//!    refuses smaller ones is safe even from a leader that was paused between check and write.
//! 6. **A standby is alive or queues anew.** It renews, watches its key and its connection, and tries again for ever. Only
//!    what retrying can't fix ends it: see [`CampaignError`](crate::CampaignError).
//! 7. **Answers from the past are refused**: another cluster's, an older term's, a lower revision's.
//! 8. **Stop, then release.** A graceful end drops the work first, then gives leadership up, and says whether
//!    the backend confirmed that.
//! 9. **Observers know what they don't know.** An [`Observer`](crate::observe::Observer) shows a leader, a vacancy, or since
//!    when it is not known.
//! 10. **Good neighbours.** Keys and order on etcd are those of etcd's own election, so candidates of other clients may
//!     join the same queue.
//! 11. **Members are who they say** (peers). A connection speaks for a member only if its certificate, or the group's
//!     secret, proves it.
//! 12. **None for no longer than necessary.** Where a majority can talk and a candidate takes part, there is a leader within a bound
//!     that follows from round trip, disk and timing.
//! 13. **Nothing outlives its term** (`elect run`). The command, its hooks and all that they started are gone before
//!     leadership passes on.
//!
//! Not promised: that work which can't be dropped stops in time. `run` and `lead_until` drop a future; a spawned task, a
//! blocking call or a write on its way goes on, and only the token stops it.
//!
//! `docs/safety.md` in the source shows where and how each point is kept, and by which tests.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    /// Numbers and titles of the points.
    fn titles<'a>(
        lines: impl Iterator<Item = &'a str>,
        numbered: fn(&str) -> Option<(&str, &str)>,
    ) -> BTreeMap<u32, &'a str> {
        let point = |line: &'a str| {
            let (number, _) = numbered(line)?;
            let title = line.split("**").nth(1)?;
            Some((number.trim().parse().ok()?, title.trim_end_matches('.')))
        };
        lines.filter_map(point).collect()
    }

    #[test]
    fn the_points_are_those_of_the_safety_page() {
        let here = include_str!("contract.rs").lines().filter_map(|line| line.strip_prefix("//! "));
        let here = titles(here, |line| line.split_once(". "));
        let page = include_str!("../docs/safety.md").lines();
        let page = titles(page, |line| line.strip_prefix("| ")?.split_once(" | "));
        assert_eq!(here.len(), 13);
        assert_eq!(here, page);
    }
}
