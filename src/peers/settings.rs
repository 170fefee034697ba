//! Configuration of a member.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::tls::Mutual;
use super::{Group, PeerAddress, Secret, Timing, Tls};
use crate::{
    choosing::CandidateProfile,
    leadership::ClusterId,
    names::{CandidateName, ElectionName},
    raft::{identity::NodeId, message::LONGEST_LEAP, preference::MoveDelays},
};

/// A member's identity and group, and the directory of its durable state.
#[derive(Debug, Clone)]
pub struct Settings {
    group: Group,
    me: NodeId,
    election: ElectionName,
    listen: PeerAddress,
    data: PathBuf,
    timing: Timing,
    tls: Option<Mutual>,
    secret: Option<Secret>,
    trusts_the_network: bool,
    operators: Vec<String>,
    tokens_after: u64,
    profile: CandidateProfile,
    never: bool,
    min_tenure: Duration,
}

/// Reason why settings don't fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// The group does not know this member.
    #[error("'{name}' is not among the peers {group}")]
    NotAMember {
        /// The name.
        name: CandidateName,
        /// The group.
        group: Group,
    },
    /// Every member is called by some and calls others, so each shows a certificate and each checks the other's.
    #[error("TLS among peers goes both ways: {0}")]
    OneSidedTls(String),
}

impl Settings {
    /// The member called `name` of that group, which keeps its term, vote and log in the directory `data`.
    ///
    /// It takes part in the election `leader`, listens at its address in the group, and has [`Timing::DEFAULT`],
    /// unless told otherwise.
    ///
    /// # Errors
    ///
    /// Refuses a name that is not in the group.
    pub fn new(
        name: &CandidateName,
        group: Group,
        data: impl Into<PathBuf>,
    ) -> Result<Self, InvalidSettings> {
        let Some(me) = group.node(name) else {
            return Err(InvalidSettings::NotAMember { name: name.clone(), group });
        };
        let listen = group.member(me).address.clone();
        let election = "leader".parse().expect("that is a valid name");
        let (data, timing) = (data.into(), Timing::DEFAULT);
        let (tls, secret, trusts_the_network) = (None, None, false);
        let (operators, tokens_after) = (Vec::new(), 0);
        let (profile, never) = (CandidateProfile::default(), false);
        let min_tenure = MoveDelays::DEFAULT.min_tenure;
        Ok(Self {
            group,
            me,
            election,
            listen,
            data,
            timing,
            tls,
            secret,
            trusts_the_network,
            operators,
            tokens_after,
            profile,
            never,
            min_tenure,
        })
    }

    /// Sets the name of the election, the same on all members.
    #[must_use = "settings are made by value"]
    pub fn with_election(mut self, election: ElectionName) -> Self {
        self.election = election;
        self
    }

    /// Listens there, if the address that the others know leads to another one: in a container, or behind a
    /// translation of addresses.
    #[must_use = "settings are made by value"]
    pub fn listening_on(mut self, listen: PeerAddress) -> Self {
        self.listen = listen;
        self
    }

    /// Sets heartbeats and election timeouts, the same on all members: a voter with a shorter election timeout than
    /// its leader's would end the leader's validity.
    #[must_use = "settings are made by value"]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Uses TLS with the other members, both ways with the same certificate, and accepts no peer without a trusted
    /// one. The certificate has to be for the host that the others know this member by, and to serve as a client's,
    /// too: in both directions it proves which member a connection is of. A client with another certificate of the
    /// authority may ask for the leader, and nothing else.
    ///
    /// # Errors
    ///
    /// Refuses TLS without an authority, a certificate and its key.
    pub fn with_tls(mut self, tls: &Tls) -> Result<Self, InvalidSettings> {
        self.tls = Some(tls.mutual().map_err(|why| InvalidSettings::OneSidedTls(why.to_string()))?);
        Ok(self)
    }

    /// Accepts only members that prove that they have this secret, too, the same on all members.
    ///
    /// It proves who opened a connection, on a network whose packets no attacker can alter. With TLS it is not needed.
    #[must_use = "settings are made by value"]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Listens beyond this machine although there is neither TLS nor a secret. Then any process that can reach the
    /// port can vote, lead, and depose a leader: right only if the network lets only the members connect.
    #[must_use = "settings are made by value"]
    pub fn trusting_the_network(mut self) -> Self {
        self.trusts_the_network = true;
        self
    }

    /// With TLS: a caller with a certificate for one of these names may operate the group, that is, replace a
    /// member's disk. Without TLS the secret decides or, without a secret, the caller has to be on this host.
    #[must_use = "settings are made by value"]
    pub fn with_operators(mut self, operators: impl IntoIterator<Item = String>) -> Self {
        self.operators = operators.into_iter().collect();
        self
    }

    /// In a new group, in which no data directory has a log: tokens begin after this one, the same on all members.
    /// So a group that replaces another one continues its tokens.
    ///
    /// At most 2³²: a larger number can't be told from a damaged one.
    #[must_use = "settings are made by value"]
    pub fn with_tokens_after(mut self, token: u64) -> Self {
        self.tokens_after = token.min(LONGEST_LEAP);
        self
    }

    /// Sets what this member's candidate publishes about itself: its priority above all. Leadership moves to a higher
    /// one, never to an equal one.
    #[must_use = "settings are made by value"]
    pub fn with_profile(mut self, profile: CandidateProfile) -> Self {
        self.profile = profile;
        self
    }

    /// If set, this member never leads: it votes, and keeps the log.
    #[must_use = "settings are made by value"]
    pub fn with_never(mut self, never: bool) -> Self {
        self.never = never;
        self
    }

    /// Sets the least tenure of this member before leadership moves to one with a higher priority: 10 minutes, unless
    /// told otherwise. Each term that was lost within a day doubles it.
    #[must_use = "settings are made by value"]
    pub fn with_min_tenure(mut self, min_tenure: Duration) -> Self {
        self.min_tenure = min_tenure;
        self
    }

    /// What this member's candidate publishes about itself.
    pub fn profile(&self) -> &CandidateProfile {
        &self.profile
    }

    /// All members.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// This member's name.
    pub fn name(&self) -> &CandidateName {
        &self.group.member(self.me).name
    }

    /// The name of the election.
    pub fn election(&self) -> &ElectionName {
        &self.election
    }

    /// Heartbeats and election timeouts.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The address at which this member listens.
    pub fn listen(&self) -> &PeerAddress {
        &self.listen
    }

    /// The directory of this member's durable state.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The certificates, if it uses TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref().map(Mutual::source)
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    pub(crate) fn mutual_tls(&self) -> Option<&Mutual> {
        self.tls.as_ref()
    }

    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    pub(crate) fn operators(&self) -> &[String] {
        &self.operators
    }

    pub(crate) fn never(&self) -> bool {
        self.never
    }

    pub(crate) fn moves(&self) -> MoveDelays {
        MoveDelays { min_tenure: self.min_tenure, ..MoveDelays::DEFAULT }
    }

    pub(crate) fn tokens_after(&self) -> u64 {
        self.tokens_after
    }

    /// Returns true if members prove who they are.
    pub(crate) fn proves_members(&self) -> bool {
        self.tls.is_some() || self.secret.is_some()
    }

    pub(crate) fn trusts_the_network(&self) -> bool {
        self.trusts_the_network
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.group.cluster(&self.election)
    }
}
