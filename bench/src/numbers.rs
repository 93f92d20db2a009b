//! Medians and their like.

/// The middle one; of an even number the lower of the two. Not a number where there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// What several measurements of one thing are told as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these measurements.
    pub fn of(values: Vec<f64>) -> Self {
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        Self { median: median(values), least, most }
    }

    /// `1.23 s (1.10–1.40)`.
    pub fn seconds(&self) -> String {
        format!("{:.2} s ({:.2}–{:.2})", self.median, self.least, self.most)
    }
}
