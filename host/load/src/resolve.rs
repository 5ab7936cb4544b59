//! Addresses of the endpoints: looked up on threads of their own, since the operating system's
//! resolver blocks, and kept for a while, so that not every connection costs a question.

use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::plan::Nanos;
use std::future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// How long addresses are taken to hold.
const KEPT: Nanos = 30_000_000_000;
/// How long a lookup may take where there are addresses of before.
const PATIENCE: Nanos = 1_000_000_000;

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

    /// All of them, in the order in which they are to be tried; at least one. Where they cannot be looked up anew, those of
    /// before are used on.
    pub(crate) async fn get(&self, clock: &Clock, alarm: &Alarm) -> io::Result<Arc<[SocketAddr]>> {
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
        let patience = async {
            match *found {
                Some(_) => alarm.sleep_until(clock.now() + PATIENCE).await,
                None => future::pending().await,
            }
        };
        let looked_up = tokio::select! {
            biased;
            looked_up = self.look_up() => looked_up,
            () = patience => Err(io::ErrorKind::TimedOut.into()),
        };
        let addresses = match (looked_up, &*found) {
            (Ok(addresses), _) => addresses,
            (Err(_), Some((_, before))) => before.clone(),
            (Err(error), None) => return Err(error),
        };
        // What is tried first stays so, as long as the name has it.
        let first = found.as_ref().and_then(|(_, before)| before.first().copied());
        let addresses = match first.filter(|first| addresses.contains(first)) {
            Some(first) => with_first(first, &addresses),
            None => addresses,
        };
        *found = Some((clock.now(), addresses.clone()));
        Ok(addresses)
    }

    async fn look_up(&self) -> io::Result<Arc<[SocketAddr]>> {
        let (host, port) = (self.host.clone(), self.port);
        let (give, given) = oneshot::channel();
        std::thread::Builder::new().name("resolve".into()).spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // Nobody waits any more if the time to connect was up.
            let _ = give.send(addresses);
        })?;
        let addresses: Arc<[SocketAddr]> =
            given.await.map_err(|_| io::Error::other("the lookup broke down"))??;
        match addresses.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(addresses),
        }
    }

    /// This one answered where those before it did not: it is tried first from now on.
    pub(crate) fn prefer(&self, address: SocketAddr) {
        // Whoever looks them up at this moment gets the resolver's order.
        let Ok(mut found) = self.found.try_lock() else { return };
        if let Some((_, addresses)) = &mut *found {
            *addresses = with_first(address, addresses);
        }
    }

    /// None of them answered: they are looked up again next time.
    pub(crate) fn forget(&self) {
        if let Ok(mut found) = self.found.try_lock() {
            *found = None;
        }
    }
}

/// The same addresses, this one first.
fn with_first(first: SocketAddr, addresses: &[SocketAddr]) -> Arc<[SocketAddr]> {
    let others = addresses.iter().copied().filter(|&other| other != first);
    std::iter::once(first).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn addresses_that_cannot_be_looked_up_anew_are_those_of_before() {
        // No name has a part of 64 letters, so nobody needs to be asked.
        let endpoint = Endpoint::parse(&format!("http://{}.example:80", "a".repeat(64))).unwrap();
        let addresses = Addresses::of(&endpoint);
        let clock = Clock::with_zero_at(SystemTime::now() - Duration::from_secs(60));
        let alarm = Alarm::new(clock).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let get = || runtime.block_on(addresses.get(&clock, &alarm));
        assert!(get().is_err());
        let before: Arc<[_]> = Arc::new([SocketAddr::from(([192, 0, 2, 1], 80))]);
        *addresses.found.try_lock().unwrap() = Some((0, before.clone()));
        assert_eq!(get().unwrap(), before);
        // They hold for a while again.
        let at = addresses.found.try_lock().unwrap().as_ref().unwrap().0;
        assert!(at >= 60_000_000_000, "{at}");
    }

    #[test]
    fn the_address_that_answered_is_the_first_of_the_others_until_all_are_forgotten() {
        let addresses = Addresses::of(&Endpoint::parse("http://many.example:80").unwrap());
        let [a, b, c] = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 80)));
        *addresses.found.try_lock().unwrap() = Some((0, Arc::new([a, b, c])));
        let order = || addresses.found.try_lock().unwrap().as_ref().map(|(_, all)| all.to_vec());
        addresses.prefer(b);
        assert_eq!(order(), Some(vec![b, a, c]));
        addresses.forget();
        assert_eq!(order(), None);
        addresses.prefer(b);
        assert_eq!(order(), None);
    }
}
