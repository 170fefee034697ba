//! The contenders: the columns of the table, in order.

/// An implementation of leader election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// `elect server`, and where a program is needed, the library. On etcd.
    Elect,
    /// `elect run -- COMMAND`, on etcd.
    ElectRun,
    /// `elect server --peers`: by Raft among three servers, without etcd.
    Peers,
    /// `benches/twin`.
    Twin,
    /// `benches/go`.
    Go,
    EtcdctlElect,
    /// `etcdctl lock NAME COMMAND`.
    EtcdctlLock,
}

/// Kinds of contenders. Only those of one kind are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The process itself leads.
    Program,
    /// It starts a command that leads.
    Runner,
}

impl Who {
    pub(crate) const ALL: [Self; 7] = [
        Self::Elect,
        Self::ElectRun,
        Self::Peers,
        Self::Twin,
        Self::Go,
        Self::EtcdctlElect,
        Self::EtcdctlLock,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Elect => "elect, etcd",
            Self::ElectRun => "elect run, etcd",
            Self::Peers => "elect, Raft",
            Self::Twin => "etcd-client, bare",
            Self::Go => "Go concurrency",
            Self::EtcdctlElect => "etcdctl elect",
            Self::EtcdctlLock => "etcdctl lock",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Elect | Self::ElectRun | Self::Peers)
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::ElectRun | Self::EtcdctlLock => Kind::Runner,
            Self::Elect | Self::Peers | Self::Twin | Self::Go | Self::EtcdctlElect => Kind::Program,
        }
    }

    /// The rivals of one of our contenders.
    pub(crate) fn rivals(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |who| !who.is_ours() && who.kind() == self.kind())
    }
}
