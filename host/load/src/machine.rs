//! What the machine took away from everybody on it: time stolen by its hypervisor, and time in
//! which the limit of a control group kept threads from running.

use crate::plan::Nanos;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Reads what the operating system tells, and remembers what it told before. Its files stay open: when load runs there
/// may be no more of them.
#[derive(Debug)]
pub(crate) struct Machine {
    /// `cpu.stat` of this process's control group and of those that hold it.
    groups: Vec<File>,
    /// `/proc/stat`.
    processors: Option<File>,
    throttled: Option<Nanos>,
    ticks: Option<Ticks>,
}

/// Processor time of the whole machine since it was started.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Machine {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let groups = groups(&membership, Path::new("/sys/fs/cgroup"));
        let groups: Vec<File> = groups.iter().filter_map(|path| File::open(path).ok()).collect();
        let processors = File::open("/proc/stat").ok();
        let (throttled, ticks) = (throttled(&groups), processors.as_ref().and_then(ticks));
        Self { groups, processors, throttled, ticks }
    }

    /// The time throttled per time, and the share of processor time that was stolen, since the
    /// call before, which is this long ago.
    pub(crate) fn sample(&mut self, ago: Nanos) -> (Option<f64>, Option<f64>) {
        let now = throttled(&self.groups);
        let before = std::mem::replace(&mut self.throttled, now);
        let throttled = now
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before) as f64 / ago.max(1) as f64);
        let now = self.processors.as_ref().and_then(ticks);
        let before = std::mem::replace(&mut self.ticks, now);
        let steal = now.zip(before).and_then(|(now, before)| {
            let all = now.all.checked_sub(before.all).filter(|&all| all > 0)?;
            Some(now.stolen.saturating_sub(before.stolen) as f64 / all as f64)
        });
        (throttled, steal)
    }
}

/// Where the processor statistics of the control groups named in `/proc/self/cgroup` may lie,
/// version 2 and version 1: each group's and its holders', for any of them can have a limit.
fn groups(membership: &str, mount: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => mount.to_owned(),
            names if names.split(',').any(|name| name == "cpu") => mount.join(names),
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        paths.extend(group.ancestors().map(|group| root.join(group).join("cpu.stat")));
    }
    paths
}

/// None: no group has a limit.
fn throttled(groups: &[File]) -> Option<Nanos> {
    let texts = groups.iter().filter_map(read_again);
    texts.filter_map(|text| throttled_in(&text)).reduce(|sum, more| sum + more)
}

fn throttled_in(text: &str) -> Option<Nanos> {
    text.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", value) => Some(value.trim().parse::<Nanos>().ok()? * 1_000),
        ("throttled_time", value) => value.trim().parse().ok(),
        _ => None,
    })
}

fn ticks(processors: &File) -> Option<Ticks> {
    ticks_in(&read_again(processors)?)
}

/// What a file of the operating system tells now, of which the first lines are wanted.
pub(crate) fn read_again(file: &File) -> Option<String> {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The first line: user, nice, system, idle, waiting, interrupts, soft interrupts, stolen. What
/// guests used stands after that and is in the first two already.
fn ticks_in(text: &str) -> Option<Ticks> {
    let mut fields = text.lines().next()?.split_whitespace();
    (fields.next()? == "cpu").then_some(())?;
    let ticks: Vec<u64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
    Some(Ticks { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions_up_to_the_root() {
        let of = |membership: &str| -> Vec<String> {
            let paths = groups(membership, Path::new("/c"));
            paths.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(of("0::/a/b\n"), ["/c/a/b/cpu.stat", "/c/a/cpu.stat", "/c/cpu.stat"]);
        let first = "5:memory:/x\n4:cpu,cpuacct:/a\n";
        assert_eq!(of(first), ["/c/cpu,cpuacct/a/cpu.stat", "/c/cpu,cpuacct/cpu.stat"]);
        assert!(of("").is_empty());
    }

    #[test]
    fn throttling_is_read_in_both_versions_and_missing_without_a_limit() {
        let second = "usage_usec 9\nnr_throttled 2\nthrottled_usec 1500\n";
        assert_eq!(throttled_in(second), Some(1_500_000));
        assert_eq!(throttled_in("nr_throttled 2\nthrottled_time 77\n"), Some(77));
        assert_eq!(throttled_in("usage_usec 9\n"), None);
    }

    #[test]
    fn stolen_time_is_the_eighth_field() {
        let text = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(ticks_in(text), Some(Ticks { all: 36, stolen: 8 }));
        assert_eq!(ticks_in("cpu 1 2 3 4\n"), None);
    }

    #[test]
    fn a_sample_is_of_the_time_since_the_one_before() {
        let mut machine = Machine::watch();
        let (throttled, steal) = machine.sample(1_000_000_000);
        assert!(throttled.is_none_or(|share| share >= 0.0));
        assert!(steal.is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
}
