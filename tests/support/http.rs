//! A small HTTP/1.1 client over a plain socket, which shows exactly what a server sent, and can misbehave.
//!
//! [`get`] suits most tests. [`Connection`] sends given bytes, one by one if a test wants
//! that, and reads one response after the other. [`Events`] reads server-sent events.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::{clock::BootTime, eventually::eventually};

/// Time limit for a response that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In order of arrival, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A header's value; names are written in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// Sends a GET on a connection of its own.
///
/// # Panics
///
/// If there is no response: see [`try_get`].
#[track_caller]
pub(crate) fn get(address: &str, path: &str) -> Response {
    try_get(address, path).unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
}

/// The same, for a server that may not be listening.
pub(crate) fn try_get(address: &str, path: &str) -> io::Result<Response> {
    request(address, "GET", path)
}

/// Sends a request without a body on a connection of its own.
pub(crate) fn request(address: &str, method: &str, path: &str) -> io::Result<Response> {
    let mut connection = Connection::open(address)?;
    connection.send(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))?;
    connection.answer_to(method)
}

/// Waits until a GET returns this status. Only for conditions that stay true.
#[track_caller]
pub(crate) fn wait_for_status(address: &str, path: &str, status: u16, within: Duration) -> Response {
    eventually(within, &format!("{status} from {path} at {address}"), || {
        try_get(address, path).ok().filter(|response| response.status == status)
    })
}

/// A connection that sends given bytes.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one whole response to a request with this method.
    pub(crate) fn answer_to(&mut self, method: &str) -> io::Result<Response> {
        let (status, headers) = self.head()?;
        let mut response = Response { status, headers, body: Vec::new() };
        if method == "HEAD" {
            return Ok(response);
        }
        match response.header("content-length").map(|length| length.parse::<usize>()) {
            Some(length) => {
                response.body.resize(length.map_err(|_| malformed("a length"))?, 0);
                self.stream.read_exact(&mut response.body)?;
            }
            None => while self.chunk(&mut response.body)? {},
        }
        Ok(response)
    }

    /// Waits until the server has closed it, and returns all bytes before that.
    pub(crate) fn wait_closed(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            // A server that closes with our bytes unread resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(rest),
            read => read.map(|_| rest),
        }
    }

    fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| malformed(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Appends one chunk; `false` after the last.
    fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let size = self.line()?;
        let length = usize::from_str_radix(&size, 16).map_err(|_| malformed(&size))?;
        let start = body.len();
        body.resize(start + length, 0);
        self.stream.read_exact(&mut body[start..])?;
        self.line()?;
        Ok(length > 0)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct Events {
    connection: Connection,
    /// The response's head.
    pub(crate) response: Response,
    received: Vec<u8>,
}

impl Events {
    #[track_caller]
    pub(crate) fn open(address: &str, path: &str) -> Self {
        Self::try_open(address, path).unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
    }

    pub(crate) fn try_open(address: &str, path: &str) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        connection
            .send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n"))?;
        let (status, headers) = connection.head()?;
        let response = Response { status, headers, body: Vec::new() };
        Ok(Self { connection, response, received: Vec::new() })
    }

    /// The lines of the next event that has data.
    pub(crate) fn next(&mut self) -> io::Result<Vec<String>> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.received.drain(..end + 2).collect();
                let lines: Vec<_> = String::from_utf8_lossy(&event).lines().map(str::to_owned).collect();
                if lines.iter().any(|line| line.starts_with("data:")) {
                    return Ok(lines);
                }
            } else if !self.connection.chunk(&mut self.received)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The data of the next event, as JSON.
    pub(crate) fn next_json(&mut self) -> io::Result<serde_json::Value> {
        let lines = self.next()?;
        let data = lines.iter().find_map(|line| line.strip_prefix("data:")).unwrap_or_default();
        serde_json::from_str(data).map_err(|_| malformed(data))
    }

    /// Reads until an event satisfies this, and returns it with the moment of its arrival.
    #[track_caller]
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        within: Duration,
        mut wanted: impl FnMut(&serde_json::Value) -> bool,
    ) -> (serde_json::Value, BootTime) {
        let started = BootTime::now();
        let mut last = serde_json::Value::Null;
        while started.elapsed() < within {
            last = self.next_json().unwrap_or_else(|error| panic!("no event with {what}: {error}"));
            if wanted(&last) {
                return (last, BootTime::now());
            }
        }
        panic!("no event with {what} within {within:?}; the last was {last}");
    }
}
