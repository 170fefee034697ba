//! One election on either backend, so that a test of the command line can be of both.

use serde_json::Value;

use super::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    peers::Group,
    server::SOON,
};

/// So long that no lease ends on a busy machine while a test looks.
const TTL: &str = "20s";

/// Where servers elect.
pub(crate) enum Election {
    OnEtcd(Etcd),
    AmongPeers(Group),
}

/// The exit code of a command, and the lines of its two outputs.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn of(mut command: Captured) -> Self {
        let code = command.wait_exit(SOON).code();
        Self { code, stdout: command.stdout(), stderr: command.stderr() }
    }

    /// The one object that it printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.len(), 1, "{self:?}");
        serde_json::from_str(&self.stdout[0]).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

impl Election {
    pub(crate) fn on_etcd() -> Self {
        Self::OnEtcd(Etcd::start(EtcdVersion::V3_7))
    }

    /// A group of three, of which none has started.
    pub(crate) fn among_peers() -> Self {
        Self::AmongPeers(Group::of(3))
    }

    /// The flag that names the backend, with its value.
    pub(crate) fn backend(&self) -> [String; 2] {
        match self {
            Self::OnEtcd(etcd) => ["--etcd".into(), etcd.endpoint()],
            Self::AmongPeers(group) => ["--peers".into(), group.list()],
        }
    }

    /// Starts `elect server server1`, or the one at another place, with more flags.
    pub(crate) fn start(&self, place: usize, flags: &[&str]) -> Captured {
        let name = self.name(place);
        let elect = match self {
            Self::OnEtcd(etcd) => Elect::server(&name, &etcd.endpoint()).args(["--ttl", TTL]),
            Self::AmongPeers(group) => Elect::new(group.command_line(place)).args(["--log-format", "plain"]),
        };
        elect.args(flags).called(name).start()
    }

    pub(crate) fn name(&self, place: usize) -> String {
        format!("server{}", place + 1)
    }

    /// Runs an `elect` command on this election.
    pub(crate) fn ask<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Captured {
        Elect::new(args).args(self.backend()).start()
    }

    /// Runs one that ends by itself.
    #[track_caller]
    pub(crate) fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Outcome {
        Outcome::of(self.ask(args))
    }

    /// The status, as an object.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.run(["status", "--json"]).json()
    }

    /// Waits until the status is such.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON, what, || Some(self.status()).filter(&is))
    }

    /// Waits until there is a leader and so many candidates; returns the leader's place.
    #[track_caller]
    pub(crate) fn settled(&self, candidates: usize) -> usize {
        let status = self.wait_for("a leader, and all candidates", |status| {
            status["state"] == "leader"
                && status["candidates"].as_array().is_some_and(|all| all.len() == candidates)
        });
        (0..9).find(|place| status["leader"] == self.name(*place)).unwrap_or_else(|| panic!("{status}"))
    }
}

/// Runs each test body on both backends, as `name::on_etcd` and `name::among_peers`.
#[allow(unused_macros, reason = "each file in tests/ compiles this module and uses its own part of it")]
macro_rules! on_both_backends {
    ($(fn $name:ident($election:ident: Election) $body:block)*) => {
        $(mod $name {
            #[allow(unused_imports, reason = "a body may need nothing from outside")]
            use super::*;

            fn body($election: Election) $body

            #[test]
            fn on_etcd() {
                body($crate::support::election::Election::on_etcd());
            }

            #[test]
            fn among_peers() {
                body($crate::support::election::Election::among_peers());
            }
        })*
    };
}
#[allow(unused_imports, reason = "each file in tests/ compiles this module and uses its own part of it")]
pub(crate) use on_both_backends;
