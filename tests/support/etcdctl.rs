//! Real `etcdctl elect` processes, which share a queue with our candidates.

use super::{capture::Captured, process};

/// `etcdctl elect ELECTION VALUE`: campaigns, prints its key and the value once it has won, and leads until
/// it is told to end (SIGTERM and SIGINT resign).
pub(crate) fn campaign(endpoint: &str, election: &str, value: &str) -> Captured {
    start(&format!("etcdctl elect {election} {value}"), endpoint, &["elect", election, value])
}

/// `etcdctl elect -l ELECTION`: prints the key and the value of each leader.
pub(crate) fn observe(endpoint: &str, election: &str) -> Captured {
    start(&format!("etcdctl elect -l {election}"), endpoint, &["elect", "-l", election])
}

/// Any other command of etcdctl.
pub(crate) fn start(name: &str, endpoint: &str, args: &[&str]) -> Captured {
    let mut command = process::command("etcdctl");
    for (key, _) in std::env::vars_os() {
        if key.as_encoded_bytes().starts_with(b"ETCDCTL_") {
            command.env_remove(key);
        }
    }
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(args);
    Captured::start(name, command)
}
