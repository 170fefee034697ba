//! Authentication and TLS: an admitted candidate leads as usual, a refused one is told why, and the password
//! appears nowhere.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use etcd_client::{Error, Permission};
use leader_election::{
    CampaignError, Loss,
    etcd::{Credentials, Settings},
    timing::Ttl,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    capture::{Captured, Line, Mark, Stream},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    metrics::Watches,
    on_each_etcd,
    pki::{KeyAndCert, Pki},
    privilege::Programs,
    proxy::Proxy,
    runtime::wait_within,
    server::{CHANGE, FOLLOWER, LEADER, REFRESHING},
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// Lifetime of etcd's tokens in these tests. Its default is five minutes.
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// Longer than any of these tests.
const LONG_LIFETIME: Duration = Duration::from_secs(300);

const USER: &str = "alice";

/// A password that cannot appear in output by chance.
const PASSWORD: &str = "Jx7-very-secret";

/// etcd's second shortest TTL, with a renewal a second.
const TTL: [&str; 2] = ["--ttl", "3s"];

/// Adds a user with the least permissions that `elect` needs: the election's own key, and those below it.
fn add_user(etcd: &Etcd, name: &str, permissions: &[Permission]) {
    let mut client = etcd.admin().client();
    let (name, permissions) = (name.to_owned(), permissions.to_owned());
    let adding = async move {
        client.user_add(&*name, PASSWORD, None).await?;
        client.role_add(&*name).await?;
        for permission in permissions {
            client.role_grant_permission(&*name, permission).await?;
        }
        client.user_grant_role(&*name, &*name).await?;
        Ok::<_, Error>(())
    };
    wait_within(SOON, adding).unwrap().unwrap();
}

/// The role named in the README.
fn minimal() -> [Permission; 2] {
    [Permission::read_write("leader"), Permission::read_write("leader/").with_prefix()]
}

fn etcd_with_user(version: EtcdVersion, token_lifetime: Duration) -> Etcd {
    let etcd = Etcd::builder(version).auth(token_lifetime).start();
    add_user(&etcd, USER, &minimal());
    etcd
}

fn server(name: &str, etcd: &Etcd) -> Elect {
    Elect::server(name, &etcd.endpoint()).args(TTL)
}

fn logged_in(elect: Elect) -> Elect {
    elect.args(["--user", USER]).env("ELECT_PASSWORD", PASSWORD)
}

/// Waits for this many renewals after `mark`; returns the last.
#[track_caller]
fn wait_for_renewals(server: &Captured, mut mark: Mark, count: usize) -> Line {
    let mut last = None;
    for _ in 0..count {
        let line = server.wait_for_line_since(mark, REFRESHING, SOON);
        mark = line.mark();
        last = Some(line);
    }
    last.expect("at least one was asked for")
}

fn said(process: &Captured) -> String {
    process.lines().into_iter().map(|line| line.text + "\n").collect()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// Waits until it has exited by itself with this code; returns its output.
#[track_caller]
fn ended(elect: Elect, code: i32) -> String {
    let mut elect = elect.start();
    let status = elect.wait_exit(SOON);
    let said = said(&elect);
    assert_eq!(status.code(), Some(code), "{said}");
    said
}

fn write(dir: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

on_each_etcd! {
    fn contract_6_leads_and_waits_beyond_the_life_of_its_token_and_takes_over(version: EtcdVersion) {
        let etcd = etcd_with_user(version, TOKEN_LIFETIME);
        let started = BootTime::now();
        let mut first = logged_in(server("first", &etcd)).start();
        first.wait_for_line(LEADER, SOON);
        let mut second = logged_in(server("second", &etcd)).start();
        second.wait_for_line(FOLLOWER, SOON);

        let last = wait_for_renewals(&first, Mark::START, 6);
        assert!(last.at - started > 2 * TOKEN_LIFETIME);
        assert!(!first.stdout().iter().any(|line| line == CHANGE));
        assert_eq!(second.stdout()[2..], ["New leader election happening.", FOLLOWER]);

        // A handoff to a candidate that has waited for longer than its token lived.
        first.signal(Signal::SIGTERM);
        let won = second.wait_for_line(LEADER, SOON);
        assert_eq!(first.wait_exit(SOON).code(), Some(0));
        let third = logged_in(server("third", &etcd)).start();
        third.wait_for_line(FOLLOWER, SOON);
        wait_for_renewals(&second, won.mark(), 5);

        // The same for a failover.
        second.kill();
        let won = third.wait_for_line(LEADER, SOON);
        wait_for_renewals(&third, won.mark(), 1);
        assert_eq!(etcd.admin().leader("leader").unwrap().value, "third");
    }

    async fn contract_6_an_election_begun_when_the_login_is_void_leaves_the_others_alone(version: EtcdVersion) {
        let server = Etcd::builder(version).auth(LONG_LIFETIME).start();
        add_user(&server, USER, &[Permission::read_write("elections/").with_prefix()]);
        let settings = Settings::new([server.endpoint().parse().unwrap()]).unwrap();
        let settings = settings.with_credentials(Credentials::new(USER, PASSWORD));
        let etcd = leader_election::etcd::Etcd::start(settings).unwrap();
        let candidate = |election: &str| {
            let ttl = Ttl::new(Duration::from_secs(10)).unwrap();
            etcd.candidate(election).unwrap().ttl(ttl).named("a").unwrap()
        };
        let first = candidate("elections/first").campaign().await.unwrap();
        // Its queue, its order, and its standing orders.
        let watches = |streams, watches| {
            let expected = Watches { streams, watches };
            eventually(SOON, "the watches", || (server.watches() == expected).then_some(()));
        };
        watches(1, 3);

        // A stream's login is that of its start. Setting a password, even to the same value, ends all logins.
        let mut admin = server.admin().client();
        admin.user_change_password(USER, PASSWORD).await.unwrap();
        let second = timeout(SOON, candidate("elections/second").campaign()).await.unwrap().unwrap();
        assert!(first.holds() && second.holds());
        // The first one's goes on.
        watches(2, 6);
        // A candidate that is refused for good.
        let refused = candidate("elsewhere").campaign().await;
        assert!(matches!(refused, Err(CampaignError::Refused(_))), "{refused:?}");
        assert!(first.holds() && second.holds());
        for led in [first, second] {
            assert_eq!(server.admin().delete_prefix(format!("{}/", led.election())), 1);
            assert_eq!(timeout(SOON, led.lost()).await.unwrap(), Loss::KeyDeleted);
        }
    }

    fn the_minimal_role_suffices_for_all_that_a_candidate_does(version: EtcdVersion) {
        let etcd = etcd_with_user(version, LONG_LIFETIME);
        let mut first = logged_in(server("first", &etcd)).start();
        first.wait_for_line(LEADER, SOON);
        let second = logged_in(server("second", &etcd)).start();
        second.wait_for_line(FOLLOWER, SOON);
        etcd.admin().wait_for_candidates("leader", 2, SOON);

        // The announcement, which is the key `leader` itself, was made and is readable.
        let observer = logged_in(Elect::new(["observe", "--json", "--etcd", &etcd.endpoint()])).start();
        let sees = |name: &'static str| {
            move |line: &str| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["leader"] == name && line["since"].is_string()
            }
        };
        observer.wait_for_line(sees("first"), SOON);
        first.signal(Signal::SIGTERM);
        assert_eq!(first.wait_exit(SOON).code(), Some(0));
        second.wait_for_line(LEADER, SOON);
        observer.wait_for_line(sees("second"), SOON);
        let status = ended(logged_in(Elect::new(["status", "--etcd", &etcd.endpoint()])), 0);
        assert_says(&status, &["leader second"]);
        assert_eq!(etcd.admin().candidates("leader").len(), 1);
    }

    fn a_user_without_permission_ends_with_the_remedy_and_leaves_nothing_behind(version: EtcdVersion) {
        let etcd = Etcd::builder(version).auth(LONG_LIFETIME).start();
        let other = Permission::read_write("somewhere/else/").with_prefix();
        add_user(&etcd, USER, &[other]);
        add_user(&etcd, "reader", &[Permission::read("leader"), Permission::read("leader/").with_prefix()]);
        let remedy = ["permission denied", "readwrite", "prefix"];

        assert_says(&ended(logged_in(server("server1", &etcd)), 1), &remedy);
        let reader = server("server1", &etcd).args(["--user", "reader"]).env("ELECT_PASSWORD", PASSWORD);
        assert_says(&ended(reader, 1), &remedy);
        assert_eq!(etcd.admin().leases(), [0; 0]);

        let look = |command| Elect::new([command, "--etcd", &etcd.endpoint()]);
        assert_says(&ended(logged_in(look("observe")), 1), &["permission denied"]);
        assert_says(&ended(logged_in(look("status")), 4), &["permission denied"]);
        // Observers need only read permission.
        let reader = |command| look(command).args(["--user", "reader"]).env("ELECT_PASSWORD", PASSWORD);
        ended(reader("status"), 3);
        let observer = reader("observe").start();
        observer.wait_for_line(|line: &str| line.ends_with(" vacant"), SOON);
    }

    fn contract_4_a_leader_that_may_not_watch_its_key_any_more_says_so_and_then_stops(version: EtcdVersion) {
        const TTL: Duration = Duration::from_secs(6);
        let etcd = etcd_with_user(version, LONG_LIFETIME);
        let proxy = Proxy::start(&etcd.endpoint());
        let args = ["server", "server1", "--etcd", &proxy.endpoint(), "--ttl", "6s"];
        let leader = logged_in(Elect::new(args)).start();
        let line = |text: &'static str| move |line: &str| line.contains(text);
        let leads = leader.wait_for_line(line(LEADER), SOON);

        // Reading takes one permission, renewing another. etcd checks the first when a watch begins.
        let mut client = etcd.admin().client();
        let only_write = Permission::write("leader/").with_prefix();
        wait_within(SOON, async move { client.role_grant_permission(USER, only_write).await }).unwrap().unwrap();
        proxy.cut();
        let warned = leader.wait_for_line_since(leads.mark(), line("can't be watched"), SOON);
        let stopped = leader.wait_for_line_since(leads.mark(), line(CHANGE), SOON);
        assert!(stopped.text.contains("could not be watched"), "{}", stopped.text);
        assert!(stopped.at - warned.at > TTL / 2, "warned at {}, stopped at {}", warned.at, stopped.at);
        let lines = leader.lines_since(leads.mark());
        let renewals = lines.iter().filter(|line| line.text.contains(REFRESHING) && line.at < stopped.at);
        assert!(renewals.count() > 0, "its lease was fine");
    }

    fn one_user_without_permission_does_not_disturb_another(version: EtcdVersion) {
        let etcd = etcd_with_user(version, LONG_LIFETIME);
        add_user(&etcd, "other", &[Permission::read_write("other").with_prefix()]);
        let leader = logged_in(server("server1", &etcd)).start();
        leader.wait_for_line(LEADER, SOON);
        let stranger = server("server2", &etcd).args(["--user", "other"]).env("ELECT_PASSWORD", PASSWORD);
        ended(stranger, 1);
        wait_for_renewals(&leader, leader.mark(), 1);
        assert!(!leader.stdout().iter().any(|line| line == CHANGE));
    }

    fn the_password_shows_in_no_line_whatever_is_logged(version: EtcdVersion) {
        let etcd = etcd_with_user(version, TOKEN_LIFETIME);
        let dir = TempDir::new().unwrap();
        let file = write(&dir, "password", &format!("{PASSWORD}\n"));
        let traced = |elect: Elect| elect.env("RUST_LOG", "trace");

        let from_environment = Elect::new(["server", "server1", "--etcd", &etcd.endpoint()]).args(TTL);
        let from_environment = traced(logged_in(from_environment)).start();
        let is_leader = |line: &str| line.contains(LEADER);
        let is_renewed = |line: &str| line.contains(REFRESHING);
        from_environment.wait_for_line(is_leader, SOON);
        let from_file = Elect::new(["server", "server2", "--etcd", &etcd.endpoint(), "--log-format", "json"])
            .args(TTL)
            .args(["--user", USER, "--password-file"])
            .arg(&file);
        let from_file = traced(from_file).start();
        from_file.wait_for_line(|line: &str| line.contains(FOLLOWER), SOON);
        let observer = traced(logged_in(Elect::new(["observe", "--etcd", &etcd.endpoint()]))).start();
        observer.wait_for_line(|line: &str| line.contains(" leader server1 "), SOON);
        let mut status = traced(logged_in(Elect::new(["status", "--etcd", &etcd.endpoint()]))).start();
        assert_eq!(status.wait_exit(SOON).code(), Some(0));
        // A longer password, so that a part of it would show too.
        let wrong = traced(server("server3", &etcd)).args(["--user", USER]);
        let mut wrong = wrong.env("ELECT_PASSWORD", format!("{PASSWORD}-2")).start();
        assert_eq!(wrong.wait_exit(SOON).code(), Some(1));
        // By now the token has expired, and they have logged in once more.
        let mut mark = Mark::START;
        for _ in 0..4 {
            mark = from_environment.wait_for_line_since(mark, is_renewed, SOON).mark();
        }

        let as_bytes = PASSWORD.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        for process in [&from_environment, &from_file, &observer, &status, &wrong] {
            let lines = process.lines();
            assert!(lines.iter().any(|line| line.text.contains("TRACE")), "nothing was traced");
            for line in lines {
                let leaks = line.text.contains(PASSWORD) || line.text.contains(&as_bytes);
                assert!(!leaks, "{}", line.text);
            }
        }
        for process in [&from_environment, &from_file, &observer] {
            let command_line = fs::read_to_string(format!("/proc/{}/cmdline", process.id())).unwrap();
            assert!(command_line.contains(USER) && !command_line.contains(PASSWORD), "{command_line:?}");
        }
        let environment = fs::read(format!("/proc/{}/environ", from_file.id())).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains(PASSWORD));
    }

    fn the_password_comes_from_the_strongest_source(version: EtcdVersion) {
        let etcd = etcd_with_user(version, LONG_LIFETIME);
        let dir = TempDir::new().unwrap();
        let right = write(&dir, "right", PASSWORD);
        // As saved by an editor on another system.
        let right_too = write(&dir, "right-too", &format!("{PASSWORD}\r\n"));
        let wrong = write(&dir, "wrong", "wrong");
        let in_file =
            |path: &Path| write(&dir, "elect.toml", &format!("user = '{USER}'\npassword-file = {path:?}\n"));
        let status = || Elect::new(["status", "--etcd", &etcd.endpoint()]);
        const LET_IN: i32 = 3;

        let file_only = status().arg("--config").arg(in_file(&right_too));
        ended(file_only, LET_IN);
        let flag_over_all = status()
            .arg("--config")
            .arg(in_file(&wrong))
            .env("ELECT_PASSWORD", "wrong")
            .env("ELECT_PASSWORD_FILE", &wrong)
            .arg("--password-file")
            .arg(&right);
        ended(flag_over_all, LET_IN);
        let environment_over_file = status().arg("--config").arg(in_file(&wrong));
        ended(environment_over_file.env("ELECT_PASSWORD_FILE", &right), LET_IN);
        let environment_over_file = status().arg("--config").arg(in_file(&wrong));
        ended(environment_over_file.env("ELECT_PASSWORD", PASSWORD), LET_IN);
    }

    fn leads_and_fails_over_with_a_client_certificate(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).start();
        let KeyAndCert { cert, key } = &pki.client;
        let mut first = with_certificate(server("first", &etcd), &pki, &pki.client).start();
        first.wait_for_line(LEADER, SOON);
        let second = server("second", &etcd)
            .env("ELECT_CACERT", &pki.ca)
            .env("ELECT_CERT", cert)
            .env("ELECT_KEY", key)
            .start();
        second.wait_for_line(FOLLOWER, SOON);
        wait_for_renewals(&first, Mark::START, 2);

        first.kill();
        let won = second.wait_for_line(LEADER, SOON);
        wait_for_renewals(&second, won.mark(), 1);

        let dir = TempDir::new().unwrap();
        let config = format!(
            "etcd = 'https://{}'\ncacert = {:?}\ncert = {cert:?}\nkey = {key:?}\n",
            etcd.endpoint(),
            pki.ca
        );
        let config = write(&dir, "elect.toml", &config);
        assert_says(&ended(Elect::new(["status", "--config"]).arg(config), 0), &["leader second"]);
        let observer = Elect::new(["observe", "--etcd", &etcd.endpoint()]);
        let observer = with_certificate(observer, &pki, &pki.client).start();
        observer.wait_for_line(|line: &str| line.contains(" leader second "), SOON);
    }

    fn tls_and_a_password_go_together(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).auth(TOKEN_LIFETIME).start();
        add_user(&etcd, USER, &minimal());
        let server = || logged_in(with_certificate(server("server1", &etcd), &pki, &pki.client));
        let mut leader = server().start();
        leader.wait_for_line(LEADER, SOON);
        wait_for_renewals(&leader, Mark::START, 4);
        leader.signal(Signal::SIGTERM);
        assert_eq!(leader.wait_exit(SOON).code(), Some(0));
        assert_eq!(etcd.admin().leases(), [0; 0]);

        let wrong = server().env("ELECT_PASSWORD", "wrong");
        assert_says(&ended(wrong, 1), &["--user", "ELECT_PASSWORD"]);
    }

    fn an_etcd_with_a_certificate_of_another_authority_is_refused(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).start();
        for (command, code) in commands() {
            let elect = Elect::new(command).args(["--etcd", &etcd.endpoint()]).arg("--cacert");
            let said = ended(elect.arg(&pki.foreign_ca), code);
            assert_says(&said, &["certificate", "--cacert"]);
        }
        assert_eq!(etcd.admin().leases(), [0; 0]);
    }

    fn etcds_refusal_of_a_missing_client_certificate_ends_the_process(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).start();
        for (command, code) in commands() {
            let elect = Elect::new(command).args(["--etcd", &etcd.endpoint()]).arg("--cacert");
            let said = ended(elect.arg(&pki.ca), code);
            assert_says(&said, &["certificate", "--cert"]);
        }
    }

    fn etcds_refusal_of_a_strangers_client_certificate_ends_the_process(version: EtcdVersion) {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(version).tls(pki.clone()).start();
        for (command, code) in commands() {
            let elect = Elect::new(command).args(["--etcd", &etcd.endpoint()]);
            let said = ended(with_certificate(elect, &pki, &pki.foreign_client), code);
            assert_says(&said, &["certificate", "--cert"]);
        }
    }
}

/// Its guard and its supervisor know the password, and have the same user as the command.
#[test]
fn a_command_cannot_read_the_password_from_those_that_started_it() {
    let Some(programs) = Programs::copy() else { return };
    let ancestors = r#"
        p=$PPID
        for _ in init guard supervisor; do
            if environ=$(tr '\0' '\n' </proc/$p/environ) 2>/dev/null; then echo "open: $environ"; else echo closed; fi
            p=$(sed -n 's/^PPid:\t//p' /proc/$p/status)
        done
        echo looked"#;
    let seen = |elect: Elect| {
        let run = elect.args(["--once", "--", "sh", "-c", ancestors]).start();
        run.wait_for_line("looked", SOON);
        let lines = run.stdout();
        assert!(!lines.iter().any(|line| line.contains(PASSWORD)), "{lines:#?}");
        let found = lines.into_iter().filter(|line| line.starts_with("open: ") || line == "closed");
        found.map(|line| line == "closed").collect::<Vec<_>>()
    };
    let open = Etcd::start(EtcdVersion::V3_7);
    assert_eq!(seen(programs.run_unprivileged("a", &open.endpoint(), "2s")), [false; 3], "nothing to hide");
    let etcd = etcd_with_user(EtcdVersion::V3_7, LONG_LIFETIME);
    let elect = logged_in(programs.run_unprivileged("a", &etcd.endpoint(), "2s"));
    assert_eq!(seen(elect), [false, true, true], "the command's init knows nothing");
}

/// The start of the leader's term is in a key beside the queue. An observer without access to it must still see the leader.
#[test]
fn a_role_without_the_elections_own_key_sees_all_changes_but_not_since_when() {
    const CHANGES: usize = 9;
    let etcd = Etcd::builder(EtcdVersion::V3_7).auth(LONG_LIFETIME).start();
    add_user(&etcd, USER, &[Permission::read_write("leader/").with_prefix()]);
    let admin = etcd.admin();
    // Leaders without a process, each behind the other, and the server last.
    let leases: Vec<_> = (0..=CHANGES).map(|_| admin.grant(600).0).collect();
    for lease in &leases {
        admin.put_leased(format!("leader/{lease:x}"), "before it", *lease);
    }
    let server = logged_in(server("server1", &etcd)).start();
    server.wait_for_line(FOLLOWER, SOON);

    // It may not have read the queue when the first one goes; then it sees a later one go.
    let sees_a_change = |lease: &i64| {
        admin.revoke(*lease);
        (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            server.stdout().iter().any(|line| line == CHANGE)
        })
    };
    assert!(leases[..CHANGES].iter().any(sees_a_change), "it is blind");
    assert!(!server.stdout().iter().any(|line| line == LEADER), "there is still one before it");
    let status = ended(logged_in(Elect::new(["status", "--json", "--etcd", &etcd.endpoint()])), 0);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["leader"], &status["since"]), (&"before it".into(), &Value::Null));
}

/// Each command, and its exit code if etcd refuses it.
fn commands() -> [(&'static [&'static str], i32); 3] {
    [(&["server", "server1"], 1), (&["observe"], 1), (&["status"], 4)]
}

fn with_certificate(elect: Elect, pki: &Pki, client: &KeyAndCert) -> Elect {
    elect.arg("--cacert").arg(&pki.ca).arg("--cert").arg(&client.cert).arg("--key").arg(&client.key)
}

/// A password rotated by a vault: in etcd, and in the servers' password file. etcd's restart ends all
/// sessions.
#[test]
fn a_password_that_is_replaced_is_followed_whichever_is_written_first() {
    const NEW: &str = "Qm3-another-secret";
    for file_first in [true, false] {
        let mut etcd = Etcd::builder(EtcdVersion::V3_7).auth(LONG_LIFETIME).start();
        etcd.admin().add_user(USER, PASSWORD, "leader");
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("password");
        fs::write(&file, format!("{PASSWORD}\n")).unwrap();
        let server = Elect::server("server1", &etcd.endpoint()).args(TTL);
        let server = server.args(["--user", USER, "--password-file"]).arg(&file).start();
        let leads = server.wait_for_line(LEADER, SOON);

        if file_first {
            fs::write(&file, format!("{NEW}\n")).unwrap();
        }
        etcd.admin().change_password(USER, NEW);
        etcd.restart();
        if !file_first {
            // It reports the problem, and keeps running.
            let refused = |line: &str| line.contains("authentication failed");
            server.wait_for_line_since(leads.mark(), refused, SOON);
            fs::write(&file, format!("{NEW}\n")).unwrap();
        }
        let mark = server.mark();
        server.wait_for_line_since(mark, REFRESHING, SOON);
    }
}

/// TLS on one side only, and the other members' port.
#[test]
fn what_is_wrong_with_a_connection_is_said_with_what_to_do() {
    let pki = Arc::new(Pki::new());
    let with_tls = Etcd::builder(EtcdVersion::V3_7).tls(Arc::clone(&pki)).start();
    let without = Etcd::start(EtcdVersion::V3_7);
    let ca = pki.ca.to_str().unwrap();
    for (endpoint, flags, remedy) in [
        (with_tls.endpoint(), &[][..], "etcd speaks TLS there: give --cacert"),
        (without.endpoint(), &["--cacert", ca], "etcd speaks no TLS there: leave out --cacert"),
        (without.peer_address(), &[], "that is no port for clients: if it is etcd's peer port"),
    ] {
        for (format, stream) in [("plain", Stream::Stderr), ("full", Stream::Stdout)] {
            let args = ["server", "server1", "--etcd", &endpoint, "--log-format", format];
            let server = Elect::new(args).args(flags).start();
            let said = server.wait_for_line(|line: &str| line.contains(remedy), SOON);
            assert_eq!(said.stream, stream, "{format}: {}", said.text);
        }
    }
}
