//! Bad input: each mistake gets an error that names the flag and the remedy, and exit code 2 before anything
//! is sent; exit code 1 if only etcd can detect it. Also: which source wins if several set a value.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

#[path = "bad_input/peers.rs"]
mod peers;

use std::{
    ffi::OsStr,
    fs,
    io::ErrorKind,
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use support::{
    capture::Stream,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    on_each_etcd,
    pki::Pki,
    port::ReservedPort,
};
use tempfile::TempDir;

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// The commands that accept the common flags.
const COMMANDS: [&[&str]; 3] = [&["server", "server1"], &["observe"], &["status"]];

/// A password that cannot appear in output by chance.
const PASSWORD: &str = "Jx7-very-secret";

/// A listener in etcd's place that detects whether a client ever connected.
struct UnusedEndpoint {
    listener: TcpListener,
}

impl UnusedEndpoint {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    fn endpoint(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// A connection that was opened and closed again still waits to be accepted.
    #[track_caller]
    fn assert_untouched(&self) {
        let came = self.listener.accept();
        assert!(came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "something was sent");
    }
}

/// `elect COMMAND --etcd ENDPOINT`; a test adds the mistake.
fn elect(command: &[&str], unused: &UnusedEndpoint) -> Elect {
    Elect::new(command).arg("--etcd").arg(unused.endpoint())
}

/// Runs a command line that is invalid in itself; returns its error message.
#[track_caller]
fn complaint(elect: Elect) -> String {
    refusal(elect, 2)
}

/// Runs a command that must exit by itself with this code; returns its standard error.
#[track_caller]
fn refusal(elect: Elect, code: i32) -> String {
    let mut elect = elect.start();
    let status = elect.wait_exit(SOON);
    let said = elect.stderr().join("\n");
    assert_eq!(status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A directory for one test's files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

#[test]
fn a_ttl_that_no_lease_can_have_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for (ttl, remedy) in [
        ("0", "5s"),
        ("0s", "at least 1s"),
        ("300ms", "at least 1s"),
        ("2500ms", "use 2s or 3s"),
        ("1.5s", "use 1s or 2s"),
        ("five", "as in 5s"),
        ("5", "as in 5s"),
        ("-5s", "as in 5s"),
        ("", "as in 5s"),
        ("2days", "at most 86400s"),
        ("99999999999999999999s", "as in 5s"),
    ] {
        let server = || elect(&["server", "server1"], &unused);
        assert_says(&complaint(server().arg(format!("--ttl={ttl}"))), &["--ttl", remedy]);
        if !ttl.is_empty() {
            assert_says(&complaint(server().env("ELECT_TTL", ttl)), &["--ttl", remedy]);
        }
        let config = files.write("elect.toml", format!("ttl = {ttl:?}"));
        assert_says(&complaint(server().arg("--config").arg(config)), &["--config", "ttl", remedy]);
    }
    let config = files.write("elect.toml", "ttl = 5");
    let said = complaint(elect(&["server", "server1"], &unused).arg("--config").arg(config));
    assert_says(&said, &["--config", "line 1", "ttl", "as in 5s"]);
    unused.assert_untouched();
}

#[test]
fn a_name_that_is_empty_too_long_or_not_printable_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let too_long = "x".repeat(257);
    for (name, reason) in [
        ("", "must not be empty"),
        (" \t ", "must not be empty"),
        (&*too_long, "at most 256 bytes; this one has 257"),
        ("a\nI am the leader.", "control characters or invisible ones; this one has '\\n'"),
        ("a\u{1b}[2Jb", "control characters or invisible ones; this one has '\\u{1b}'"),
        ("a\u{7f}", "control characters or invisible ones; this one has '\\u{7f}'"),
    ] {
        let server = || elect(&["server"], &unused);
        assert_says(&complaint(server().arg(name)), &["NAME", reason]);
        assert_says(&complaint(server().args(["--name", name])), &["--name", reason]);
        assert_says(&complaint(server().env("ELECT_NAME", name)), &["NAME", reason]);
        let escaped: String = name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let config = files.write("elect.toml", format!("name = \"{escaped}\""));
        let said = complaint(server().arg("--config").arg(config));
        assert_says(&said, &["--config", "name", reason]);
    }
    unused.assert_untouched();
}

#[test]
fn the_longest_name_is_taken() {
    let name = "x".repeat(256);
    let server = Elect::server(&name, &ReservedPort::new().address()).start();
    server.wait_for_line(&*format!("Starting the server '{name}'"), SOON);
}

#[test]
fn a_server_without_a_name_is_told_how_to_give_one() {
    let unused = UnusedEndpoint::new();
    assert_says(&complaint(elect(&["server"], &unused)), &["elect server server1", "ELECT_NAME"]);
    let twice = complaint(elect(&["server", "a", "--name", "b"], &unused));
    assert_says(&twice, &["--name", "NAME", "cannot be used with"]);
    unused.assert_untouched();
}

#[test]
fn an_election_that_makes_no_prefix_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for (election, reason) in [
        ("", "must not be empty"),
        ("leader/", "must not end with '/'"),
        ("a\u{0}b", "control characters"),
        (&*"x".repeat(300), "at most 256 bytes"),
    ] {
        for command in COMMANDS {
            // No argument and no variable can hold a NUL.
            if !election.contains('\0') {
                let said = complaint(elect(command, &unused).args(["--election", election]));
                assert_says(&said, &["--election", reason]);
                if !election.is_empty() {
                    let said = complaint(elect(command, &unused).env("ELECT_ELECTION", election));
                    assert_says(&said, &["--election", reason]);
                }
            }
            let election = serde_json::to_string(election).unwrap();
            let config = files.write("elect.toml", format!("election = {election}"));
            let said = complaint(elect(command, &unused).arg("--config").arg(config));
            assert_says(&said, &["--config", "election", reason]);
        }
    }
    unused.assert_untouched();
}

#[test]
fn a_malformed_endpoint_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for (wrong, reason) in [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        (":2379", "the host is missing"),
        ("http://:2379", "the host is missing"),
        ("localhost:", "the port is not a number from 1 to 65535"),
        ("localhost:0", "the port is not a number from 1 to 65535"),
        ("localhost:65536", "the port is not a number from 1 to 65535"),
        ("localhost:etcd", "the port is not a number from 1 to 65535"),
        ("ftp://localhost:2379", "only http:// and https://"),
        ("unix:///run/etcd.sock:0", "only http:// and https://"),
        ("localhost:2379/v3", "more than a host and a port"),
        ("user@localhost:2379", "more than a host and a port"),
        ("local host:2379", "more than a host and a port"),
        ("::1:2379", "an IPv6 address goes in brackets"),
        ("löcalhost:2379", "no host name has"),
        ("local\u{7}host:2379", "no host name has"),
        ("[]:2379", "localhost:2379"),
        ("[::1:2379", "localhost:2379"),
        ("[lo]calhost:2379", "localhost:2379"),
    ] {
        // The valid endpoint beside it must not be tried either.
        let list = format!("{wrong},{}", unused.endpoint());
        let said = complaint(Elect::new(["server", "server1", "--etcd", &*list]));
        assert_says(&said, &["--etcd", reason, "HOST:PORT"]);
        let said = complaint(Elect::new(["status"]).env("ELECT_ETCD", &list));
        assert_says(&said, &["--etcd", reason, "HOST:PORT"]);
        let list = serde_json::to_string(&[unused.endpoint(), wrong.to_owned()]).unwrap();
        let config = files.write("elect.toml", format!("etcd = {list}"));
        let said = complaint(Elect::new(["observe", "--config"]).arg(config));
        assert_says(&said, &["--config", "etcd", reason, "HOST:PORT"]);
    }
    let config = files.write("elect.toml", "etcd = []");
    assert_says(
        &complaint(Elect::new(["status", "--config"]).arg(config)),
        &["--config", "etcd", "at least one"],
    );
    unused.assert_untouched();
}

/// Lists as found in practice: in YAML, over several lines, by a template that ends each entry with a comma.
#[test]
fn a_list_of_endpoints_may_have_blanks_line_breaks_and_a_comma_at_the_end() {
    let files = Files::new();
    let port = ReservedPort::new();
    let at = port.address();
    let plain = format!("Connecting to etcd at '{at},{at}'");
    for list in [
        format!("{at}, {at}"),
        format!("  {at} ,{at}\t"),
        format!("{at},\n  {at}\n"),
        format!("{at},{at},"),
        format!("{at},{at} , \n"),
    ] {
        let server = || Elect::new(["server", "server1", "--log-format", "plain"]);
        server().args(["--etcd", &list]).start().wait_for_line(&*plain, SOON);
        server().env("ELECT_ETCD", &list).start().wait_for_line(&*plain, SOON);
        let config = files.write("elect.toml", format!("etcd = {}", serde_json::to_string(&list).unwrap()));
        server().arg("--config").arg(config).start().wait_for_line(&*plain, SOON);
    }
    for list in [",", ",,", &format!("{at},,{at}"), &format!("{at},,")] {
        let said = complaint(Elect::new(["status"]).env("ELECT_ETCD", list));
        assert_says(&said, &["--etcd", "the port is missing", "HOST:PORT"]);
    }
}

/// `ELECT_X: ${X}` in a compose file passes an empty ELECT_X to the container if X is not set.
#[test]
fn an_empty_variable_counts_as_not_set() {
    let port = ReservedPort::new();
    let mut server = Elect::new(["server", "server1", "--etcd", &port.address(), "--log-format", "json"]);
    for variable in EVERY_VARIABLE {
        server = server.env(variable, "");
    }
    let server = server.start();
    let says =
        |line: &str| parsed(line).is_some_and(|line| line["message"] == "Starting the server 'server1'");
    let starting = parsed(&server.wait_for_line(says, SOON).text).unwrap();
    assert_eq!((&starting["ttl"], &starting["election"]), (&"5s".into(), &"leader".into()));
    server.wait_for_line(|line: &str| line.contains(&port.address()), SOON);
}

/// Every variable that `server` reads.
const EVERY_VARIABLE: [&str; 18] = [
    "ELECT_ETCD",
    "ELECT_USER",
    "ELECT_PASSWORD",
    "ELECT_PASSWORD_FILE",
    "ELECT_PEERS",
    "ELECT_LISTEN",
    "ELECT_DATA",
    "ELECT_HEARTBEAT",
    "ELECT_ELECTION_TIMEOUT",
    "ELECT_CACERT",
    "ELECT_CERT",
    "ELECT_KEY",
    "ELECT_ELECTION",
    "ELECT_LOG_FORMAT",
    "ELECT_CONFIG",
    "ELECT_NAME",
    "ELECT_TTL",
    "ELECT_HTTP",
];

/// The server was meant for a group of peers. Starting it on etcd would make a second leader.
#[test]
fn an_empty_list_of_peers_does_not_make_a_candidate_on_etcd() {
    for command in COMMANDS {
        let said = complaint(Elect::new(command).env("ELECT_PEERS", ""));
        assert_says(&said, &["ELECT_PEERS is empty", "unset it", "--etcd"]);
    }
}

#[test]
fn a_mistake_in_the_command_line_is_called_what_it_is() {
    assert_says(&complaint(Elect::new(["run", "sleep", "5"])), &["tip: ", "elect run -- sleep"]);
    let other = complaint(Elect::new(["run", "--sleep", "--", "true"]));
    assert!(!other.contains("elect run -- --sleep"), "{other}");
    assert_says(
        &complaint(Elect::new(["server", "a", "--ttl", "-1s"])),
        &["--ttl", "not negative", "as in 5s"],
    );
    let files = Files::new();
    let value = files.write("elect.toml", "etcd = 'h:1'\nttl = 5\n");
    let said = complaint(Elect::new(["server", "a", "--config"]).arg(value));
    assert_says(&said, &["line 2: ttl: ", "as in 5s"]);
    assert!(!said.contains("the keys are"), "{said}");
}

#[test]
fn what_others_can_read_is_warned_of() {
    let files = Files::new();
    let password = files.write("password", "secret");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let etcd = ["--etcd", "etcd.invalid:2379", "--log-format", "plain"];
    let server =
        Elect::new(["server", "server1", "--user", "u", "--password-file"]).arg(&password).args(etcd);
    let server = server.start();
    for part in
        ["every user of this machine can access it (mode 644)", "goes to 'etcd.invalid:2379' in the clear"]
    {
        let warning = server.wait_for_line(|line: &str| line.contains(part), SOON);
        assert_eq!(warning.stream, Stream::Stderr);
    }
    assert!(!all_said(&server).contains("secret"));
}

#[test]
fn a_variable_that_means_nothing_is_warned_about() {
    let port = ReservedPort::new();
    for (format, stream) in [("plain", Stream::Stderr), ("full", Stream::Stdout)] {
        let server = Elect::new(["server", "server1", "--etcd", &port.address(), "--log-format", format]);
        let server = server.env("ELECT_ENDPOINTS", "h:1").env("ELECT_SERVICE_HOST", "10.0.0.1").start();
        let warning = server.wait_for_line(|line: &str| line.contains("ELECT_ENDPOINTS is ignored"), SOON);
        assert_eq!(warning.stream, stream, "{format}");
        assert!(!all_said(&server).contains("ELECT_SERVICE_HOST"));
    }
    let mut status = Elect::new(["status"]).env("ETCDCTL_ENDPOINTS", "h:1").start();
    status.wait_exit(SOON);
    assert_says(&all_said(&status), &["ETCDCTL_ENDPOINTS is read by etcdctl only", "set ELECT_ETCD"]);
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let pki = Pki::new();
    let missing = files.path("missing.pem");
    let text = files.write("text.pem", "this is no certificate");
    let empty = files.write("empty.pem", "");
    let directory = files.0.path().to_owned();
    let broken = files.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n",
    );
    let cut_off = fs::read_to_string(&pki.ca).unwrap();
    let cut_off = files.write("cut-off.pem", &cut_off[..cut_off.len() / 2]);
    let (cert, key) = (&pki.client.cert, &pki.client.key);

    let no_certificate = "no certificate";
    for (flag, path, reason) in [
        ("--cacert", &missing, "No such file"),
        ("--cacert", &text, no_certificate),
        ("--cacert", &empty, no_certificate),
        ("--cacert", &directory, "directory"),
        ("--cacert", &cut_off, "certificate"),
        ("--cacert", key, no_certificate),
        ("--cacert", &broken, "certificate"),
        ("--cert", &missing, "No such file"),
        ("--cert", &text, no_certificate),
        ("--cert", key, no_certificate),
        ("--cert", &broken, "certificate"),
        ("--key", &missing, "No such file"),
        ("--key", &text, "no private key"),
        ("--key", cert, "no private key"),
        ("--key", &pki.server.key, "key"),
    ] {
        let path = path.to_str().unwrap();
        let given = |name: &str, good: &Path| {
            let good = good.to_str().unwrap().to_owned();
            [name.to_owned(), if flag == name { path.to_owned() } else { good }]
        };
        for command in COMMANDS {
            let certificates = [given("--cacert", &pki.ca), given("--cert", cert), given("--key", key)];
            let said = complaint(elect(command, &unused).args(certificates.as_flattened()));
            assert_says(&said, &[flag, path, reason]);
        }
    }
    unused.assert_untouched();
}

/// Generated for this test; used nowhere else.
const P521_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIBsMAE5Mj4LrKJL0xE
6HmzR03JGupfqeroubkhvAgvfnsPw09uds/LmW7v/L4+AjXZ6SfiVQffDdjnFGQo
wVdSUlChgYkDgYYABAGJgY0XiZgVJIuwXAqTlQpUb0GOEyOiOEA/B74HWvNkOjIV
ucVmkVceii8sQIkPM1UMc1QpjTs0eoeDxYpnYup0FgCw7e4WG9C7VlUuZwRr8tbb
0emdqYPEqqq8aH1OV3lB9INj6/0rxCC3tm+ej9Qrte6Y/yAhOPR/CKy6HEeuKp+g
Ug==
-----END PRIVATE KEY-----
";

#[test]
fn a_key_that_is_of_no_use_is_told_apart_from_a_wrong_one() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let pki = Pki::new();
    let (ca, cert) = (pki.ca.to_str().unwrap(), pki.client.cert.to_str().unwrap());
    let label = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let header = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
                  -----END RSA PRIVATE KEY-----\n";
    for (key, reason) in [
        (label("ENCRYPTED PRIVATE KEY"), "the key is encrypted"),
        (header.to_owned(), "the key is encrypted"),
        (P521_KEY.to_owned(), "its kind of key is not supported; use RSA"),
    ] {
        let key = files.write("key.pem", key);
        let args = ["--cacert", ca, "--cert", cert, "--key", key.to_str().unwrap()];
        assert_says(&complaint(elect(&["status"], &unused).args(args)), &["--key", reason]);
    }
    unused.assert_untouched();
}

#[test]
fn half_of_a_client_certificate_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let pki = Pki::new();
    let (cert, key) = (pki.client.cert.to_str().unwrap(), pki.client.key.to_str().unwrap());
    for command in COMMANDS {
        let elect = || elect(command, &unused);
        assert_says(&complaint(elect().args(["--cert", cert])), &["--cert", "add --key"]);
        assert_says(&complaint(elect().args(["--key", key])), &["--key", "add --cert"]);
        assert_says(&complaint(elect().env("ELECT_CERT", cert)), &["--cert", "add --key"]);
        let config = files.write("elect.toml", format!("key = {key:?}"));
        assert_says(&complaint(elect().arg("--config").arg(config)), &["--key", "add --cert"]);
    }
    unused.assert_untouched();
}

#[test]
fn certificates_for_an_endpoint_without_tls_are_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let pki = Pki::new();
    let said = complaint(
        Elect::new(["status", "--etcd", &format!("http://{}", unused.endpoint()), "--cacert"]).arg(&pki.ca),
    );
    assert_says(&said, &["--etcd", "without TLS", "https://"]);
    unused.assert_untouched();
}

#[test]
fn half_of_a_login_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let empty = files.write("empty", "\n");
    let latin_1 = files.write("latin-1", b"caf\xe9\n");
    let good = files.write("password", format!("{PASSWORD}\n"));
    let missing = files.path("missing");
    for command in COMMANDS {
        let elect = || elect(command, &unused);
        let with_file = |path: &Path| elect().args(["--user", "alice", "--password-file"]).arg(path);

        let remedy = ["ELECT_PASSWORD", "--password-file"];
        assert_says(&complaint(elect().args(["--user", "alice"])), &remedy);
        assert_says(&complaint(elect().env("ELECT_USER", "alice")), &remedy);
        assert_says(&complaint(elect().args(["--user", "alice"]).env("ELECT_PASSWORD", "")), &remedy);
        let config = files.write("elect.toml", "user = 'alice'");
        assert_says(&complaint(elect().arg("--config").arg(config)), &remedy);

        assert_says(&complaint(elect().env("ELECT_PASSWORD", PASSWORD)), &["add --user"]);
        assert_says(&complaint(elect().arg("--password-file").arg(&good)), &["add --user"]);
        let nameless = complaint(elect().args(["--user", ""]).env("ELECT_PASSWORD", PASSWORD));
        assert_says(&nameless, &["--user is empty"]);

        let path = missing.to_str().unwrap();
        assert_says(&complaint(with_file(&missing)), &["--password-file", path, "No such file"]);
        assert_says(&complaint(with_file(&empty)), &["--password-file", "it is empty"]);
        assert_says(&complaint(with_file(&latin_1)), &["--password-file", "UTF-8"]);
        let latin_1 = elect().args(["--user", "alice"]).env("ELECT_PASSWORD", OsStr::from_bytes(b"caf\xe9"));
        assert_says(&complaint(latin_1), &["ELECT_PASSWORD", "UTF-8"]);
    }
    unused.assert_untouched();
}

#[test]
fn a_password_is_no_flag_and_no_key_and_is_not_repeated() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for command in COMMANDS {
        let said = complaint(elect(command, &unused).args(["--password", PASSWORD]));
        assert_says(&said, &["--password"]);
        assert!(!said.contains(PASSWORD), "{said}");
        let config = files.write("elect.toml", format!("user = 'alice'\npassword = '{PASSWORD}'\n"));
        let said = complaint(elect(command, &unused).arg("--config").arg(config));
        assert_says(&said, &["--config", "password"]);
        assert!(!said.contains(PASSWORD), "{said}");
    }
    unused.assert_untouched();
}

#[test]
fn a_config_file_that_cannot_be_read_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for (path, reason) in [
        (files.path("missing.toml"), "No such file"),
        (files.0.path().to_owned(), "directory"),
        (files.write("binary.toml", b"name = '\xff'"), "UTF-8"),
        (files.write("half.toml", "name = 'unfinished"), "line 1"),
        (files.write("list.toml", "election = ['a', 'b']"), "election"),
    ] {
        for command in COMMANDS {
            let shown = path.to_str().unwrap();
            let said = complaint(elect(command, &unused).args(["--config", shown]));
            assert_says(&said, &["--config", shown, reason]);
            let said = complaint(elect(command, &unused).env("ELECT_CONFIG", shown));
            assert_says(&said, &["--config", shown, reason]);
        }
    }
    unused.assert_untouched();
}

#[test]
fn an_unknown_key_in_the_config_file_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    for content in ["ttll = '5s'", "[server]\nttl = '5s'", "cacert = 'ca.pem'\npassword_file = 'password'"] {
        for command in COMMANDS {
            let config = files.write("elect.toml", content);
            let said = complaint(elect(command, &unused).arg("--config").arg(config));
            assert_says(&said, &["--config", "unknown field", "the keys are the long flags"]);
        }
    }
    unused.assert_untouched();
}

#[test]
fn an_unknown_log_format_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    let files = Files::new();
    let known = ["plain", "full", "json"];
    for command in COMMANDS {
        let said = complaint(elect(command, &unused).args(["--log-format", "xml"]));
        assert_says(&said, &["--log-format"]);
        assert_says(&said, &known);
        let said = complaint(elect(command, &unused).env("ELECT_LOG_FORMAT", "Plain"));
        assert_says(&said, &["--log-format"]);
        assert_says(&said, &known);
        let config = files.write("elect.toml", "log-format = 'xml'");
        let said = complaint(elect(command, &unused).arg("--config").arg(config));
        assert_says(&said, &["--config", "log-format"]);
        assert_says(&said, &known);
    }
    unused.assert_untouched();
}

#[test]
fn a_log_filter_that_is_none_is_refused_before_anything_is_sent() {
    let unused = UnusedEndpoint::new();
    for command in COMMANDS {
        let said = complaint(elect(command, &unused).env("RUST_LOG", "elect=loud"));
        assert_says(&said, &["RUST_LOG", "elect=loud", "RUST_LOG=debug"]);
    }
    unused.assert_untouched();
}

/// The four sources of one setting, strongest first.
#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default() {
    const FLAG: usize = 0;
    const ENVIRONMENT: usize = 1;
    const FILE: usize = 2;
    const DEFAULT: usize = 3;
    let files = Files::new();
    // Nothing listens there: a command reports the endpoints it would ask, and keeps trying.
    let ports = [ReservedPort::new(), ReservedPort::new(), ReservedPort::new()];
    let endpoint = |source: usize| ports[source].address();
    let [by_flag, by_environment, by_file] = ["by-flag", "by-environment", "by-file"];

    for strongest in FLAG..=DEFAULT {
        let mut elect = Elect::new(["server", "--log-format", "json"]);
        if strongest <= FILE {
            let config = format!(
                "etcd = '{}'\nname = '{by_file}'\nttl = '13s'\nelection = '{by_file}'",
                endpoint(FILE)
            );
            elect = elect.arg("--config").arg(files.write("elect.toml", config));
        }
        if strongest <= ENVIRONMENT {
            elect = elect
                .env("ELECT_ETCD", endpoint(ENVIRONMENT))
                .env("ELECT_NAME", by_environment)
                .env("ELECT_TTL", "12s")
                .env("ELECT_ELECTION", by_environment);
        }
        if strongest == FLAG {
            elect = elect.args([
                "--etcd",
                &endpoint(FLAG),
                "--name",
                by_flag,
                "--ttl",
                "11s",
                "--election",
                by_flag,
            ]);
        }
        let (name, ttl, election, etcd) = match strongest {
            FLAG => (by_flag, "11s", by_flag, endpoint(FLAG)),
            ENVIRONMENT => (by_environment, "12s", by_environment, endpoint(ENVIRONMENT)),
            FILE => (by_file, "13s", by_file, endpoint(FILE)),
            _ => {
                // There is no default for a name.
                elect = elect.arg("server1");
                ("server1", "5s", "leader", "localhost:2379".to_owned())
            }
        };
        let server = elect.start();
        let line = |message: String| {
            let says = move |line: &str| parsed(line).is_some_and(|line| line["message"] == *message);
            parsed(&server.wait_for_line(says, SOON).text).unwrap()
        };
        let starting = line(format!("Starting the server '{name}'"));
        assert_eq!((&starting["ttl"], &starting["election"]), (&ttl.into(), &election.into()));
        line(format!("Connecting to etcd at '{etcd}'"));
    }
}

#[test]
fn the_name_after_the_command_wins_over_the_environment_too() {
    let nowhere = ReservedPort::new();
    let server = Elect::server("by-argument", &nowhere.address()).env("ELECT_NAME", "by-environment").start();
    server.wait_for_line("Starting the server 'by-argument'", SOON);
}

#[test]
fn the_log_format_comes_from_the_strongest_source_that_gives_one() {
    let files = Files::new();
    let nowhere = ReservedPort::new();
    let config = files.write("elect.toml", "log-format = 'plain'");
    let server = || Elect::new(["server", "server1", "--etcd", &nowhere.address()]);
    let plain = |line: &str| line == "Starting the server 'server1'";
    let json = |line: &str| parsed(line).is_some();
    let full = |line: &str| line.contains("INFO Starting the server 'server1'");

    server().start().wait_for_line(full, SOON);
    server().arg("--config").arg(&config).start().wait_for_line(plain, SOON);
    let in_environment = || server().arg("--config").arg(&config).env("ELECT_LOG_FORMAT", "json");
    in_environment().start().wait_for_line(json, SOON);
    in_environment().args(["--log-format", "full"]).start().wait_for_line(full, SOON);
}

fn parsed(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

on_each_etcd! {
    fn a_ttl_below_etcds_minimum_says_what_is_granted_and_leaves_nothing_behind(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        // Repeated, because a lease that is left behind may be hard to catch.
        for _ in 0..5 {
            let server = Elect::server("server1", &etcd.endpoint()).args(["--ttl", "1s"]);
            let said = refusal(server, 2);
            assert_says(&said, &["--ttl 1s", "at least 2s", "use --ttl 2s or more"]);
            assert_eq!(etcd.admin().leases(), [0; 0], "a lease is left behind");
            assert_eq!(etcd.admin().candidates("leader"), []);
        }
    }

    fn a_login_that_etcd_refuses_ends_with_the_reason_and_the_remedy(version: EtcdVersion) {
        let etcd = Etcd::builder(version).auth(Duration::from_secs(60)).start();
        etcd.admin().add_user("alice", PASSWORD, "leader");
        let endpoint = etcd.endpoint();
        let guessed = "a-wrong-guess";
        for (command, code) in [(COMMANDS[0], 1), (COMMANDS[1], 1), (COMMANDS[2], 4)] {
            let elect = || Elect::new(command).args(["--etcd", &*endpoint]);
            for (user, password) in [("alice", guessed), ("mallory", PASSWORD)] {
                let mut elect = elect().args(["--user", user]).env("ELECT_PASSWORD", password).start();
                assert_eq!(elect.wait_exit(SOON).code(), Some(code));
                let said = all_said(&elect);
                assert_says(&said, &["--user", "ELECT_PASSWORD", "--password-file"]);
                assert!(!said.contains(password), "{said}");
            }
            let mut anonymous = elect().start();
            assert_eq!(anonymous.wait_exit(SOON).code(), Some(code));
            assert_says(&all_said(&anonymous), &["authentication is on", "--user", "ELECT_PASSWORD"]);
        }
        assert_eq!(etcd.admin().leases(), [0; 0]);
    }

    /// A secret made by `echo` ends with a line break.
    fn a_line_break_after_a_user_or_a_password_is_not_meant(version: EtcdVersion) {
        let etcd = Etcd::builder(version).auth(Duration::from_secs(60)).start();
        etcd.admin().add_user("alice", PASSWORD, "leader");
        let files = Files::new();
        let password = files.write("password", format!("{PASSWORD}\r\n"));
        for end in ["\n", "\r\n"] {
            let status = || Elect::new(["status", "--etcd", &*etcd.endpoint()]);
            let user = format!("alice{end}");
            let mut by_variable = status().env("ELECT_USER", &user);
            by_variable = by_variable.env("ELECT_PASSWORD", format!("{PASSWORD}{end}"));
            assert_eq!(by_variable.start().wait_exit(SOON).code(), Some(3));
            let by_file = status().args(["--user", "alice", "--password-file"]).arg(&password);
            assert_eq!(by_file.start().wait_exit(SOON).code(), Some(3));
        }
    }

    fn a_password_for_a_user_without_one_ends_with_the_remedy(version: EtcdVersion) {
        let etcd = Etcd::builder(version).auth(Duration::from_secs(60)).start();
        etcd.admin().add_user_without_password("alice");
        let server = Elect::server("a", &etcd.endpoint()).args(["--user", "alice"]);
        let said = refusal(server.env("ELECT_PASSWORD", PASSWORD), 1);
        assert_says(&said, &["keeps no password for this user", "etcdctl user passwd", "--cert"]);
    }

    fn a_login_where_etcd_has_none_ends_with_the_remedy(version: EtcdVersion) {
        let etcd = Etcd::start(version);
        for (command, code) in [(COMMANDS[0], 1), (COMMANDS[1], 1), (COMMANDS[2], 4)] {
            let elect = Elect::new(command).args(["--etcd", &etcd.endpoint(), "--user", "alice"]);
            let mut elect = elect.env("ELECT_PASSWORD", PASSWORD).start();
            assert_eq!(elect.wait_exit(SOON).code(), Some(code));
            assert_says(&all_said(&elect), &["authentication is not enabled", "leave out --user"]);
        }
    }
}

#[test]
fn the_minimum_is_what_this_etcd_grants_and_not_a_number_of_ours() {
    let etcd = Etcd::builder(EtcdVersion::V3_7).arg("--election-timeout=3000").start();
    let said = refusal(Elect::server("server1", &etcd.endpoint()).args(["--ttl", "4s"]), 2);
    assert_says(&said, &["--ttl 4s", "at least 5s", "use --ttl 5s or more"]);
    assert_eq!(etcd.admin().leases(), [0; 0]);
}

/// `status` prints the reason as a state, the other commands as an error.
fn all_said(elect: &support::capture::Captured) -> String {
    [elect.stdout(), elect.stderr()].concat().join("\n")
}

/// The proxy makes up response headers, and keeps the lease of a dead leader alive.
#[test]
fn a_grpc_proxy_in_front_of_etcd_is_refused_by_name() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let port = ReservedPort::new();
    let _proxy = etcd.grpc_proxy(&port.address());
    // The command waits until the proxy listens.
    let said = refusal(Elect::server("server1", &port.address()), 1);
    assert_says(&said, &["grpc-proxy", "give --etcd the members"]);
}
