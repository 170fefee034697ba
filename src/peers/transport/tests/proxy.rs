//! A network between two servers that goes away and comes back.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

/// Treatment of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    /// Takes them, and passes nothing on. Their sender does not notice.
    Swallow,
}

/// Passes connections on.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) mode: watch::Sender<Mode>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let modes = modes.clone();
                tokio::spawn(async move {
                    let Ok(called) = TcpStream::connect(target).await else { return };
                    let (hears_caller, says_caller) = caller.into_split();
                    let (hears_called, says_called) = called.into_split();
                    tokio::select! {
                        () = carry(hears_caller, says_called, modes.clone()) => {}
                        () = carry(hears_called, says_caller, modes) => {}
                    }
                });
            }
        });
        Self { address, mode, _task: AbortOnDropHandle::new(task) }
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 << 10];
    // A receiver of later bytes would miss the swallowed ones, so nothing follows.
    let mut broken = false;
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        broken |= *modes.borrow() == Mode::Swallow;
        match read {
            // Not even the end of a connection gets through.
            0 if broken => return std::future::pending().await,
            0 => return,
            _ if broken => {}
            read => {
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
