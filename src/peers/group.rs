//! The members of a group and their addresses, parsed once into types that can only be valid.

use std::{fmt, str::FromStr};

use crate::{
    leadership::ClusterId,
    names::{CandidateName, ElectionName, InvalidName},
    raft::identity::{InvalidSize, MAX_MEMBERS, Members, NodeId},
};

/// A member's address: `HOST:PORT`. The host may be a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    host: String,
    port: u16,
}

/// Reason why a text is no member's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' {problem}; write HOST:PORT, as in localhost:10000")]
pub struct InvalidAddress {
    text: String,
    problem: &'static str,
}

impl PeerAddress {
    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// The port; never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for PeerAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |problem| InvalidAddress { text: shown(text), problem };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("has no port"))?;
        let port = match port.parse() {
            Ok(0) => return Err(invalid("has port 0, which no peer could find")),
            Ok(port) => port,
            Err(_) => return Err(invalid("has a port that is no number up to 65535")),
        };
        if host.is_empty() {
            return Err(invalid("has no host"));
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        match bracketed {
            Some(ip) if ip.parse::<std::net::Ipv6Addr>().is_err() => {
                Err(invalid("has no IPv6 address in its brackets"))
            }
            None if host.contains(':') => Err(invalid("has an IPv6 address without brackets")),
            None if !named(host) => Err(invalid("has a host with characters that no name has")),
            _ => Ok(Self { host: host.to_ascii_lowercase(), port }),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The rejected text, as an error repeats it: nothing in it moves a cursor or begins a line.
fn shown(given: &str) -> String {
    given.escape_debug().to_string()
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its name; no two members share one.
    pub name: CandidateName,
    /// Its address; no two members share one.
    pub address: PeerAddress,
}

impl FromStr for Member {
    type Err = InvalidGroup;

    /// `NAME=HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, InvalidGroup> {
        let text = text.trim();
        if text.matches('=').count() > 1 && text.contains(char::is_whitespace) || is_words(text) {
            return Err(InvalidGroup::NoComma(shown(text)));
        }
        let (name, address) = text.split_once('=').ok_or_else(|| InvalidGroup::NoAddress(shown(text)))?;
        let name = name.parse().map_err(|why| InvalidGroup::Name { name: shown(name), why })?;
        Ok(Self { name, address: address.parse()? })
    }
}

/// Returns true if the text is several words, and no member: `a b`.
fn is_words(text: &str) -> bool {
    !text.contains('=') && text.contains(char::is_whitespace)
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

/// The servers that elect a leader among themselves: 1 to 7, the same list on each of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// Sorted by name: a member's index is its [`NodeId`].
    members: Vec<Member>,
}

/// Reason why servers can't be a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGroup {
    /// Not `NAME=HOST:PORT`.
    #[error("'{0}' has no address; write NAME=HOST:PORT, as in server1=localhost:10000")]
    NoAddress(String),
    /// Several members with nothing but blanks between them.
    #[error("'{0}' is more than one member; write commas between them, as in a=host1:10000,b=host2:10000")]
    NoComma(String),
    /// An invalid name.
    #[error("'{name}': {why}")]
    Name {
        /// The text.
        name: String,
        /// The problem.
        why: InvalidName,
    },
    /// An invalid address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// Too few, or too many.
    #[error("a group has 1 to {MAX_MEMBERS} members, and {0} are listed")]
    Size(usize),
    /// The same name twice.
    #[error("'{0}' is listed twice; give each member a name of its own")]
    SameName(CandidateName),
    /// The same address twice.
    #[error("{0} is listed for '{1}' and for '{2}'; give each member an address of its own")]
    SameAddress(PeerAddress, CandidateName, CandidateName),
}

impl From<InvalidSize> for InvalidGroup {
    fn from(InvalidSize(count): InvalidSize) -> Self {
        Self::Size(count)
    }
}

impl Group {
    /// Makes a group of these members.
    ///
    /// # Errors
    ///
    /// None or too many, and members that share a name or an address.
    pub fn new(members: impl Into<Vec<Member>>) -> Result<Self, InvalidGroup> {
        let mut members = members.into();
        Members::of(members.len())?;
        members.sort();
        for (place, one) in members.iter().enumerate() {
            for other in &members[place + 1..] {
                if one.name == other.name {
                    return Err(InvalidGroup::SameName(one.name.clone()));
                }
                if one.address == other.address {
                    let (one, other) = (one.clone(), other.name.clone());
                    return Err(InvalidGroup::SameAddress(one.address, one.name, other));
                }
            }
        }
        Ok(Self { members })
    }

    /// All members, sorted by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The number of members that may fail while the others still elect a leader.
    pub fn tolerates(&self) -> usize {
        self.size().count() - self.size().majority()
    }

    pub(crate) fn size(&self) -> Members {
        Members::of(self.members.len()).expect("a group was made with that many members")
    }

    pub(crate) fn node(&self, name: &CandidateName) -> Option<NodeId> {
        let place = self.members.binary_search_by(|member| member.name.cmp(name)).ok()?;
        Some(NodeId::new(u8::try_from(place).expect("a group has few members")))
    }

    pub(crate) fn member(&self, node: NodeId) -> &Member {
        &self.members[node.place()]
    }

    /// Identifies an election among these members: a part of SHA-256 over its name and theirs.
    ///
    /// Addresses are not in it: a group that moves stays the same group. Members compare their addresses when they
    /// meet.
    pub(crate) fn cluster(&self, election: &ElectionName) -> ClusterId {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let names = self.members.iter().map(|member| member.name.as_str());
        for name in [election.as_str()].into_iter().chain(names) {
            context.update(name.as_bytes());
            context.update(&[0]); // No name has one.
        }
        let digest = context.finish();
        let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        ClusterId(u64::from_be_bytes(*first))
    }
}

impl FromStr for Group {
    type Err = InvalidGroup;

    /// `NAME=HOST:PORT,NAME=HOST:PORT,…`
    fn from_str(text: &str) -> Result<Self, InvalidGroup> {
        let members: Vec<Member> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Self::new(members)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, member) in self.members.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{member}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Result<Group, InvalidGroup> {
        text.parse()
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let (one, other) = (group("a=h:1,b=h:2,c=h:3").unwrap(), group("c=h:3,a=h:1,b=h:2").unwrap());
        assert_eq!(one, other);
        let b = "b".parse().unwrap();
        assert_eq!(one.node(&b), Some(NodeId::new(1)));
        assert_eq!(one.member(NodeId::new(1)).address.to_string(), "h:2");
        assert_eq!(one.node(&"d".parse().unwrap()), None);
    }

    #[test]
    fn blanks_and_line_breaks_around_a_member_are_left_out() {
        assert_eq!(group(" a=h:1,\n  b=h:2, c=h:3\n"), group("a=h:1,b=h:2,c=h:3"));
    }

    #[test]
    fn another_election_or_another_member_is_another_cluster() {
        let leader = "leader".parse().unwrap();
        let cluster = |text| group(text).unwrap().cluster(&leader);
        assert_eq!(cluster("a=h:1,b=h:2"), cluster("b=h:4,a=h:3"), "a group may move");
        assert_ne!(cluster("a=h:1,b=h:2"), cluster("a=h:1,c=h:2"));
        assert_ne!(cluster("a=h:1,b=h:2"), cluster("ab=h:1"));
        let other = "other".parse().unwrap();
        assert_ne!(cluster("a=h:1"), group("a=h:1").unwrap().cluster(&other));
    }

    #[test]
    fn says_what_is_wrong_with_a_list() {
        let problem = |text| group(text).unwrap_err().to_string();
        assert_eq!(problem("a"), "'a' has no address; write NAME=HOST:PORT, as in server1=localhost:10000");
        for list in ["a b", "a=h:1 b=h:2", "a=h:1\n  b=h:2", "a=h:1,b=h:2 c=h:3"] {
            assert!(problem(list).contains("write commas between them"), "{}", problem(list));
        }
        assert_eq!(problem("a=h:1,a=h:2"), "'a' is listed twice; give each member a name of its own");
        assert_eq!(
            problem("a=h:1,b=H:1"),
            "h:1 is listed for 'a' and for 'b'; give each member an address of its own"
        );
        assert!(problem("=h:1").contains("must not be empty"));
        assert!(problem("a=h").contains("has no port"));
        assert!(problem("a=:1").contains("has no host"));
        assert!(problem("a=h:0").contains("port 0"));
        assert!(problem("a=h:65536").contains("65535"));
        assert!(problem("a=::1:80").contains("without brackets"));
        assert!(problem("a=[::g]:80").contains("IPv6"));
        assert!(problem("a=h/x:80").contains("characters"));
        let eight = (1..=8).map(|i| format!("s{i}=h:{i}")).collect::<Vec<_>>().join(",");
        assert_eq!(problem(&eight), "a group has 1 to 7 members, and 8 are listed");
    }

    #[test]
    fn tolerates_what_leaves_a_majority() {
        let tolerated = |count: usize| {
            let members = (1..=count).map(|i| format!("s{i}=h:{i}")).collect::<Vec<_>>();
            group(&members.join(",")).unwrap().tolerates()
        };
        assert_eq!([1, 2, 3, 4, 5, 7].map(tolerated), [0, 0, 1, 1, 2, 3]);
    }

    #[test]
    fn an_ipv6_address_keeps_its_brackets_where_a_port_follows() {
        let address: PeerAddress = "[::1]:80".parse().unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 80));
        assert_eq!(address.to_string(), "[::1]:80");
    }

    /// Every accepted list prints as one that makes the same group, with addresses that can be connected to.
    #[test]
    fn fuzz_group() {
        bolero::check!().for_each(|text: &[u8]| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            match text.parse::<Group>() {
                Ok(group) => {
                    assert_eq!(group.to_string().parse::<Group>().as_ref(), Ok(&group));
                    for (place, member) in group.members().iter().enumerate() {
                        assert_eq!(group.node(&member.name), Some(NodeId::new(place as u8)));
                        let uri = format!("http://{}", member.address);
                        assert!(uri.parse::<tonic::transport::Uri>().is_ok(), "{uri}");
                    }
                }
                // A line for a person: nothing in it moves a cursor.
                Err(refused) => assert!(!refused.to_string().contains(char::is_control), "{refused}"),
            }
        });
    }
}
