//! The three servers: start, kill, output, end.

use std::{
    collections::VecDeque,
    fmt::Write,
    future::pending,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout, timeout_at},
};

use super::{
    PATIENCE, Stop,
    backing::Backing,
    failovers::{Failovers, millis},
    ports::Port,
    printed::Printed,
    process::{self, Process},
    watch::{DemoServer, DemoWatch, KillOutcome, SERVERS},
};

const KEYS: &str = "k kills the leader, s starts it again, q ends the demonstration.";

/// Time for a server to give leadership up and end, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Lines of a server's output that are repeated after a failure.
const LAST_LINES: usize = 5;

/// Output of one life of a server, from its reading thread.
struct OutputEvent {
    server: DemoServer,
    life: u32,
    /// A line and the time it was read; `None` at the end of its life.
    output: Option<(String, Instant)>,
}

/// One of the three, over all of its lives.
struct ServerSlot {
    process: Option<Process>,
    life: u32,
    http: Port,
    last: VecDeque<String>,
}

pub(super) struct Servers {
    parts: [ServerSlot; SERVERS],
    backing: Backing,
    directory: PathBuf,
    watch: DemoWatch,
    printed: Printed,
    // Unbounded, but servers print about a line a second while a terminal stands still.
    output_events: (mpsc::UnboundedSender<OutputEvent>, mpsc::UnboundedReceiver<OutputEvent>),
}

impl Servers {
    /// Creates the three; none runs yet.
    pub(super) fn new(backing: Backing, directory: &Path) -> anyhow::Result<Self> {
        let part = || Ok(ServerSlot { process: None, life: 0, http: Port::hold()?, last: VecDeque::new() });
        let parts: [anyhow::Result<ServerSlot>; SERVERS] = [part(), part(), part()];
        let [one, two, three] = parts;
        let watch = DemoWatch::new(backing.needed());
        Ok(Self {
            parts: [one?, two?, three?],
            backing,
            directory: directory.to_owned(),
            watch,
            printed: Printed::new(),
            output_events: mpsc::unbounded_channel(),
        })
    }

    /// Prints the introduction, with the addresses of the pages.
    pub(super) fn introduce(&self, by_hand: bool) -> anyhow::Result<()> {
        let mut text =
            format!("Three servers, {}. Their pages, while they run:\n", self.backing.description());
        for server in DemoServer::ALL {
            let _ = write!(text, "\n  {server}  http://{}/", self.parts[server.place()].http.address());
        }
        text.push('\n');
        if by_hand {
            let _ = write!(text, "\n{KEYS}\n");
        }
        self.printed.text(&text).context(UNPRINTED)
    }

    pub(super) fn remark_keys(&self) -> anyhow::Result<()> {
        self.remark(KEYS)
    }

    pub(super) fn remark(&self, text: &str) -> anyhow::Result<()> {
        self.printed.remark(text).context(UNPRINTED)
    }

    pub(super) fn print_table(&self, failovers: &Failovers) -> anyhow::Result<()> {
        let what = "From the leader's SIGKILL to the next one's verified `I am the leader.`:";
        self.printed.text(&format!("\n{what}\n\n{failovers}")).context(UNPRINTED)
    }

    /// Prints the outcome of a kill.
    pub(super) fn report(&self, turn: &KillOutcome) -> anyhow::Result<()> {
        self.remark(&match turn {
            KillOutcome::Took(failover) => format!("{} leads, {} ms after the kill.", failover.next, millis(failover.took)),
            KillOutcome::Void { killed, next } => {
                format!("{killed} had stopped leading by itself, just before the kill; {next} leads. Not measured.")
            }
        })
    }

    pub(super) fn leader(&self) -> Option<DemoServer> {
        self.watch.leader()
    }

    pub(super) fn start_all(&mut self) -> anyhow::Result<()> {
        DemoServer::ALL.into_iter().try_for_each(|server| self.start(server))
    }

    /// Starts the dead servers.
    pub(super) fn start_again(&mut self) -> anyhow::Result<()> {
        let away: Vec<_> = DemoServer::ALL.into_iter().filter(|server| self.watch.is_away(*server)).collect();
        if away.is_empty() {
            return self.remark("All three run.");
        }
        for server in away {
            self.remark(&format!("{server} is started again."))?;
            self.start(server)?;
        }
        Ok(())
    }

    fn start(&mut self, server: DemoServer) -> anyhow::Result<()> {
        let part = &mut self.parts[server.place()];
        let mut command = self.backing.server(server, &part.http, &self.directory)?;
        let started = Process::start_read(&mut command);
        let (process, output) = started.with_context(|| format!("failed to start {server}"))?;
        part.process = Some(process);
        part.life += 1;
        self.watch.started(server);
        let (life, output_events) = (part.life, self.output_events.0.clone());
        // The receiver is gone once the demonstration is over.
        let read = process::read(output, move |output| {
            drop(output_events.send(OutputEvent { server, life, output }))
        });
        read.with_context(|| format!("failed to read what {server} prints"))
    }

    /// Kills a running server by SIGKILL.
    pub(super) fn kill(&mut self, server: DemoServer) -> anyhow::Result<()> {
        let Some(process) = self.parts[server.place()].process.take() else { return Ok(()) };
        let at = process.kill().with_context(|| format!("failed to kill {server}"))?;
        self.watch.killed(server, at);
        if !self.watch.can_lead() {
            self.remark("Too few are left for one to lead. s starts the others again.")?;
        }
        Ok(())
    }

    /// Prints the output until the watch is as `wanted`.
    ///
    /// # Errors
    ///
    /// Fails when that takes longer than `within`, and when a server ends by itself.
    pub(super) async fn until(
        &mut self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&DemoWatch) -> bool,
    ) -> anyhow::Result<()> {
        let wait = async {
            while !wanted(&self.watch) {
                self.next().await?;
            }
            Ok(())
        };
        timeout(within, wait).await.unwrap_or_else(|_| Err(anyhow!("not within {within:?}: that {what}")))
    }

    /// Prints the output for a while.
    pub(super) async fn show_for(&mut self, span: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        while let Ok(next) = timeout_at(until.into(), self.next()).await {
            next?;
        }
        Ok(())
    }

    /// Prints the output until the outcome of a kill is known: of the last one, or one to come.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Fails when there is no leader within [`PATIENCE`] of a kill, and when a server ends by itself.
    pub(super) async fn next_turn(&mut self) -> anyhow::Result<KillOutcome> {
        loop {
            let overdue = self.watch.awaited_since().map(|since| since + PATIENCE);
            let overdue = async move {
                match overdue {
                    Some(deadline) => sleep_until(deadline.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                turn = self.next() => if let Some(turn) = turn? {
                    return Ok(turn);
                },
                () = overdue => bail!("no next leader within {PATIENCE:?}"),
            }
        }
    }

    /// Prints the next output. Cancel safe.
    async fn next(&mut self) -> anyhow::Result<Option<KillOutcome>> {
        let output_events = self.output_events.1.recv().await;
        let OutputEvent { server, life, output } = output_events.expect("we have a sender ourselves");
        let part = &mut self.parts[server.place()];
        let current = part.life == life;
        let Some((text, at)) = output else {
            // A killed server has no process here any more.
            let process = if current { part.process.take() } else { None };
            let Some(process) = process else { return Ok(None) };
            let status = process.reap().with_context(|| format!("{server} can't be waited for"))?;
            self.watch.gone(server);
            bail!("{server} ended by itself ({status})");
        };
        self.printed.line(server, &text).context(UNPRINTED)?;
        let turn = if current { self.watch.printed(server, &text, at) } else { None };
        if part.last.len() == LAST_LINES {
            part.last.pop_front();
        }
        part.last.push_back(text);
        Ok(turn)
    }

    /// Returns each server's last lines.
    pub(super) fn last_words(&self) -> String {
        let mut words = String::new();
        for server in DemoServer::ALL {
            let state = if self.watch.is_away(server) { "does not run" } else { "runs" };
            let _ = writeln!(words, "{server} {state}; its last lines:");
            for line in &self.parts[server.place()].last {
                let _ = writeln!(words, "  {line}");
            }
        }
        words
    }

    /// Stops all servers, and kills those that don't end; at once on another signal to stop.
    ///
    /// A stopped server leaves no lease on a shared etcd.
    pub(super) async fn end(&mut self, stop: &mut Stop) {
        for process in self.parts.iter().filter_map(|part| part.process.as_ref()) {
            process.terminate();
        }
        let parts = &mut self.parts;
        let output_events = &mut self.output_events.1;
        let ended = async {
            while parts.iter().any(|part| part.process.is_some()) {
                let Some(OutputEvent { server, life, output }) = output_events.recv().await else { return };
                let part = &mut parts[server.place()];
                if output.is_none() && part.life == life {
                    // Dropping it reaps it.
                    part.process = None;
                }
            }
        };
        tokio::select! {
            biased;
            _ = timeout(END_WITHIN, ended) => {}
            () = stop.signalled() => {}
        }
        for part in &mut self.parts {
            part.process = None;
        }
    }
}

const UNPRINTED: &str = "the output is not read";
