//! `quantile`: the nearest-rank quantile of the values of a group.
//!
//! Up to [`EXACT`] values it is exact. Beyond, values are counted in buckets given by their sign, exponent and upper
//! seven mantissa bits, so that a bucket is at most 1/128 of its lower bound wide; the middle of the bucket that holds
//! the wanted rank is off by at most 0.4 %, over the whole range of floats and without a scale to choose. (An
//! HdrHistogram has the same buckets, but over integers of one sign.) The smallest and the largest value are exact.
//! Which of the two happens depends on the number of values alone, and a bucket on a value alone: the result depends
//! neither on the order of the values nor on how they were spread over panes.

/// Values up to which a quantile is exact.
const EXACT: usize = 64;
/// Lower mantissa bits that a bucket does not look at.
const DROPPED_BITS: u32 = 45;

/// The distribution of finite values.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantiles {
    count: u64,
    least: f64,
    greatest: f64,
    /// All values, while they are at most [`EXACT`].
    values: Vec<f64>,
    /// Bucket and how many values it holds, sorted by bucket; empty while `values` is used.
    buckets: Vec<(i32, u64)>,
}

impl Quantiles {
    pub(super) fn add(&mut self, value: f64) {
        self.extend_range(value, value);
        self.count += 1;
        if self.buckets.is_empty() && self.values.len() < EXACT {
            self.values.push(value);
        } else {
            self.spill();
            self.count_in(bucket(value), 1);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.extend_range(other.least, other.greatest);
        self.count += other.count;
        if self.count > EXACT as u64 {
            self.spill();
            other.values.iter().for_each(|value| self.count_in(bucket(*value), 1));
            other.buckets.iter().for_each(|(bucket, count)| self.count_in(*bucket, *count));
        } else {
            self.values.extend_from_slice(&other.values);
        }
    }

    /// The value of rank ⌈q·n⌉, `q` from 0 to 1 inclusive; `None` without values.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = rank(q, self.count);
        if rank == 1 {
            return Some(self.least);
        }
        if rank == self.count {
            return Some(self.greatest);
        }
        if self.buckets.is_empty() {
            let mut sorted = self.values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            return sorted.get(rank as usize - 1).copied();
        }
        let mut seen = 0;
        let (bucket, _) = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(*bucket).clamp(self.least, self.greatest))
    }

    fn extend_range(&mut self, least: f64, greatest: f64) {
        if self.count == 0 {
            (self.least, self.greatest) = (least, greatest);
        } else {
            self.least = if least.total_cmp(&self.least).is_lt() { least } else { self.least };
            self.greatest = if greatest.total_cmp(&self.greatest).is_gt() { greatest } else { self.greatest };
        }
    }

    fn spill(&mut self) {
        for value in std::mem::take(&mut self.values) {
            self.count_in(bucket(value), 1);
        }
    }

    fn count_in(&mut self, bucket: i32, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }
}

/// The rank (from 1) of quantile `q` among `count` values. The small subtrahend keeps products such as
/// 0.07 · 100 = 7.000000000000001 from rising to the next rank.
fn rank(q: f64, count: u64) -> u64 {
    ((q * count as f64 - 1e-9).ceil() as u64).clamp(1, count)
}

/// Buckets are ordered as their values are.
fn bucket(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let size = (value.abs().to_bits() >> DROPPED_BITS) as i32 + 1;
    if value < 0.0 { -size } else { size }
}

fn middle(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let size = f64::from_bits((u64::from(bucket.unsigned_abs() - 1) << DROPPED_BITS) | (1 << (DROPPED_BITS - 1)));
    if bucket < 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f64]) -> Quantiles {
        let mut quantiles = Quantiles::default();
        values.iter().for_each(|v| quantiles.add(*v));
        quantiles
    }

    fn check(values: &[f64], q: f64) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let exact = sorted[rank(q, sorted.len() as u64) as usize - 1];
        let found = of(values).quantile(q).unwrap();
        let tolerance = if values.len() <= EXACT { 0.0 } else { exact.abs() * 0.004 };
        assert!((found - exact).abs() <= tolerance, "q {q} of {} values: {found} for {exact}", values.len());
    }

    #[test]
    fn ranks_are_the_nearest() {
        assert_eq!(of(&[]).quantile(0.5), None);
        assert_eq!(of(&[3.0]).quantile(0.0), Some(3.0));
        assert_eq!(of(&[1.0, 2.0, 3.0, 4.0]).quantile(0.5), Some(2.0));
        assert_eq!(rank(0.07, 100), 7);
        assert_eq!(rank(0.95, 20), 19);
        assert_eq!(rank(0.951, 20), 20);
    }

    fn distribution() -> impl Strategy<Value = Vec<f64>> {
        prop_oneof![
            prop::collection::vec(-1e3..1e3f64, 1..400),
            prop::collection::vec((-14.0..28.0f64).prop_map(f64::exp), 1..400),
            prop::collection::vec((0u32..20).prop_map(f64::from), 1..400),
            prop::collection::vec(prop_oneof![9 => 10.0..12.0f64, 1 => 2000.0..9000.0f64], 1..400),
        ]
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_its_bound(values in distribution(), q in 0.0..=1.0f64) {
            check(&values, q);
        }

        #[test]
        fn only_the_multiset_of_values_counts(values in distribution(), cut in 0.0..1.0f64, q in 0.0..=1.0f64) {
            let (left, right) = values.split_at((values.len() as f64 * cut) as usize);
            let mut merged = of(right);
            merged.merge(&of(left));
            prop_assert_eq!(merged.quantile(q), of(&values).quantile(q));
        }
    }

    /// The reference that was asked for: two significant digits and 32-bit counts, over microseconds.
    #[test]
    fn agrees_with_an_hdrhistogram() {
        let mut reference = hdrhistogram::Histogram::<u32>::new(2).unwrap();
        reference.auto(true);
        let mut quantiles = Quantiles::default();
        // Latencies with a long tail, from a multiplicative congruence instead of a random source.
        let mut state = 12_345_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
            let millis = 20.0 * (-(1.0 - uniform).ln()).exp().min(1e4);
            quantiles.add(millis);
            reference.record((millis * 1e3) as u64).unwrap();
        }
        for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let (found, expected) = (quantiles.quantile(q).unwrap(), reference.value_at_quantile(q) as f64 / 1e3);
            assert!((found - expected).abs() <= 0.01 * expected, "{q}: {found} and {expected}");
        }
    }
}
