//! The Hello of two members, and the comparison of their settings.
//!
//! A group is defined by its members' settings: no server announces who belongs to it. So each side sends its
//! settings, and both compare. If they differ, no message of Raft passes: two servers with different lists could
//! each find a majority of its own, and a voter with a shorter election timeout would end its leader's validity. A
//! pair that differs costs the group that pair's connection and nothing else; lists are corrected by restarts, so
//! both go on trying.
//!
//! Pure: the settings come in, the first [`Difference`] comes out. Its text is the same for both sides, because the
//! one that finds it sends it to the other.

use std::{collections::BTreeMap, fmt, time::Duration};

use prost::bytes::Bytes;

use super::{Group, Settings, wire::proto};
use crate::{
    names::{CandidateName, displayed},
    raft::{
        identity::{Index, MAX_MEMBERS, NodeId},
        membership::{DirectoryId, Identity, Run, RunId, WriteCount},
    },
};

/// This server's end of a connection, and the member that greeted at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// This server connected to that member.
    Dialled(NodeId),
    /// That member connected to this server.
    Accepted(NodeId),
}

/// A member whose messages are accepted. The disk decides about its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Introduced {
    pub(crate) node: NodeId,
    pub(crate) identity: Identity,
    pub(crate) writes: WriteCount,
    /// The entry of its log that names its directory.
    pub(crate) claim: Index,
    /// True if it admits this server because a log names this server's directory.
    pub(crate) newcomer: bool,
}

/// Reason for refusing a peer. Names both servers, both values, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    #[error(
        "'{us}' takes part in the election '{ours}', and '{them}' in '{theirs}'; \
         start both with the same --election"
    )]
    Election { us: CandidateName, them: String, ours: String, theirs: String },
    #[error(
        "'{lists}' has {member} among its peers, and '{lacks}' has not; start both with the same --peers"
    )]
    Member { lists: String, lacks: String, member: String },
    #[error(
        "'{us}' looks for '{member}' at {ours}, and '{them}' at {theirs}; start both with the same --peers"
    )]
    Address { us: CandidateName, them: String, member: CandidateName, ours: String, theirs: String },
    #[error("'{them}' has {count} peers, and a group has at most {MAX_MEMBERS}")]
    Crowd { them: String, count: usize },
    #[error("'{greeted}' calls itself '{them}' now; install the same version on both")]
    TwoNames { greeted: CandidateName, them: String },
    #[error("'{them}' called '{us}', and of these two the other one calls; install the same version on both")]
    Backwards { us: CandidateName, them: String },
    #[error(
        "the shortest election timeout of '{us}' is {ours:?}, and that of '{them}' {theirs:?}; \
         start both with the same --election-timeout"
    )]
    Timing { us: CandidateName, them: String, ours: Duration, theirs: Duration },
    #[error(
        "'{them}' does not say which data directory it has, or which start this is; install the same version on both"
    )]
    NoDirectory { them: String },
}

/// This server's own Hello.
///
/// `claim` is the entry of this server's log that names its directory. `newcomer` is about the other side, once
/// that is known.
pub(crate) fn ours(
    settings: &Settings,
    identity: &Identity,
    writes: WriteCount,
    claim: Index,
    newcomer: bool,
) -> proto::Hello {
    proto::Hello {
        election: settings.election().as_str().to_owned(),
        members: members(settings.group()),
        name: settings.name().as_str().to_owned(),
        directory: Bytes::copy_from_slice(identity.directory.as_bytes()),
        shortest_us: micros(settings.timing().shortest()),
        run: identity.run.number,
        run_id: Bytes::copy_from_slice(identity.run.id.as_bytes()),
        writes: writes.0,
        began: identity.run.began.0,
        named: claim.get(),
        newcomer,
    }
}

/// A group as it is listed in messages.
pub(crate) fn members(group: &Group) -> Vec<proto::Member> {
    let listed = group.members().iter();
    listed
        .map(|member| proto::Member { name: member.name.to_string(), address: member.address.to_string() })
        .collect()
}

/// Whole microseconds, as messages have them.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Compares the settings of the member that greeted at the other end with this server's.
pub(crate) fn compare(
    settings: &Settings,
    end: Side,
    theirs: &proto::Hello,
) -> Result<Introduced, Difference> {
    let us = || settings.name().clone();
    let them = || displayed(theirs.name.as_bytes());
    if theirs.election != settings.election().as_str() {
        let (ours, theirs) = (settings.election().to_string(), displayed(theirs.election.as_bytes()));
        return Err(Difference::Election { us: us(), them: them(), ours, theirs });
    }
    same_members(settings, theirs)?;
    let (Side::Dialled(node) | Side::Accepted(node)) = end;
    let greeted = &settings.group().member(node).name;
    if theirs.name != greeted.as_str() {
        return Err(Difference::TwoNames { greeted: greeted.clone(), them: them() });
    }
    if matches!(end, Side::Accepted(_)) && !dials(node, settings.me()) {
        return Err(Difference::Backwards { us: us(), them: them() });
    }
    let shortest = settings.timing().shortest();
    if theirs.shortest_us != micros(shortest) {
        let theirs = Duration::from_micros(theirs.shortest_us);
        return Err(Difference::Timing { us: us(), them: them(), ours: shortest, theirs });
    }
    let identity = identity(theirs).ok_or_else(|| Difference::NoDirectory { them: them() })?;
    let (writes, claim) = (WriteCount(theirs.writes), Index::new(theirs.named));
    Ok(Introduced { node, identity, writes, claim, newcomer: theirs.newcomer })
}

fn identity(theirs: &proto::Hello) -> Option<Identity> {
    let directory = DirectoryId::from_bytes(theirs.directory.as_ref().try_into().ok()?);
    let id = RunId::from_bytes(theirs.run_id.as_ref().try_into().ok()?);
    (theirs.run > 0 && theirs.began > 0).then_some(Identity {
        directory,
        run: Run { number: theirs.run, id, began: WriteCount(theirs.began) },
    })
}

/// Returns true if, of two members, the first one connects to the second.
pub(crate) fn dials(one: NodeId, other: NodeId) -> bool {
    one < other
}

fn same_members(settings: &Settings, theirs: &proto::Hello) -> Result<(), Difference> {
    let us = || settings.name().to_string();
    let them = || displayed(theirs.name.as_bytes());
    let count = theirs.members.len();
    if count > usize::from(MAX_MEMBERS) {
        return Err(Difference::Crowd { them: them(), count });
    }
    let listed = theirs.members.iter().map(|member| (member.name.as_str(), member.address.as_str()));
    let mut listed: BTreeMap<&str, &str> = listed.collect();
    for member in settings.group().members() {
        let Some(theirs) = listed.remove(member.name.as_str()) else {
            return Err(Difference::Member { lists: us(), lacks: them(), member: member.to_string() });
        };
        let ours = member.address.to_string();
        if theirs != ours {
            let (us, member, theirs) =
                (settings.name().clone(), member.name.clone(), displayed(theirs.as_bytes()));
            return Err(Difference::Address { us, them: them(), member, ours, theirs });
        }
    }
    match listed.pop_first() {
        None => Ok(()),
        Some((name, address)) => {
            let member = UnknownMember(name, address).to_string();
            Err(Difference::Member { lists: them(), lacks: us(), member })
        }
    }
}

/// An unknown member, in a list's format.
struct UnknownMember<'a>(&'a str, &'a str);

impl fmt::Display for UnknownMember<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", displayed(self.0.as_bytes()), displayed(self.1.as_bytes()))
    }
}

/// The first run on that directory, right after it was made.
#[cfg(test)]
pub(crate) fn first_run(directory: [u8; 16]) -> Identity {
    let directory = DirectoryId::from_bytes(directory);
    Identity {
        directory,
        run: Run { number: 1, id: RunId::from_bytes(*directory.as_bytes()), began: WriteCount(1) },
    }
}

/// A server's Hello in that run.
#[cfg(test)]
pub(crate) fn ours_on(settings: &Settings, directory: [u8; 16]) -> proto::Hello {
    ours(settings, &first_run(directory), WriteCount(1), Index::ZERO, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peers::Timing;

    const GROUP: &str = "a=h:1,b=h:2,c=h:3";

    fn settings(name: &str, group: &str) -> Settings {
        Settings::new(&name.parse().unwrap(), group.parse().unwrap(), "data").unwrap()
    }

    fn hello(name: &str, group: &str) -> proto::Hello {
        ours_on(&settings(name, group), [7; 16])
    }

    fn node(place: u8) -> NodeId {
        NodeId::new(place)
    }

    /// The refusal by 'a' of a Hello of 'b'.
    fn refused(theirs: &proto::Hello) -> String {
        compare(&settings("b", GROUP), Side::Accepted(node(0)), theirs).unwrap_err().to_string()
    }

    #[test]
    fn members_that_were_told_the_same_talk() {
        let met = |node| {
            let (identity, writes) = (first_run([7; 16]), WriteCount(1));
            Ok(Introduced { node, identity, writes, claim: Index::ZERO, newcomer: false })
        };
        let reordered = hello("a", "c=h:3,b=h:2,a=h:1");
        assert_eq!(compare(&settings("b", GROUP), Side::Accepted(node(0)), &reordered), met(node(0)));
        assert_eq!(compare(&settings("b", GROUP), Side::Dialled(node(2)), &hello("c", GROUP)), met(node(2)));
    }

    #[test]
    fn says_which_member_the_one_has_and_the_other_has_not() {
        assert_eq!(
            refused(&hello("a", "a=h:1,b=h:2")),
            "'b' has c=h:3 among its peers, and 'a' has not; start both with the same --peers"
        );
        assert_eq!(
            refused(&hello("a", "a=h:1,b=h:2,c=h:3,d=h:4")),
            "'a' has d=h:4 among its peers, and 'b' has not; start both with the same --peers"
        );
    }

    #[test]
    fn says_whose_address_differs() {
        assert_eq!(
            refused(&hello("a", "a=h:1,b=h:2,c=h:9")),
            "'b' looks for 'c' at h:3, and 'a' at h:9; start both with the same --peers"
        );
    }

    #[test]
    fn says_which_elections_and_which_timeouts() {
        let other = settings("a", GROUP).with_election("other".parse().unwrap());
        assert_eq!(
            refused(&ours_on(&other, [7; 16])),
            "'b' takes part in the election 'leader', and 'a' in 'other'; start both with the same --election"
        );
        let ms = Duration::from_millis;
        let slow = settings("a", GROUP).with_timing(Timing::new(ms(50), ms(300), ms(500)).unwrap());
        assert_eq!(
            refused(&ours_on(&slow, [7; 16])),
            "the shortest election timeout of 'b' is 250ms, and that of 'a' 300ms; start both with the same \
             --election-timeout"
        );
    }

    #[test]
    fn only_the_expected_member_may_be_at_the_other_end() {
        let us = settings("b", GROUP);
        let why = |end, theirs| compare(&us, end, &theirs).unwrap_err().to_string();
        assert_eq!(
            why(Side::Dialled(node(2)), hello("a", GROUP)),
            "'c' calls itself 'a' now; install the same version on both"
        );
        assert!(why(Side::Accepted(node(0)), hello("c", GROUP)).contains("'a' calls itself 'c' now"));
        assert!(why(Side::Accepted(node(2)), hello("c", GROUP)).contains("the other one calls"));
    }

    #[test]
    fn a_missing_directory_is_refused() {
        let bare = || hello("a", GROUP);
        for none in [
            proto::Hello { directory: Bytes::new(), ..bare() },
            proto::Hello { run_id: Bytes::new(), ..bare() },
            proto::Hello { run: 0, ..bare() },
        ] {
            assert!(refused(&none).contains("which data directory"));
        }
    }

    #[test]
    fn of_each_pair_exactly_one_dials() {
        for one in 0..MAX_MEMBERS {
            for other in (0..MAX_MEMBERS).filter(|other| *other != one) {
                assert_ne!(dials(node(one), node(other)), dials(node(other), node(one)));
            }
        }
    }

    fn hellos() -> impl Strategy<Value = proto::Hello> {
        let text = || prop_oneof![Just("a".to_owned()), Just("leader".to_owned()), any::<String>()];
        let members = prop::collection::vec((text(), text()), 0..10);
        (text(), members, text(), prop::collection::vec(any::<u8>(), 0..20), any::<u64>()).prop_map(
            |(election, members, name, directory, shortest_us)| {
                let listed = |(name, address)| proto::Member { name, address };
                let members = members.into_iter().map(listed).collect();
                let directory = Bytes::from(directory);
                let (run, run_id, writes, began) = (shortest_us, directory.clone(), shortest_us, shortest_us);
                let (named, newcomer) = (shortest_us, shortest_us % 2 == 1);
                proto::Hello {
                    election,
                    members,
                    name,
                    directory,
                    shortest_us,
                    run,
                    run_id,
                    writes,
                    began,
                    named,
                    newcomer,
                }
            },
        )
    }

    proptest! {
        /// For any Hello of a stranger: a refusal that fits into a log, and no panic.
        #[test]
        fn strangers_are_refused_on_one_line(theirs in hellos(), dialled: bool) {
            let end = if dialled { Side::Dialled(node(2)) } else { Side::Accepted(node(0)) };
            let why = compare(&settings("b", GROUP), end, &theirs).unwrap_err().to_string();
            prop_assert!(!why.chars().any(char::is_control));
            prop_assert!(why.len() < 4096);
        }

        /// If one of two finds a difference, the other one finds it too: neither waits for a member that will not
        /// come.
        #[test]
        fn both_ends_agree_on_whether_they_differ(
            ours_at in 0..3_usize, theirs_at in 0..3_usize, same_election: bool, same_timing: bool,
        ) {
            let groups = [GROUP, "a=h:1,b=h:2", "a=h:1,b=h:2,c=h:4"];
            let dialling = settings("a", groups[ours_at]);
            let mut accepting = settings("b", groups[theirs_at]);
            if !same_election {
                accepting = accepting.with_election("other".parse().unwrap());
            }
            if !same_timing {
                let ms = Duration::from_millis;
                accepting = accepting.with_timing(Timing::new(ms(50), ms(300), ms(500)).unwrap());
            }
            let at_dialling = compare(&dialling, Side::Dialled(node(1)), &ours_on(&accepting, [7; 16]));
            let at_accepting = compare(&accepting, Side::Accepted(node(0)), &ours_on(&dialling, [7; 16]));
            prop_assert_eq!(at_dialling.is_ok(), at_accepting.is_ok());
            prop_assert_eq!(at_accepting.is_ok(), ours_at == theirs_at && same_election && same_timing);
        }
    }
}
