//! Strangers on the peers' port: random bytes, messages of any size, silent connections.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::support::{
    capture::Mark,
    clock::BootTime,
    elect::Elect,
    eventually::eventually,
    http,
    islands::Islands,
    peers::{
        BRISK, Group, Lead, growing_tokens, leads_after, leads_on, saw_a_change, settled, told, with_parts,
    },
    pki::Pki,
    server::{FOLLOWER, SOON},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The head of a gRPC call, each field as an HPACK literal without indexing.
fn call(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "stranger"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let literal = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    const END_HEADERS: u8 = 4;
    let headers: Vec<u8> = fields.iter().flat_map(literal).collect();
    [PREFACE.to_vec(), frame(4, 0, 0, &[]), frame(1, END_HEADERS, 1, &headers)].concat()
}

const CONVERSE: &str = "/elect.peers.v1.Peers/Converse";
const WATCH: &str = "/elect.peers.v1.Peers/Watch";

/// Sends all of it, and reads until the other side closes. A failed write is no failure of the test:
/// the other side may close while we are still sending.
fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|_| fastrand::u8(..)).collect()
}

#[test]
fn garbage_and_oversized_frames_depose_no_leader_and_are_reported() {
    let group = Group::of(3);
    let servers: Vec<_> = (0..3)
        .map(|place| {
            group.start_as(place, Elect::new(group.command_line(place)).args(["--http", "127.0.0.1:0"]))
        })
        .collect();
    let Lead { place, .. } = settled(&servers);
    let message = |length: u32, body: &[u8]| {
        let message = [&[0][..], &length.to_be_bytes(), body].concat();
        frame(0, 0, 1, &message)
    };
    let speeches: Vec<Vec<u8>> = vec![
        noise(100),
        noise(100_000),
        b"GET /leader HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // A TLS handshake's beginning.
        [&[0x16, 3, 1, 2, 0][..], &noise(512)].concat(),
        [PREFACE, &noise(1000)].concat(),
        // A frame above the size limit.
        [PREFACE, &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1][..], &noise(100_000)].concat(),
        [call(CONVERSE), message(u32::MAX, &noise(1000))].concat(),
        [call(CONVERSE), message(1000, &noise(1000))].concat(),
        [call(WATCH), message(u32::MAX, &noise(1000))].concat(),
        [call("/elect.peers.v1.Peers/Abdicate"), message(0, &[])].concat(),
        call(CONVERSE),
    ];
    for member in 0..3 {
        let address = group.address(member);
        std::thread::scope(|scope| {
            for speech in &speeches {
                scope.spawn(move || say(address, speech));
            }
        });
    }
    for server in &servers {
        server.wait_for_line(with_parts(&["turned a stranger away", "malformed data"]), SOON);
    }
    for server in &servers {
        let serving = server.wait_for_line(with_parts(&["serving http://"]), SOON).text;
        let address = serving.split("http://").nth(1).unwrap().split('/').next().unwrap();
        for reason in ["malformed", "oversized"] {
            eventually(SOON, &format!("a count of what was {reason}"), || {
                let metrics = http::get(address, "/metrics").text().to_owned();
                let name = format!("elect_peer_refusals_total{{reason=\"{reason}\"}} ");
                let count = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())?;
                (count > 0).then_some(())
            });
        }
    }
    leads_on(&servers[place], servers[place].mark(), 1);
    for server in &servers {
        assert!(!saw_a_change(server, Mark::START));
        assert!(!server.lines().iter().any(|line| line.text.contains("panicked")));
    }
}

#[test]
fn silent_connections_keep_no_member_out() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let Lead { place, .. } = settled(&servers);
    let silent: Vec<TcpStream> = (0..3)
        .flat_map(|member| (0..200).map(move |_| member))
        .map(|member| TcpStream::connect(group.address(member)).unwrap())
        .collect();
    // Meanwhile a member comes back.
    let follower = (place + 1) % 3;
    servers[follower].kill();
    servers[follower] = group.start(follower);
    servers[follower].wait_for_line(told(FOLLOWER), SOON);
    leads_on(&servers[place], servers[place].mark(), 1);
    assert!(!saw_a_change(&servers[place], Mark::START));
    // None of them is kept for long.
    for mut stream in silent {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let closed = stream.read_to_end(&mut Vec::new());
        assert!(!matches!(&closed, Err(error) if error.kind() == ErrorKind::WouldBlock), "{closed:?}");
    }
}

/// Connections a second from one host to each server, and the time that a packet takes to a server and back.
const FLOOD: usize = 1_000;
const ROUND_TRIP: Duration = Duration::from_millis(50);

#[test]
fn contract_12_a_group_forms_in_a_flood_of_silent_connections() {
    let (flooder, observer) = (3, 4);
    let Some(mut islands) = Islands::try_new(5) else { return };
    islands.far_apart(ROUND_TRIP);
    let group = Group::at((0..3).map(Islands::address).collect()).with_timing(BRISK);
    let pki = Pki::of_hosts(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let with_tls = |elect: Elect| {
        let elect = elect.arg("--cacert").arg(&pki.ca);
        elect.arg("--cert").arg(&pki.server.cert).arg("--key").arg(&pki.server.key)
    };
    let start = |place| group.start_as(place, with_tls(islands.elect(place, group.command_line(place))));
    // They meet before the flood: after that a majority is enough.
    let mut servers: Vec<_> = (0..3).map(start).collect();
    let first = settled(&servers);

    let flood = islands.flood(flooder, 0..3, FLOOD);
    eventually(SOON, "a flood", || (flood.opened() > FLOOD).then_some(()));
    servers.iter_mut().for_each(|server| _ = server.kill());
    drop(servers);
    let started = BootTime::now();
    let servers: Vec<_> = (0..3).map(start).collect();
    leads_after(&servers, first.token);
    println!("led after {:?}, with {} connections by then", started.elapsed(), flood.opened());
    // On a machine busy with the flood, a leader may lose its term in between.
    eventually(SOON, "an answer that names the leader", || {
        let status = islands.elect(observer, vec!["status".into(), "--peers".into(), group.list()]);
        let code = with_tls(status).start().wait_exit(SOON).code();
        (code == Some(0)).then_some(())
    });
    println!("answered after {:?}, with {} connections by then", started.elapsed(), flood.opened());
    growing_tokens(&servers);
}
