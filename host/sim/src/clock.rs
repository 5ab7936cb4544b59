//! The monotonic clock of the server and its alarms, precise to tens of microseconds.
//!
//! Tokio's timers tick in whole milliseconds, which is a fifth of a usual inter-token latency. Here
//! one timer file descriptor wakes the runtime at the exact next instant, for all streams together.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds on `CLOCK_MONOTONIC`, which all processes of this machine share.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 (UTC).
pub(crate) fn unix_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_REALTIME)
}

fn clock_ns(clock: nix::time::ClockId) -> u64 {
    let time = clock_gettime(clock).expect("every Linux kernel has this clock");
    time.tv_sec() as u64 * NS_PER_S + time.tv_nsec() as u64
}

/// Wakes futures at absolute instants, never early.
pub(crate) struct Clock {
    timer: AsyncFd<Timer>,
    alarms: Mutex<Alarms>,
}

impl Clock {
    /// Creates the timer; must be called inside a Tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        #[expect(
            deprecated,
            reason = "its successor is unsafe; `Timer` owns one descriptor for all its life, which \
                      is what that one demands"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer, alarms: Mutex::default() })
    }

    /// Completes when `monotonic_ns()` has reached `due_ns`. To be awaited where it is made: it
    /// keeps the waker of the first task that polls it.
    pub(crate) fn until(&self, due_ns: u64) -> Until<'_> {
        Until { clock: self, due_ns, is_set: false }
    }

    /// Rings due alarms for as long as it is polled; returns only if the timer fails.
    pub(crate) async fn run(&self) -> io::Result<()> {
        loop {
            self.timer.readable().await?.clear_ready();
            self.ring()?;
        }
    }

    fn ring(&self) -> io::Result<()> {
        let now = monotonic_ns();
        let mut alarms = self.lock();
        while alarms.queue.peek().is_some_and(|Reverse(alarm)| alarm.due_ns <= now) {
            if let Some(Reverse(alarm)) = alarms.queue.pop() {
                alarm.waker.wake();
            }
        }
        match alarms.queue.peek() {
            Some(Reverse(alarm)) => self.arm(alarm.due_ns),
            None => Ok(()),
        }
    }

    fn set(&self, due_ns: u64, waker: Waker) -> io::Result<()> {
        let mut alarms = self.lock();
        let is_next = alarms.queue.peek().is_none_or(|Reverse(next)| due_ns < next.due_ns);
        alarms.set += 1;
        let order = alarms.set;
        alarms.queue.push(Reverse(Alarm { due_ns, order, waker }));
        if is_next { self.arm(due_ns) } else { Ok(()) }
    }

    fn arm(&self, due_ns: u64) -> io::Result<()> {
        let at = TimeSpec::new((due_ns / NS_PER_S) as i64, (due_ns % NS_PER_S) as i64);
        let timer = &self.timer.get_ref().0;
        Ok(timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    fn lock(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().expect("no code panics while it holds the alarms")
    }
}

/// The future of [`Clock::until`].
pub(crate) struct Until<'a> {
    clock: &'a Clock,
    due_ns: u64,
    is_set: bool,
}

impl Future for Until<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if monotonic_ns() >= self.due_ns {
            return Poll::Ready(());
        }
        if !self.is_set {
            let waker = context.waker().clone();
            self.clock.set(self.due_ns, waker).expect("a timer accepts every instant");
            self.is_set = true;
        }
        Poll::Pending
    }
}

#[derive(Default)]
struct Alarms {
    queue: BinaryHeap<Reverse<Alarm>>,
    /// How many were ever set; gives alarms of one instant their order.
    set: u64,
}

struct Alarm {
    due_ns: u64,
    order: u64,
    waker: Waker,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due_ns, self.order).cmp(&(other.due_ns, other.order))
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Alarm {}

/// `AsyncFd` asks for `AsRawFd`, which nix's timer does not have.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn alarms_ring_in_order_and_never_early() {
        let clock = Arc::new(Clock::new().unwrap());
        let rung = Arc::new(Mutex::new(Vec::new()));
        let start = monotonic_ns();
        let mut waits = JoinSet::new();
        for after_ms in [60, 20, 0, 40, 30] {
            let (clock, rung) = (clock.clone(), rung.clone());
            waits.spawn(async move {
                let due_ns = start + after_ms * 1_000_000;
                clock.until(due_ns).await;
                assert!(monotonic_ns() >= due_ns);
                rung.lock().unwrap().push(after_ms);
            });
        }
        tokio::select! {
            _ = clock.run() => unreachable!("the timer fails"),
            _ = waits.join_all() => {}
        }
        assert_eq!(*rung.lock().unwrap(), [0, 20, 30, 40, 60]);
    }
}
