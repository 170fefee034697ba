//! The cost of HTTP requests, and that they delay no renewal: `/leader` at 10,000 requests a second, and a
//! thousand silent connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::{
    Bench,
    contender::{LEADER, REFRESHING, SOON, Stand, http_server},
    report::{Floors, Section, sample::Sample},
    support::{
        capture::{Captured, Mark},
        clock::BootTime,
        http,
    },
    trials::election,
};

const RATE: u64 = 10_000;

/// Connections that share the rate: as many as a busy load balancer keeps open.
const CONNECTIONS: u64 = 50;

/// Clients that send nothing, or read nothing.
const STUCK: usize = 1000;

/// Limit for the median: a millisecond.
const TARGET_MS: f64 = 1.0;

/// Limit for a renewal's time, relative to an idle server.
const SLOWER: f64 = 1.1;

const TTL: u64 = 3;

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let seconds = Duration::from_secs(bench.scale.of(15, 4) as u64);
    let how = format!(
        "One `elect server --http` that leads, TTL {TTL} s: asked for `/leader`, and stared at by {STUCK} clients that do \
         nothing, for {} s each. The time between renewals is compared with that of the same server left alone.",
        seconds.as_secs()
    );
    let mut section = Section::new("http", "HTTP", how);
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("http"), ttl: TTL };
    let (server, address) = http_server(&stand, "asked");
    server.wait_for_line(|line: &str| line.contains(LEADER), SOON);

    let idle = renewals_during(&server, || thread::sleep(seconds));
    let mut latencies = Sample::default();
    let asked = renewals_during(&server, || latencies = ask(&address, seconds));
    let stuck = renewals_during(&server, || stare(&address, seconds));

    let rate = latencies.len() as f64 / seconds.as_secs_f64();
    let how = format!("{rate:.0} requests/s, p95 {:.2} ms, max {:.1} ms", latencies.p95(), latencies.max());
    section.at_most("`/leader`, median", "ms", latencies.median(), TARGET_MS, &how);
    for (what, between) in [("when asked", asked), ("beside stuck clients", stuck)] {
        let ratio = between.ratio_to(&idle);
        let detail = format!("{:.0} ms, alone {:.0} ms", between.median(), idle.median());
        section.at_most(&format!("time between renewals, {what}"), "times", ratio.value, SLOWER, &detail);
    }
    section
}

/// The times between renewals logged during `work`.
fn renewals_during(server: &Captured, work: impl FnOnce()) -> Sample {
    let started = BootTime::now();
    work();
    let lines = server.lines_since(Mark::START);
    let renewals = lines.iter().filter(|line| line.at > started && line.text.contains(REFRESHING));
    let at: Vec<_> = renewals.map(|line| line.at).collect();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Sends requests at the rate. A response's time counts from the sending of its request.
fn ask(address: &str, time: Duration) -> Sample {
    let every = Duration::from_nanos(1_000_000_000 * CONNECTIONS / RATE);
    let started = BootTime::now();
    let asking = (0..CONNECTIONS).map(|number| {
        let address = address.to_owned();
        let first = started + every.mul_f64(number as f64 / CONNECTIONS as f64);
        thread::spawn(move || ask_every(&address, every, first, started + time))
    });
    let asking: Vec<_> = asking.collect();
    asking.into_iter().flat_map(|asker| asker.join().expect("a server that is asked answers")).collect()
}

fn ask_every(address: &str, every: Duration, first: BootTime, end: BootTime) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("TCP has it");
    let request = format!("GET /leader HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut answer = [0; 2048];
    let (mut due, mut took) = (first, Vec::new());
    while due < end {
        thread::sleep(due - BootTime::now());
        let sent = BootTime::now();
        stream.write_all(request.as_bytes()).expect("the server reads");
        let length = stream.read(&mut answer).expect("the server answers");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "it leads, and says so");
        took.push(sent.elapsed());
        due = due + every;
    }
    took
}

/// Opens a thousand silent connections, and one that asks for events and reads none.
fn stare(address: &str, time: Duration) {
    let deaf = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
        Ok(stream)
    });
    let silent: Vec<_> = (0..STUCK).filter_map(|_| TcpStream::connect(address).ok()).collect();
    thread::sleep(time);
    assert_eq!(http::get(address, "/leader").status, 200, "it still answers");
    drop((deaf, silent));
}
