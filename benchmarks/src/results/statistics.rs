//! Medians, quantiles and spreads.

/// The median; zero for no values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (odd, middle) if odd % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The smallest of the values that is not below this share of them; zero for no values.
#[must_use]
pub fn quantile(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0)
}

/// The median of the rounds, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median of the rounds.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// Of one value for each round; `None` for no rounds.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let low = values.iter().copied().min_by(f64::total_cmp)?;
        let high = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Self {
            median: median(values),
            low,
            high,
        })
    }

    /// The ratio of each round's two values; rounds with a zero below are left out.
    #[must_use]
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let pairs = pairs.into_iter().filter(|(_, below)| *below > 0.0);
        Self::of(pairs.map(|(above, below)| above / below))
    }

    /// The range that covers all medians, and the range that covers all rounds.
    #[must_use]
    pub fn covering(all: &[Self]) -> Option<(Self, Self)> {
        let medians = Self::of(all.iter().map(|one| one.median))?;
        let rounds = Self::of(all.iter().flat_map(|one| [one.low, one.high]))?;
        Some((medians, rounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert_eq!(median([]).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&values, 0.5), 100);
        assert_eq!(quantile(&values, 0.99), 198);
        assert_eq!(quantile(&values, 1.0), 200);
        assert_eq!(quantile(&[], 0.5), 0);
    }

    #[test]
    fn a_range_covers_the_rounds_of_all_settings() {
        let one = |low, median, high| Spread { median, low, high };
        let all = [one(0.5, 1.0, 1.5), one(0.8, 2.0, 2.1)];
        let (medians, rounds) = Spread::covering(&all).expect("two settings");
        assert_eq!((medians.low, medians.high), (1.0, 2.0));
        assert_eq!((rounds.low, rounds.high), (0.5, 2.1));
        assert_eq!(Spread::covering(&[]), None);
    }
}
