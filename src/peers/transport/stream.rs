//! The bytes of a connection, plain or in TLS, and the time when the last of them came.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::clock::Timestamp;

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct TimedStream {
    stream: RawStream,
    heard: Arc<LastReceived>,
}

#[derive(Debug)]
enum RawStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Facts about the received bytes, for others to read.
#[derive(Debug)]
pub(crate) struct LastReceived {
    /// Time of the last byte, in nanoseconds of the boot-time clock.
    last: AtomicU64,
    /// The very first byte; a larger number until there is one.
    first: AtomicU16,
}

const NOTHING: u16 = u16::MAX;

/// The first byte of such a TLS record. No HTTP/2 frame begins with it: it would be a megabyte long.
const TLS_ALERT: u16 = 0x15;
/// The first byte of a client's TLS handshake.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;

impl LastReceived {
    fn new() -> Arc<Self> {
        Arc::new(Self { last: AtomicU64::new(0), first: AtomicU16::new(NOTHING) })
    }

    /// Time of the last byte, by the boot-time clock: a keepalive's answer counts.
    pub(super) fn last(&self) -> Option<Timestamp> {
        let last = self.last.load(Ordering::Relaxed);
        (last > 0).then(|| Timestamp::from_nanos(last))
    }

    /// Reports whether the first bytes were TLS, on a port without it.
    pub(super) fn was_tls(&self) -> bool {
        [TLS_ALERT, TLS_HANDSHAKE.into()].contains(&self.first.load(Ordering::Relaxed))
    }

    fn note(&self, fresh: &[u8]) {
        let Some(first) = fresh.first() else { return };
        self.last.store(Timestamp::now().as_nanos(), Ordering::Relaxed);
        if self.first.load(Ordering::Relaxed) == NOTHING {
            self.first.store((*first).into(), Ordering::Relaxed);
        }
    }
}

impl TimedStream {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream: RawStream::Plain(stream), heard: LastReceived::new() }
    }

    pub(super) fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self { stream: RawStream::Tls(Box::new(stream.into())), heard: LastReceived::new() }
    }

    pub(super) fn heard(&self) -> Arc<LastReceived> {
        Arc::clone(&self.heard)
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            RawStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            RawStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        self.heard.note(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            RawStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            RawStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            RawStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            RawStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            RawStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            RawStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            RawStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            RawStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            RawStream::Plain(stream) => stream.is_write_vectored(),
            RawStream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
