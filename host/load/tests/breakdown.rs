//! A load thread breaks down in the middle of a run. What makes it break down would do so to the threads of every test in
//! the process, so it is one of its own.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

#[path = "load/support.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use load::Plan;
use records::{EndReason, Entry, Event};
use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::{Script, Server, begin, closed, feed, plan, session};

#[test]
fn a_run_whose_load_threads_break_down_ends_and_says_so() {
    // A token wakes the thread, which then waits anew.
    let server = Server::start(vec![Script::stream().content(300, "a").content(3_000, "b")]);
    let plan = Plan { threads: Some(1), ..plan(&server.url(), vec![closed(1)]) };
    let going = begin(plan, vec![feed([session(1)])]);
    wait("the request", || going.run.progress().in_flight == 1);
    take_away_epoll();
    wait("the end", || going.run.is_finished());
    let done = going.finish();
    assert_eq!(done.outcome.reason, EndReason::Aborted);
    let message = &done.outcome.message;
    assert!(message.starts_with("a load thread broke down: "), "{message}");
    let broken = |entry: &&Entry| matches!(entry, Entry::Event(Event::BrokeDown(_)));
    assert_eq!(done.entries.iter().filter(broken).count(), 1);
    assert!(matches!(done.entries.last(), Some(Entry::Event(Event::End { .. }))));
}

/// What threads of this process wait on for events is another file from now on, on which nobody can wait.
fn take_away_epoll() {
    let null = File::open("/dev/null").unwrap();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        if fs::read_link(&path).is_ok_and(|file| file == Path::new("anon_inode:[eventpoll]")) {
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            // SAFETY: it is open, for this process has it listed, and is not closed here.
            #[expect(unsafe_code, reason = "no safe call does harm to a file of somebody else's")]
            let mut theirs = unsafe { OwnedFd::from_raw_fd(number) };
            nix::unistd::dup2(&null, &mut theirs).unwrap();
            std::mem::forget(theirs);
        }
    }
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(5));
    }
}
