//! When the sessions of an open stage arrive: a function of stage, seed and index, and of nothing
//! else, so that a run can be repeated and be dealt out over machines.

use crate::plan::{Arrival, Nanos, Ramp, Ramped, Stage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};

/// Arrivals as offsets from the start of the stage, never falling.
pub(crate) type Arrivals = Box<dyn Iterator<Item = Nanos> + Send>;

/// The arrivals of a stage. None: they do not follow a schedule of the stage's own (a closed loop,
/// a trace).
pub(crate) fn arrivals(stage: &Stage, index: u32, seed: u64) -> Option<Arrivals> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index.into());
    let seconds: Box<dyn Iterator<Item = f64> + Send> = match &stage.arrival {
        Arrival::Closed | Arrival::Trace(_) => return None,
        Arrival::Ramp(Ramp { what: Ramped::Closed, .. }) => return None,
        // Every arrival is computed from its number, so that no error adds up.
        &Arrival::Constant(rate) => Box::new(counted().map(move |k| k / rate)),
        &Arrival::Poisson(rate) => Box::new(unit_poisson(rng).map(move |n| n / rate)),
        &Arrival::Gamma { rate, shape } => Box::new(gamma(rng, rate, shape)),
        Arrival::Ramp(ramp) if ramp.what == Ramped::Poisson => {
            Box::new(along(*ramp, unit_poisson(rng)))
        }
        Arrival::Ramp(ramp) => Box::new(along(*ramp, counted())),
        Arrival::Schedule(times) => {
            return Some(limited(stage, Box::new(times.clone().into_iter())));
        }
    };
    let times = seconds.take_while(|s| s.is_finite()).map(|s| (s * 1e9).round() as Nanos);
    Some(limited(stage, Box::new(times)))
}

/// The next multiple of the stage's quantum.
pub(crate) fn on_quantum(stage: &Stage, offset: Nanos) -> Nanos {
    match stage.quantum {
        Some(quantum) if quantum > 0 => offset.div_ceil(quantum).saturating_mul(quantum),
        _ => offset,
    }
}

/// How many sessions a ramp of concurrency wants under way at this time.
pub(crate) fn ramped_concurrency(ramp: &Ramp, at: Nanos) -> u32 {
    value_at(ramp, at as f64 / 1e9).round().clamp(0.0, f64::from(u32::MAX)) as u32
}

fn limited(stage: &Stage, times: Arrivals) -> Arrivals {
    let quantum = stage.clone();
    let after = stage.stop.after.unwrap_or(Nanos::MAX);
    Box::new(times.map(move |at| on_quantum(&quantum, at)).take_while(move |&at| at < after))
}

fn counted() -> impl Iterator<Item = f64> + Send {
    (0_u64..).map(|k| k as f64)
}

/// The arrivals of a Poisson process of rate 1.
fn unit_poisson(mut rng: ChaCha8Rng) -> impl Iterator<Item = f64> + Send {
    let mut at = 0.0;
    std::iter::from_fn(move || {
        let gap: f64 = Exp1.sample(&mut rng);
        at += gap;
        Some(at)
    })
}

fn gamma(mut rng: ChaCha8Rng, rate: f64, shape: f64) -> impl Iterator<Item = f64> + Send {
    // Parameters that make no distribution make no arrivals; plans are checked before.
    let gaps = Gamma::new(shape, 1.0 / (rate * shape)).ok();
    let mut at = 0.0;
    std::iter::from_fn(move || {
        at += gaps.as_ref()?.sample(&mut rng);
        Some(at)
    })
}

/// Moves arrivals of rate 1 to the times at which the ramp's rate has added up to them.
fn along(ramp: Ramp, unit: impl Iterator<Item = f64> + Send) -> impl Iterator<Item = f64> + Send {
    unit.map(move |count| time_of_count(&ramp, count))
}

fn value_at(ramp: &Ramp, seconds: f64) -> f64 {
    let over = ramp.over as f64 / 1e9;
    let done = if over > 0.0 { (seconds / over).min(1.0) } else { 1.0 };
    if ramp.exponential {
        ramp.start * (ramp.end / ramp.start).powf(done)
    } else {
        ramp.start + (ramp.end - ramp.start) * done
    }
}

/// Seconds until the integral of the rate reaches `count`; infinite if it never does.
fn time_of_count(ramp: &Ramp, count: f64) -> f64 {
    let (start, end, over) = (ramp.start, ramp.end, ramp.over as f64 / 1e9);
    let growth = (end / start).ln();
    let exponential = ramp.exponential && growth.abs() > 1e-12;
    let in_ramp =
        if exponential { over * (end - start) / growth } else { over * (start + end) / 2.0 };
    if count >= in_ramp {
        return over + (count - in_ramp) / end;
    }
    if exponential {
        return over / growth * (1.0 + count * growth / (start * over)).ln();
    }
    // The root of start*t + slope*t^2 = count, in the form that stays exact for a small slope.
    let slope = (end - start) / (2.0 * over);
    let divisor = start + (start * start + 4.0 * slope * count).max(0.0).sqrt();
    if count == 0.0 { 0.0 } else { 2.0 * count / divisor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stop;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SECOND: Nanos = 1_000_000_000;

    fn stage(arrival: Arrival, after: Option<Nanos>, quantum: Option<Nanos>) -> Stage {
        Stage {
            name: "s".into(),
            arrival,
            concurrency: None,
            max_in_flight: None,
            stop: Stop { after, ..Stop::default() },
            warm_up: false,
            settle: 0,
            quantum,
            drain: None,
            cool_down: 0,
            labels: BTreeMap::new(),
        }
    }

    fn times(arrival: Arrival, seconds: u64, seed: u64) -> Vec<Nanos> {
        arrivals(&stage(arrival, Some(seconds * SECOND), None), 0, seed).unwrap().collect()
    }

    fn ramp(what: Ramped, start: f64, end: f64, seconds: u64, exponential: bool) -> Arrival {
        Arrival::Ramp(Ramp { what, start, end, over: seconds * SECOND, exponential })
    }

    #[test]
    fn constant_arrivals_neither_drift_nor_come_at_the_end() {
        let times = times(Arrival::Constant(200.0), 60, 0);
        assert_eq!(times.len(), 12_000);
        assert!(times.iter().zip(0..).all(|(&at, k)| at == k * 5_000_000));
    }

    #[test]
    fn a_ramp_sends_what_its_rate_adds_up_to() {
        let check = |arrival: Arrival, seconds, count: usize| {
            assert_eq!(times(arrival.clone(), seconds, 0).len(), count, "{arrival:?}");
        };
        check(ramp(Ramped::Constant, 10.0, 30.0, 10, false), 10, 200);
        check(ramp(Ramped::Constant, 30.0, 10.0, 10, false), 10, 200);
        check(ramp(Ramped::Constant, 0.0, 20.0, 10, false), 10, 100);
        check(ramp(Ramped::Constant, 10.0, 10.0, 10, false), 20, 200);
        check(ramp(Ramped::Constant, 10.0, 20.0, 10, false), 20, 350);
        // (40 - 10) * 10 / ln 4 = 216.4
        check(ramp(Ramped::Constant, 10.0, 40.0, 10, true), 10, 217);
        check(ramp(Ramped::Constant, 20.0, 0.0, 10, false), 60, 100);
        check(ramp(Ramped::Constant, 5.0, 9.0, 0, false), 10, 90);
    }

    #[test]
    fn a_ramp_of_concurrency_reaches_its_end_and_stays() {
        let Arrival::Ramp(ramp) = ramp(Ramped::Closed, 1.0, 9.0, 8, false) else { unreachable!() };
        let at = |seconds: u64| ramped_concurrency(&ramp, seconds * SECOND);
        assert_eq!((at(0), at(4), at(8), at(100)), (1, 5, 9, 9));
    }

    #[test]
    fn a_schedule_is_taken_as_it_is_and_put_on_the_quantum() {
        let arrival = Arrival::Schedule(vec![0, 1, 1_000, 1_001, 5_000]);
        let times = arrivals(&stage(arrival, Some(4_000), Some(1_000)), 0, 0).unwrap();
        assert_eq!(times.collect::<Vec<_>>(), [0, 1_000, 1_000, 2_000]);
    }

    #[test]
    fn burstiness_follows_the_shape() {
        let spread = |shape| {
            let times = times(Arrival::Gamma { rate: 100.0, shape }, 100, 3);
            let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            variance.sqrt() / mean
        };
        for (shape, expected) in [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)] {
            let found = spread(shape);
            assert!((found / expected - 1.0).abs() < 0.1, "shape {shape}: {found}");
        }
    }

    proptest! {
        #[test]
        fn arrivals_rise_repeat_with_their_seed_and_keep_the_mean_rate(
            seed: u64, rate in 5.0..200.0_f64, which in 0..4_usize, quantum in 1..50_000_000_u64,
        ) {
            let arrival = match which {
                0 => Arrival::Constant(rate),
                1 => Arrival::Poisson(rate),
                2 => Arrival::Gamma { rate, shape: 2.0 },
                _ => ramp(Ramped::Poisson, rate / 2.0, rate * 1.5, 100, false),
            };
            let random = which > 0;
            let first = times(arrival.clone(), 100, seed);
            prop_assert!(first.is_sorted());
            prop_assert_eq!(&first, &times(arrival.clone(), 100, seed));
            if random {
                prop_assert_ne!(&first, &times(arrival.clone(), 100, seed ^ 1));
            }
            // Six standard deviations of a Poisson count: 1 in 10^9.
            let expected = rate * 100.0;
            let off = (first.len() as f64 - expected).abs();
            prop_assert!(off <= 6.0 * expected.sqrt() + 1.0, "{} of {expected}", first.len());

            let stepped: Vec<_> =
                arrivals(&stage(arrival, Some(100 * SECOND), Some(quantum)), 0, seed).unwrap().collect();
            for (&raw, &at) in first.iter().zip(&stepped) {
                prop_assert!(at >= raw && at - raw < quantum && at % quantum == 0);
            }
        }

        #[test]
        fn stages_of_one_seed_differ(seed: u64) {
            let stage = stage(Arrival::Poisson(10.0), None, None);
            let first = |index| arrivals(&stage, index, seed).unwrap().take(5).collect::<Vec<_>>();
            prop_assert_ne!(first(0), first(1));
        }
    }
}
