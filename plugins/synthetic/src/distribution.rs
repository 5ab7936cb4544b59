//! Numbers that are fixed or drawn at random: lengths in tokens, turns, think times.

use llmdbench_plugin::{Duration, Error};
use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, Exp, LogNormal, Normal};
use serde::Deserialize;

/// Values outside the limits are drawn again this often before they are moved to the limit: drawing
/// again keeps the form of the distribution, but limits far off the mean would never be met.
const DRAWS: u32 = 100;

/// A whole number from 1: fixed or drawn.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    Fixed(u32),
    Drawn(Shape<f64>),
}

/// A length of time: fixed or drawn.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Pause {
    Fixed(Duration),
    Drawn(Shape<Duration>),
}

impl Default for Pause {
    fn default() -> Self {
        Self::Fixed(Duration::default())
    }
}

/// A distribution as users write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape<T> {
    distribution: Family,
    mean: Option<T>,
    std_dev: Option<T>,
    min: Option<T>,
    max: Option<T>,
}

/// The families of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Family {
    Uniform,
    Normal,
    Lognormal,
    Exponential,
}

/// What values are drawn from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    curve: Curve,
    min: f64,
    max: f64,
}

#[derive(Debug, Clone)]
enum Curve {
    Fixed(f64),
    Uniform,
    Normal(Normal<f64>),
    Lognormal(LogNormal<f64>),
    Exponential(Exp<f64>),
}

impl Source {
    /// A source of whole numbers from 1 to `most`.
    ///
    /// # Errors
    /// When the setting `name` has impossible parameters.
    pub(crate) fn amounts(setting: &Amount, most: u32, name: &str) -> Result<Self, Error> {
        let most = f64::from(most);
        let source = match setting {
            Amount::Fixed(value) => Self::fixed(f64::from(*value)),
            Amount::Drawn(shape) => Self::drawn(shape, |value| *value, 1.0, most, name)?,
        };
        if source.min < 1.0 {
            return Err(wrong(name, "it must be at least 1", "choose 1 or more"));
        }
        if source.max > most {
            return Err(wrong(
                name,
                format!("{} is too large", source.max),
                format!("choose at most {most}"),
            ));
        }
        Ok(source)
    }

    /// A source of nanoseconds.
    ///
    /// # Errors
    /// When the setting `name` has impossible parameters.
    pub(crate) fn pauses(setting: &Pause, name: &str) -> Result<Self, Error> {
        match setting {
            Pause::Fixed(value) => Ok(Self::fixed(value.nanos() as f64)),
            Pause::Drawn(shape) => {
                Self::drawn(shape, |value| value.nanos() as f64, 0.0, f64::INFINITY, name)
            }
        }
    }

    /// The next value, rounded to a whole number.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> u64 {
        if let Curve::Fixed(value) = self.curve {
            return value as u64;
        }
        let mut value = self.value(random);
        for _ in 1..DRAWS {
            if (self.min..=self.max).contains(&value) {
                break;
            }
            value = self.value(random);
        }
        value.clamp(self.min, self.max) as u64
    }

    fn value(&self, random: &mut impl Rng) -> f64 {
        match &self.curve {
            Curve::Fixed(value) => *value,
            // Of whole numbers, for rounding would give the ends half their share.
            Curve::Uniform => random.random_range(self.min as u64..=self.max as u64) as f64,
            Curve::Normal(normal) => normal.sample(random),
            Curve::Lognormal(lognormal) => lognormal.sample(random),
            Curve::Exponential(exponential) => exponential.sample(random),
        }
        .round()
    }

    fn fixed(value: f64) -> Self {
        Self { curve: Curve::Fixed(value), min: value, max: value }
    }

    /// A source between the limits that are given, or else `least` and `most`.
    fn drawn<T>(
        shape: &Shape<T>,
        number: impl Fn(&T) -> f64,
        least: f64,
        most: f64,
        name: &str,
    ) -> Result<Self, Error> {
        let read = |value: &Option<T>| value.as_ref().map(&number);
        let (mean, std_dev, min, max) =
            (read(&shape.mean), read(&shape.std_dev), read(&shape.min), read(&shape.max));
        let missing = |what: &str, hint: &str| {
            wrong(&format!("{name}/{what}"), format!("{what} is missing"), hint)
        };
        let useless = |what: &str, hint: &str| {
            wrong(&format!("{name}/{what}"), format!("this distribution has no {what}"), hint)
        };
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(wrong(&format!("{name}/min"), "min is above max", "exchange the two"));
        }
        for (what, value) in [("mean", mean), ("std_dev", std_dev), ("min", min), ("max", max)] {
            if value.is_some_and(|value| !value.is_finite() || value < 0.0) {
                return Err(wrong(&format!("{name}/{what}"), "it is below 0", "choose 0 or more"));
            }
        }
        if shape.distribution == Family::Uniform {
            if mean.is_some() || std_dev.is_some() {
                let what = if mean.is_some() { "mean" } else { "std_dev" };
                return Err(useless(what, "min and max are all that a uniform distribution has"));
            }
            let min =
                min.ok_or_else(|| missing("min", "a uniform distribution needs min and max"))?;
            let max =
                max.ok_or_else(|| missing("max", "a uniform distribution needs min and max"))?;
            if min.ceil() > max.floor() {
                return Err(wrong(
                    name,
                    "no whole number lies between min and max",
                    "widen the limits",
                ));
            }
            return Ok(Self { curve: Curve::Uniform, min: min.ceil(), max: max.floor() });
        }
        let mean = mean.ok_or_else(|| missing("mean", "add the mean of the values"))?;
        let (min, max) = (min.unwrap_or(least), max.unwrap_or(most));
        if !(min..=max).contains(&mean) || mean == 0.0 {
            let hint = "choose a mean above 0, from min to max";
            return Err(wrong(&format!("{name}/mean"), "the mean is not within the limits", hint));
        }
        let spread = || {
            std_dev.ok_or_else(|| missing("std_dev", "add the standard deviation of the values"))
        };
        let curve = match shape.distribution {
            Family::Uniform => unreachable!("returned above"),
            Family::Normal => {
                Curve::Normal(Normal::new(mean, spread()?).expect("mean and spread are finite"))
            }
            Family::Lognormal => {
                let relative = spread()? / mean;
                Curve::Lognormal(
                    LogNormal::from_mean_cv(mean, relative).expect("the mean is above 0"),
                )
            }
            Family::Exponential => {
                if std_dev.is_some() {
                    return Err(useless("std_dev", "it is the same as the mean; leave it out"));
                }
                Curve::Exponential(Exp::new(1.0 / mean).expect("the mean is above 0"))
            }
        };
        Ok(Self { curve, min, max })
    }
}

fn wrong(name: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::invalid_settings(message).at(format!("/{name}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::{Value, json};

    /// Mean, smallest and largest of 20,000 values.
    fn drawn(setting: &Value) -> (f64, u64, u64) {
        let source = Source::amounts(
            &serde_json::from_value(setting.clone()).unwrap(),
            1_000_000,
            "input_tokens",
        )
        .unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let values: Vec<u64> = (0..20_000).map(|_| source.draw(&mut random)).collect();
        let mean = values.iter().sum::<u64>() as f64 / values.len() as f64;
        (mean, *values.iter().min().unwrap(), *values.iter().max().unwrap())
    }

    #[test]
    fn values_have_the_mean_and_keep_the_limits() {
        for (setting, mean, min, max) in [
            (json!(256), 256.0, 256, 256),
            (json!({"distribution": "uniform", "min": 10, "max": 20}), 15.0, 10, 20),
            (json!({"distribution": "normal", "mean": 500, "std_dev": 50}), 500.0, 250, 750),
            (
                json!({"distribution": "normal", "mean": 500, "std_dev": 50, "min": 450, "max": 550}),
                500.0,
                450,
                550,
            ),
            (json!({"distribution": "lognormal", "mean": 300, "std_dev": 150}), 300.0, 20, 4000),
            (json!({"distribution": "exponential", "mean": 1000}), 1000.0, 1, 20_000),
            (json!({"distribution": "normal", "mean": 7, "std_dev": 0}), 7.0, 7, 7),
        ] {
            let (got, least, most) = drawn(&setting);
            assert!((got / mean - 1.0).abs() < 0.02, "{setting}: mean {got}");
            assert!(least >= min && most <= max, "{setting}: {least} to {most}");
        }
    }

    #[test]
    fn limits_far_off_the_mean_are_still_kept() {
        let (_, least, most) = drawn(
            &json!({"distribution": "normal", "mean": 100, "std_dev": 1000, "min": 99, "max": 100}),
        );
        assert_eq!((least, most), (99, 100));
    }

    #[test]
    fn impossible_distributions_are_refused() {
        for (setting, at, message) in [
            (json!(0), "", "at least 1"),
            (json!(2_000_000), "", "too large"),
            (json!({"distribution": "normal", "std_dev": 2}), "/mean", "missing"),
            (json!({"distribution": "normal", "mean": 5}), "/std_dev", "missing"),
            (json!({"distribution": "normal", "mean": 5, "std_dev": -1}), "/std_dev", "below 0"),
            (
                json!({"distribution": "normal", "mean": 5, "std_dev": 1, "max": 4}),
                "/mean",
                "limits",
            ),
            (
                json!({"distribution": "normal", "mean": 5, "std_dev": 1, "min": 0}),
                "",
                "at least 1",
            ),
            (
                json!({"distribution": "lognormal", "mean": 5, "std_dev": 1, "min": 9, "max": 8}),
                "/min",
                "above max",
            ),
            (json!({"distribution": "uniform", "min": 1}), "/max", "missing"),
            (json!({"distribution": "uniform", "min": 1.2, "max": 1.8}), "", "no whole number"),
            (json!({"distribution": "uniform", "min": 1, "max": 2_000_000}), "", "too large"),
            (
                json!({"distribution": "uniform", "mean": 3, "min": 1, "max": 5}),
                "/mean",
                "has no mean",
            ),
            (
                json!({"distribution": "exponential", "mean": 3, "std_dev": 3}),
                "/std_dev",
                "has no std_dev",
            ),
        ] {
            let amount = serde_json::from_value(setting.clone()).unwrap();
            let error = Source::amounts(&amount, 1_000_000, "input_tokens")
                .expect_err(&setting.to_string());
            assert_eq!(error.at, Some(format!("/input_tokens{at}")), "{setting}");
            assert!(error.message.contains(message), "{setting}: {error:?}");
        }
    }

    #[test]
    fn think_times_are_drawn_in_nanoseconds() {
        let pause = json!({"distribution": "exponential", "mean": "2s", "max": "5s"});
        let source = Source::pauses(&serde_json::from_value(pause).unwrap(), "think_time").unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let values: Vec<u64> = (0..1000).map(|_| source.draw(&mut random)).collect();
        assert!(values.iter().all(|value| *value <= 5_000_000_000));
        assert!(values.iter().any(|value| *value > 1_000_000_000));
    }
}
