//! From values to positions on an axis, and the ticks of the axis.

/// An axis from one position to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// A linear axis.
    pub(super) fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self {
            low,
            high: if high > low { high } else { low + 1.0 },
            from,
            to,
            logarithmic: false,
        }
    }

    /// A logarithmic axis; values have to be positive.
    pub(super) fn logarithmic((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self {
            low,
            high: if high > low { high } else { low * 10.0 },
            from,
            to,
            logarithmic: true,
        }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let across = match self.logarithmic {
            true => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * across.clamp(0.0, 1.0)
    }

    /// Round values on the axis, at most about seven.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let mut ticks = match self.logarithmic {
            true => self.powers(),
            false => self.steps(),
        };
        ticks.retain(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick));
        ticks
    }

    fn powers(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let within: &[f64] = match decades {
            decades if decades > 5.0 => &[1.0],
            decades if decades > 2.5 => &[1.0],
            decades if decades > 1.2 => &[1.0, 3.0],
            _ => &[1.0, 2.0, 3.0, 5.0],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let step = if decades > 6.0 { 2 } else { 1 };
        let powers = (first..=last).step_by(step).map(|power| 10_f64.powi(power));
        powers
            .flat_map(|power| within.iter().map(move |factor| power * factor))
            .collect()
    }

    fn steps(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter();
        let step = factor
            .map(|factor| factor * power)
            .find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let decades = Scale::logarithmic((800.0, 1_200_000.0), (0.0, 1.0));
        assert_eq!(decades.ticks(), [1e3, 1e4, 1e5, 1e6]);
        let linear = Scale::linear((150.0, 600.0), (0.0, 1.0));
        assert_eq!(linear.ticks(), [200.0, 300.0, 400.0, 500.0, 600.0]);
    }

    #[test]
    fn a_logarithmic_axis_has_equal_ratios_at_equal_distances() {
        let scale = Scale::logarithmic((1.0, 100.0), (0.0, 200.0));
        assert!((scale.at(10.0) - 100.0).abs() < 1e-9);
        assert!((scale.at(0.0)).abs() < 1e-9, "clamped to the axis");
    }
}
