//! etcd's counters: how many messages of each gRPC method its clients have sent.
//!
//! They show that an idle election costs etcd one renewal an interval and nothing else.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Messages received by etcd since it was started, by method, such as `LeaseKeepAlive`. Methods never used
/// are absent.
pub(crate) type MessagesReceived = BTreeMap<String, u64>;

/// Reads the counters from etcd's metrics listener at `address`.
#[track_caller]
pub(crate) fn messages_received(address: &str) -> MessagesReceived {
    let page = page(address);
    let mut counts = BTreeMap::new();
    for (method, count) in page.lines().filter_map(received) {
        *counts.entry(method).or_default() += count;
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Number of etcd's watches, and of the streams that carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watches {
    pub(crate) streams: u64,
    pub(crate) watches: u64,
}

/// Reads the gauges from etcd's metrics listener at `address`.
#[track_caller]
pub(crate) fn watches(address: &str) -> Watches {
    let page = page(address);
    let gauge = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not on the page"))
    };
    Watches {
        streams: gauge("etcd_debugging_mvcc_watch_stream_total"),
        watches: gauge("etcd_debugging_mvcc_watcher_total"),
    }
}

/// Reads `grpc_server_msg_received_total{grpc_method="Range",…} 12`.
fn received(line: &str) -> Option<(String, u64)> {
    let labels = line.strip_prefix("grpc_server_msg_received_total{")?;
    let (labels, count) = labels.split_once("} ")?;
    let (_, method) = labels.split_once("grpc_method=\"")?;
    let (method, _) = method.split_once('"')?;
    // Prometheus prints counters as floats: 1e+06 from a million on.
    Some((method.to_owned(), count.parse::<f64>().ok()? as u64))
}

#[track_caller]
fn page(address: &str) -> String {
    get(address).unwrap_or_else(|error| panic!("failed to read etcd's metrics at {address}: {error}"))
}

fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0, so that the body is neither chunked nor followed by anything.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
