//! A stranger that claims to be a member. No member believes it, and the leader keeps leading.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    impostor::{self, Impostor, Outcome},
    support::{
        capture::Mark,
        elect::Elect,
        eventually::eventually,
        peers::{Group, Lead, leads_after, leads_on, saw_a_change, settled, told, with_parts},
        pki::{KeyAndCert, Pki},
        port::ReservedPort,
        server::{FOLLOWER, SOON, Server},
    },
};

/// A file with a secret, in the form that `--secret-file` reads.
struct Secret {
    path: PathBuf,
    _dir: TempDir,
}

impl Secret {
    fn of(byte: char) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, format!("{}\n", byte.to_string().repeat(40))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self { path, _dir: dir }
    }
}

fn with_secret(group: &Group, place: usize, secret: &Secret) -> Server {
    group.start_as(place, Elect::new(group.command_line(place)).arg("--secret-file").arg(&secret.path))
}

fn with_tls(group: &Group, place: usize, pki: &Pki, shown: &KeyAndCert) -> Server {
    let elect = Elect::new(group.command_line(place)).arg("--cacert").arg(&pki.ca);
    group.start_as(place, elect.arg("--cert").arg(&shown.cert).arg("--key").arg(&shown.key))
}

/// A stranger that claims to `to` that it is `name`.
fn impostor(group: &Group, to: usize, name: &str) -> Impostor {
    let (address, name) = (group.address(to).to_owned(), name.to_owned());
    Impostor { address, name, directory: vec![0; 16], members: group.list(), secret: false, tls: None }
}

/// The first server is down, and one of the other two leads: each needs the other.
fn two_of(mut servers: Vec<Server>) -> (Vec<Server>, Lead) {
    let lead = settled(&servers);
    servers[0].kill();
    let lead = if lead.place == 0 { leads_after(&servers[1..], lead.token) } else { lead };
    let place = if lead.place == 0 { 1 } else { lead.place };
    let servers: Vec<_> = servers.drain(1..).collect();
    let lead = leads_after(&servers, lead.token - 1);
    servers[1 - lead.place].wait_for_line(told(FOLLOWER), SOON);
    println!("{} leads with {} (was at {place})", servers[lead.place].name(), lead.token);
    (servers, lead)
}

/// Tries so many times to pass as a member with each of these. The group of two keeps its leader.
#[track_caller]
fn gets_nowhere(servers: &[Server], lead: Lead, impostors: Vec<Impostor>, times: usize) -> Vec<String> {
    let marks: Vec<Mark> = servers.iter().map(|server| server.mark()).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tries = impostors.into_iter().map(|impostor| {
        runtime.spawn(async move {
            let mut refusals = Vec::new();
            for _ in 0..times {
                match impostor.call().await {
                    Outcome::Refused(why) => refusals.push(why),
                    believed @ Outcome::Believed(_) => panic!("{impostor:?}: {believed:?}"),
                }
            }
            refusals
        })
    });
    let tries: Vec<_> = tries.collect();
    let refusals: Vec<String> =
        tries.into_iter().flat_map(|tries| runtime.block_on(tries).expect("it was refused")).collect();
    leads_on(&servers[lead.place], servers[lead.place].mark(), 2);
    for (server, mark) in servers.iter().zip(marks) {
        assert!(!saw_a_change(server, mark), "{} has lost its leader", server.name());
    }
    refusals
}

/// It asks for the leader, says Hello with a directory id of its own, and looks for the right one in the answers.
#[test]
fn contract_11_what_a_stranger_is_told_makes_it_no_member() {
    let group = Group::of(3);
    let (servers, lead) = two_of(group.start_all());
    let looks = [1, 2].map(|to| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        format!("{:?}", runtime.block_on(impostor(&group, to, "server1").look()).unwrap())
    });
    assert!(!looks.iter().any(|look| (0..3).any(|place| look.contains(group.address(place)))), "{looks:#?}");
    let impostors = [(1, "server1"), (2, "server1"), (2, "server2")];
    let impostors = impostors.map(|(to, name)| impostor(&group, to, name)).to_vec();
    let refusals = gets_nowhere(&servers, lead, impostors, 100);
    assert_eq!(refusals.len(), 300);
    for refusal in refusals {
        assert!(refusal.contains("two servers run under its name"), "{refusal}");
        let digits = refusal.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max();
        assert!(digits < Some(8), "a directory's id, or the beginning of one: {refusal}");
    }
    // The directory's first digits are in the log, not in any answer.
    let logged = with_parts(&["another data directory than when it was first met (0000"]);
    servers[0].wait_for_line(logged, SOON);
}

#[test]
fn contract_11_a_stranger_without_the_secret_is_no_member() {
    let (group, secret) = (Group::of(3), Secret::of('s'));
    let (servers, lead) = two_of((0..3).map(|place| with_secret(&group, place, &secret)).collect());
    let impostors = [(1, "server1"), (2, "server1"), (2, "server2")];
    let impostors =
        impostors.map(|(to, name)| Impostor { secret: true, ..impostor(&group, to, name) }).to_vec();
    let refusals = gets_nowhere(&servers, lead, impostors, 334);
    assert_eq!(refusals.len(), 1_002);
    let why = "does not prove that it has the secret";
    assert!(refusals.iter().all(|refusal| refusal.contains(why)), "{:?}", refusals[0]);
    let bare = gets_nowhere(&servers, lead, vec![impostor(&group, 1, "server1")], 1);
    assert!(bare[0].contains("'server2' has a secret, and 'server1' has none"), "{bare:?}");

    // Nor is a server with another secret, which gives up as soon as it sees the others' proof.
    let another = Secret::of('o');
    let other = with_secret(&group, 0, &another);
    other.wait_for_line(with_parts(&["does not prove that it has the secret", "--secret-file"]), SOON);
    for server in &servers {
        server.wait_for_line(with_parts(&["turned a stranger away", "secret"]), SOON);
    }
    assert!(!saw_a_change(&servers[lead.place], servers[lead.place].mark()));
    drop(other);
    let member = with_secret(&group, 0, &secret);
    member.wait_for_line(told(FOLLOWER), SOON);
}

/// With mutual TLS, every client of `elect status` has a certificate of the authority.
#[test]
fn contract_11_an_observer_s_certificate_makes_no_member() {
    let (group, pki) = (Group::of(3), Pki::new());
    let (servers, lead) = two_of((0..3).map(|place| with_tls(&group, place, &pki, &pki.server)).collect());
    let shown = impostor::identity(&pki.ca, &pki.client.cert, &pki.client.key);
    let impostors = [(1, "server1"), (2, "server1"), (2, "server2")].map(|(to, name)| {
        let tls = Some(shown.clone());
        Impostor { tls, ..impostor(&group, to, name) }
    });
    let refusals = gets_nowhere(&servers, lead, impostors.to_vec(), 334);
    let why = "the certificate is not for the host where";
    assert!(refusals.iter().all(|refusal| refusal.contains(why)), "{:?}", refusals[0]);
    for server in &servers {
        server.wait_for_line(
            with_parts(&["turned a stranger away", "its certificate is not for 127.0.0.1"]),
            SOON,
        );
    }
    let status = Elect::new(["status", "--peers", &group.list(), "--cacert"]).arg(&pki.ca);
    let mut status = status.arg("--cert").arg(&pki.client.cert).arg("--key").arg(&pki.client.key).start();
    assert_eq!(status.wait_exit(SOON).code(), Some(0), "but with it one may look");
}

/// Records all that a member sends on an accepted connection, from the first byte on.
fn recorded(listener: TcpListener, target: String) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let records = Arc::clone(&all);
    thread::spawn(move || {
        for caller in listener.incoming() {
            let (Ok(mut caller), Ok(mut called)) = (caller, TcpStream::connect(&target)) else { continue };
            let record = {
                let mut records = records.lock().unwrap();
                records.push(Vec::new());
                records.len() - 1
            };
            let (mut hears, mut answers) = (called.try_clone().unwrap(), caller.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut hears, &mut answers);
                let _ = answers.shutdown(Shutdown::Both);
            });
            let records = Arc::clone(&records);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = caller.read(&mut buffer) {
                    records.lock().unwrap()[record].extend_from_slice(&buffer[..read]);
                    if called.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = called.shutdown(Shutdown::Both);
            });
        }
    });
    all
}

/// A replay of recorded traffic, byte by byte.
#[test]
fn contract_11_a_replayed_hello_makes_no_member() {
    let secret = Secret::of('s');
    let ports: Vec<_> = (0..4).map(|_| ReservedPort::new()).collect();
    let group = Group::at(ports[..3].iter().map(ReservedPort::address).collect());
    // The first two call the third, and their traffic passes through here.
    let records = recorded(TcpListener::bind(group.address(2)).unwrap(), ports[3].address());
    let servers = (0..3).map(|place| {
        let elect = Elect::new(group.command_line(place)).arg("--secret-file").arg(&secret.path);
        let listen = if place == 2 { vec!["--listen".to_owned(), ports[3].address()] } else { Vec::new() };
        group.start_as(place, elect.args(listen))
    });
    let mut servers: Vec<_> = servers.collect();
    let lead = settled(&servers);
    let first_words = |count: usize| {
        eventually(SOON, "the handshake of two members", || {
            let records = records.lock().unwrap();
            let heard: Vec<Vec<u8>> = records.iter().filter(|record| record.len() > 400).cloned().collect();
            (heard.len() >= count).then_some(heard)
        })
    };
    let heard = first_words(2);
    // One of the two is down, so that no member asks it for a sign of life.
    let away = (lead.place + 1) % 2;
    let lead = if lead.place == away { leads_after(&servers, lead.token) } else { lead };
    servers[away].kill();
    let marks: Vec<Mark> = servers.iter().map(|server| server.mark()).collect();
    for _ in 0..20 {
        for record in &heard {
            let mut stream = TcpStream::connect(ports[3].address()).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let _ = stream.write_all(record);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    servers[2].wait_for_line_since(
        marks[2],
        with_parts(&["turned a stranger away", "does not prove that it has the secret"]),
        SOON,
    );
    leads_on(&servers[lead.place], servers[lead.place].mark(), 2);
    for place in [1 - away, 2] {
        assert!(!saw_a_change(&servers[place], marks[place]));
        let again = servers[place].lines().into_iter().filter(|line| line.text.contains("connected anew"));
        assert_eq!(again.count(), 0);
    }
}

/// A copy of a member's directory elsewhere has all that the member has, its secret included.
#[test]
fn contract_11_a_second_live_connection_does_not_cut_the_first_one_off() {
    let (group, secret) = (Group::of(3), Secret::of('s'));
    let mut servers: Vec<_> = (0..3).map(|place| with_secret(&group, place, &secret)).collect();
    let lead = settled(&servers);
    let place = lead.place;
    // A follower's, so that the copy calls the others.
    let (of, copy) = (if place == 0 { 1 } else { 0 }, group.data(0).with_file_name("copy"));
    servers[of].stop(0);
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(group.data(of)).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    servers[of] = with_secret(&group, of, &secret);
    servers[of].wait_for_line(told(FOLLOWER), SOON);
    let marks: Vec<Mark> = servers.iter().map(|server| server.mark()).collect();
    let second = Elect::new(group.command_line_with(of, &group.list(), &copy));
    let second = second.arg("--secret-file").arg(&secret.path).args(["--listen", "127.0.0.8:10001"]);
    let mut second = group.start_as(of, second);
    // It was started as often as the original, but with another start's id.
    second.wait_for_line(with_parts(&["this member's data directory is a copy"]), SOON);
    second.exits(1);
    thread::sleep(Duration::from_secs(1));
    leads_on(&servers[place], servers[place].mark(), 2);
    for (server, mark) in servers.iter().zip(marks) {
        assert!(!saw_a_change(server, mark));
        let since = server.lines_since(mark);
        let anew = since.iter().filter(|line| line.text.contains("connected anew")).count();
        assert_eq!(anew, 0, "{}", server.name());
    }
}
