//! Addresses of the endpoints: looked up on threads of their own, since the operating system's
//! resolver blocks, and kept for a while, so that not every connection costs a question.

use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::plan::Nanos;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// How long addresses are taken to hold.
const KEPT: Nanos = 30_000_000_000;

/// The addresses of an endpoint.
pub(crate) struct Addresses {
    host: String,
    port: u16,
    found: Mutex<Option<(Nanos, Arc<[SocketAddr]>)>>,
}

impl Addresses {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self { host: endpoint.host(), port: endpoint.port(), found: Mutex::default() }
    }

    /// All of them, in the order in which they are to be tried; at least one.
    pub(crate) async fn get(&self, clock: &Clock) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(Arc::new([SocketAddr::new(address, self.port)]));
        }
        // Held while the lookup lasts: others wait for the same answer.
        let mut found = self.found.lock().await;
        if let Some((at, addresses)) = &*found
            && clock.now() < at + KEPT
        {
            return Ok(addresses.clone());
        }
        let (host, port) = (self.host.clone(), self.port);
        let (give, given) = oneshot::channel();
        std::thread::Builder::new().name("resolve".into()).spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // Nobody waits any more if the time to connect was up.
            let _ = give.send(addresses);
        })?;
        let addresses: Arc<[SocketAddr]> =
            given.await.map_err(|_| io::Error::other("the lookup broke down"))??;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        *found = Some((clock.now(), addresses.clone()));
        Ok(addresses)
    }

    /// An address did not answer: they are looked up again next time.
    pub(crate) async fn forget(&self) {
        *self.found.lock().await = None;
    }
}
