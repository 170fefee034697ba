//! A handful of measured values, and what may be said about them.

use std::time::Duration;

/// Resamplings behind an interval.
const RESAMPLINGS: usize = 2000;

#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
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

    /// By nearest rank.
    pub(crate) fn p95(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let rank = (values.len() * 95).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The ratio of the medians, and between what the ratio lies in 95 of 100 resamplings.
    pub(crate) fn ratio_to(&self, other: &Self) -> Ratio {
        let mut ratios: Vec<_> =
            (0..RESAMPLINGS).map(|_| self.resampled_median() / other.resampled_median()).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: usize| ratios[RESAMPLINGS * share / 1000];
        Ratio { value: self.median() / other.median(), low: at(25), high: at(975) }
    }

    fn resampled_median(&self) -> f64 {
        median(&mut (0..self.0.len()).map(|_| self.0[fastrand::usize(..self.0.len())]).collect::<Vec<_>>())
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

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}
