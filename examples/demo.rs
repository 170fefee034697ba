//! Three servers and a real etcd in one terminal: the leader is killed, another takes over.
//!
//! `make demo` builds the servers and runs this. It ends by itself after some 20 seconds.

use std::{
    error::Error,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the compose files use: renewals show each second.
const TTL: &str = "3s";

/// No step of the demonstration takes longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Etcd::start(directory.path())?;
    let (said, lines) = channel();
    let mut stage = Stage { lines, servers: Vec::new() };
    for name in ["server1", "server2", "server3"] {
        stage.servers.push(Server::start(name, &etcd.endpoint, said.clone())?);
        // One after the other, so that the queue is in the order of their names.
        stage.until(|line| line.by == name && (line.leads() || line.text == "I am a follower."))?;
    }

    stage.narrate("Three servers, one leader. It renews its lease each second.");
    stage.watch_for(Duration::from_secs(3))?;

    let crash = stage.depose("server1", Signal::SIGKILL)?;
    stage.watch_for(Duration::from_secs(2))?;
    let handoff = stage.depose("server2", Signal::SIGTERM)?;
    stage.watch_for(Duration::from_secs(2))?;

    stage.narrate("Done.");
    println!(
        "\n  killed (SIGKILL):  the next server led after {:>7.1} ms (the lease of {TTL} had to end)",
        millis(crash)
    );
    println!("  stopped (SIGTERM): the next server led after {:>7.1} ms", millis(handoff));
    Ok(())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// A line that a server printed, and when it was read.
struct Line {
    by: String,
    text: String,
    at: Instant,
}

impl Line {
    fn leads(&self) -> bool {
        self.text == "I am the leader."
    }
}

/// The servers, and what they say.
struct Stage {
    lines: Receiver<Line>,
    servers: Vec<Server>,
}

impl Stage {
    /// Prints lines as they come until one is as wanted.
    fn until(&self, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
            println!("{:<10} | {}", line.by, line.text);
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    /// Prints lines as they come for a while.
    fn watch_for(&self, span: Duration) -> Result<()> {
        let deadline = Instant::now() + span;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => println!("{:<10} | {}", line.by, line.text),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(gone) => return Err(gone.into()),
            }
        }
    }

    fn narrate(&self, text: &str) {
        println!("\n# {text}\n");
    }

    /// Ends the leader, and measures until another one leads.
    fn depose(&mut self, leader: &str, signal: Signal) -> Result<Duration> {
        let (verb, means) = match signal {
            Signal::SIGKILL => ("Killing", "kill -KILL"),
            _ => ("Stopping", "kill -TERM"),
        };
        self.narrate(&format!("{verb} the leader, {leader} ({means})."));
        let server = self.servers.iter().find(|server| server.name == leader).ok_or("no such server")?;
        let ended = Instant::now();
        kill(server.process.pid()?, signal)?;
        let next = self.until(|line| line.by != leader && line.leads())?;
        Ok(next.at.duration_since(ended))
    }
}

/// One `elect server`, and a thread that reads what it prints.
struct Server {
    name: String,
    process: Process,
}

impl Server {
    fn start(name: &str, endpoint: &str, said: Sender<Line>) -> Result<Self> {
        let mut command = Command::new(elect()?);
        command.args(["server", name, "--etcd", endpoint, "--ttl", TTL, "--log-format", "plain"]);
        let mut process = Process(command.stdout(Stdio::piped()).spawn()?);
        let output = BufReader::new(process.0.stdout.take().ok_or("its output is not piped")?);
        let by = name.to_owned();
        thread::spawn(move || {
            for text in output.lines().map_while(std::io::Result::ok) {
                // Nobody reads on once the demonstration is over.
                let _ = said.send(Line { by: by.clone(), text, at: Instant::now() });
            }
        });
        Ok(Self { name: name.to_owned(), process })
    }
}

/// The binary lies two folders above this example's, in the same build.
fn elect() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let elect = me.ancestors().nth(2).ok_or("the example has no folder")?.join("elect");
    if elect.exists() { Ok(elect) } else { Err("run `make demo`, or `cargo build --bin elect` first".into()) }
}

/// A real etcd 3.7, on free ports, for as long as this lives.
struct Etcd {
    endpoint: String,
    _process: Process,
}

impl Etcd {
    fn start(directory: &Path) -> Result<Self> {
        let (client, peer) = (free_port()?, free_port()?);
        let endpoint = format!("127.0.0.1:{client}");
        let url = format!("http://{endpoint}");
        let log = std::fs::File::create(directory.join("etcd.log"))?;
        let mut command = Command::new(etcd_bin_vendored::etcd_bin_path()?);
        command
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self { endpoint, _process: Process(command.spawn()?) })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A child process that does not outlive us.
struct Process(Child);

impl Process {
    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
