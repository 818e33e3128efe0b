//! The distribution of latencies. Gathers the thousands of buckets of a histogram into bins of
//! equal width on a logarithmic axis, few enough for a plot and for a line of JSON.

use hdrhistogram::Histogram;

/// The latencies from `from` (included) to `to` (not included), in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bin {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) count: u64,
}

/// Number of bins that fit a plot.
const BINS_WANTED: f64 = 90.0;
/// The buckets of the histogram are half a microsecond wide at its low end. A narrower bin would be
/// full or empty by chance.
const BIN_NANOS_MIN: f64 = 600.0;

/// The bins from the lowest to the highest latency, with empty ones between. Empty if the histogram
/// is empty.
pub(crate) fn bins(histogram: &Histogram<u64>) -> Vec<Bin> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let low = (histogram.min().max(1) as f64).log10();
    let high = (histogram.max().max(1) as f64).log10();
    let narrowest = std::f64::consts::LN_10 * 10f64.powf(low) / BIN_NANOS_MIN;
    let per_decade = (BINS_WANTED / (high - low).max(0.01)).floor().min(narrowest).clamp(8.0, 200.0);
    let index = |log: f64| (log * per_decade).floor() as i64;
    let (first, last) = (index(low), index(high));
    let edge = |at: i64| 10f64.powf(at as f64 / per_decade);
    let mut bins: Vec<Bin> =
        (first..=last).map(|at| Bin { from: edge(at), to: edge(at + 1), count: 0 }).collect();
    for value in histogram.iter_recorded() {
        let at = index((value.value_iterated_to().max(1) as f64).log10()).clamp(first, last) - first;
        bins[at as usize].count += value.count_at_value();
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::histogram;

    #[test]
    fn every_sample_is_in_exactly_one_bin() {
        assert!(bins(&histogram()).is_empty());
        for values in [&[5_000_000][..], &[1_000, 3_600_000_000_000], &[0, 1, 40_000, 41_000, 90_000_000]] {
            let mut latencies = histogram();
            for &value in values {
                latencies.saturating_record(value);
            }
            let bins = bins(&latencies);
            assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), values.len() as u64);
            assert!(bins.len() <= 120 && bins.iter().all(|bin| bin.from < bin.to), "{}", bins.len());
            assert!(bins.is_sorted_by(|left, right| left.to <= right.from * 1.000_001));
        }
    }
}
