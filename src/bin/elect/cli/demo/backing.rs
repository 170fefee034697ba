//! The backend of the servers: each other, a running etcd, or an etcd started for them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    START_WITHIN,
    ports::Port,
    process::{self, Process},
    watch::{DemoServer, SERVERS},
};
use crate::{config::Endpoints, supervise::program};

/// The TTL of the compose files: short, and renewals show each second.
const TTL: &str = "3s";

/// Variables that configure access to a running etcd, other than endpoint and election.
const ACCESS: [&str; 6] =
    ["ELECT_USER", "ELECT_PASSWORD", "ELECT_PASSWORD_FILE", "ELECT_CACERT", "ELECT_CERT", "ELECT_KEY"];

/// Lines of etcd's log that are printed if it does not start.
const LAST_LINES: usize = 5;

/// Time between two checks of a starting etcd.
const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) enum Backing {
    /// The value of `--peers`, and the ports in it.
    Peers { flag: String, _held: [Port; SERVERS] },
    /// The endpoint, and our child process if it is our own etcd.
    Etcd { endpoints: String, election: String, own: Option<(Process, [Port; 2])> },
}

impl Backing {
    /// Starts the backend of the servers.
    ///
    /// Cancel safe: a process that was started ends.
    pub(super) async fn start(etcd: Option<Vec<Endpoints>>, directory: &Path) -> anyhow::Result<Self> {
        let Some(endpoints) = etcd else {
            let ports = [Port::hold()?, Port::hold()?, Port::hold()?];
            let members =
                DemoServer::ALL.map(|server| format!("{server}={}", ports[server.place()].address()));
            return Ok(Self::Peers { flag: members.join(","), _held: ports });
        };
        // An election of our own: other elections on that etcd are not disturbed.
        let election = format!("elect-demo-{:08x}", fastrand::u32(..));
        if !endpoints.is_empty() {
            let endpoints: Vec<_> = endpoints.iter().map(Endpoints::to_string).collect();
            return Ok(Self::Etcd { endpoints: endpoints.join(","), election, own: None });
        }
        let ports = [Port::hold()?, Port::hold()?];
        let endpoints = ports[0].address();
        let etcd = start_etcd(&ports, directory).await?;
        Ok(Self::Etcd { endpoints, election, own: Some((etcd, ports)) })
    }

    /// Number of servers that must run for one to lead.
    pub(super) fn needed(&self) -> usize {
        match self {
            Self::Peers { .. } => SERVERS / 2 + 1,
            Self::Etcd { .. } => 1,
        }
    }

    /// Completes the sentence "three servers, …".
    pub(super) fn description(&self) -> String {
        match self {
            Self::Peers { .. } => "which elect a leader among themselves, by Raft".into(),
            Self::Etcd { endpoints, own: None, .. } => format!("on the etcd at {endpoints}"),
            Self::Etcd { endpoints, .. } => format!("on an etcd of their own at {endpoints}"),
        }
    }

    /// Builds the command line of one server, with an environment that configures nothing.
    pub(super) fn server(
        &self,
        server: DemoServer,
        http: &Port,
        directory: &Path,
    ) -> anyhow::Result<Command> {
        let elect = env::current_exe().context("this program can't be found, to be started as a server")?;
        let name = server.to_string();
        let mut words: Vec<OsString> = vec![elect.into(), "server".into(), name.clone().into()];
        let mut add = |flag: &str, value: &dyn AsRef<OsStr>| {
            words.extend([OsString::from(flag), value.as_ref().to_owned()]);
        };
        match self {
            Self::Peers { flag, .. } => {
                add("--peers", flag);
                add("--data", &directory.join(&name));
            }
            Self::Etcd { endpoints, election, .. } => {
                add("--etcd", endpoints);
                add("--election", election);
                add("--ttl", &TTL);
            }
        }
        add("--http", &http.address());
        add("--log-format", &"plain");
        let mut command = process::command(words);
        let theirs = matches!(self, Self::Etcd { own: None, .. });
        for (key, _) in env::vars_os() {
            let configures = key.as_encoded_bytes().starts_with(b"ELECT_");
            if configures && !(theirs && ACCESS.iter().any(|kept| key == *kept)) {
                command.env_remove(key);
            }
        }
        Ok(command)
    }
}

async fn start_etcd([client, peer]: &[Port; 2], directory: &Path) -> anyhow::Result<Process> {
    program::find(OsStr::new("etcd")).map_err(|_| {
        anyhow!(
            "--etcd: there is no etcd in PATH. Install it (Debian, Ubuntu: apt install etcd-server; others: \
             https://etcd.io/docs/latest/install/), or name one that runs, as in --etcd localhost:2379. Without --etcd \
             none is needed"
        )
    })?;
    let log = directory.join("etcd.log");
    let file = File::create(&log).context("etcd's log can't be written")?;
    let (client_url, peer_url) =
        (format!("http://{}", client.address()), format!("http://{}", peer.address()));
    let mut words: Vec<OsString> = vec!["etcd".into(), "--data-dir".into(), directory.join("etcd").into()];
    let cluster = format!("default={peer_url}");
    let flags = [
        ["--listen-client-urls", &client_url],
        ["--advertise-client-urls", &client_url],
        ["--listen-peer-urls", &peer_url],
        ["--initial-advertise-peer-urls", &peer_url],
        ["--initial-cluster", &cluster],
    ];
    words.extend(flags.into_iter().flatten().map(OsString::from));
    let mut command = process::command(words);
    for (key, _) in env::vars_os() {
        if key.as_encoded_bytes().starts_with(b"ETCD_") {
            command.env_remove(key);
        }
    }
    command.stdout(file.try_clone().context("etcd's log can't be written")?).stderr(file);
    let mut etcd = Process::start(&mut command).context("failed to start etcd")?;

    let deadline = Instant::now() + START_WITHIN;
    while TcpStream::connect(client.address()).await.is_err() {
        let problem = match etcd.ended().context("etcd can't be waited for")? {
            Some(status) => anyhow!("etcd ended by itself ({status})"),
            None if Instant::now() > deadline => anyhow!("etcd does not listen after {START_WITHIN:?}"),
            None => {
                sleep(POLL_EVERY).await;
                continue;
            }
        };
        let said = fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().collect();
        bail!("{problem}; its last lines:\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
    }
    Ok(etcd)
}
