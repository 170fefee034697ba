//! Real etcd servers, each with ports and a data directory of its own, which can be killed, frozen and
//! restarted.
//!
//! A member keeps its ports for as long as its handle lives, so it comes back where its clients look for it.
//! Without fsync data still survives a SIGKILL, as the page cache does; so fsync is off unless a test asks for
//! it.

mod builder;
mod launch;
mod version;

use std::{fs, net::TcpStream, process::Stdio, thread, time::Duration};

use etcd_client::{Client, ConnectOptions};

use self::launch::{EtcdRun, Launch};
pub(crate) use self::{builder::EtcdBuilder, version::EtcdVersion};
use super::{
    client::Admin,
    clock::BootTime,
    eventually::eventually,
    metrics::{self, MessagesReceived, Watches},
    process::{self, Process},
    runtime::wait_within,
};

/// Time from the start of the process to the first linearizable read. About 1 s on an idle machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Time limit for one attempt to read from a server that may not be ready.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Lines of etcd's log in a failure.
const LOG_TAIL_LINES: usize = 30;

/// The password of `root`, with authentication on.
pub(crate) const ROOT_PASSWORD: &str = "root-password";

/// One etcd server: alone, or a member of a [`Cluster`](super::cluster::Cluster).
#[derive(Debug)]
pub(crate) struct Etcd {
    launch: Launch,
    run: EtcdRun,
    state: EtcdState,
    auth_enabled: bool,
}

/// The test's last action on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EtcdState {
    Running,
    Frozen,
    Killed,
}

impl Etcd {
    /// Starts one server on free ports and waits until it answers.
    #[track_caller]
    pub(crate) fn start(version: EtcdVersion) -> Self {
        Self::builder(version).start()
    }

    pub(crate) fn builder(version: EtcdVersion) -> EtcdBuilder {
        EtcdBuilder::new(version)
    }

    /// `127.0.0.1:PORT`, as `elect --etcd` takes it.
    pub(crate) fn endpoint(&self) -> String {
        self.launch.site.client.address()
    }

    /// Starts `etcd grpc-proxy` in front of it, at this address. It listens some time later.
    pub(crate) fn grpc_proxy(&self, address: &str) -> Process {
        let mut command = process::command(self.launch.how.version.program());
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.args(["grpc-proxy", "start", "--endpoints", &self.endpoint(), "--listen-addr", address]);
        command.args(["--advertise-client-url", address]);
        command.current_dir(self.launch.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        Process::start("etcd grpc-proxy", command)
    }

    /// Its address for other members, not for clients.
    pub(crate) fn peer_address(&self) -> String {
        self.launch.site.peer.address()
    }

    /// `http://127.0.0.1:PORT`, or `https` with TLS.
    pub(crate) fn url(&self) -> String {
        self.launch.client_url()
    }

    /// The options for access: the certificate and the user `root`, as far as this server asks for them.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some(pki) = &self.launch.how.pki {
            options = options.with_tls(pki.tls_options());
        }
        if self.auth_enabled {
            options = options.with_user("root", ROOT_PASSWORD);
        }
        options
    }

    /// A client for the test's own use.
    #[track_caller]
    pub(crate) fn admin(&self) -> Admin {
        Admin::connect(&self.url(), self.connect_options())
    }

    /// Messages received since its start, by gRPC method.
    #[track_caller]
    pub(crate) fn messages_received(&self) -> MessagesReceived {
        metrics::messages_received(&self.launch.site.metrics.address())
    }

    /// Number of its watches, and of the streams that carry them.
    #[track_caller]
    pub(crate) fn watches(&self) -> Watches {
        metrics::watches(&self.launch.site.metrics.address())
    }

    /// Reports whether it is neither killed nor frozen.
    pub(crate) fn is_running(&self) -> bool {
        self.state == EtcdState::Running
    }

    /// Ends it by SIGKILL. Returns a moment at which it no longer ran.
    pub(crate) fn kill(&mut self) -> BootTime {
        self.run.process.kill();
        self.state = EtcdState::Killed;
        BootTime::now()
    }

    /// Stops it by SIGSTOP: its connections stay open, and it is silent. Returns a moment at which it
    /// stood still.
    pub(crate) fn freeze(&mut self) -> BootTime {
        self.state = EtcdState::Frozen;
        self.run.process.freeze()
    }

    /// Resumes it. Returns a moment at which it still stood still.
    pub(crate) fn thaw(&mut self) -> BootTime {
        self.state = EtcdState::Running;
        self.run.process.thaw()
    }

    /// Starts it again on the same ports and data, killing it first if it still runs, and waits until it
    /// answers.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        eventually(READY_DEADLINE, "its ports to be free again", || {
            self.run_again();
            self.wait_until_ready().ok()
        });
    }

    /// As [`restart`](Self::restart), without the wait: for a member whose cluster has no quorum yet.
    pub(crate) fn restart_without_waiting(&mut self) {
        self.kill();
        self.run_again();
    }

    /// Starts it again with an empty data directory and the same flags.
    ///
    /// Its revision and Raft term start over, yet its cluster id stays the same: etcd derives that from
    /// the flags. Only for a single server.
    #[track_caller]
    pub(crate) fn wipe_and_restart(&mut self) {
        self.kill();
        fs::remove_dir_all(self.launch.data_dir()).expect("the data directory is ours");
        self.auth_enabled = false;
        self.restart();
        if self.launch.how.auth_token_ttl.is_some() {
            self.admin().enable_auth(ROOT_PASSWORD);
            self.auth_enabled = true;
        }
    }

    /// Replaces it by another cluster on the same ports: empty, and with another cluster id.
    #[track_caller]
    pub(crate) fn replace(&mut self) {
        self.launch.token.push_str("-replaced");
        self.wipe_and_restart();
    }

    /// The log of all its runs.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.launch.log_path()).unwrap_or_default()
    }

    fn launch(launch: Launch) -> Self {
        let run = launch.run();
        Self { launch, run, state: EtcdState::Running, auth_enabled: false }
    }

    fn run_again(&mut self) {
        self.run = self.launch.run();
        self.state = EtcdState::Running;
    }

    /// Waits until it answers a linearizable read.
    #[track_caller]
    fn wait_until_ready(&mut self) -> Result<(), PortTaken> {
        eventually(READY_DEADLINE, "etcd to answer", || {
            if let Some(status) = self.run.process.status() {
                let port_taken = self.log_of_this_run().contains("address already in use");
                assert!(port_taken, "etcd ended while it was being started: {status}");
                return Some(Err(PortTaken));
            }
            let (url, options) = (self.url(), self.connect_options());
            // etcd-client's backoff would delay an attempt before etcd listens.
            TcpStream::connect(self.endpoint()).ok()?;
            wait_within(PROBE_DEADLINE, read_from(url, options)).ok()?.ok().map(Ok)
        })
    }

    fn log_of_this_run(&self) -> String {
        self.log().split_off(self.run.log_start)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
            eprintln!("--- end of the log of etcd at {}\n{tail}\n---", self.endpoint());
        }
    }
}

/// Another process listens on a port that we had found free.
#[derive(Debug)]
struct PortTaken;

async fn read_from(url: String, options: ConnectOptions) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect([url], Some(options)).await?;
    client.get("ready", None).await.map(drop)
}
