//! Wakes the sessions of a load thread at exact times: one timer of the operating system for all
//! of them, which the thread's loop watches beside its sockets.

use crate::clock::Clock;
use crate::plan::Nanos;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The alarm of a load thread.
pub(crate) struct Alarm {
    clock: Clock,
    timer: TimerFd,
    /// By time and by a number that makes keys unique.
    sleepers: RefCell<BTreeMap<Key, Waker>>,
    next: Cell<u64>,
    /// When the timer will expire.
    armed: Cell<Nanos>,
}

type Key = (Nanos, u64);

impl Alarm {
    /// An alarm; somebody has to [`Alarm::ring`] it when its descriptor is readable.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let (sleepers, next) = (RefCell::default(), Cell::new(0));
        Ok(Self { clock, timer, sleepers, next, armed: Cell::new(Nanos::MAX) })
    }

    /// The descriptor to watch.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Ready at `at` or later, never earlier.
    pub(crate) fn sleep_until(&self, at: Nanos) -> Sleep<'_> {
        self.next.set(self.next.get() + 1);
        Sleep { alarm: self, key: (at, self.next.get()), waits: false }
    }

    /// The timer has expired: wakes whoever is due.
    pub(crate) fn ring(&self) {
        // Reading takes back the expiry; how often it expired does not matter.
        let _ = self.timer.wait();
        self.armed.set(Nanos::MAX);
        let now = self.clock.now();
        let mut sleepers = self.sleepers.borrow_mut();
        while let Some(first) = sleepers.first_entry() {
            if first.key().0 > now {
                self.arm(first.key().0);
                return;
            }
            first.remove().wake();
        }
    }

    /// Wakes everybody: they look around, and sleep on if their time has not come.
    pub(crate) fn wake_all(&self) {
        let sleepers = std::mem::take(&mut *self.sleepers.borrow_mut());
        sleepers.into_values().for_each(Waker::wake);
    }

    /// Has the timer expire at this time at the latest.
    pub(crate) fn expire_by(&self, at: Nanos) {
        if at < self.armed.get() {
            self.arm(at);
        }
    }

    fn arm(&self, at: Nanos) {
        self.armed.set(at);
        let at: TimeSpec = self.clock.timespec(at);
        self.timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .expect("a valid time can be set on a timer that is open");
    }
}

/// Waits for a time.
pub(crate) struct Sleep<'a> {
    alarm: &'a Alarm,
    key: Key,
    waits: bool,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm;
        // Whoever waits already has not been woken by the alarm as long as the key is there.
        let mut sleepers = alarm.sleepers.borrow_mut();
        if self.waits
            && let Some(waker) = sleepers.get_mut(&self.key)
        {
            waker.clone_from(context.waker());
            return Poll::Pending;
        }
        if alarm.clock.now() >= self.key.0 {
            self.waits = false;
            return Poll::Ready(());
        }
        sleepers.insert(self.key, context.waker().clone());
        self.waits = true;
        alarm.expire_by(self.key.0);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if self.waits {
            self.alarm.sleepers.borrow_mut().remove(&self.key);
        }
    }
}
