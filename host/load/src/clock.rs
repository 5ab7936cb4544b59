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

    /// `at` as the operating system counts it.
    pub(crate) fn timespec(&self, at: Nanos) -> TimeSpec {
        TimeSpec::from_duration(Duration::from_nanos(self.origin.saturating_add(at)))
    }
}

/// Tells when it was that the wall clock said a time. That clock may be set meanwhile: then nobody knows.
#[derive(Debug)]
pub(crate) struct Wall {
    clock: Clock,
    /// By how much the wall clock is ahead of the other; of 0 it is never.
    ahead: Nanos,
}

/// A wall clock that is kept right moves by less between two reads; one that is set moves by more.
const STEP: Nanos = 2_000_000;

impl Wall {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, ahead: 0 }
    }

    /// When the wall clock said `stamp`, a moment ago.
    pub(crate) fn time_of(&mut self, stamp: TimeSpec) -> Option<Nanos> {
        let clock = self.clock;
        self.told(nanos(stamp), || (read(ClockId::CLOCK_REALTIME), clock.now()))
    }

    /// `clocks` reads both, the wall clock first, so that nothing seems to have come too early.
    fn told(&mut self, stamp: Nanos, mut clocks: impl FnMut() -> (Nanos, Nanos)) -> Option<Nanos> {
        // The thread may have lost the processor between the two: then the second try tells.
        for is_last in [false, true] {
            let (wall, now) = clocks();
            let ahead = wall.saturating_sub(now);
            let is_same = ahead.abs_diff(self.ahead) < STEP;
            if is_same || is_last {
                self.ahead = ahead;
            }
            if is_same {
                return Some(now.saturating_sub(wall.saturating_sub(stamp)));
            }
        }
        None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_was_is_told_by_the_wall_clock_unless_that_was_set_meanwhile() {
        const AHEAD: Nanos = 1_700_000_000_000_000_000;
        const DAY: Nanos = 86_400_000_000_000;
        let mut wall = Wall { clock: Clock::start(), ahead: AHEAD };
        let mut told = |stamp, readings: &[(Nanos, Nanos)]| {
            let mut readings = readings.iter().map(|&(wall, now)| (AHEAD + wall, now));
            let told = wall.told(AHEAD + stamp, || readings.next().unwrap());
            assert_eq!(readings.next(), None, "not every reading was wanted");
            told
        };
        assert_eq!(told(1_000, &[(1_100, 1_100)]), Some(1_000));
        // It drifts by a microsecond.
        assert_eq!(told(2_900, &[(3_000, 2_000)]), Some(1_900));
        // The thread loses the processor between the two.
        assert_eq!(told(3_050, &[(3_100, 9_002_100), (9_003_200, 9_002_200)]), Some(2_050));
        // It is set to a day later, and back.
        let later = DAY + 9_003_300;
        assert_eq!(told(9_003_250, &[(later, 9_002_300), (later + 1, 9_002_301)]), None);
        assert_eq!(told(later + 50, &[(later + 100, 9_002_400)]), Some(9_002_350));
        let back = 9_003_500;
        assert_eq!(told(later + 150, &[(back, 9_002_500), (back + 1, 9_002_501)]), None);
        assert_eq!(told(back + 50, &[(back + 100, 9_002_600)]), Some(9_002_550));
    }
}
