//! Wakes the sessions of a load thread at exact times: one timer of the operating system for all
//! of them, because the runtime's own timers know milliseconds only.

use crate::clock::Clock;
use crate::plan::Nanos;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// The alarm of a load thread.
pub(crate) struct Alarm {
    clock: Clock,
    timer: AsyncFd<Timer>,
    sleepers: RefCell<BinaryHeap<Reverse<Sleeper>>>,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Sleeper {
    at: Nanos,
    wake: oneshot::Sender<()>,
}

impl Alarm {
    /// An alarm; [`Alarm::run`] must run beside its sleepers.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        #[expect(deprecated, reason = "its successor is unsafe; a `Timer` keeps its descriptor")]
        let timer = AsyncFd::new(Timer(timer))?;
        Ok(Self { clock, timer, sleepers: RefCell::default() })
    }

    /// Returns at `at` or later, never earlier.
    pub(crate) async fn sleep_until(&self, at: Nanos) {
        while self.clock.now() < at {
            let (wake, woken) = oneshot::channel();
            let earliest = self.sleepers.borrow().peek().is_none_or(|first| at < first.0.at);
            self.sleepers.borrow_mut().push(Reverse(Sleeper { at, wake }));
            if earliest {
                self.arm(at);
            }
            // The sender is gone only if the thread ends; the loop then looks at the clock.
            let _ = woken.await;
        }
    }

    /// Wakes sleepers for ever.
    pub(crate) async fn run(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            // Reading takes back the expiry; how often it expired does not matter.
            let _ = ready.get_inner().0.wait();
            ready.clear_ready();
            self.ring();
        }
    }

    fn ring(&self) {
        let mut sleepers = self.sleepers.borrow_mut();
        let now = self.clock.now();
        while sleepers.peek().is_some_and(|first| first.0.at <= now) {
            if let Some(Reverse(sleeper)) = sleepers.pop() {
                // Nobody listens where the session was ended meanwhile.
                let _ = sleeper.wake.send(());
            }
        }
        if let Some(first) = sleepers.peek() {
            self.arm(first.0.at);
        }
    }

    fn arm(&self, at: Nanos) {
        let at: TimeSpec = self.clock.timespec(at);
        self.timer
            .get_ref()
            .0
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .expect("a valid time can be set on a timer that is open");
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}
