//! Separate hosts on this machine: network namespaces, joined by a bridge, which can be cut off from each
//! other in one direction or in both.
//!
//! Each namespace belongs to an otherwise idle process. So it has no name, and nothing of it is left
//! once that process is gone, however the test ended.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::File,
    io::Write as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use super::{
    elect::{self, Elect},
    eventually::eventually,
    process::{self, Process},
    server::SOON,
};

/// Hosts that reach each other.
#[derive(Debug)]
pub(crate) struct Islands {
    /// Dropped before the hosts that they run on.
    delays: Vec<OnHost>,
    hosts: Vec<Process>,
    _bridge: Process,
}

/// A thread that runs on a host until this is dropped.
#[derive(Debug)]
#[must_use = "dropping this ends it"]
pub(crate) struct OnHost(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

/// Silent connections.
#[derive(Debug)]
#[must_use = "dropping this ends it"]
pub(crate) struct Flood {
    opened: Arc<AtomicUsize>,
    _on: OnHost,
}

/// The port on which servers listen, and the port that leads to the same server through a delay.
const PORT: u16 = 10000;
const DELAYED_PORT: u16 = 20000;
/// The port, on each host, of the delay to the first host; the next ones follow.
const FIRST_DELAY: u16 = 30000;

/// Programs needed to make them, beside root's rights.
const TOOLS: [&str; 4] = ["ip", "nft", "nsenter", "unshare"];

impl Islands {
    /// Makes so many hosts, or returns `None`, with a message, if this machine does not allow it.
    pub(crate) fn try_new(count: usize) -> Option<Self> {
        if let Some(missing) = TOOLS.iter().find(|tool| !runs(tool)) {
            return skipped(&format!("there is no {missing}"));
        }
        let allowed =
            Command::new("unshare").args(["--net", "nft", "add", "table", "inet", "probe"]).output();
        let allowed = allowed.expect("unshare runs");
        if !allowed.status.success() {
            return skipped(String::from_utf8_lossy(&allowed.stderr).trim());
        }
        let bridge = namespace("bridge");
        inside(&bridge, "ip", "link add hub type bridge");
        inside(&bridge, "ip", "link set hub up");
        let hosts = (0..count).map(|place| {
            let host = namespace(&format!("host {place}"));
            let port = format!("port{place}");
            inside(&bridge, "ip", &format!("link add {port} type veth peer name net netns {}", host.id()));
            inside(&bridge, "ip", &format!("link set {port} master hub up"));
            inside(&host, "ip", &format!("address add {}/24 dev net", ip(place)));
            inside(&host, "ip", "link set net up");
            inside(&host, "ip", "link set lo up");
            inside(&host, "nft", "add table inet cut");
            inside(&host, "nft", "add chain inet cut from { type filter hook input priority 0 ; }");
            host
        });
        Some(Self { delays: Vec::new(), hosts: hosts.collect(), _bridge: bridge })
    }

    /// A server's address on that host.
    pub(crate) fn address(place: usize) -> String {
        format!("{}:{PORT}", ip(place))
    }

    /// `elect ARGS…` on that host.
    pub(crate) fn elect(&self, place: usize, args: Vec<String>) -> Elect {
        let namespace = format!("--net=/proc/{}/ns/net", self.hosts[place].id());
        let before = [namespace.into(), "--".into(), elect::program().into_os_string()];
        Elect::of("nsenter", before.into_iter().chain(args.into_iter().map(OsString::from)))
    }

    /// Drops all later packets from `from` to `to`.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        inside(&self.hosts[to], "nft", &format!("add rule inet cut from ip saddr {} drop", ip(from)));
    }

    /// Drops all packets between `place` and any other host.
    pub(crate) fn cut_off(&self, place: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            self.cut(place, other);
            self.cut(other, place);
        }
    }

    /// Sets the round trip between programs and the servers of other hosts. Not every kernel can do this
    /// by itself, so each host has a proxy for each other one; servers still see the host's own
    /// address.
    pub(crate) fn far_apart(&mut self, round_trip: Duration) {
        let count = self.hosts.len();
        for (place, host) in self.hosts.iter().enumerate() {
            inside(host, "nft", "add table ip far");
            inside(host, "nft", "add chain ip far from { type nat hook prerouting priority -100 ; }");
            inside(host, "nft", "add chain ip far to { type nat hook output priority -100 ; }");
            inside(
                host,
                "nft",
                &format!("add rule ip far from tcp dport {DELAYED_PORT} redirect to :{PORT}"),
            );
            for other in (0..count).filter(|other| *other != place) {
                let delay = FIRST_DELAY + other as u16;
                let to = format!("ip daddr {} tcp dport {PORT} redirect to :{delay}", ip(other));
                inside(host, "nft", &format!("add rule ip far to {to}"));
                self.delays.push(on(host, move || delays(delay, other, round_trip)));
            }
        }
    }

    /// Opens so many silent connections a second from `place` to each of these hosts' servers. It
    /// keeps the newest of them, as many as it opens in a second.
    pub(crate) fn flood(&self, place: usize, hosts: std::ops::Range<usize>, a_second: usize) -> Flood {
        let opened = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&opened);
        // Without the delays: delayed connections arrive at the same rate.
        let targets: Vec<String> = hosts.map(|host| format!("{}:{DELAYED_PORT}", ip(host))).collect();
        Flood { opened, _on: on(&self.hosts[place], move || flood(targets, a_second, counted)) }
    }

    /// Lets all hosts reach each other again.
    pub(crate) fn heal(&self) {
        for host in &self.hosts {
            inside(host, "nft", "flush chain inet cut from");
        }
    }
}

fn ip(place: usize) -> String {
    format!("10.0.0.{}", place + 1)
}

fn runs(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

/// Bypasses the test harness, which shows no output of a test that passes.
fn skipped<T>(why: &str) -> Option<T> {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{name}: SKIPPED, as no hosts can be made here: {why}");
    None
}

fn namespace(name: &str) -> Process {
    let mut command = process::command("unshare");
    command.args(["--net", "sleep", "infinity"]);
    let holder = Process::start(name, command);
    // Until then it is still in our namespace.
    let ours = std::fs::read_link("/proc/self/ns/net").expect("Linux has had namespaces for long");
    eventually(SOON, "a namespace", || {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).ok()?;
        (theirs != ours).then_some(())
    });
    holder
}

#[track_caller]
fn inside(host: &Process, program: &str, args: &str) {
    let namespace = format!("--net=/proc/{}/ns/net", host.id());
    let done = Command::new("nsenter").args([&namespace, "--", program]).args(args.split(' ')).output();
    let done = done.expect("nsenter runs");
    assert!(done.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Flood {
    /// Connections so far.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        let Some((stop, thread)) = self.0.take() else { return };
        drop(stop);
        let _ = thread.join();
    }
}

/// Runs a future on a thread in the host's network, with a runtime of its own, so that its sockets are there.
fn on<F: Future<Output = ()>>(host: &Process, what: impl FnOnce() -> F + Send + 'static) -> OnHost {
    let (stop, stopped) = oneshot::channel::<()>();
    let namespace = File::open(format!("/proc/{}/ns/net", host.id())).expect("the host is there");
    let thread = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("the namespace is ours to enter");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts wherever a test does").block_on(async move {
            tokio::select! {
                _ = stopped => {}
                () = what() => {}
            }
        });
    });
    OnHost(Some((stop, thread)))
}

/// Passes connections on to that host's server, with the delay.
async fn delays(port: u16, to: usize, round_trip: Duration) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("nothing else listens on this host");
    loop {
        let Ok((near, _)) = listener.accept().await else { return };
        tokio::spawn(async move {
            sleep(round_trip).await;
            let Ok(far) = TcpStream::connect((ip(to), DELAYED_PORT)).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(pass(from_near, to_far, round_trip / 2), pass(from_far, to_near, round_trip / 2));
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (read, mut held) = mpsc::unbounded_channel();
    let reading = async move {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let _ = read.send((Instant::now() + delay, bytes[..count].to_vec()));
        }
    };
    let writing = async move {
        while let Some((at, bytes)) = held.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

async fn flood(targets: Vec<String>, a_second: usize, opened: Arc<AtomicUsize>) {
    const STEPS_A_SECOND: usize = 100;
    let (keep, mut kept) = mpsc::unbounded_channel();
    let mut steps = interval(Duration::from_secs(1) / STEPS_A_SECOND as u32);
    let mut held = VecDeque::new();
    loop {
        tokio::select! {
            Some(stream) = kept.recv() => {
                held.push_back(stream);
                if held.len() > a_second {
                    held.pop_front();
                }
            }
            _ = steps.tick() => for target in &targets {
                for _ in 0..a_second / STEPS_A_SECOND {
                    let (target, keep, opened) = (target.clone(), keep.clone(), Arc::clone(&opened));
                    tokio::spawn(async move {
                        // An attempt that finds the listener's queue full would last for minutes.
                        let connecting = timeout(Duration::from_secs(1), TcpStream::connect(target));
                        if let Ok(Ok(stream)) = connecting.await {
                            opened.fetch_add(1, Ordering::Relaxed);
                            let _: Result<(), mpsc::error::SendError<TcpStream>> = keep.send(stream);
                        }
                    });
                }
            },
        }
    }
}
