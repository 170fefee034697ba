//! A test's options for starting etcd, and the start itself.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;

use super::{
    Etcd, EtcdVersion, PortTaken, ROOT_PASSWORD,
    launch::{Launch, MemberSite},
};
use crate::support::{network::Network, pki::Pki};

/// Attempts to start on other ports if another program took one.
const START_ATTEMPTS: usize = 5;

/// A server's options.
#[derive(Clone, Debug)]
#[must_use = "a builder starts nothing by itself"]
pub(crate) struct EtcdBuilder {
    pub(super) version: EtcdVersion,
    pub(super) auth_token_ttl: Option<Duration>,
    pub(super) pki: Option<Arc<Pki>>,
    pub(super) fsync: bool,
    pub(super) args: Vec<String>,
    partitionable: bool,
}

impl EtcdBuilder {
    pub(super) fn new(version: EtcdVersion) -> Self {
        Self {
            version,
            auth_token_ttl: None,
            pki: None,
            fsync: false,
            args: Vec::new(),
            partitionable: false,
        }
    }

    /// Turns authentication on, with the user `root` ([`ROOT_PASSWORD`]) and simple tokens of this lifetime.
    pub(crate) fn auth(mut self, token_ttl: Duration) -> Self {
        self.auth_token_ttl = Some(token_ttl);
        self
    }

    /// Serves clients by TLS only, with a certificate of `pki`'s authority.
    pub(crate) fn tls(mut self, pki: Arc<Pki>) -> Self {
        self.pki = Some(pki);
        self
    }

    /// Lets etcd wait for the disk, as in production.
    pub(crate) fn fsync(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// Puts a [`Network`] between the members of a cluster.
    pub(crate) fn partitionable(mut self) -> Self {
        self.partitionable = true;
        self
    }

    /// Adds one of etcd's own flags, such as `--election-timeout=3000`.
    pub(crate) fn arg(mut self, flag: impl Into<String>) -> Self {
        self.args.push(flag.into());
        self
    }

    /// Starts a server and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Etcd {
        let (mut members, _) = self.start_members(1);
        members.pop().expect("one was asked for")
    }

    /// Starts the members of one cluster and waits until each answers.
    #[track_caller]
    pub(crate) fn start_members(self, count: usize) -> (Vec<Etcd>, Option<Network>) {
        for _ in 1..START_ATTEMPTS {
            if let Ok(members) = self.try_start(count) {
                return members;
            }
        }
        self.try_start(count)
            .unwrap_or_else(|PortTaken| panic!("a port was taken {START_ATTEMPTS} times in a row"))
    }

    fn try_start(&self, count: usize) -> Result<(Vec<Etcd>, Option<Network>), PortTaken> {
        let sites: Vec<_> = (0..count).map(|_| MemberSite::reserve()).collect();
        let network = self
            .partitionable
            .then(|| Network::start(&sites.iter().map(MemberSite::member).collect::<Vec<_>>()));
        let peer_url = |index: usize| {
            let address = network.as_ref().map(|network| network.address(index).to_owned());
            format!("http://{}", address.unwrap_or_else(|| sites[index].peer.address()))
        };
        let peer_urls: Vec<_> = (0..count).map(peer_url).collect();
        let initial_cluster: Vec<_> =
            peer_urls.iter().enumerate().map(|(i, url)| format!("m{i}={url}")).collect();
        let initial_cluster = initial_cluster.join(",");
        // Unique, so that no other test's etcd is taken for a member of this cluster.
        let token = format!("test-{}", sites[0].peer.number());

        let mut members = Vec::with_capacity(count);
        for (index, (site, peer_url)) in sites.into_iter().zip(peer_urls).enumerate() {
            members.push(Etcd::launch(Launch {
                how: self.clone(),
                name: format!("m{index}"),
                site,
                peer_url,
                initial_cluster: initial_cluster.clone(),
                token: token.clone(),
                dir: TempDir::new().expect("a temporary directory can be made"),
            }));
        }
        for member in &mut members {
            member.wait_until_ready()?;
        }
        if self.auth_token_ttl.is_some() {
            members[0].admin().enable_auth(ROOT_PASSWORD);
            for member in &mut members {
                member.auth_enabled = true;
                // Each member learns of it through Raft, in its own time.
                member.wait_until_ready()?;
            }
        }
        Ok((members, network))
    }
}
