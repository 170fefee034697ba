//! A tiny HTTP service, written by a test as one closure: the backend of a load balancer.
//!
//! It is a thread of the test process, so it continues when a server beside it is killed or frozen; that is the
//! harder case for a load balancer that must withhold its responses.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// Time for a request to arrive whole, and for its response to leave.
const IO_DEADLINE: Duration = Duration::from_secs(30);

/// A service's response to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, header: &'static str, value: impl ToString) -> Self {
        self.headers.push((header, value.to_string()));
        self
    }
}

/// A service that listens on 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

impl Service {
    /// Starts a service that answers each request, by its path, on a thread of its own.
    pub(crate) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the kernel has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let (answer, stop) = (Arc::new(answer), Arc::clone(&stopping));
        thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                let (Ok(client), answer) = (client, Arc::clone(&answer)) else { continue };
                // A client's disconnect is ignored.
                thread::spawn(move || serve(client, answer.as_ref()));
            }
        });
        Self { address, stopping }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopping.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: TcpStream, answer: &(impl Fn(&str) -> Answer + ?Sized)) -> io::Result<()> {
    client.set_read_timeout(Some(IO_DEADLINE))?;
    client.set_write_timeout(Some(IO_DEADLINE))?;
    let mut client = BufReader::new(client);
    let mut first = String::new();
    client.read_line(&mut first)?;
    let mut header = String::new();
    while client.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let Answer { status, headers, body } = answer(path);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let client = client.get_mut();
    write!(
        client,
        "HTTP/1.1 {status} .\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )?;
    client.flush()
}
