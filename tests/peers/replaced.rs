//! A server that has lost its disk, and the command that makes its new disk count.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    elect::Elect,
    eventually::eventually,
    peers::{Group, growing_tokens, leads_after, settled},
    pki::{KeyAndCert, Pki},
    server::{SOON, Server},
};

/// Output and exit code of `elect peers …`.
fn elect_peers(group: &Group, args: &[&str]) -> (String, i32) {
    let list = group.list();
    let mut elect = Elect::new(["peers"].iter().chain(args).chain(&["--peers", &list])).start();
    let status = elect.wait_exit(SOON);
    let said = [elect.stdout(), elect.stderr()].concat().join("\n");
    (said, status.code().expect("it exits by itself"))
}

/// The members in the output of `elect peers --json`.
fn members(group: &Group) -> Value {
    let (printed, code) = elect_peers(group, &["--json"]);
    assert_eq!(code, 0, "{printed}");
    serde_json::from_str::<Value>(&printed).unwrap()["members"].take()
}

#[test]
fn contract_11_a_lost_disk_is_replaced_and_then_any_two_of_three_elect() {
    let group = Group::of(3);
    let mut servers = group.start_all();
    let lead = settled(&servers);
    let lost = (lead.place + 1) % 3;
    let name = group.name(lost);
    let (listed, code) = elect_peers(&group, &[]);
    assert_eq!((code, listed.matches("data directory").count()), (0, 3), "{listed}");
    let report = members(&group);
    assert_eq!(report[lead.place]["role"], "leader", "{report}");
    for (place, member) in report.as_array().unwrap().iter().enumerate() {
        assert_eq!(member["name"], group.name(place), "{member}");
        let directory = member["data_directory"].as_str().unwrap();
        assert!(listed.contains(&format!("data directory {directory}")), "{listed}");
        let known = ["last_sync_ms", "term", "counts"].iter().all(|field| !member[field].is_null());
        assert!(known && member["refused"].is_null() && member["problem"].is_null(), "{member}");
    }

    servers[lost].kill();
    fs::remove_dir_all(group.data(lost)).unwrap();
    let new = group.start(lost);
    let command = format!("elect peers replace {name} ");
    let shown = eventually(SOON, "the new disk is shown, with what to type", || {
        let (listed, _) = elect_peers(&group, &[]);
        let (_, shown) = listed.split_once(&command)?;
        Some(shown[..8].to_owned())
    });
    assert_eq!(members(&group)[lost]["refused"], shown);

    // Never without the directory's digits.
    let (refused, code) = elect_peers(&group, &["replace", name]);
    assert!(code == 1 && refused.contains(&format!("{command}{shown}")), "{refused}");
    let (refused, code) = elect_peers(&group, &["replace", name, "00000000"]);
    assert!(code == 1 && refused.contains("no server called"), "{refused}");
    let (refused, code) = elect_peers(&group, &["replace", group.name(lead.place), &shown]);
    assert!(code == 1, "{refused}");

    let (replaced, code) = elect_peers(&group, &["replace", name, &shown]);
    assert!(code == 0 && replaced.contains("the new disk of"), "{replaced}");
    let (again, code) = elect_peers(&group, &["replace", name, &shown]);
    assert!(code == 0, "{again}");

    // The other member with the full history goes down too: the new disk and the rest are a majority.
    servers[lead.place].kill();
    let third = 3 - lost - lead.place;
    let next = leads_after([&new, &servers[third]], lead.token);
    // Once more, after a restart of both.
    servers[third].kill();
    drop(new);
    let both = [group.start(lost), group.start(third)];
    let last = leads_after(&both, next.token);
    assert!(last.token > next.token);
    growing_tokens(&both);
}

#[test]
fn contract_11_a_server_of_two_is_not_replaced_and_a_new_group_goes_on_with_its_tokens() {
    let group = Group::of(2);
    let servers = group.start_all();
    let lead = settled(&servers);
    let other = group.name(1 - lead.place);
    let (listed, _) = elect_peers(&group, &[]);
    let directory = listed.lines().find(|line| line.starts_with(other)).unwrap();
    let directory = directory.split_once("data directory ").unwrap().1[..8].to_owned();
    let (refused, code) = elect_peers(&group, &["replace", other, &directory]);
    assert!(code == 1 && refused.contains("--tokens-after"), "{refused}");
    drop(servers);

    for place in 0..2 {
        fs::remove_dir_all(group.data(place)).unwrap();
    }
    let after = |place| Elect::new(group.command_line(place)).args(["--tokens-after", "1000"]);
    let servers: Vec<Server> = (0..2).map(|place| group.start_as(place, after(place))).collect();
    assert_eq!(settled(&servers).token, 1001);
}

fn started(group: &Group, flags: &[&str]) -> Vec<Server> {
    (0..3).map(|place| group.start_as(place, Elect::new(group.command_line(place)).args(flags))).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Reports whether the order was authorized: then it is refused only for its contents.
#[track_caller]
fn operates(group: &Group, flags: &[&str]) -> bool {
    let (said, code) = elect_peers(group, &[&["replace", "server1", "01234567"], flags].concat());
    assert!(code == 1 && said.contains("refuses: "), "{said}");
    !said.contains("needs the secret") && !said.contains("for none of the names in --operators")
}

#[test]
fn contract_11_who_has_not_the_secret_operates_nothing() {
    let dir = TempDir::new().unwrap();
    let secret = |name: &str, byte: &str| {
        let file = dir.path().join(name);
        fs::write(&file, byte.repeat(40)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let (right, wrong) = (secret("right", "a"), secret("wrong", "b"));
    let group = Group::of(3);
    let servers = started(&group, &["--secret-file", path(&right)]);
    settled(&servers);
    assert!(operates(&group, &["--secret-file", path(&right)]));
    assert!(!operates(&group, &["--secret-file", path(&wrong)]));
    assert!(!operates(&group, &[]));
}

#[test]
fn contract_11_who_has_a_certificate_for_no_operator_operates_nothing() {
    let pki = Pki::new();
    let group = Group::of(3);
    let shows = |shown: &KeyAndCert| {
        let files = [&pki.ca, &shown.cert, &shown.key].map(|file| path(file).to_owned());
        let flags = ["--cacert", "--cert", "--key"].map(str::to_owned);
        flags.into_iter().zip(files).flat_map(|(flag, file)| [flag, file]).collect::<Vec<_>>()
    };
    let (server, client) = (shows(&pki.server), shows(&pki.client));
    let as_member = [server.clone(), vec!["--operators".to_owned(), "localhost".to_owned()]].concat();
    let as_member: Vec<&str> = as_member.iter().map(String::as_str).collect();
    let servers = started(&group, &as_member);
    settled(&servers);
    let operates_as = |of: &[String]| operates(&group, &of.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(operates_as(&server));
    assert!(!operates_as(&client), "it may ask who leads, and nothing else");
}
