//! A [`PeerStatus`] on its way to an observer.
//!
//! Any client that can connect may ask (with TLS: any with a certificate of the authority). So a part of a Hello
//! that a stranger lacks is never sent: no address, no reason for a refusal, and of a directory's id only the first
//! eight digits, by which people tell directories apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::bytes::Bytes;

use super::{
    Evidence, Group, KnownLeader, Member, PeerDisk, PeerLink, PeerStatus, Settings, SyncTimes, Timing,
    handshake::micros, publish::shown_profile, terms, wire::proto,
};
use crate::{
    choosing::{CandidateProfile, Priority},
    clock::Timestamp,
    leadership::FencingToken,
    names::{ElectionName, displayed},
    observe::claimed_time,
    raft::{identity::MAX_MEMBERS, orders::StandingOrders},
};

/// One server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusReply {
    pub(crate) look: PeerStatus,
    /// No later than the reported state, by this client's boot-time clock: the time of the question.
    pub(crate) from: Timestamp,
    /// The shortest election timeout of its group.
    pub(crate) shortest: Duration,
}

/// The message to an observer whose latest question was sent at `echo`.
pub(crate) fn told(settings: &Settings, look: &PeerStatus, echo: u64) -> proto::PeerStatus {
    let (mut certain_ms, mut heard_ms) = (0, 0);
    let leader = look.leader.as_ref().map(|known| {
        match known.evidence {
            // Validity is rounded down, and the time since up, rather than the reverse.
            Evidence::OwnClaim { certain } => certain_ms = millis(certain),
            Evidence::Heartbeat { ago } => heard_ms = millis(ago).saturating_add(1),
        }
        let since = known.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        proto::Leader {
            name: known.name.to_string(),
            value: Bytes::copy_from_slice(known.value.as_bytes()),
            token: known.token.get(),
            since: millis(since),
            address: known.address.clone(),
        }
    });
    let contact = |contact: &PeerLink| proto::Contact {
        name: contact.name.to_string(),
        connected: contact.connected,
        heard_ms: contact.heard.map(millis),
        round_trip_us: contact.round_trip.map(micros),
        directory: contact.disk.as_ref().map(|disk| disk.id.clone()).unwrap_or_default(),
        incoming: contact.disk.as_ref().is_some_and(|disk| !disk.counts),
        refused: contact.refused.clone().unwrap_or_default(),
    };
    proto::PeerStatus {
        election: settings.election().to_string(),
        members: settings.group().members().iter().map(|member| member.name.to_string()).collect(),
        name: look.name.to_string(),
        cluster: settings.cluster().get(),
        term: look.term,
        leader,
        certain_ms,
        heard_ms,
        contacts: look.links.iter().map(contact).collect(),
        role: look.role.clone(),
        standing: look.standing,
        echo,
        shortest_us: micros(settings.timing().shortest()),
        longest_us: micros(settings.timing().longest()),
        heartbeat_us: micros(settings.timing().heartbeat()),
        syncs: Some(proto::SyncTimes {
            last_us: micros(look.syncs.last),
            worst_us: micros(look.syncs.worst),
            usual_us: look.syncs.usual.map(micros),
        }),
        priority: look.profile.priority.get(),
        address: look.profile.address.clone(),
        zone: look.profile.zone.clone(),
        version: look.profile.version.clone(),
        controls: Some(terms::orders(settings.group(), &look.controls).into()),
    }
}

/// Reason why a message is no answer to the question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("it takes part in the election '{theirs}', and not in '{asked}'; ask with its --election")]
    Election { asked: ElectionName, theirs: String },
    #[error("its group is {theirs}, and not {asked}; ask with its --peers")]
    Group { asked: String, theirs: String },
    #[error("'{theirs}' answers there, and not '{asked}'; correct that address in --peers")]
    OtherMember { asked: String, theirs: String },
    #[error("its answer is malformed: {0}")]
    Malformed(&'static str),
}

/// A member's answer that arrived at `now`, on a call that was made at `called` (both of the boot-time clock).
///
/// Addresses are not compared: the client may know the same servers by other ones.
pub(crate) fn read(
    (group, election): (&Group, &ElectionName),
    asked: &Member,
    answer: proto::PeerStatus,
    (called, now): (Timestamp, Timestamp),
) -> Result<StatusReply, NoAnswer> {
    if answer.election != election.as_str() {
        let theirs = displayed(answer.election.as_bytes());
        return Err(NoAnswer::Election { asked: election.clone(), theirs });
    }
    let ours = group.members().iter().map(|member| member.name.as_str());
    if !ours.clone().eq(answer.members.iter().map(String::as_str)) {
        let most = usize::from(MAX_MEMBERS) + 1;
        let theirs = answer.members.iter().take(most).map(String::as_str);
        return Err(NoAnswer::Group { asked: listed(ours), theirs: displayed(listed(theirs).as_bytes()) });
    }
    if answer.name != asked.name.as_str() {
        let theirs = displayed(answer.name.as_bytes());
        return Err(NoAnswer::OtherMember { asked: asked.name.to_string(), theirs });
    }
    // The first answer may come before the first question. It comes after the call; and a question that was not
    // asked yet can't have been answered.
    let echo = Timestamp::from_nanos(answer.echo);
    let from = if echo > now { called } else { echo.max(called) };
    let shortest = Duration::from_micros(answer.shortest_us);
    let look = look(group, asked, answer)?;
    Ok(StatusReply { look, from, shortest })
}

/// The first digits of a directory's id, if the text is that.
fn digits(text: String) -> Option<String> {
    (text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

fn look(group: &Group, asked: &Member, answer: proto::PeerStatus) -> Result<PeerStatus, NoAnswer> {
    let name = |text: &str| {
        let known = group.members().iter().find(|member| member.name.as_str() == text);
        known
            .map(|member| member.name.clone())
            .ok_or(NoAnswer::Malformed("it names a leader that is no member"))
    };
    let leader = match answer.leader {
        None => None,
        Some(leader) => {
            let leads = name(&leader.name)?;
            let evidence = if leads == asked.name {
                Evidence::OwnClaim { certain: Duration::from_millis(answer.certain_ms) }
            } else {
                Evidence::Heartbeat { ago: Duration::from_millis(answer.heard_ms) }
            };
            let since = Duration::from_millis(leader.since);
            let since = claimed_time(UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH));
            let (value, token) = (displayed(&leader.value), FencingToken::new(leader.token));
            let address = leader.address.map(|address| displayed(address.as_bytes()));
            Some(KnownLeader { name: leads, value, token, since, address, evidence })
        }
    };
    let contact = |contact: proto::Contact| {
        let heard = contact.heard_ms.map(Duration::from_millis);
        let round_trip = contact.round_trip_us.map(Duration::from_micros);
        let (name, connected) = (name(&contact.name)?, contact.connected);
        let disk = digits(contact.directory).map(|id| PeerDisk { id, counts: !contact.incoming });
        let refused = digits(contact.refused);
        Ok(PeerLink { name, connected, disk, refused, heard, round_trip, problem: None })
    };
    let contacts = answer.contacts.into_iter().take(group.members().len()).map(contact);
    // 0 from a server that does not send them, which makes no timing.
    let [heartbeat, shortest, longest] =
        [answer.heartbeat_us, answer.shortest_us, answer.longest_us].map(Duration::from_micros);
    let syncs = answer.syncs.unwrap_or_default();
    let orders = answer.controls.map(StandingOrders::try_from).transpose();
    let orders = orders.map_err(|_| NoAnswer::Malformed("its standing orders"))?.unwrap_or_default();
    let (address, zone, version) = (answer.address, answer.zone, answer.version);
    let profile = CandidateProfile { priority: Priority::new(answer.priority), address, zone, version };
    Ok(PeerStatus {
        name: asked.name.clone(),
        term: answer.term,
        role: displayed(answer.role.as_bytes()),
        standing: answer.standing,
        leader,
        links: contacts.collect::<Result<_, _>>()?,
        timing: Timing::new(heartbeat, shortest, longest).ok(),
        syncs: SyncTimes {
            last: Duration::from_micros(syncs.last_us),
            worst: Duration::from_micros(syncs.worst_us),
            usual: syncs.usual_us.map(Duration::from_micros),
            ..SyncTimes::default()
        },
        profile: shown_profile(&profile),
        controls: terms::controls(group, &orders),
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::choosing::Controls;

    const GROUP: &str = "a=h:1,b=h:2,c=h:3";

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn settings() -> Settings {
        Settings::new(&"b".parse().unwrap(), GROUP.parse().unwrap(), "data").unwrap()
    }

    /// The answer as read by an observer that asked 'b' of that group at 10, and gets it at 20.
    fn read_by(group: &str, election: &str, answer: proto::PeerStatus) -> Result<StatusReply, String> {
        let (group, election): (Group, ElectionName) = (group.parse().unwrap(), election.parse().unwrap());
        let asked = group.members().iter().find(|member| member.name.as_str() == "b").unwrap();
        read((&group, &election), asked, answer, (at(10), at(20))).map_err(|why| why.to_string())
    }

    fn looks() -> impl Strategy<Value = PeerStatus> {
        let name = |place: usize| ["a", "b", "c"][place].parse::<crate::CandidateName>().unwrap();
        let span = || (0..1_000_000_u64).prop_map(Duration::from_millis);
        let leader = (0..3_usize, "[a-z]{0,9}", any::<u64>(), span(), span()).prop_map(
            move |(who, value, token, since, span)| {
                let evidence = if who == 1 {
                    Evidence::OwnClaim { certain: span }
                } else {
                    Evidence::Heartbeat { ago: span }
                };
                let (token, since) = (FencingToken::new(token), UNIX_EPOCH + since);
                KnownLeader { name: name(who), value, token, since, address: None, evidence }
            },
        );
        let spans = (prop::option::of(span()), prop::option::of(span()));
        let contact = (any::<bool>(), spans, prop::option::of("[a-z ]{1,30}"));
        let contacts = (contact.clone(), contact).prop_map(move |(a, c)| {
            let contact = |who, (connected, (heard, round_trip), problem)| PeerLink {
                name: name(who),
                connected,
                disk: (!connected).then(|| PeerDisk { id: "0123abcd".to_owned(), counts: !connected }),
                refused: connected.then(|| "89efab01".to_owned()),
                heard,
                round_trip,
                problem,
            };
            vec![contact(0, a), contact(2, c)]
        });
        let syncs = (span(), span(), prop::option::of(span()));
        let syncs =
            syncs.prop_map(|(last, worst, usual)| SyncTimes { last, worst, usual, ..SyncTimes::default() });
        let rest = (any::<u64>(), "[a-z-]{1,13}", any::<bool>());
        (rest, prop::option::of(leader), contacts, syncs).prop_map(
            move |((term, role, standing), leader, contacts, syncs)| PeerStatus {
                name: name(1),
                term,
                role,
                standing,
                leader,
                links: contacts,
                timing: Some(Timing::DEFAULT),
                syncs,
                profile: CandidateProfile {
                    priority: Priority::new(7),
                    zone: Some("z".to_owned()),
                    ..CandidateProfile::default()
                },
                controls: Controls::default(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_status_arrives_unchanged_and_never_fresher(look in looks()) {
            let answer = read_by(GROUP, "leader", told(&settings(), &look, 15)).unwrap();
            let mut expected = look;
            // Not for observers: it may contain a member's address.
            expected.links.iter_mut().for_each(|contact| contact.problem = None);
            if let Some(KnownLeader { evidence: Evidence::Heartbeat { ago }, .. }) = &mut expected.leader {
                *ago += Duration::from_millis(1);
            }
            prop_assert_eq!(answer.look, expected);
            prop_assert_eq!((answer.from, answer.shortest), (at(15), Duration::from_millis(250)));
        }
    }

    fn vacant() -> PeerStatus {
        let (name, role) = ("b".parse().unwrap(), "follower".to_owned());
        PeerStatus {
            name,
            term: 3,
            role,
            standing: false,
            leader: None,
            links: Vec::new(),
            timing: Some(Timing::DEFAULT),
            syncs: SyncTimes::default(),
            profile: CandidateProfile::default(),
            controls: Controls::default(),
        }
    }

    #[test]
    fn an_answer_is_no_younger_than_the_question() {
        let from = |echo| read_by(GROUP, "leader", told(&settings(), &vacant(), echo)).unwrap().from;
        assert_eq!(from(17), at(17));
        assert_eq!(from(0), at(10), "it came before the first question, and after the call");
        assert_eq!(from(5), at(10), "of another call");
        assert_eq!(from(21), at(10), "not asked yet");
    }

    #[test]
    fn another_election_group_or_server_is_no_answer() {
        let answer = || told(&settings(), &vacant(), 15);
        assert_eq!(
            read_by(GROUP, "other", answer()).unwrap_err(),
            "it takes part in the election 'leader', and not in 'other'; ask with its --election"
        );
        assert_eq!(
            read_by("a=h:1,b=h:2", "leader", answer()).unwrap_err(),
            "its group is a, b, c, and not a, b; ask with its --peers"
        );
        assert!(read_by("a=x:7,b=x:8,c=x:9", "leader", answer()).is_ok(), "seen from elsewhere");
        let stranger = proto::PeerStatus { name: "c".to_owned(), ..answer() };
        assert_eq!(
            read_by(GROUP, "leader", stranger).unwrap_err(),
            "'c' answers there, and not 'b'; correct that address in --peers"
        );
    }

    #[test]
    fn a_time_beyond_the_calendar_is_its_last() {
        for since in [u64::MAX, 253_402_300_800_000, 1 << 62] {
            let leader = proto::Leader { name: "a".to_owned(), since, ..proto::Leader::default() };
            let answer = proto::PeerStatus { leader: Some(leader), ..told(&settings(), &vacant(), 15) };
            let since = read_by(GROUP, "leader", answer).unwrap().look.leader.unwrap().since;
            let shown = humantime::format_rfc3339_millis(since).to_string();
            assert!(["9999-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z"].contains(&&*shown), "{shown}");
        }
    }

    #[test]
    fn members_that_there_are_not_make_no_sense() {
        let leader = proto::Leader { name: "x".to_owned(), ..proto::Leader::default() };
        let answer = proto::PeerStatus { leader: Some(leader), ..told(&settings(), &vacant(), 15) };
        assert!(read_by(GROUP, "leader", answer).unwrap_err().contains("no member"));
    }
}
