//! The monotonic clock, and the processor time that this process used.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeSpec, TimeVal};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::ops::Sub;
use std::time::Duration;

/// Nanoseconds on `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Returns at this time or later.
pub fn sleep_until(at: u64) {
    let until = TimeSpec::from_duration(Duration::from_nanos(at));
    while now() < at {
        // A signal may end the sleep early; the loop goes on then.
        let _ =
            clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
    }
}

/// Processor seconds.
pub struct Usage {
    pub user_s: f64,
    pub system_s: f64,
}

impl Usage {
    pub fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Ok(Self { user_s: seconds(usage.user_time()), system_s: seconds(usage.system_time()) })
    }

    /// The most resident memory so far. What `getrusage` says holds that of the parent, too.
    pub fn peak_rss_kib() -> Result<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = line.and_then(|line| line.split_whitespace().next());
        peak.context("no VmHWM in /proc/self/status")?.parse().context("VmHWM is no number")
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s }
    }
}
