//! The five numbers of a box plot, and what lies beyond its whiskers.

/// A box: the middle half of the values, whiskers to the last ones within one and a half times its
/// height, and the values beyond.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BoxOf {
    pub(super) low: f64,
    pub(super) q1: f64,
    pub(super) median: f64,
    pub(super) q3: f64,
    pub(super) high: f64,
    pub(super) beyond: Vec<f64>,
}

impl BoxOf {
    /// None: there are no values.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (q1, median, q3) =
            (quantile(&values, 0.25)?, quantile(&values, 0.5)?, quantile(&values, 0.75)?);
        let reach = 1.5 * (q3 - q1);
        let within = |value: &f64| (q1 - reach..=q3 + reach).contains(value);
        let mut inner = values.iter().copied().filter(within);
        let low = inner.next().unwrap_or(q1);
        let high = inner.next_back().unwrap_or(low);
        let beyond = values.iter().copied().filter(|value| !within(value)).collect();
        // Quartiles lie between values, and may lie beyond all that are within reach.
        Some(Self { low: low.min(q1), q1, median, q3, high: high.max(q3), beyond })
    }
}

/// Between two values, in proportion (the definition that plotting libraries use for boxes).
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_the_middle_half_and_its_whiskers_end_at_values() {
        let found = BoxOf::of(vec![1.0, 2.0, 3.0, 4.0, 5.0, 100.0]).unwrap();
        let expected =
            BoxOf { low: 1.0, q1: 2.25, median: 3.5, q3: 4.75, high: 5.0, beyond: vec![100.0] };
        assert_eq!(found, expected);
        // The lower quartile lies below every value within reach.
        let found = BoxOf::of(vec![0.0, 10.0, 10.0, 10.0]).unwrap();
        assert_eq!((found.low, found.q1, found.beyond), (7.5, 7.5, vec![0.0]));
        assert_eq!(BoxOf::of(vec![2.0]).unwrap().median, 2.0);
        assert_eq!(BoxOf::of(Vec::new()), None);
    }
}
