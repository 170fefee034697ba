//! A few measured values, and their statistics.

use std::time::Duration;

/// Number of resamplings for an interval.
const RESAMPLINGS: usize = 2000;

/// Fixed, so that the same values always give the same interval.
const SEED: u64 = 5;

#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In milliseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of values above zero.
    pub(crate) fn above_zero(&self) -> usize {
        self.0.iter().filter(|value| **value > 0.0).count()
    }

    /// Divides each value, from milliseconds to seconds for example.
    pub(crate) fn divided_by(&self, divisor: f64) -> Self {
        self.0.iter().map(|value| value / divisor).collect()
    }

    pub(crate) fn median(&self) -> f64 {
        median(&mut self.0.clone())
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The 95th percentile, by nearest rank.
    pub(crate) fn p95(&self) -> f64 {
        self.percentile(95)
    }

    /// The 99th percentile, by nearest rank.
    pub(crate) fn p99(&self) -> f64 {
        self.percentile(99)
    }

    /// The 5th percentile: the bad end of a quantity of which more is better.
    pub(crate) fn p5(&self) -> f64 {
        self.percentile(5)
    }

    fn percentile(&self, percent: usize) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The ratio of the medians, with the interval of 95 of 100 resamplings.
    pub(crate) fn ratio_to(&self, other: &Self) -> Ratio {
        let mut chance = fastrand::Rng::with_seed(SEED);
        let mut ratios: Vec<_> = (0..RESAMPLINGS)
            .map(|_| self.resampled_median(&mut chance) / other.resampled_median(&mut chance))
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: usize| ratios[RESAMPLINGS * share / 1000];
        Ratio { value: self.median() / other.median(), low: at(25), high: at(975) }
    }

    fn resampled_median(&self, chance: &mut fastrand::Rng) -> f64 {
        median(&mut (0..self.0.len()).map(|_| self.0[chance.usize(..self.0.len())]).collect::<Vec<_>>())
    }
}

/// In milliseconds.
impl FromIterator<Duration> for Sample {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        Self(durations.into_iter().map(|duration| duration.as_secs_f64() * 1e3).collect())
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A ratio of two medians, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}–{:.2}]", self.value, self.low, self.high)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl IntoIterator<Item = u32>) -> Sample {
        values.into_iter().map(f64::from).collect()
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(sample([4, 1, 3, 2]).median(), 2.5);
        assert_eq!(sample([9, 1, 5]).median(), 5.0);
    }

    #[test]
    fn p95_is_a_value_that_was_measured() {
        assert_eq!(sample(1..=20).p95(), 19.0);
        assert_eq!(sample(1..=100).p95(), 95.0);
        assert_eq!(sample([7]).p95(), 7.0);
        assert_eq!((sample(1..=100).p5(), sample(1..=20).p5(), sample([7]).p5()), (5.0, 1.0, 7.0));
    }

    #[test]
    fn a_ratio_lies_in_its_interval_and_is_the_same_each_time() {
        let (ours, other) = (sample(100..140), sample(200..280));
        let ratio = ours.ratio_to(&other);
        assert!(ratio.low <= ratio.value && ratio.value <= ratio.high, "{ratio:?}");
        assert_eq!(ratio, ours.ratio_to(&other));
    }

    #[test]
    fn few_scattered_values_give_a_wide_interval() {
        let few = sample([10, 20, 30]).ratio_to(&sample([20]));
        assert_eq!((few.low, few.value, few.high), (0.5, 1.0, 1.5));
        let alike = sample([20; 30]).ratio_to(&sample([20; 30]));
        assert_eq!((alike.low, alike.high), (1.0, 1.0));
    }
}
