//! The calibration of this machine: where it is kept, whether it still holds, and what it says of
//! a plan before load starts.

use crate::error::{Error, Result};
use crate::host_facts;
use crate::plan::WorkloadOutline;
use crate::printer::Printer;
use crate::run_dir;
use crate::translate::PlannedStage;
use analysis::{Calibration, Machine};
use load::{Arrival, Ramped};
use std::fs::{self, File, TryLockError};
use std::iter;
use std::path::{Path, PathBuf};

/// Where the calibration of this machine is kept. Nobody else calibrates for it as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    _lock: File,
}

/// Takes that place, before anything is measured.
pub(crate) fn claim(data_dir: Option<&str>) -> Result<Place> {
    let path = run_dir::calibration(data_dir, &host_facts::machine().host).ok_or_else(|| {
        Error::usage("there is no folder to keep the calibration in: HOME is not set")
            .hint("set LLMDBENCH_CONTROL_DATA_DIR, or HOME")
    })?;
    let lock = path.with_extension("lock");
    let opened =
        lock.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&lock));
    let opened = opened.map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", lock.display())).because(error).hint(
            "the calibration is kept beside it; LLMDBENCH_CONTROL_DATA_DIR names another folder",
        )
    })?;
    opened.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::usage("another llmdbench calibrates this machine")
            .hint("the two would measure each other: wait for its end"),
        TryLockError::Error(error) => {
            Error::unexpected(format!("cannot lock `{}`", lock.display())).because(error)
        }
    })?;
    Ok(Place { path, _lock: opened })
}

/// Keeps a calibration, with the equal runs of the one that it replaces; gives it.
pub(crate) fn keep(new: Calibration, place: &Place, printer: &Printer) -> Result<Calibration> {
    // What was measured now is kept in any case.
    let sessions = read(&place.path).and_then(|earlier| match earlier {
        None => Ok(Vec::new()),
        Some(earlier) => difference(&earlier, &new.machine).map_or(Ok(earlier.sessions), Err),
    });
    let kept = new.with_sessions(sessions.unwrap_or_else(|why| {
        printer.step(&format!("runs of earlier calibrations do not count: {why}"));
        Vec::new()
    }));
    run_dir::write_json(&place.path, &kept)?;
    Ok(kept)
}

/// The calibration of this machine, where there is one that still holds; one that does not is
/// told of.
pub(crate) fn find(data_dir: Option<&str>, printer: &Printer) -> Option<Calibration> {
    let machine = host_facts::machine();
    let path = run_dir::calibration(data_dir, &machine.host)?;
    let (which, why) = match read(&path) {
        Ok(found) => {
            let found = found?;
            match difference(&found, &machine) {
                None => return Some(found),
                Some(difference) => (format!(" of {}", found.date()), difference),
            }
        }
        // What one may do without stops no run.
        Err(why) => (String::new(), why),
    };
    printer.step(&format!(
        "the calibration{which} is not used: {why}; `llmdbench calibrate` makes a new one"
    ));
    None
}

/// What is kept. None: nothing is. The error says in one line why it cannot be read.
fn read(path: &Path) -> std::result::Result<Option<Calibration>, String> {
    run_dir::read_json(path).map_err(|error| {
        let problems = error.problems.iter();
        let texts =
            problems.flat_map(|problem| iter::once(&problem.message).chain(&problem.causes));
        texts.map(String::as_str).collect::<Vec<_>>().join(": ")
    })
}

/// Why a calibration does not hold for this machine. None: it does.
fn difference(found: &Calibration, machine: &Machine) -> Option<String> {
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if found.format != Calibration::FORMAT || major(&found.version) != major(Calibration::VERSION) {
        return Some(format!("it has the format {} {}", found.format, found.version));
    }
    let then = &found.machine;
    let cores = |machine: &Machine| machine.cores.to_string();
    let pairs = [
        ("host", then.host.clone(), machine.host.clone()),
        ("kernel", then.kernel.clone(), machine.kernel.clone()),
        ("processor", then.cpu.clone(), machine.cpu.clone()),
        ("number of cores", cores(then), cores(machine)),
        ("llmdbench", then.llmdbench.clone(), machine.llmdbench.clone()),
    ];
    let (what, then, now) = pairs.into_iter().find(|(_, then, now)| then != now)?;
    Some(format!("the {what} was {then} and is {now}"))
}

/// Says when a plan is out of this machine's reach, or close to it.
pub(crate) fn foresee(
    calibration: &Calibration,
    stages: &[PlannedStage],
    workload: &WorkloadOutline,
    printer: &Printer,
) {
    match foreseen(calibration, stages, workload) {
        Some((share, text)) if share > 1.0 => printer.warning(&text),
        Some((_, text)) => printer.step(&format!("note: {text}")),
        None => {}
    }
}

/// The share of the headroom that the heaviest stage takes, and what to say of it. None: nothing.
fn foreseen(
    calibration: &Calibration,
    stages: &[PlannedStage],
    workload: &WorkloadOutline,
) -> Option<(f64, String)> {
    const NOTED: f64 = 0.5;
    if let Some(rule) = calibration.without_headroom() {
        let text = format!(
            "the plan is out of reach of this machine: the calibration of {} found no rate that it sends \
             without doubt (`{rule}` fired at the lowest already); expect an invalid result, or leave \
             the machine to the load generator alone and calibrate again",
            calibration.date()
        );
        return Some((f64::INFINITY, text));
    }
    let turns = match (workload.requests, workload.sessions) {
        (Some(requests), Some(sessions)) if sessions > 0 => requests as f64 / sessions as f64,
        _ => 1.0,
    };
    let tokens = workload.mean_output_tokens.unwrap_or(0.0);
    let loads = stages.iter().filter_map(|planned| {
        let requests = peak(&planned.stage.arrival)? * turns;
        Some((calibration.load(requests, requests * tokens)?, requests, &planned.stage.name))
    });
    let (share, requests, stage) = loads.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let headroom = &calibration.headroom;
    let tokens = requests * tokens;
    let ask = if tokens > 0.0 { format!(" and {tokens:.0} tokens/s") } else { String::new() };
    let measured = format!(
        "{:.0} requests/s and {:.0} tokens/s without doubt, measured on {}",
        headroom.requests_per_s,
        headroom.tokens_per_s,
        calibration.date()
    );
    if share > 1.0 {
        let text = format!(
            "the plan is out of reach of this machine: stage {stage} asks for {requests:.0} \
             requests/s{ask}, {share:.1} times what it can do ({measured}); expect an invalid \
             result, or lower the rate"
        );
        return Some((share, text));
    }
    (share > NOTED).then(|| {
        let text = format!(
            "stage {stage} asks for {requests:.0} requests/s{ask}, {:.0} % of what this machine \
             can do ({measured})",
            share * 100.0
        );
        (share, text)
    })
}

/// The most sessions per second that a stage asks for. None: it does not say.
fn peak(arrival: &Arrival) -> Option<f64> {
    match arrival {
        Arrival::Constant(rate) | Arrival::Poisson(rate) | Arrival::Gamma { rate, .. } => {
            Some(*rate)
        }
        Arrival::Ramp(ramp) => (ramp.what != Ramped::Closed).then(|| ramp.start.max(ramp.end)),
        Arrival::Schedule(times) => Some(busiest_second(times) as f64),
        Arrival::Closed | Arrival::Trace(_) => None,
    }
}

/// The most of these times, which rise, that lie within a second.
fn busiest_second(times: &[u64]) -> usize {
    const SECOND: u64 = 1_000_000_000;
    let within = |first: usize| {
        let end = times[first].saturating_add(SECOND);
        times.partition_point(|at| *at < end) - first
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use analysis::{Equals, Headroom};
    use load::{Ramp, Stop};
    use std::collections::BTreeMap;

    fn machine() -> Machine {
        Machine {
            host: "h".into(),
            kernel: "6.1".into(),
            cpu: "c".into(),
            cores: 2,
            llmdbench: "0.1.0".into(),
        }
    }

    /// 100 requests and 3,200 tokens a second.
    fn calibration() -> Calibration {
        Calibration {
            format: Calibration::FORMAT.into(),
            version: Calibration::VERSION.into(),
            machine: machine(),
            measured: "2026-02-03T04:05:06Z".into(),
            length_s: 20.0,
            doubts: Vec::new(),
            error: BTreeMap::new(),
            lateness_p99: 1.0,
            headroom: Headroom { requests_per_s: 100.0, tokens_per_s: 3_200.0, limit: None },
            floor: BTreeMap::new(),
            between: BTreeMap::new(),
            runs: 5,
            run_s: 6.0,
            sessions: Vec::new(),
        }
    }

    fn planned(arrival: Arrival) -> PlannedStage {
        let stage = load::Stage {
            name: "s".into(),
            arrival,
            concurrency: None,
            max_in_flight: None,
            stop: Stop::default(),
            warm_up: false,
            settle: 0,
            quantum: None,
            drain: None,
            cool_down: 0,
            labels: BTreeMap::new(),
        };
        PlannedStage { stage, workload_settings: None }
    }

    fn share(arrival: Arrival, mean_output_tokens: f64) -> Option<f64> {
        let outline = WorkloadOutline {
            sessions: Some(10),
            requests: Some(20),
            mean_output_tokens: Some(mean_output_tokens),
            ..WorkloadOutline::default()
        };
        let stages = [planned(Arrival::Constant(0.1)), planned(arrival)];
        foreseen(&calibration(), &stages, &outline).map(|(share, _)| share)
    }

    #[test]
    fn a_plan_is_foreseen_by_its_heaviest_stage_in_requests_or_tokens() {
        // Two requests a session.
        assert_eq!(share(Arrival::Poisson(25.0), 8.0), None);
        assert_eq!(share(Arrival::Poisson(30.0), 8.0), Some(0.6));
        assert_eq!(share(Arrival::Poisson(25.0), 128.0), Some(2.0));
        let ramp =
            Ramp { what: Ramped::Poisson, start: 1.0, end: 60.0, over: 1, exponential: false };
        assert_eq!(share(Arrival::Ramp(ramp), 0.0), Some(1.2));
        assert_eq!(share(Arrival::Closed, 8.0), None);
        // Of a schedule the busiest second counts, wherever it begins.
        let at = |ms: u64| ms * 1_000_000;
        let burst = (0..30).map(|i| at(5_900 + 30 * i));
        let schedule = [at(0), at(5_000)].into_iter().chain(burst).chain([at(9_000)]);
        assert_eq!(share(Arrival::Schedule(schedule.collect()), 8.0), Some(0.6));
        assert_eq!(share(Arrival::Schedule(Vec::new()), 8.0), None);
    }

    #[test]
    fn without_any_headroom_every_plan_is_out_of_reach() {
        let limit = Some("thread_waiting".to_owned());
        let headroom = Headroom { requests_per_s: 0.0, tokens_per_s: 0.0, limit };
        let none = Calibration { headroom, ..calibration() };
        for arrival in [Arrival::Constant(0.1), Arrival::Closed] {
            let (share, text) =
                foreseen(&none, &[planned(arrival)], &WorkloadOutline::default()).unwrap();
            assert!(share > 1.0, "it is warned of");
            assert_eq!(
                text,
                "the plan is out of reach of this machine: the calibration of 2026-02-03 found no rate \
                 that it sends without doubt (`thread_waiting` fired at the lowest already); expect an \
                 invalid result, or leave the machine to the load generator alone and calibrate again"
            );
        }
    }

    #[test]
    fn what_is_out_of_reach_is_said_with_both_loads_and_the_day() {
        let outline =
            WorkloadOutline { mean_output_tokens: Some(64.0), ..WorkloadOutline::default() };
        let (_, text) =
            foreseen(&calibration(), &[planned(Arrival::Constant(125.0))], &outline).unwrap();
        assert_eq!(
            text,
            "the plan is out of reach of this machine: stage s asks for 125 requests/s and 8000 \
             tokens/s, 2.5 times what it can do (100 requests/s and 3200 tokens/s without doubt, \
             measured on 2026-02-03); expect an invalid result, or lower the rate"
        );
    }

    #[test]
    fn a_calibration_holds_for_the_machine_as_it_was() {
        assert_eq!(difference(&calibration(), &machine()), None);
        let differs = |machine: Machine| difference(&calibration(), &machine).unwrap();
        let now = differs(Machine { kernel: "6.2".into(), ..machine() });
        assert_eq!(now, "the kernel was 6.1 and is 6.2");
        let now = differs(Machine { cores: 4, ..machine() });
        assert_eq!(now, "the number of cores was 2 and is 4");
        for other in ["1.1", "3.0"] {
            let other = Calibration { version: other.into(), ..calibration() };
            assert!(difference(&other, &machine()).is_some());
        }
    }

    #[test]
    fn a_calibration_keeps_the_runs_of_the_one_it_replaces_if_that_holds() {
        let folder = tempfile::tempdir().unwrap();
        let place = claim(folder.path().to_str()).unwrap();
        let path = &place.path;
        let results: BTreeMap<_, _> = [("ttft.p50".to_owned(), vec![20.0, 21.0])].into();
        let measured = "2026-02-03T04:05:06Z".into();
        let session = Equals { measured, run_s: 6.0, doubts: Vec::new(), results };
        let new = || Calibration { sessions: vec![session.clone()], ..calibration() };
        let kept = |new: Calibration| {
            let kept = keep(new, &place, &Printer::new(false, false)).unwrap();
            assert_eq!(run_dir::read_json(path).unwrap().as_ref(), Some(&kept));
            kept.sessions.len()
        };
        assert_eq!(kept(new()), 1);
        assert_eq!(kept(new()), 2);
        let elsewhere = Machine { kernel: "6.2".into(), ..machine() };
        assert_eq!(kept(Calibration { machine: elsewhere, ..new() }), 1);
        std::fs::write(path, "{").unwrap();
        assert_eq!(kept(new()), 1);
        // One of before sessions were kept.
        let old = Calibration { version: "1.0".into(), ..calibration() };
        let old = serde_json::to_string(&old).unwrap();
        assert!(!old.contains("sessions"), "{old}");
        std::fs::write(path, old).unwrap();
        assert_eq!(kept(new()), 1);
    }

    #[test]
    fn a_calibration_that_cannot_be_read_or_does_not_hold_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str();
        let path = claim(place).unwrap().path;
        let found = || find(place, &Printer::new(false, false));
        assert_eq!(found(), None);
        for broken in ["{", r#"{"format":"llmdbench.calibration","version":"2.0"}"#] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(found(), None);
            let why = read(&path).unwrap_err();
            assert!(why.contains("cannot be understood: ") && !why.contains('\n'), "{why}");
        }
        let held = Calibration { machine: host_facts::machine(), ..calibration() };
        run_dir::write_json(&path, &held).unwrap();
        assert_eq!(found(), Some(held));
        run_dir::write_json(&path, &calibration()).unwrap();
        assert_eq!(found(), None);
    }

    #[test]
    fn one_calibrates_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str();
        let first = claim(place).unwrap();
        let second = claim(place).unwrap_err().to_string();
        assert!(second.contains("another llmdbench calibrates this machine"), "{second}");
        drop(first);
        claim(place).unwrap();
    }
}
