//! `quantile`: the nearest-rank quantile of the values of a group.
//!
//! The definition: of *n* values in ascending order, quantile *q* is the one of rank ⌈q·n⌉, counted from 1, at least 1.
//!
//! Up to [`EXACT`] values it is exact. Beyond, values are counted in buckets given by their sign, exponent and upper
//! mantissa bits, without a scale to choose and over the whole range of floats. (An HdrHistogram has the same buckets,
//! but over integers of one sign.) The answer is the middle of the bucket that holds the wanted rank. With seven mantissa
//! bits a bucket is at most 1/128 of its lower bound wide, and the middle off by at most 0.4 %.
//!
//! Memory is bounded: more than [`MAX_BUCKETS`] buckets are made half as many by looking at one mantissa bit less, as often
//! as it takes. So the error is at most 0.4 % for values that fill a range of 1 to 4·10⁹ (a microsecond to an hour) and 0.8 %
//! for 1 to 10¹⁹; it doubles only with twice as many octaves, all of them filled to the last bucket. Below
//! 2.3·10⁻³⁰⁸ floats themselves lose digits, and the error is as large as theirs. The smallest and the largest value are
//! always exact.
//!
//! Nothing of this depends on the order of the values nor on how they were spread over panes: whether values are kept
//! depends on their number alone; a value's bucket on the value alone; and the mantissa bits are the most with which the
//! values hit no more than [`MAX_BUCKETS`] buckets. (Fewer values never hit more, so no way leads to fewer bits than that.)

use serde::{Deserialize, Serialize};

/// Values up to which a quantile is exact.
const EXACT: usize = 64;
/// Lower mantissa bits that no bucket looks at.
const DROPPED_BITS: u32 = 45;
/// Buckets of a group at most; 12 bytes each.
const MAX_BUCKETS: usize = 4_096;

/// Values that a saved distribution may have counted: far enough from the end of `u64` that going on overflows nothing.
const MOST_COUNTED: u64 = 1 << 48;

/// The distribution of finite values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Quantiles {
    count: u64,
    least: f64,
    greatest: f64,
    kept: Kept,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kept {
    /// All values, while they are at most [`EXACT`].
    Values(Vec<f64>),
    /// Boxed, as most groups are small.
    Buckets(Box<Buckets>),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Values(Vec::new())
    }
}

impl Quantiles {
    pub(super) fn add(&mut self, value: f64) {
        self.extend_range(value, value);
        self.count += 1;
        match &mut self.kept {
            Kept::Values(values) if values.len() < EXACT => values.push(value),
            _ => self.buckets().add(value),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.extend_range(other.least, other.greatest);
        self.count += other.count;
        match (&mut self.kept, &other.kept) {
            (Kept::Values(own), Kept::Values(more)) if own.len() + more.len() <= EXACT => own.extend_from_slice(more),
            (_, Kept::Values(more)) => more.iter().for_each(|value| self.buckets().add(*value)),
            (_, Kept::Buckets(more)) => self.buckets().merge(more),
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
        match &self.kept {
            Kept::Values(values) => {
                let mut sorted = values.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                sorted.get(rank as usize - 1).copied()
            }
            Kept::Buckets(buckets) => Some(buckets.at(rank)?.clamp(self.least, self.greatest)),
        }
    }

    /// Whether adding values can have led here, for a distribution that was read from somewhere.
    pub(super) fn is_sound(&self) -> bool {
        let counted = match &self.kept {
            Kept::Values(values) if values.len() <= EXACT && values.iter().all(|value| value.is_finite()) => {
                Some(values.len() as u64)
            }
            Kept::Values(_) => None,
            Kept::Buckets(buckets) => buckets.counted(),
        };
        counted == Some(self.count) && self.least.is_finite() && self.greatest.is_finite()
            // `clamp` wants them in order; the two zeros are not, to it.
            && (self.count == 0 || self.least <= self.greatest)
    }

    fn extend_range(&mut self, least: f64, greatest: f64) {
        if self.count == 0 {
            (self.least, self.greatest) = (least, greatest);
        } else {
            self.least = if least.total_cmp(&self.least).is_lt() { least } else { self.least };
            self.greatest = if greatest.total_cmp(&self.greatest).is_gt() { greatest } else { self.greatest };
        }
    }

    /// The buckets, into which the values kept so far are put if there are none yet.
    fn buckets(&mut self) -> &mut Buckets {
        if let Kept::Values(values) = &self.kept {
            let mut buckets = Box::<Buckets>::default();
            values.iter().for_each(|value| buckets.add(*value));
            self.kept = Kept::Buckets(buckets);
        }
        match &mut self.kept {
            Kept::Buckets(buckets) => buckets,
            Kept::Values(_) => unreachable!("values were just put into buckets"),
        }
    }
}

/// How many values each bucket holds that was hit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Buckets {
    /// Mantissa bits, beyond [`DROPPED_BITS`], that are not looked at. They may reach into the exponent.
    coarseness: u32,
    /// Numbers of buckets, ascending: at most [`MAX_BUCKETS`].
    numbers: Vec<i32>,
    /// For each number, how many values; at least 1.
    counts: Vec<u64>,
}

impl Buckets {
    fn add(&mut self, value: f64) {
        loop {
            let number = bucket(value, self.coarseness);
            match self.numbers.binary_search(&number) {
                Ok(at) => self.counts[at] += 1,
                Err(_) if self.numbers.len() == MAX_BUCKETS => {
                    self.coarsen();
                    continue;
                }
                Err(at) => {
                    self.numbers.insert(at, number);
                    self.counts.insert(at, 1);
                }
            }
            return;
        }
    }

    fn merge(&mut self, other: &Self) {
        while self.coarseness < other.coarseness {
            self.coarsen();
        }
        let coarser = self.coarseness - other.coarseness;
        let mut all = Self { coarseness: self.coarseness, ..Self::default() };
        let most = self.numbers.len() + other.numbers.len();
        all.numbers.reserve_exact(most);
        all.counts.reserve_exact(most);
        let mut own = self.numbers.iter().copied().zip(self.counts.iter().copied()).peekable();
        for (number, count) in other.numbers.iter().zip(&other.counts) {
            let number = coarse(*number, coarser);
            while let Some((number, count)) = own.next_if(|(own, _)| *own <= number) {
                all.append(number, count);
            }
            all.append(number, *count);
        }
        own.for_each(|(number, count)| all.append(number, count));
        while all.numbers.len() > MAX_BUCKETS {
            all.coarsen();
        }
        all.numbers.shrink_to_fit();
        all.counts.shrink_to_fit();
        *self = all;
    }

    /// Adds to the last bucket, or makes one behind it.
    fn append(&mut self, number: i32, count: u64) {
        match (self.numbers.last(), self.counts.last_mut()) {
            (Some(last), Some(counted)) if *last == number => *counted += count,
            _ => {
                self.numbers.push(number);
                self.counts.push(count);
            }
        }
    }

    /// How many values are in all buckets; `None` when adding values cannot have led here.
    fn counted(&self) -> Option<u64> {
        let shift = Some(DROPPED_BITS.checked_add(self.coarseness)?).filter(|shift| *shift < u64::BITS)?;
        let furthest = (f64::MAX.to_bits() >> shift) + 1;
        let sound = self.numbers.len() == self.counts.len()
            && self.numbers.len() <= MAX_BUCKETS
            && self.numbers.is_sorted_by(|a, b| a < b)
            && self.numbers.iter().all(|number| u64::from(number.unsigned_abs()) <= furthest)
            && self.counts.iter().all(|count| (1..=MOST_COUNTED).contains(count));
        sound.then(|| self.counts.iter().sum())
    }

    /// Looks at one bit less: neighbours that it told apart become one.
    fn coarsen(&mut self) {
        self.coarseness += 1;
        let mut kept = 0;
        for at in 0..self.numbers.len() {
            let (number, count) = (coarse(self.numbers[at], 1), self.counts[at]);
            if kept > 0 && self.numbers[kept - 1] == number {
                self.counts[kept - 1] += count;
            } else {
                (self.numbers[kept], self.counts[kept]) = (number, count);
                kept += 1;
            }
        }
        self.numbers.truncate(kept);
        self.counts.truncate(kept);
    }

    /// The middle of the bucket that holds the value of a rank (from 1), maybe beyond the values in it.
    fn at(&self, rank: u64) -> Option<f64> {
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(self.numbers[at], self.coarseness))
    }
}

/// The rank (from 1) of quantile `q` among `count` values. The small subtrahend keeps products such as
/// 0.07 · 100 = 7.000000000000001 from rising to the next rank.
fn rank(q: f64, count: u64) -> u64 {
    ((q * count as f64 - 1e-9).ceil() as u64).clamp(1, count)
}

/// Buckets are ordered as their values are. Zero is 0; with n the bits that are looked at, n + 1 and -(n + 1).
fn bucket(value: f64, coarseness: u32) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let size = (value.abs().to_bits() >> (DROPPED_BITS + coarseness)) as i32 + 1;
    if value < 0.0 { -size } else { size }
}

/// The number of the bucket that a bucket becomes a part of where `bits` less are looked at.
fn coarse(number: i32, bits: u32) -> i32 {
    match number.signum() {
        0 => 0,
        sign => sign * (((number.abs() - 1) >> bits) + 1),
    }
}

/// The middle of a bucket. Infinite for the last one where exponents share a bucket; the greatest value limits that.
fn middle(number: i32, coarseness: u32) -> f64 {
    if number == 0 {
        return 0.0;
    }
    let dropped = DROPPED_BITS + coarseness;
    let size = f64::from_bits((u64::from(number.unsigned_abs() - 1) << dropped) | (1 << (dropped - 1)));
    if number < 0 { -size } else { size }
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

    /// The definition, word by word: of the values in ascending order, the one of rank ⌈q·n⌉.
    fn exact(sorted: &[f64], q: f64) -> f64 {
        sorted[(q * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize - 1]
    }

    fn sorted(values: &[f64]) -> Vec<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn check(values: &[f64], q: f64) {
        let exact = exact(&sorted(values), q);
        let found = of(values).quantile(q).unwrap();
        let tolerance = if values.len() <= EXACT { 0.0 } else { exact.abs() * 0.004 };
        assert!((found - exact).abs() <= tolerance, "q {q} of {} values: {found} for {exact}", values.len());
    }

    /// Heap bytes that a group's values take.
    fn heap(quantiles: &Quantiles) -> usize {
        match &quantiles.kept {
            Kept::Values(values) => values.capacity() * size_of::<f64>(),
            Kept::Buckets(buckets) => {
                size_of::<Buckets>() + buckets.numbers.capacity() * 4 + buckets.counts.capacity() * 8
            }
        }
    }

    fn coarseness(quantiles: &Quantiles) -> u32 {
        match &quantiles.kept {
            Kept::Values(_) => 0,
            Kept::Buckets(buckets) => buckets.coarseness,
        }
    }

    /// Numbers above 0 and below 1, from a multiplicative congruence: the same on each run.
    fn uniform(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        }
    }

    /// 50,000 values of each of the distributions that latencies and sizes have, and of some that they never should.
    fn distributions() -> Vec<(&'static str, Vec<f64>)> {
        let mut u = uniform(12_345);
        let mut normal = uniform(54_321);
        let mut normal = move || (-2.0 * normal().ln()).sqrt() * (std::f64::consts::TAU * normal()).cos();
        let draw = |draw: &mut dyn FnMut() -> f64| (0..50_000).map(|_| draw()).collect::<Vec<f64>>();
        vec![
            ("uniform", draw(&mut || 1000.0 * u())),
            ("exponential", draw(&mut || -40.0 * u().ln())),
            ("lognormal", draw(&mut || (3.0 + 0.8 * normal()).exp())),
            ("lognormal, very wide", draw(&mut || (4.0 * normal()).exp())),
            ("pareto, without mean", draw(&mut || u().powf(-1.0 / 0.9))),
            ("bimodal", draw(&mut || if u() < 0.9 { 10.0 + u() } else { 2000.0 + 500.0 * u() })),
            ("a constant", draw(&mut || 30_000.0)),
            ("few values", draw(&mut || (5.0 * u()).floor())),
            ("negative", draw(&mut || 20.0 * u().ln())),
            ("around zero", draw(&mut || 100.0 * normal())),
            ("mostly zeros", draw(&mut || if u() < 0.8 { 0.0 } else { u() })),
            ("tiny", draw(&mut || 1e-300 * u())),
            ("huge", draw(&mut || 1e300 * u())),
            ("a microsecond to an hour", draw(&mut || 3.6e9_f64.powf(u()))),
            ("eighteen orders of magnitude", draw(&mut || 1e18_f64.powf(u()))),
        ]
    }

    #[test]
    fn quantiles_are_within_one_percent_on_every_distribution() {
        for (name, values) in distributions() {
            let (quantiles, sorted) = (of(&values), sorted(&values));
            // 0.4 % with all bits, twice that with one less; nothing here needs more.
            let bound = 0.004 * f64::from(1 << coarseness(&quantiles));
            assert!(bound < 0.01, "{name}");
            for q in [0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 0.999] {
                let (found, exact) = (quantiles.quantile(q).unwrap(), exact(&sorted, q));
                assert!((found - exact).abs() <= bound * exact.abs(), "{name}, {q}: {found} for {exact}");
            }
        }
    }

    #[test]
    fn parts_merged_in_any_order_are_the_whole() {
        for (name, values) in distributions() {
            let whole = of(&values);
            // Parts of very different size: some are kept as values, some as buckets.
            let mut parts: Vec<Quantiles> = Vec::new();
            let mut rest = &values[..];
            for len in [3, 70, 1, 20_000, 64, 5_000, 0, 900] {
                let (part, behind) = rest.split_at(len);
                parts.push(of(part));
                rest = behind;
            }
            parts.push(of(rest));
            for turn in 0..parts.len() {
                parts.rotate_left(turn);
                let mut forward = Quantiles::default();
                parts.iter().for_each(|part| forward.merge(part));
                assert!(forward == whole, "{name}, {turn} forward");
                // In pairs, and the pairs then backward.
                let pairs = parts.chunks(2).map(|pair| {
                    let mut merged = pair[0].clone();
                    pair[1..].iter().for_each(|part| merged.merge(part));
                    merged
                });
                let mut backward = Quantiles::default();
                pairs.collect::<Vec<_>>().iter().rev().for_each(|pair| backward.merge(pair));
                assert!(backward == whole, "{name}, {turn} backward");
            }
        }
    }

    /// Values of all sizes that floats have, of both signs: the worst that can be done to a group's memory.
    fn everywhere(count: u64) -> Vec<f64> {
        let bits = (1..=count).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        bits.map(f64::from_bits).filter(|value| value.is_finite()).collect()
    }

    #[test]
    fn a_group_is_bounded_whatever_its_values_are() {
        let most = size_of::<Buckets>() + MAX_BUCKETS * 12;
        let values = everywhere(400_000);
        let mut quantiles = Quantiles::default();
        for value in &values {
            quantiles.add(*value);
            assert!(heap(&quantiles) <= most);
        }
        // Few bits are left, but the order of things is: no quantile below another of less.
        assert!(coarseness(&quantiles) > 1);
        let steps: Vec<f64> = (0..=1000).map(|q| quantiles.quantile(f64::from(q) / 1000.0).unwrap()).collect();
        assert!(steps.is_sorted() && steps.iter().all(|value| value.is_finite()));
        let sorted = sorted(&values);
        assert_eq!((steps[0], steps[1000]), (sorted[0], sorted[sorted.len() - 1]));
        // Merged from halves, one of them coarse and one fine, it is the same and as small.
        let few: Vec<f64> = values.iter().copied().filter(|value| (1.0..1000.0).contains(value)).collect();
        let many: Vec<f64> = values.iter().copied().filter(|value| !(1.0..1000.0).contains(value)).collect();
        let (few, many) = (of(&few), of(&many));
        assert!(coarseness(&few) < coarseness(&many));
        for (first, second) in [(&few, &many), (&many, &few)] {
            let mut merged = first.clone();
            merged.merge(second);
            assert!(merged == quantiles);
            assert!(heap(&merged) <= most);
        }
    }

    #[test]
    fn bits_are_given_up_only_when_buckets_run_out() {
        // All buckets of 32 octaves fill the table; one value beside them is one too many.
        let all: Vec<f64> =
            (0..MAX_BUCKETS as u64).map(|n| f64::from_bits((1023 << 52) + (n << DROPPED_BITS))).collect();
        let mut quantiles = of(&all);
        assert_eq!(coarseness(&quantiles), 0);
        quantiles.add(all[7]);
        assert_eq!(coarseness(&quantiles), 0);
        quantiles.add(0.5);
        assert_eq!(coarseness(&quantiles), 1);
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
        // Latencies with a long tail.
        let mut uniform = uniform(12_345);
        for _ in 0..20_000 {
            let millis = (20.0 / uniform()).min(2e5);
            quantiles.add(millis);
            reference.record((millis * 1e3) as u64).unwrap();
        }
        for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let (found, expected) = (quantiles.quantile(q).unwrap(), reference.value_at_quantile(q) as f64 / 1e3);
            assert!((found - expected).abs() <= 0.01 * expected, "{q}: {found} and {expected}");
        }
    }
}
