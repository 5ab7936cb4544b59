//! The run's clock: monotonic nanoseconds since load started, and sleeping to a time on it.

use crate::plan::Nanos;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::time::{Duration, SystemTime};

/// CLOCK_MONOTONIC with the run's start as zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Nanos,
}

impl Clock {
    /// A clock that reads 0 now.
    pub(crate) fn start() -> Self {
        Self { origin: monotonic() }
    }

    /// A clock that reads 0 at a time of the wall clock, and until then.
    pub(crate) fn with_zero_at(zero: SystemTime) -> Self {
        let now = monotonic();
        let nanos = |length: Duration| Nanos::try_from(length.as_nanos()).unwrap_or(Nanos::MAX);
        let origin = match zero.duration_since(SystemTime::now()) {
            Ok(ahead) => now.saturating_add(nanos(ahead)),
            Err(passed) => now.saturating_sub(nanos(passed.duration())),
        };
        Self { origin }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> Nanos {
        monotonic().saturating_sub(self.origin)
    }

    /// Returns at `at` or later, never earlier.
    pub(crate) fn sleep_until(&self, at: Nanos) {
        let until = self.timespec(at);
        while self.now() < at {
            // A signal may end the sleep early; the loop goes on then.
            let _ = clock_nanosleep(
                ClockId::CLOCK_MONOTONIC,
                ClockNanosleepFlags::TIMER_ABSTIME,
                &until,
            );
        }
    }

    /// How long ago it was so late by the wall clock.
    pub(crate) fn age(at: TimeSpec) -> Nanos {
        read(ClockId::CLOCK_REALTIME).saturating_sub(nanos(at))
    }

    /// `at` as the operating system counts it.
    pub(crate) fn timespec(&self, at: Nanos) -> TimeSpec {
        TimeSpec::from_duration(Duration::from_nanos(self.origin.saturating_add(at)))
    }
}

fn monotonic() -> Nanos {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Nanos {
    nanos(clock_gettime(clock).expect("every Linux has a monotonic clock and one of the wall"))
}

/// Seconds since boot, or since 1970: neither negative nor near the 584 years that nanoseconds can count.
fn nanos(time: TimeSpec) -> Nanos {
    time.tv_sec() as Nanos * 1_000_000_000 + time.tv_nsec() as Nanos
}
