//! A network between a client and etcd that fails on command.
//!
//! A [`Proxy`] passes TCP through to one address. Data that a [`Mode`] withholds stays in the kernel's buffers,
//! unread, and flows on when the mode is [`Mode::Pass`] again, as on a network that has healed: no byte is
//! lost, and until then neither end notices anything, not even that the other one has closed.
//!
//! [`Proxy::set`] is exact: once it has returned, no byte gets through that the new mode withholds.

use std::{
    future, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    port::ReservedPort,
    runtime::{self, wait_for},
};

/// Largest read, which bounds what a silenced connection can hold outside the kernel.
const BUFFER_SIZE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything gets through.
    Pass,
    /// Nothing gets through, either way. Connections stay open, and new ones are accepted.
    Silence,
    /// The client's data arrives; the server's does not.
    SilenceReplies,
    /// The server's data arrives; the client's does not.
    SilenceRequests,
    /// Existing connections are reset, and new ones refused.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Requests,
    Replies,
}

impl Mode {
    fn passes(self, direction: Direction) -> bool {
        match (self, direction) {
            (Self::Pass, _) | (Self::SilenceReplies, Direction::Requests) => true,
            (Self::SilenceRequests, Direction::Replies) => true,
            (Self::Silence | Self::SilenceReplies | Self::SilenceRequests | Self::Refuse, _) => false,
        }
    }
}

/// A proxy on a port of its own in front of one server. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    mode: watch::Sender<Mode>,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
    counters: Arc<Counters>,
}

impl Proxy {
    /// Starts a proxy to `target`, an `ADDRESS:PORT`, in [`Mode::Pass`].
    #[track_caller]
    pub(crate) fn start(target: &str) -> Self {
        Self::start_at(ReservedPort::new(), target)
    }

    /// Starts a proxy at this port.
    #[track_caller]
    pub(crate) fn start_at(port: ReservedPort, target: &str) -> Self {
        let target = target.parse().expect("the target is an IP address and a port");
        let address = port.address();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (orders, inbox) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let server = ProxyServer { port, target, modes, counters: counters.clone() };
        runtime::handle().spawn(server.serve(inbox));
        let proxy = Self { address, mode, orders, counters };
        proxy.order(Order::Listen);
        proxy
    }

    /// `HOST:PORT`, to be used instead of the server's.
    pub(crate) fn endpoint(&self) -> String {
        self.address.clone()
    }

    /// Changes the mode, and returns when the change is complete.
    #[track_caller]
    pub(crate) fn set(&self, mode: Mode) {
        // Waits for a write in progress; see `write_if_passing`.
        self.mode.send_replace(mode);
        self.order(if mode == Mode::Refuse { Order::Refuse } else { Order::Listen });
    }

    /// Resets the present connections, once. New ones are served as the mode says.
    #[track_caller]
    pub(crate) fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.counters.accepted.load(SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open_connections(&self) -> usize {
        self.counters.open.load(SeqCst)
    }

    /// Bytes that got through from clients to the server.
    pub(crate) fn request_bytes(&self) -> u64 {
        self.exactly(&self.counters.requests)
    }

    /// Bytes that got through from the server to clients.
    pub(crate) fn reply_bytes(&self) -> u64 {
        self.exactly(&self.counters.replies)
    }

    /// A count that includes every byte that has arrived anywhere: waits for writes that are not yet
    /// counted.
    fn exactly(&self, count: &AtomicU64) -> u64 {
        let mut value = 0;
        self.mode.send_if_modified(|_| {
            value = count.load(SeqCst);
            false
        });
        value
    }

    #[track_caller]
    fn order(&self, order: Order) {
        let (done, carried_out) = oneshot::channel();
        self.orders.send((order, done)).expect("the proxy serves until it is dropped");
        wait_for(carried_out).expect("the proxy carries out each order");
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    open: AtomicUsize,
    requests: AtomicU64,
    replies: AtomicU64,
}

/// An order to the accepting task, which answers when it is done.
#[derive(Clone, Copy, Debug)]
enum Order {
    Listen,
    Refuse,
    Cut,
}

/// The task that accepts connections and owns those that are open.
struct ProxyServer {
    port: ReservedPort,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    counters: Arc<Counters>,
}

impl ProxyServer {
    async fn serve(self, mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>) {
        let mut listener: Option<Listener> = None;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => {
                    // The proxy was dropped. Dropping `connections` resets them.
                    let Some((order, done)) = order else { return };
                    match order {
                        Order::Listen if listener.is_some() => {}
                        Order::Listen => listener = Some(self.listen()),
                        Order::Refuse => {
                            listener = None;
                            connections.shutdown().await;
                        }
                        Order::Cut => {
                            if let Some(listener) = &listener {
                                listener.reset_waiting();
                            }
                            connections.shutdown().await;
                        }
                    }
                    let _ = done.send(());
                }
                client = accept(listener.as_ref()) => {
                    self.counters.accepted.fetch_add(1, SeqCst);
                    let (modes, counters) = (self.modes.clone(), self.counters.clone());
                    connections.spawn(serve_connection(client, self.target, modes, counters));
                }
                Some(_ended) = connections.join_next() => {}
            }
        }
    }

    fn listen(&self) -> Listener {
        Listener::bind(&self.port.address()).expect("the port is reserved for this proxy")
    }
}

/// A listening socket, twice: for Tokio to wait on, and for direct calls.
struct Listener {
    awaited: TcpListener,
    direct: std::net::TcpListener,
}

impl Listener {
    fn bind(address: &str) -> io::Result<Self> {
        let direct = std::net::TcpListener::bind(address)?;
        direct.set_nonblocking(true)?;
        let awaited = TcpListener::from_std(direct.try_clone()?)?;
        Ok(Self { awaited, direct })
    }

    /// Resets connections that the kernel has accepted and we have not: for the client these exist. Tokio may
    /// not know of them yet.
    fn reset_waiting(&self) {
        while let Ok((stream, _)) = self.direct.accept() {
            drop(
                stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream))
                    .map(ProxiedConnection::new),
            );
        }
    }
}

/// The next connection; pending for ever without a listener.
async fn accept(listener: Option<&Listener>) -> ProxiedConnection {
    match listener {
        Some(listener) => loop {
            // A client that has already closed is ignored.
            if let Ok((stream, _)) = listener.awaited.accept().await {
                return ProxiedConnection::new(stream);
            }
        },
        None => future::pending().await,
    }
}

/// One end of a connection through the proxy. Unless both ends have finished, dropping it resets it (RST, not
/// FIN).
pub(crate) struct ProxiedConnection {
    stream: TcpStream,
    finished: bool,
}

impl ProxiedConnection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, finished: false }
    }
}

impl Drop for ProxiedConnection {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: Arc<Counters>) -> Self {
        counters.open.fetch_add(1, SeqCst);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

/// Connects to `target` and forwards both ways, as far as the mode allows, until both have ended or one has
/// failed.
pub(crate) async fn serve_connection(
    mut client: ProxiedConnection,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let _open = Open::new(counters.clone());
    // With requests silenced, not even the attempt to connect gets through.
    wait_to_pass(&mut modes, Direction::Requests).await?;
    let mut server = ProxiedConnection::new(TcpStream::connect(target).await?);
    let (mut from_client, mut to_client) = client.stream.split();
    let (mut from_server, mut to_server) = server.stream.split();
    let requests =
        Forward { modes: modes.clone(), direction: Direction::Requests, passed: &counters.requests };
    let replies = Forward { modes, direction: Direction::Replies, passed: &counters.replies };
    tokio::try_join!(
        requests.run(&mut from_client, &mut to_server),
        replies.run(&mut from_server, &mut to_client),
    )?;
    client.finished = true;
    server.finished = true;
    Ok(())
}

/// Waits until the mode lets this direction through.
async fn wait_to_pass(modes: &mut watch::Receiver<Mode>, direction: Direction) -> io::Result<()> {
    match modes.wait_for(|mode| mode.passes(direction)).await {
        Ok(_mode) => Ok(()),
        Err(_proxy_dropped) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// One direction of one connection.
struct Forward<'a> {
    modes: watch::Receiver<Mode>,
    direction: Direction,
    passed: &'a AtomicU64,
}

impl Forward<'_> {
    async fn run(mut self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            wait_to_pass(&mut self.modes, self.direction).await?;
            from.readable().await?;
            let read = match from.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read,
            };
            // Silence also withholds an end or a reset.
            wait_to_pass(&mut self.modes, self.direction).await?;
            match read? {
                0 => return to.shutdown().await,
                length => self.write_all(&buffer[..length], to).await?,
            }
        }
    }

    async fn write_all(&mut self, mut bytes: &[u8], to: &WriteHalf<'_>) -> io::Result<()> {
        while !bytes.is_empty() {
            wait_to_pass(&mut self.modes, self.direction).await?;
            to.writable().await?;
            let written = self.write_if_passing(bytes, to)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Writes without waiting, and counts. It holds the mode meanwhile: that cannot change between the check
    /// and the write, and the count is locked between the write and the counting.
    fn write_if_passing(&self, bytes: &[u8], to: &WriteHalf<'_>) -> io::Result<usize> {
        let mode = self.modes.borrow();
        if !mode.passes(self.direction) {
            return Ok(0);
        }
        match to.try_write(bytes) {
            Ok(written) => {
                self.passed.fetch_add(written as u64, SeqCst);
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}
