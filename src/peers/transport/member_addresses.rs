//! Source addresses of members: those in the list, and those of the names in it, looked up again and again.
//!
//! They only decide which connections share a limit ([`admission`](super::admission)). They prove nothing.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::peers::{Group, PeerAddress};

/// Interval of lookups. A member that has moved is admitted before that, too, unless there is a flood.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);

/// Addresses kept for each name.
const MOST_ADDRESSES: usize = 16;

#[derive(Debug)]
pub(super) struct MemberAddresses {
    fixed: Vec<IpAddr>,
    named: Vec<PeerAddress>,
    found: Mutex<BTreeMap<PeerAddress, Vec<IpAddr>>>,
}

impl MemberAddresses {
    pub(super) fn of(group: &Group) -> Self {
        let (mut fixed, mut named) = (Vec::new(), Vec::new());
        for member in group.members() {
            match member.address.host().parse::<IpAddr>() {
                Ok(ip) => fixed.push(ip.to_canonical()),
                Err(_) => named.push(member.address.clone()),
            }
        }
        Self { fixed, named, found: Mutex::default() }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        self.fixed.contains(&address) || found.values().any(|addresses| addresses.contains(&address))
    }

    /// Looks the names up, one after the other, until this is dropped. A failed lookup leaves the known addresses.
    pub(super) async fn keep_looking_up(&self) {
        while !self.named.is_empty() {
            for named in &self.named {
                let Ok(found) = tokio::net::lookup_host((named.host(), named.port())).await else { continue };
                let found = found.map(|address| address.ip().to_canonical()).take(MOST_ADDRESSES).collect();
                self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(named.clone(), found);
            }
            sleep(LOOK_UP_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up() {
        let group: Group = "a=10.0.0.1:1,b=localhost:2,c=[2001:db8::1]:3".parse().unwrap();
        let addresses = MemberAddresses::of(&group);
        let contains = |text: &str| addresses.contains(text.parse().unwrap());
        assert!(contains("10.0.0.1") && contains("::ffff:10.0.0.1") && contains("2001:db8::1"));
        assert!(!contains("10.0.0.2") && !contains("127.0.0.1"));
        let looking = addresses.keep_looking_up();
        let found = super::super::tests::until("found", || contains("127.0.0.1") || contains("::1"));
        tokio::select! { () = looking => panic!("it goes on"), () = found => {} }
    }
}
