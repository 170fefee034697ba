//! Bad input of a group of peers. Errors that only a running server can find are tested elsewhere.

use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use super::*;

/// Three members at the unused endpoint's address.
fn list(unused: &UnusedEndpoint) -> String {
    let port = unused.listener.local_addr().unwrap().port();
    format!("server1=127.0.0.1:{port},server2=127.0.0.2:{port},server3=127.0.0.3:{port}")
}

/// `elect server server1 --peers …`; a test adds the mistake.
fn server(unused: &UnusedEndpoint) -> Elect {
    Elect::new(["server", "server1", "--peers", &list(unused)])
}

/// Checks the error for each source of the setting: flag, environment, file.
#[track_caller]
fn is_refused_wherever_it_is_said(start: impl Fn() -> Elect, key: &str, value: &str, parts: &[&str]) {
    assert_says(&complaint(start().arg(format!("--{key}={value}"))), parts);
    let variable = format!("ELECT_{}", key.replace('-', "_").to_uppercase());
    assert_says(&complaint(start().env(&variable, value)), parts);
    let files = Files::new();
    let config = files.write("elect.toml", format!("{key} = {value:?}"));
    assert_says(&complaint(start().arg("--config").arg(config)), parts);
}

#[test]
fn a_list_that_is_no_group_is_refused_by_each_command() {
    let eight = (1..=8).map(|i| format!("s{i}=h:{i}")).collect::<Vec<_>>().join(",");
    for (list, reason) in [
        ("", "has no address"),
        ("server1", "has no address; write NAME=HOST:PORT"),
        ("server1=localhost", "has no port; write HOST:PORT"),
        ("server1=localhost:0", "port 0"),
        ("server1=:10000", "has no host"),
        ("server1=::1:10000", "without brackets"),
        ("server1=http://localhost:10000", "without brackets"),
        ("=localhost:10000", "must not be empty"),
        ("server1=h:1,server1=h:2", "'server1' is listed twice"),
        ("server1=h:1,server2=h:1", "h:1 is listed for 'server1' and for 'server2'"),
        ("server1=h:1,", "has no address"),
        (&*eight, "1 to 7 members, and 8 are listed"),
    ] {
        for command in COMMANDS {
            is_refused_wherever_it_is_said(|| Elect::new(command), "peers", list, &["peers", reason]);
        }
    }
}

#[test]
fn a_list_in_the_file_may_be_one_too() {
    let files = Files::new();
    let config = files.write("elect.toml", "peers = ['server1=h:1', 'server1=h:2']");
    let said = complaint(Elect::new(["status"]).arg("--config").arg(config));
    assert_says(&said, &["--config", "peers", "'server1' is listed twice"]);
}

#[test]
fn a_name_that_is_not_in_the_list_is_told_who_is() {
    let unused = UnusedEndpoint::new();
    let list = list(&unused);
    let who = ["'server4' is not among the --peers", "server1, server2, server3"];
    assert_says(&complaint(Elect::new(["server", "server4", "--peers", &list])), &who);
    let run = || Elect::new(["run", "--peers", &list]);
    assert_says(&complaint(run().args(["--name", "server4", "--", "true"])), &who);
    let said = complaint(run().args(["--", "true"]));
    assert_says(&said, &["is not among the --peers", "server1, server2, server3"]);
    unused.assert_untouched();
}

#[test]
fn two_backends_are_one_too_many_wherever_each_is_said() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let list = list(&unused);
    let password = files.write("password", PASSWORD);
    for command in COMMANDS {
        let peers = || Elect::new(command).arg("--peers").arg(&list);
        let etcd = unused.endpoint();
        is_refused_wherever_it_is_said(
            peers,
            "etcd",
            &etcd,
            &["--peers is for an election without etcd", "--etcd is for etcd"],
        );
        is_refused_wherever_it_is_said(peers, "user", "alice", &["--peers", "--user is for etcd"]);
        let password = password.to_str().unwrap();
        is_refused_wherever_it_is_said(peers, "password-file", password, &["--peers", "a password"]);
        assert_says(&complaint(peers().env("ELECT_PASSWORD", PASSWORD)), &["--peers", "ELECT_PASSWORD"]);
        // No source takes precedence over another here.
        let on_etcd = || elect(command, &unused);
        is_refused_wherever_it_is_said(on_etcd, "peers", &list, &["--peers", "leave out one of the two"]);
    }
    unused.assert_untouched();
}

#[test]
fn what_is_for_peers_is_refused_without_them() {
    let unused = UnusedEndpoint::new();
    for command in COMMANDS {
        for (key, value) in [
            ("listen", "localhost:10000"),
            ("data", "/nowhere"),
            ("heartbeat", "50ms"),
            ("election-timeout", "250ms-500ms"),
            ("secret-file", "/nowhere"),
        ] {
            let flag = format!("--{key}");
            if command[0] == "server" {
                is_refused_wherever_it_is_said(
                    || elect(command, &unused),
                    key,
                    value,
                    &[&flag, "add --peers"],
                );
            } else {
                // A command that only asks has no such flag.
                assert_says(
                    &complaint(elect(command, &unused).arg(&flag).arg(value)),
                    &[&flag, "unexpected argument"],
                );
            }
        }
    }
    unused.assert_untouched();
}

#[test]
fn a_ttl_is_refused_with_the_flag_that_peers_have_for_it() {
    let unused = UnusedEndpoint::new();
    is_refused_wherever_it_is_said(|| server(&unused), "ttl", "5s", &["--ttl", "use --election-timeout"]);
    unused.assert_untouched();
}

#[test]
fn timing_that_cannot_work_is_refused_with_one_that_can() {
    let unused = UnusedEndpoint::new();
    for (key, value, parts) in [
        ("heartbeat", "0ms", ["at least 1 ms", "--heartbeat 1ms"]),
        (
            "heartbeat",
            "100ms",
            ["at least 3 heartbeats", "--election-timeout 300ms-600ms or more, or --heartbeat 83ms"],
        ),
        ("heartbeat", "often", ["heartbeat", "as in 50ms"]),
        ("election-timeout", "250ms-260ms", ["at least a fifth", "--election-timeout 250ms-500ms"]),
        ("election-timeout", "100ms-200ms", ["at least 3 heartbeats", "--election-timeout 150ms-300ms"]),
        ("election-timeout", "500ms-250ms", ["at least a fifth", "--election-timeout 500ms-1s"]),
        ("election-timeout", "1h-2h", ["more than an hour", "--election-timeout 250ms-500ms"]),
        ("election-timeout", "500ms", ["election-timeout", "as in 250ms-500ms"]),
        ("election-timeout", "250-500", ["election-timeout", "as in 250ms-500ms"]),
    ] {
        is_refused_wherever_it_is_said(|| server(&unused), key, value, &parts);
    }
    unused.assert_untouched();
}

#[test]
fn an_address_to_listen_on_that_is_none_is_refused() {
    let unused = UnusedEndpoint::new();
    for (value, reason) in
        [("10000", "has no port"), ("h:0", "port 0"), (":1", "no host"), ("h:65536", "65535")]
    {
        is_refused_wherever_it_is_said(|| server(&unused), "listen", value, &["listen", reason]);
    }
    unused.assert_untouched();
}

#[test]
fn peers_show_each_other_certificates_or_none_at_all() {
    let unused = UnusedEndpoint::new();
    let pki = Pki::new();
    let together = ["--peers needs --cacert, --cert and --key together"];
    let list = list(&unused);
    for command in COMMANDS {
        let elect = || Elect::new(command).arg("--peers").arg(&list);
        assert_says(&complaint(elect().arg("--cacert").arg(&pki.ca)), &together);
        let halved = elect().arg("--cert").arg(&pki.client.cert).arg("--key").arg(&pki.client.key);
        assert_says(&complaint(halved), &together);
        assert_says(&complaint(elect().env("ELECT_KEY", &pki.client.key)), &together);
    }
    unused.assert_untouched();
}

#[test]
fn a_data_directory_has_to_be_somewhere() {
    let unused = UnusedEndpoint::new();
    let homeless =
        || server(&unused).env("HOME", "").env("STATE_DIRECTORY", "").env("XDG_STATE_HOME", "state");
    assert_says(&complaint(homeless()), &["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME", "--data"]);
    is_refused_wherever_it_is_said(|| server(&unused), "data", "", &["data"]);
    unused.assert_untouched();
}

#[test]
fn a_command_that_cannot_be_stopped_in_time_needs_a_longer_election_timeout() {
    let unused = UnusedEndpoint::new();
    let list = list(&unused);
    let run = |more: &[&str]| {
        complaint(Elect::new(["run", "--name", "server1", "--peers", &list]).args(more).args(["--", "true"]))
    };
    let said = run(&["--election-timeout", "250ms-500ms"]);
    assert_says(
        &said,
        &["does not fit into --election-timeout 250ms-500ms", "--election-timeout 500ms-1s is the"],
    );
    let said = run(&["--kill-after", "2s"]);
    assert_says(
        &said,
        &["--kill-after 2s does not fit", "--election-timeout 2s612ms-5s224ms", "--kill-after 550ms"],
    );
    unused.assert_untouched();
}

#[test]
fn the_time_to_stop_a_command_comes_out_of_the_election_timeout() {
    let unused = UnusedEndpoint::new();
    let mut explained =
        Elect::new(["run", "--name", "server1", "--peers", &list(&unused), "--explain"]).start();
    assert_eq!(explained.wait_exit(SOON).code(), Some(0));
    let table = explained.stdout().join("\n");
    assert_says(&table, &["election timeout  1s ", "heartbeat         50ms", "650ms             KILL"]);
    unused.assert_untouched();
}

#[test]
fn a_port_that_is_taken_ends_a_server_before_it_takes_part() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let said = refusal(server(&unused).arg("--data").arg(files.path("data")), 1);
    assert_says(&said, &["--listen 127.0.0.1:", "another process listens there", "--peers"]);
    assert!(!files.path("data").exists(), "a directory was made for nothing");
    unused.assert_untouched();
}

#[test]
fn a_data_directory_of_another_server_is_refused_and_stays_its_own() {
    let files = Files::new();
    let data = files.path("data");
    let (one, other) = (ReservedPort::new(), ReservedPort::new());
    let alone = |name: &str, port: &ReservedPort| {
        let peers = format!("{name}={}", port.address());
        Elect::new(["server", name, "--log-format", "plain", "--peers", &peers]).arg("--data").arg(&data)
    };
    let mut first = alone("server1", &one).start();
    first.wait_for_line("I am the leader.", SOON);
    assert_says(&refusal(alone("server1", &other), 1), &["--data", "in use by another process"]);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_exit(SOON).code(), Some(0));
    assert_says(&refusal(alone("server2", &other), 1), &["--data", "belongs to", "server1", "server2"]);
    alone("server1", &one).start().wait_for_line("I am the leader.", SOON);
}

#[test]
fn a_secret_that_is_none_is_refused() {
    let (unused, files) = (UnusedEndpoint::new(), Files::new());
    let with_mode = |name: &str, content: &str, mode: u32| {
        let path = files.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let good = "0123456789abcdef0123456789abcdef\n";
    for (path, parts) in [
        (
            with_mode("short", "0123456789abcdef\n", 0o600),
            ["at least 32 bytes, and this has 16", "/dev/urandom"],
        ),
        (with_mode("empty", "\n", 0o600), ["at least 32 bytes, and this has 0", "/dev/urandom"]),
        (with_mode("open", good, 0o644), ["every user of this machine", "chmod 600"]),
        (with_mode("writable", good, 0o602), ["every user of this machine", "chmod 600"]),
        (files.path("missing"), ["missing", "No such file"]),
    ] {
        let path = path.to_str().unwrap();
        let said = [&["--secret-file", path][..], &parts].concat();
        is_refused_wherever_it_is_said(|| server(&unused), "secret-file", path, &said);
    }
    // A command that only asks needs none: it has no such flag, and does not look at the variable.
    let mut status =
        Elect::new(["status", "--peers", &list(&unused)]).env("ELECT_SECRET_FILE", "/nowhere").start();
    assert_eq!(status.wait_exit(SOON).code(), Some(4));
    let group = with_mode("group", good, 0o640);
    let both = server(&unused).arg("--secret-file").arg(group).arg("--insecure-peers");
    assert_says(&complaint(both), &["--insecure-peers", "--secret-file", "leave out one of the two"]);
}

#[test]
fn a_server_does_not_listen_for_other_machines_without_a_proof_of_who_they_are() {
    let (unused, files) = (UnusedEndpoint::new(), Files::new());
    let data = files.path("data");
    let beyond = || server(&unused).arg("--data").arg(&data).args(["--listen", "0.0.0.0:1"]);
    let said = refusal(beyond(), 1);
    let parts = ["--listen 0.0.0.0:1 can be reached from other machines", "--cacert", "--secret-file"];
    assert_says(&said, &parts);
    assert_says(&said, &["--insecure-peers"]);
    assert!(!data.exists(), "a directory was made for nothing");
}
