//! One TCP connection to one address, and the current addresses of a host name.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tonic::{codegen::Service, transport::Uri};

use crate::etcd::{endpoint::Endpoint, error::EtcdError};

/// More addresses than any cluster has members.
const MOST_ADDRESSES: usize = 32;

/// Resolves the addresses of an endpoint, in the resolver's order, but with the `avoided` one last.
pub(super) async fn addresses(
    endpoint: &Endpoint,
    avoided: Option<SocketAddr>,
    within: Duration,
) -> Result<Vec<SocketAddr>, EtcdError> {
    let host = endpoint.host().trim_matches(['[', ']']);
    let looked_up = timeout(within, lookup_host((host, endpoint.port()))).await;
    let looked_up = looked_up
        .map_err(|_| EtcdError::elsewhere(format!("the name was not resolved within {within:?}")))?;
    let found =
        looked_up.map_err(|error| EtcdError::elsewhere(format!("the name can't be resolved: {error}")))?;
    let addresses = in_order(found, avoided);
    if addresses.is_empty() {
        return Err(EtcdError::elsewhere("the name has no address"));
    }
    Ok(addresses)
}

fn in_order(found: impl Iterator<Item = SocketAddr>, avoided: Option<SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address) && addresses.len() < MOST_ADDRESSES {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(|address| Some(*address) == avoided);
    addresses
}

/// Connects once to one address, whatever the name in the request. A channel would redial on use after a
/// break; that decision is made elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    address: SocketAddr,
    dialled: Arc<AtomicBool>,
    connected: Arc<AtomicBool>,
}

impl Dialer {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, dialled: Arc::default(), connected: Arc::default() }
    }

    /// Returns a flag that tells whether a connection was accepted there.
    pub(super) fn connected(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.connected)
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, dialled, connected } = self.clone();
        Box::pin(async move {
            if dialled.swap(true, Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection broke"));
            }
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connected.store(true, Ordering::Relaxed);
            Ok(TokioIo::new(stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_address_is_tried_once_and_the_one_that_failed_last_at_the_end() {
        let at = |host: u8| SocketAddr::from(([127, 0, 0, host], 2379));
        let found = [at(2), at(3), at(2), at(4)];
        assert_eq!(in_order(found.into_iter(), None), [at(2), at(3), at(4)]);
        assert_eq!(in_order(found.into_iter(), Some(at(2))), [at(3), at(4), at(2)]);
        assert_eq!(in_order(found.into_iter(), Some(at(9))), [at(2), at(3), at(4)]);
        let many = (0..=u8::MAX).map(at);
        assert_eq!(in_order(many, None).len(), MOST_ADDRESSES);

        let endpoint = "[::1]:2379".parse().unwrap();
        let literal = addresses(&endpoint, None, Duration::from_secs(1)).await.unwrap();
        assert_eq!(literal, ["[::1]:2379".parse::<SocketAddr>().unwrap()]);
    }
}
