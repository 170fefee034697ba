//! A slow link: all that passes it is delayed by the same time, in each direction.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{port::ReservedPort, runtime};

/// Largest read.
const BUFFER: usize = 16 << 10;

/// A slow link to one server, on a port of its own. It ends when dropped.
#[derive(Debug)]
pub(crate) struct SlowLink {
    port: ReservedPort,
    _serving: AbortOnDropHandle<()>,
}

impl SlowLink {
    /// A link to `target`, an `ADDRESS:PORT`, with this round trip.
    #[track_caller]
    pub(crate) fn to(target: &str, round_trip: Duration) -> Self {
        let target = target.parse().expect("the target is an IP address and a port");
        let port = ReservedPort::new();
        let listener = std::net::TcpListener::bind(port.address()).expect("the port is ours");
        listener.set_nonblocking(true).expect("Linux can do that");
        let serving = runtime::handle().spawn(serve(listener, target, round_trip / 2));
        Self { port, _serving: AbortOnDropHandle::new(serving) }
    }

    /// `127.0.0.1:PORT`, to be used instead of the server's.
    pub(crate) fn address(&self) -> String {
        self.port.address()
    }
}

async fn serve(listener: std::net::TcpListener, target: SocketAddr, one_way: Duration) {
    let listener = TcpListener::from_std(listener).expect("the runtime has I/O");
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((caller, _)) = listener.accept().await {
            connections.spawn(pass(caller, target, one_way));
        }
    }
}

async fn pass(caller: TcpStream, target: SocketAddr, one_way: Duration) -> io::Result<()> {
    // The caller's kernel has connected at once; its first bytes come later by this time.
    sleep(one_way).await;
    let called = TcpStream::connect(target).await?;
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let (hears_caller, says_caller) = caller.into_split();
    let (hears_called, says_called) = called.into_split();
    tokio::try_join!(carry(hears_caller, says_called, one_way), carry(hears_called, says_caller, one_way))?;
    Ok(())
}

/// Later bytes are delayed by as much, and no more.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
) -> io::Result<()> {
    let (hold, mut held) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let take = async move {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            let kept = hold.send((Instant::now() + one_way, buffer[..read].to_vec()));
            if read == 0 || kept.is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((at, bytes)) = held.recv().await {
            sleep_until(at).await;
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::join!(take, give).1
}
