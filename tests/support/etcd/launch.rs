//! Starting a server, for the first time and again: the same ports, the same flags, the same directory.

use std::{
    env,
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::Ordering::SeqCst,
};

use tempfile::TempDir;

use super::EtcdBuilder;
use crate::support::{
    network::{NetworkMember, ProcessId},
    port::ReservedPort,
    process::{self, Process},
};

/// All data needed to start a server again.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) how: EtcdBuilder,
    pub(super) name: String,
    pub(super) site: MemberSite,
    /// Its URL for peers.
    pub(super) peer_url: String,
    pub(super) initial_cluster: String,
    pub(super) token: String,
    pub(super) dir: TempDir,
}

impl Launch {
    pub(super) fn run(&self) -> EtcdRun {
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("the directory is ours");
        let log_start = log.metadata().expect("an open file has a size").len();
        let log_start = log_start.try_into().expect("a log fits into memory");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let process = Process::start("etcd", command);
        self.site.process_id.store(process.id(), SeqCst);
        EtcdRun { process, log_start }
    }

    fn command(&self) -> Command {
        let mut command = process::command(self.how.version.program());
        // Inherited ETCD_… variables would change the configuration.
        command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
        command
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen-client-urls", &self.client_url()])
            .args(["--advertise-client-urls", &self.client_url()])
            .args(["--listen-peer-urls", &format!("http://{}", self.site.peer.address())])
            .args(["--initial-advertise-peer-urls", &self.peer_url])
            .args(["--listen-metrics-urls", &format!("http://{}", self.site.metrics.address())])
            .args(["--initial-cluster", &self.initial_cluster])
            .args(["--initial-cluster-token", &self.token])
            // 3.4 has another default.
            .args(["--logger", "zap"]);
        if !self.how.fsync {
            command.arg("--unsafe-no-fsync");
        }
        if let Some(ttl) = self.how.auth_token_ttl {
            command.args(["--auth-token", "simple", "--auth-token-ttl", &ttl.as_secs().to_string()]);
        }
        if let Some(pki) = &self.how.pki {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&pki.ca);
            command.arg("--cert-file").arg(&pki.server.cert).arg("--key-file").arg(&pki.server.key);
        }
        command.args(&self.how.args);
        command
    }

    pub(super) fn client_url(&self) -> String {
        let scheme = if self.how.pki.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.site.client.address())
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }
}

/// One run of a server, from its start to its end.
#[derive(Debug)]
pub(super) struct EtcdRun {
    pub(super) process: Process,
    /// The offset in the log file at which it begins.
    pub(super) log_start: usize,
}

/// A server's state across runs: its ports, and the place of its process id.
#[derive(Debug)]
pub(super) struct MemberSite {
    pub(super) client: ReservedPort,
    pub(super) peer: ReservedPort,
    pub(super) metrics: ReservedPort,
    process_id: ProcessId,
}

impl MemberSite {
    pub(super) fn reserve() -> Self {
        Self {
            client: ReservedPort::new(),
            peer: ReservedPort::new(),
            metrics: ReservedPort::new(),
            process_id: ProcessId::default(),
        }
    }

    pub(super) fn member(&self) -> NetworkMember {
        NetworkMember { address: self.peer.address(), process_id: self.process_id.clone() }
    }
}
