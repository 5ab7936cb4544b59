//! [`Scale`]: where values of an axis lie on it, evenly or by their logarithms.

use super::Axis;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;

/// The stretch of an axis that is drawn.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// From the axis's beginning to its end; without one a little beyond the largest of `values`.
    pub(super) fn of(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let largest = || values.fold(0.0, f64::max) * 1.08;
        let end = axis.end.unwrap_or_else(largest);
        let end = if end.is_finite() && end > axis.start { end } else { axis.start + 1.0 };
        Self::between(axis.start, end, axis.logarithmic && axis.start > 0.0)
    }

    /// A stretch that is never so short that numbers cannot divide it.
    pub(super) fn between(start: f64, end: f64, logarithmic: bool) -> Self {
        let shortest = 1e-9 * start.abs().max(end.abs());
        Self { start, end: end.max(start + shortest), logarithmic }
    }

    /// Its lower end.
    pub(super) fn start(&self) -> f64 {
        self.start
    }

    /// Its upper end.
    pub(super) fn end(&self) -> f64 {
        self.end
    }

    /// The value in its middle, as it is seen.
    pub(super) fn middle(&self) -> f64 {
        if self.logarithmic {
            (self.start * self.end).sqrt()
        } else {
            self.start + (self.end - self.start) / 2.0
        }
    }

    /// From 0 at its beginning to 1 at its end.
    pub(super) fn share(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.start).ln() / (self.end / self.start).ln()
        } else {
            (value - self.start) / (self.end - self.start)
        }
    }

    /// A label for a value, with decimals enough to tell labels apart.
    pub(super) fn label(&self, value: f64, axis: &Axis) -> String {
        if axis.percent {
            return format!("{:.0} %", value * 100.0);
        }
        let span = if self.logarithmic { value } else { self.end - self.start };
        let largest = if self.logarithmic { value } else { self.start.abs().max(self.end.abs()) };
        if value != 0.0 && (span < 0.001 || largest >= 1e9) {
            return format!("{value:.1e}");
        }
        let decimals = match span {
            span if span < 0.05 => 4,
            span if span < 0.5 => 3,
            span if span < 5.0 => 2,
            span if span < 20.0 => 1,
            _ => 0,
        };
        let label = crate::report::grouped(value, decimals);
        match self.logarithmic && label.contains('.') {
            true => label.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => label,
        }
    }

    /// One, two and five of each power of ten, or powers alone where there would be too many.
    fn powers(&self, most: usize) -> Vec<f64> {
        let exponents = self.start.log10().floor() as i32..=self.end.log10().ceil() as i32;
        let inside = |value: &f64| (self.start..=self.end).contains(value);
        let of = |digits: &[f64]| -> Vec<f64> {
            let all = exponents
                .clone()
                .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
            all.filter(inside).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0]);
        if fine.len() <= most {
            return fine;
        }
        let powers = of(&[1.0]);
        let every = powers.len().div_ceil(most.max(1)).max(1);
        powers.into_iter().step_by(every).collect()
    }
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        // What lies outside is drawn at the edge: far outside there are no pixels.
        let share = self.share(*value).clamp(-0.01, 1.01);
        from + (f64::from(to - from) * share + 1e-3).floor() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if self.logarithmic {
            return self.powers(hint.max_num_points());
        }
        RangedCoordf64::from(self.start..self.end).key_points(hint)
    }

    fn range(&self) -> Range<f64> {
        self.start..self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_by_their_logarithms_where_the_axis_says_so() {
        let scale = Scale::between(1.0, 10_000.0, true);
        assert_eq!(scale.middle(), 100.0);
        assert_eq!(scale.share(10.0), 0.25);
        assert_eq!(scale.map(&100.0, (0, 200)), 100);
        assert_eq!(scale.powers(6), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(scale.powers(3), [1.0, 100.0, 10_000.0]);
        assert_eq!(Scale::between(1.0, 10.0, true).powers(8), [1.0, 2.0, 5.0, 10.0]);
        let axis = Axis::new("");
        for (value, label) in [(1.0, "1"), (0.02, "0.02"), (0.5, "0.5"), (1000.0, "1,000")] {
            assert_eq!(scale.label(value, &axis), label);
        }
    }

    #[test]
    fn no_stretch_is_too_short_or_too_long() {
        let check = |start: f64, end: f64| {
            let scale = Scale::between(start, end, false);
            assert!(scale.end() > scale.start(), "{start} {end}");
            assert!(scale.key_points(8).len() <= 8, "{start} {end}");
            assert!(scale.label(start, &Axis::new("")).len() < 16, "{start} {end}");
        };
        check(0.0, 1.0);
        check(1.7e18, 1.7e18);
        check(1.7e18, 1.7e18 + 256.0);
        check(-1e300, 1e300);
        check(0.0, 1e-12);
    }
}
