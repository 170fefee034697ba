//! `elect observe`: print each change of leadership until stopped.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use leader_election::{
    etcd::Etcd,
    observe::{Observation, State},
};

use super::show::{self, Json};
use crate::config::{BackendConfig, Config};

pub(super) async fn run(config: Config, json: bool) -> anyhow::Result<ExitCode> {
    let Config { backend, election, .. } = config;
    let (mut observer, refuses) = match backend {
        BackendConfig::Etcd(settings) => {
            let etcd = Etcd::start(settings).context("failed to start")?;
            (etcd.observe(election), "etcd refuses")
        }
        BackendConfig::Peers(peers) => (peers.client(election)?.observe(), "the peers refuse"),
    };
    let mut problem = None;
    while let Some(observation) = observer.next().await {
        match print(&observation, json) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            printed => printed.context("failed to print")?,
        }
        if let State::Unknown { problem: said, .. } = observation.state {
            problem = Some(said);
        }
    }
    bail!("{refuses} to be observed: {}", problem.unwrap_or_default())
}

fn print(observation: &Observation, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &Json::of(observation))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", show::text(observation))?;
    }
    out.flush()
}
