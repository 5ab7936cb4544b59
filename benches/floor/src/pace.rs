//! Handing out requests at their times, from a thread of its own and by a schedule made ahead.

use crate::clock::{now, sleep_until};
use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const AHEAD_NS: u64 = 100_000_000;

/// The number of each request and when it was due.
pub fn start(rate: f64, requests: u64) -> Result<UnboundedReceiver<(u64, u64)>> {
    let begin = now() + AHEAD_NS;
    let due: Vec<u64> = (0..requests).map(|id| begin + (id as f64 * 1e9 / rate) as u64).collect();
    let (sender, receiver) = unbounded_channel();
    std::thread::Builder::new().name("pacer".into()).spawn(move || {
        for (id, due) in (0..).zip(due) {
            sleep_until(due);
            if sender.send((id, due)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
