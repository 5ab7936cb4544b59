//! `calibrate`: what this machine's load generator can do, and how far it errs.

use crate::error::{Exit, Result};
use crate::phase::calibrate::{self, Size};
use crate::printer::Printer;
use crate::{calibration, unit};
use analysis::Calibration;
use clap::Args;
use std::time::Duration;

/// So many sessions tell how sessions differ.
const TELLING: usize = 5;

/// Options of `calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// How long errors are measured; it all takes about seven times that. Below 20s rules about
    /// processors have too few samples to judge
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = length)]
    length: Duration,
    /// Equal runs that show how results scatter; those of earlier calibrations count, too, if their
    /// length and the machine are the same
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=100))]
    runs: u32,
}

/// Measures, keeps and shows.
pub(crate) fn run(args: &CalibrateArgs, printer: &Printer) -> Result<Exit> {
    let variables = super::from_environment()?;
    let size = Size { length: args.length, runs: args.runs };
    let place = calibration::claim(variables.text("control.data_dir"))?;
    let found = calibrate::measure(&size, printer)?;
    let found = calibration::keep(found, &place, printer)?;
    printer.result(|| text(&found), || serde_json::to_value(&found).unwrap_or_default());
    printer.step(&format!("kept in {}", place.path.display()));
    Ok(Exit::Ok)
}

fn text(found: &Calibration) -> String {
    let machine = &found.machine;
    let mut text = format!(
        "{}, {} cores, kernel {}, llmdbench {}, {}\n\n|measured - truth|      p50        p99\n",
        machine.host,
        machine.cores,
        machine.kernel,
        machine.llmdbench,
        found.origin()
    );
    for (metric, error) in found.error.iter().rev() {
        let title = analysis::metric(metric).map_or(metric.as_str(), |metric| metric.title);
        text.push_str(&format!("{title:<17} {:>7.3} ms {:>7.3} ms\n", error.e50, error.e99));
    }
    text.push_str(&format!("{:<17} {:>10} {:>7.3} ms\n\n", "lateness", "", found.lateness_p99));
    let headroom = &found.headroom;
    text.push_str(&match (&headroom.limit, headroom.requests_per_s > 0.0) {
        (Some(limit), true) => format!(
            "headroom: {:.0} requests/s, {:.0} tokens/s (at twice that: {limit}{})\n",
            headroom.requests_per_s,
            headroom.tokens_per_s,
            match limit.starts_with("overload") {
                true => ", so that the server gave out first and the client may do more",
                false => "",
            }
        ),
        (Some(limit), false) => format!("headroom: none, even at the lowest rate: {limit}\n"),
        (None, _) => format!(
            "headroom: at least {:.0} requests/s, {:.0} tokens/s\n",
            headroom.requests_per_s, headroom.tokens_per_s
        ),
    });
    text.push_str(&scatter(found));
    text
}

fn scatter(found: &Calibration) -> String {
    let counted = found.counted();
    let days = counted.iter().filter_map(|session| session.measured.split('T').next());
    let mut days: Vec<&str> = days.collect();
    days.dedup();
    let when = match counted.len() {
        1 => "one session".to_owned(),
        count => format!("{count} sessions ({})", days.join(", ")),
    };
    let mut text = format!(
        "scatter of {} equal runs of {:.1} s in {when}, standard deviations:\n  {:<28} {:>8} {:>9}\n",
        found.runs, found.run_s, "", "runs", "sessions"
    );
    let percent = |deviation: &f64| format!("{:.2} %", deviation * 100.0);
    for (name, deviation) in &found.floor {
        let between = found.between.get(name).map_or("-".to_owned(), percent);
        text.push_str(&format!("  {name:<28} {:>8} {between:>9}\n", percent(deviation)));
    }
    if counted.len() < TELLING {
        text.push_str(&format!(
            "fewer than {TELLING} sessions say little of how sessions differ: calibrate again at other times\n"
        ));
    }
    text
}

fn length(text: &str) -> std::result::Result<Duration, String> {
    let length = unit::duration(text)?;
    if length < Duration::from_secs(2) {
        return Err("it must be at least 2s".to_owned());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use analysis::Equals;
    use serde_json::json;

    fn session(day: u8, ttft: [f64; 2]) -> Equals {
        let measured = format!("2026-02-{day:02}T04:05:06Z");
        let results = [("ttft.p50".to_owned(), ttft.to_vec())].into();
        Equals { measured, run_s: 6.0, doubts: Vec::new(), results }
    }

    #[test]
    fn scatter_is_shown_within_sessions_and_between_them() {
        let found: Calibration = serde_json::from_value(json!({
            "format": Calibration::FORMAT, "version": Calibration::VERSION, "measured": "", "length_s": 20.0,
            "machine": {"host": "h", "kernel": "k", "cpu": "c", "cores": 2, "llmdbench": "0"},
            "error": {}, "lateness_p99": 1.0, "headroom": {"requests_per_s": 1.0, "tokens_per_s": 1.0},
            "floor": {}, "runs": 2, "run_s": 6.0,
        }))
        .unwrap();
        let mut sessions = vec![session(3, [20.0, 20.2])];
        let one = found.clone().with_sessions(sessions.clone());
        assert_eq!(
            scatter(&one),
            concat!(
                "scatter of 2 equal runs of 6.0 s in one session, standard deviations:\n",
                "                                   runs  sessions\n",
                "  ttft.p50                       0.70 %         -\n",
                "fewer than 5 sessions say little of how sessions differ: calibrate again at other times\n",
            )
        );
        sessions.push(session(3, [21.0, 21.1]));
        sessions[1].results.insert("itl.p50".to_owned(), vec![5.0, 5.1]);
        sessions.extend((4..7).map(|day| session(day, [20.0, 20.1])));
        assert_eq!(
            scatter(&found.with_sessions(sessions)),
            concat!(
                "scatter of 10 equal runs of 6.0 s in 5 sessions (2026-02-03, 2026-02-04, 2026-02-05, \
                 2026-02-06), standard deviations:\n",
                "                                   runs  sessions\n",
                "  itl.p50                        1.40 %         -\n",
                "  ttft.p50                       0.44 %    2.13 %\n",
            )
        );
    }
}
