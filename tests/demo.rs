//! `elect demo` as a new user runs it: with a terminal, and without one.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

#[path = "demo/terminal.rs"]
mod terminal;

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    server::{CHANGE, FOLLOWER, LEADER, Server},
};
use tempfile::TempDir;
use terminal::Terminal;

/// Longer than any step takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(60);

const NAMES: [&str; 3] = ["server1", "server2", "server3"];

/// A demonstration's own TMPDIR, which identifies its processes and leftovers.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn elect(&self, args: &[&str]) -> Elect {
        Elect::new([&["demo"], args].concat()).env("TMPDIR", self.path())
    }

    /// Command lines of the processes that have its TMPDIR, the demonstration itself included.
    fn processes(&self) -> Vec<(Pid, String)> {
        let mark = format!("TMPDIR={}", self.path().display());
        let is_ours =
            |environment: &[u8]| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
        let entries = fs::read_dir("/proc").unwrap().map_while(Result::ok);
        let processes = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // A zombie's environment is unreadable.
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            is_ours(&environment).then_some((Pid::from_raw(pid), words))
        });
        processes.collect()
    }

    fn server(&self, name: &str) -> Pid {
        let words = format!(" server {name} ");
        let is = |(_, line): &(Pid, String)| line.contains(&words) && !line.contains(" shim ");
        self.processes().into_iter().find(is).map(|(pid, _)| pid).unwrap()
    }

    /// Asserts that nothing is left, however it ended.
    #[track_caller]
    fn no_process_is_left(&self) {
        eventually(SOON, "all that it started to be gone", || self.processes().is_empty().then_some(()));
    }

    /// Waits for a clean end.
    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(self.processes(), []);
        let left: Vec<_> = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

/// `server2    | I am the leader.` → `server2`, matched by the end of the line.
fn by<'a>(line: &'a str, text: &str) -> Option<&'a str> {
    let (name, said) = line.split_once('|')?;
    (said.trim() == text).then(|| name.trim())
}

fn says(text: &'static str) -> impl Fn(&str) -> bool {
    move |line: &str| by(line, text).is_some()
}

/// `(killed, next, milliseconds)` of each row of the table, then the median and the longest.
fn table(lines: &[String]) -> (Vec<(String, String, u64)>, u64, u64) {
    let start = lines.iter().position(|line| line.starts_with("round ")).expect("there is a table");
    let (mut rows, mut ends) = (Vec::new(), Vec::new());
    for line in &lines[start + 1..] {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [round, killed, next, took, "ms"] => {
                rows.push((killed.to_owned(), next.to_owned(), took.parse().unwrap()));
                assert_eq!(round.parse(), Ok(rows.len()));
            }
            ["median" | "max", took, "ms"] => ends.push(took.parse().unwrap()),
            [] => {}
            _ => panic!("not a row: {line}"),
        }
    }
    let [median, max] = ends[..] else { panic!("{ends:?}") };
    (rows, median, max)
}

/// Presses `k` once there is a leader. Returns the position after the kill, and the killed server's name.
fn kill_the_leader(terminal: &mut Terminal, from: usize) -> (usize, String) {
    let mut at = from;
    loop {
        terminal.press(b"k");
        let answer =
            |line: &str| line.starts_with("# kill -KILL ") || line.starts_with("# There is no leader now");
        let (answered, line) = terminal.wait_for_one(at, answer);
        if let Some(killed) = line.strip_prefix("# kill -KILL ") {
            return (answered, killed.to_owned());
        }
        at = terminal.wait_for_one(answered, says(LEADER)).0;
    }
}

/// Checks each row of the table against the lines printed at the time, and the order of the rounds.
#[track_caller]
fn rounds_were_played(demo: &Captured, rounds: usize) {
    let lines = demo.stdout();
    let (rows, median, max) = table(&lines);
    assert_eq!(rows.len(), rounds);
    let position = |from: usize, what: &dyn Fn(&str) -> bool| {
        from + lines[from..].iter().position(|line| what(line)).expect("it is said, in this order")
    };
    let mut at = 0;
    for (killed, next, took) in &rows {
        assert_ne!(killed, next);
        at = position(at, &|line| {
            line.starts_with("# Round") && line.ends_with(&format!("kill -KILL {killed}"))
        });
        at = position(at, &|line| by(line, LEADER) == Some(next));
        at = position(at, &|line| line == format!("# {next} leads, {took} ms after the kill."));
        at = position(at, &|line| line == format!("# {killed} is started again."));
        at = position(at, &|line| by(line, &format!("Starting the server '{killed}'")) == Some(killed));
        at = position(at, &|line| by(line, FOLLOWER) == Some(killed));
    }
    let mut spans: Vec<_> = rows.iter().map(|(_, _, took)| *took).collect();
    spans.sort_unstable();
    assert_eq!(max, *spans.last().unwrap());
    assert!((spans[0]..=max).contains(&median));
}

#[test]
fn without_a_terminal_three_rounds_are_played_and_nothing_is_left() {
    let place = Place::new();
    // Settings for real servers must not affect the demonstration.
    let demo = place.elect(&[]).env("ELECT_ETCD", "127.0.0.1:1").env("ELECT_TTL", "9s");
    let mut demo = demo.env("ELECT_CONFIG", "/no/such/file").env("ELECT_NAME", "another").start();
    assert_eq!(demo.wait_exit(SOON * 2).code(), Some(0));
    assert_eq!(demo.stderr(), [""; 0]);
    rounds_were_played(&demo, 3);
    place.nothing_is_left();
}

#[test]
fn with_a_terminal_keys_kill_the_leader_start_it_again_and_end_it_all() {
    let place = Place::new();
    let mut terminal = Terminal::start(&["demo"], place.path());
    terminal.wait_for("k kills the leader, s starts it again, q ends the demonstration.");
    for name in NAMES {
        terminal.wait_for_one(0, |line| by(line, LEADER) == Some(name) || by(line, FOLLOWER) == Some(name));
    }
    let page = terminal.wait_for_one(0, |line| line.trim_start().starts_with("server3  http://")).1;
    let old = NAMES.map(|name| place.server(name));

    let (at, leader) = kill_the_leader(&mut terminal, 0);
    let (at, line) = terminal.wait_for_one(at, |line| by(line, LEADER).is_some_and(|name| name != leader));
    let next = by(&line, LEADER).unwrap().to_owned();
    let (at, _) = terminal.wait_for_one(at, |line| line.starts_with(&format!("# {next} leads, ")));
    let old = old[NAMES.iter().position(|name| *name == leader).unwrap()];
    assert!(kill(old, None).is_err(), "{leader} is dead");

    terminal.press(b"s");
    let (at, _) = terminal.wait_for_one(at, |line| by(line, FOLLOWER) == Some(&leader));
    assert_ne!(place.server(&leader), old);
    terminal.press(b"s");
    terminal.wait_for_one(at, |line| line == "# All three run.");

    // One page shows all three.
    let address = page.split("http://").nth(1).unwrap().trim_end_matches('/');
    let status = support::http::get(address, "/status").json();
    let names: Vec<_> = status["servers"].as_array().unwrap().iter().map(|server| &server["name"]).collect();
    assert_eq!(names, NAMES);

    terminal.press(b"q");
    assert_eq!(terminal.exits().code(), Some(0));
    let (rows, median, max) = table(&terminal.lines());
    assert_eq!((rows.len(), median), (1, max));
    assert_eq!((&rows[0].0, &rows[0].1), (&leader, &next));
    terminal.is_as_before();
    place.nothing_is_left();
}

#[test]
fn without_a_majority_there_is_no_leader_until_a_server_is_started_again() {
    let place = Place::new();
    let mut terminal = Terminal::start(&["demo"], place.path());
    let (at, _) = kill_the_leader(&mut terminal, 0);
    let (at, _) = terminal.wait_for_one(at, |line| line.contains(" ms after the kill."));
    let (at, _) = kill_the_leader(&mut terminal, at);
    let (at, _) = terminal.wait_for_one(at, |line| line.starts_with("# Too few are left"));
    terminal.press(b"k");
    let (at, _) = terminal.wait_for_one(at, |line| line.starts_with("# There is no leader now"));
    terminal.press(b"s");
    terminal.wait_for_one(at, says(LEADER));
    terminal.press(b"q");
    assert_eq!(terminal.exits().code(), Some(0));
    // The second failover's duration depends on the key press.
    assert_eq!(table(&terminal.lines()).0.len(), 1);
    place.nothing_is_left();
}

#[test]
fn ctrl_c_ends_it_and_leaves_the_terminal_as_it_was() {
    let place = Place::new();
    let mut terminal = Terminal::start(&["demo"], place.path());
    terminal.wait_for_one(0, says(LEADER));
    assert!(!terminal.is_canonical());
    // As after Ctrl-Z and `fg`: the shell has used the terminal in between.
    terminal.is_put_back_by_a_shell();
    eventually(SOON, "single keys again", || (!terminal.is_canonical()).then_some(()));
    terminal.press(b"\x03");
    assert_eq!(terminal.exits().code(), Some(0));
    terminal.is_as_before();
    place.nothing_is_left();
}

#[test]
fn sigterm_ends_the_servers_and_says_that_the_rounds_were_not_done() {
    let place = Place::new();
    let mut demo = place.elect(&["--rounds", "1000"]).start();
    demo.wait_for_line(says(LEADER), SOON);
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.wait_exit(SOON).code(), Some(1));
    assert_eq!(demo.stderr(), ["elect: stopped before the last round"]);
    place.nothing_is_left();
}

#[test]
fn no_server_and_no_etcd_outlives_a_killed_demonstration() {
    for args in [&["--rounds", "1000"][..], &["--rounds", "1000", "--etcd"]] {
        let place = Place::new();
        let mut demo = place.elect(args).env("PATH", path_in(place.path(), true)).start();
        demo.wait_for_line(says(LEADER), SOON);
        assert_eq!(place.processes().len(), 4 + usize::from(args.len() > 2), "{:?}", place.processes());
        demo.kill();
        place.no_process_is_left();
    }
}

/// A PATH with nothing in it but etcd, if asked for, and the programs that a test starts processes through.
fn path_in(place: &Path, with_etcd: bool) -> PathBuf {
    let path = place.join("bin");
    fs::create_dir(&path).unwrap();
    if with_etcd {
        symlink(etcd_bin_vendored::etcd_bin_path().unwrap(), path.join("etcd")).unwrap();
    }
    let usual = env::var_os("PATH").unwrap();
    let setpriv = env::split_paths(&usual).map(|dir| dir.join("setpriv")).find(|path| path.exists());
    if let Some(setpriv) = setpriv {
        symlink(setpriv, path.join("setpriv")).unwrap();
    }
    path
}

#[test]
fn on_an_etcd_of_its_own_nothing_is_left_either() {
    let (place, bin) = (Place::new(), TempDir::new().unwrap());
    let demo = place.elect(&["--etcd", "--rounds", "2"]).env("PATH", path_in(bin.path(), true));
    let mut demo = demo.env("ETCD_NAME", "another").start();
    assert_eq!(demo.wait_exit(SOON * 2).code(), Some(0));
    assert_eq!(demo.stderr(), [""; 0]);
    rounds_were_played(&demo, 2);
    assert!(demo.stdout().iter().any(|line| line.contains("| Connecting to etcd at '127.0.0.1:")));
    place.nothing_is_left();
}

#[test]
fn on_a_running_etcd_no_other_election_is_disturbed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let endpoint = etcd.endpoint();
    let bystander = Server::start_leader("bystander", &endpoint, "5s");
    let place = Place::new();
    let mut demo = place.elect(&["--rounds", "1", "--etcd", &endpoint]).start();
    assert_eq!(demo.wait_exit(SOON * 2).code(), Some(0));
    rounds_were_played(&demo, 1);
    place.nothing_is_left();
    assert!(!bystander.story().iter().any(|line| line == CHANGE), "{:?}", bystander.story());
    assert_eq!(etcd.admin().leases().len(), 1, "all but the bystander's were given back");
}

#[test]
fn where_there_is_no_etcd_it_says_what_to_install() {
    let (place, bin) = (Place::new(), TempDir::new().unwrap());
    let mut demo = place.elect(&["--etcd"]).env("PATH", path_in(bin.path(), false)).start();
    assert_eq!(demo.wait_exit(SOON).code(), Some(1));
    let said = demo.stderr().join("\n");
    for part in ["no etcd in PATH", "apt install etcd-server", "--etcd localhost:2379"] {
        assert!(said.contains(part), "{said}");
    }
    place.nothing_is_left();
}

#[test]
fn a_kill_without_a_next_leader_is_a_failure_with_the_servers_last_lines() {
    let place = Place::new();
    let mut terminal = Terminal::start(&["demo"], place.path());
    let (_, line) = terminal.wait_for_one(0, says(FOLLOWER));
    terminal.wait_for_one(0, says(LEADER));
    let frozen = by(&line, FOLLOWER).unwrap();
    kill(place.server(frozen), Signal::SIGSTOP).unwrap();
    let (_, killed) = kill_the_leader(&mut terminal, 0);
    // The last of the three finds nothing.
    assert_eq!(terminal.exits().code(), Some(1));
    let lines = terminal.lines();
    assert!(lines.iter().any(|line| line == "elect: no next leader within 10s"), "{lines:?}");
    for name in NAMES {
        let state = if name == killed { "does not run" } else { "runs" };
        assert!(lines.contains(&format!("{name} {state}; its last lines:")), "{lines:?}");
    }
    assert!(lines.iter().any(|line| line == &format!("  {FOLLOWER}")), "{lines:?}");
    terminal.is_as_before();
    place.nothing_is_left();
}

#[test]
fn a_server_that_ends_by_itself_is_a_failure() {
    let place = Place::new();
    let mut terminal = Terminal::start(&["demo"], place.path());
    let (_, line) = terminal.wait_for_one(0, says(FOLLOWER));
    let follower = by(&line, FOLLOWER).unwrap();
    kill(place.server(follower), Signal::SIGKILL).unwrap();
    assert_eq!(terminal.exits().code(), Some(1));
    let said = terminal.lines().join("\n");
    assert!(said.contains(&format!("elect: {follower} ended by itself (signal: 9 (SIGKILL))")), "{said}");
    place.nothing_is_left();
}
