//! What is kept of a group's records until its window closes: one [`State`] per different aggregate.
//!
//! Every state is a function of the multiset of values: their order and their spread over panes don't matter.

use super::distinct::{self, Distinct};
use super::edge::{self, Edge, Side};
use super::quantile::Quantiles;
use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};
use serde::{Deserialize, Serialize};

/// Magnitude from which on a float is not summed exactly any more; the sum becomes "no data" as an integer sum does
/// that doesn't fit. 2^90 ≈ 1.2e27.
const FLOAT_SUM_LIMIT: f64 = (1u128 << 90) as f64;
/// 2^64, the resolution of the fraction of a sum.
const FRACTION: f64 = 18_446_744_073_709_551_616.0;

/// Records that a saved state may have counted: more than any pane sees, and far enough from the end of `i64` that
/// going on to count overflows nothing.
const MOST_COUNTED: i64 = 1 << 48;

/// The values of an aggregate's argument, in one of few representations. Nulls are not looked at here: the caller
/// selects rows. Floats that are selected are finite.
#[derive(Debug)]
pub(super) enum Values {
    /// `count(*)` has no argument.
    None,
    /// Integers, and timestamps in microseconds.
    Int(Int64Array),
    Float(Float64Array),
    Bool(BooleanArray),
    Text(StringArray),
    /// With the times of the records, in µs.
    At(Int64Array, Box<Values>),
}

/// What a [`State`] shall keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Count,
    IntTotal,
    FloatTotal,
    IntLeast,
    IntGreatest,
    FloatLeast,
    FloatGreatest,
    Quantiles,
    Distinct,
    Edge(Side, edge::Kind),
}

/// The part of an aggregate that one pane of one group has seen.
///
/// It is saved as it is; another order of variants or fields needs another `topology::state::VERSION`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum State {
    Count(i64),
    IntTotal { sum: i128, count: i64 },
    FloatTotal { sum: ExactSum, count: i64 },
    IntLeast(Option<i64>),
    IntGreatest(Option<i64>),
    FloatLeast(Option<f64>),
    FloatGreatest(Option<f64>),
    Quantiles(Quantiles),
    Distinct(Distinct),
    Edge(Side, Edge),
}

impl State {
    pub(super) fn new(keep: Keep) -> Self {
        match keep {
            Keep::Count => Self::Count(0),
            Keep::IntTotal => Self::IntTotal { sum: 0, count: 0 },
            Keep::FloatTotal => Self::FloatTotal { sum: ExactSum::default(), count: 0 },
            Keep::IntLeast => Self::IntLeast(None),
            Keep::IntGreatest => Self::IntGreatest(None),
            Keep::FloatLeast => Self::FloatLeast(None),
            Keep::FloatGreatest => Self::FloatGreatest(None),
            Keep::Quantiles => Self::Quantiles(Quantiles::default()),
            Keep::Distinct => Self::Distinct(Distinct::default()),
            Keep::Edge(side, kind) => Self::Edge(side, Edge::new(kind)),
        }
    }

    /// Whether this is what a pane could have kept for `keep`, for a state that was read from somewhere.
    pub(super) fn is_sound(&self, keep: Keep) -> bool {
        let counted = |count: i64| (0..=MOST_COUNTED).contains(&count);
        let summed = |sum: i128| sum.unsigned_abs() <= 1 << 120;
        match (self, keep) {
            (Self::Count(count), Keep::Count) => counted(*count),
            (Self::IntTotal { sum, count }, Keep::IntTotal) => summed(*sum) && counted(*count),
            (Self::FloatTotal { sum, count }, Keep::FloatTotal) => {
                summed(sum.whole) && summed(sum.fraction) && counted(*count)
            }
            (Self::IntLeast(_), Keep::IntLeast) | (Self::IntGreatest(_), Keep::IntGreatest) => true,
            (Self::FloatLeast(value), Keep::FloatLeast) | (Self::FloatGreatest(value), Keep::FloatGreatest) => {
                value.is_none_or(f64::is_finite)
            }
            (Self::Quantiles(quantiles), Keep::Quantiles) => quantiles.is_sound(),
            (Self::Distinct(distinct), Keep::Distinct) => distinct.is_sound(),
            (Self::Edge(own, edge), Keep::Edge(side, kind)) => *own == side && edge.is_sound(kind),
            _ => false,
        }
    }

    /// Takes in the value at `row`, which the caller has found to be there and to pass the filter.
    pub(super) fn add(&mut self, values: &Values, row: usize) {
        match (self, values) {
            (Self::Count(count), _) => *count += 1,
            (Self::IntTotal { sum, count }, Values::Int(ints)) => {
                // 2^63 values of 2^63 fit.
                *sum += i128::from(ints.value(row));
                *count += 1;
            }
            (Self::FloatTotal { sum, count }, Values::Float(floats)) => {
                sum.add(floats.value(row));
                *count += 1;
            }
            (Self::IntLeast(least), Values::Int(ints)) => int_least(least, Some(ints.value(row))),
            (Self::IntGreatest(greatest), Values::Int(ints)) => *greatest = (*greatest).max(Some(ints.value(row))),
            (Self::FloatLeast(least), Values::Float(floats)) => float_least(least, Some(floats.value(row))),
            (Self::FloatGreatest(greatest), Values::Float(floats)) => float_greatest(greatest, Some(floats.value(row))),
            (Self::Quantiles(quantiles), Values::Int(ints)) => quantiles.add(ints.value(row) as f64),
            (Self::Quantiles(quantiles), Values::Float(floats)) => quantiles.add(floats.value(row)),
            (Self::Distinct(distinct), values) => distinct.add(hash_at(values, row)),
            (Self::Edge(side, edge), Values::At(times, values)) => edge.add(*side, times.value(row), values, row),
            (state, values) => unreachable!("{state:?} was planned for other values than {values:?}"),
        }
    }

    /// How many records it has counted; `None` when it keeps something else.
    pub(super) fn counted(&self) -> Option<u64> {
        if let Self::Count(count) = self { u64::try_from(*count).ok() } else { None }
    }

    /// Takes in what another pane has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(own), Self::Count(other)) => *own += other,
            (Self::IntTotal { sum, count }, Self::IntTotal { sum: more, count: n }) => {
                *sum += more;
                *count += n;
            }
            (Self::FloatTotal { sum, count }, Self::FloatTotal { sum: more, count: n }) => {
                sum.merge(more);
                *count += n;
            }
            (Self::IntLeast(own), Self::IntLeast(other)) => int_least(own, *other),
            (Self::IntGreatest(own), Self::IntGreatest(other)) => *own = (*own).max(*other),
            (Self::FloatLeast(own), Self::FloatLeast(other)) => float_least(own, *other),
            (Self::FloatGreatest(own), Self::FloatGreatest(other)) => float_greatest(own, *other),
            (Self::Quantiles(own), Self::Quantiles(other)) => own.merge(other),
            (Self::Distinct(own), Self::Distinct(other)) => own.merge(other),
            (Self::Edge(side, own), Self::Edge(_, other)) => own.merge(*side, other),
            (own, other) => unreachable!("{own:?} and {other:?} are of one aggregate"),
        }
    }

    /// The result as an integer (or timestamp): a count, an integer sum that fits, an extreme.
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Self::Count(count) => Some(*count),
            Self::IntTotal { sum, count } if *count > 0 => i64::try_from(*sum).ok(),
            Self::IntLeast(value) | Self::IntGreatest(value) => *value,
            Self::Distinct(distinct) => Some(distinct.count()),
            Self::Edge(_, edge) => edge.int(),
            _ => None,
        }
    }

    /// The result as a float: a float sum or an extreme.
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::FloatTotal { sum, count } if *count > 0 => sum.total(),
            Self::FloatLeast(value) | Self::FloatGreatest(value) => *value,
            Self::Edge(_, edge) => edge.float(),
            _ => None,
        }
    }

    /// The result as a text: the first or the last one.
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Edge(_, edge) = self { edge.text() } else { None }
    }

    /// A count or a sum.
    pub(super) fn total(&self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(*count as f64),
            Self::IntTotal { sum, count } if *count > 0 => Some(*sum as f64),
            Self::FloatTotal { sum, count } if *count > 0 => sum.total(),
            _ => None,
        }
    }

    /// The sum divided by the count.
    pub(super) fn mean(&self) -> Option<f64> {
        match self {
            Self::IntTotal { sum, count } if *count > 0 => Some(*sum as f64 / *count as f64),
            Self::FloatTotal { sum, count } if *count > 0 => Some(sum.total()? / *count as f64),
            _ => None,
        }
    }

    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        match self {
            Self::Quantiles(quantiles) => quantiles.quantile(q),
            _ => None,
        }
    }
}

fn int_least(own: &mut Option<i64>, other: Option<i64>) {
    *own = match (*own, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

fn float_least(own: &mut Option<f64>, other: Option<f64>) {
    *own = match (*own, other) {
        (Some(a), Some(b)) => Some(if b.total_cmp(&a).is_lt() { b } else { a }),
        (a, b) => a.or(b),
    };
}

fn float_greatest(own: &mut Option<f64>, other: Option<f64>) {
    *own = match (*own, other) {
        (Some(a), Some(b)) => Some(if b.total_cmp(&a).is_gt() { b } else { a }),
        (a, b) => a.or(b),
    };
}

fn hash_at(values: &Values, row: usize) -> u64 {
    match values {
        Values::Int(ints) => distinct::hash(&ints.value(row).to_le_bytes()),
        // + 0.0 makes the two zeros one value.
        Values::Float(floats) => distinct::hash(&(floats.value(row) + 0.0).to_bits().to_le_bytes()),
        Values::Bool(bools) => distinct::hash(&[u8::from(bools.value(row))]),
        Values::Text(texts) => distinct::hash(texts.value(row).as_bytes()),
        Values::None | Values::At(..) => unreachable!("count_distinct was planned with an argument, and without times"),
    }
}

/// A sum of floats in fixed point, 2^-64 apart, so that it doesn't depend on the order of its terms.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ExactSum {
    whole: i128,
    /// In units of 2^-64; up to 2^63 terms fit.
    fraction: i128,
    beyond: bool,
}

impl ExactSum {
    fn add(&mut self, value: f64) {
        if value.abs() >= FLOAT_SUM_LIMIT {
            self.beyond = true;
            return;
        }
        // Both parts of a split float are exact; 2^37 terms of the largest size fit.
        self.whole += value.trunc() as i128;
        self.fraction += (value.fract() * FRACTION) as i128;
    }

    fn merge(&mut self, other: &Self) {
        self.whole += other.whole;
        self.fraction += other.fraction;
        self.beyond |= other.beyond;
    }

    fn total(&self) -> Option<f64> {
        let whole = self.whole + (self.fraction >> 64);
        let fraction = self.fraction & i128::from(u64::MAX);
        // Near zero the parts of a negative sum are -1 and almost 1; together they keep the digits that a float has.
        let total = match whole {
            -1 => (fraction - (1i128 << 64)) as f64 / FRACTION,
            _ => whole as f64 + fraction as f64 / FRACTION,
        };
        (!self.beyond).then_some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> Option<f64> {
        let mut sum = ExactSum::default();
        values.iter().for_each(|v| sum.add(*v));
        sum.total()
    }

    #[test]
    fn sums_are_those_of_the_numbers() {
        for (values, expected) in [
            (&[0.1, 0.2][..], 0.30000000000000004),
            (&[1e20, 1.0, -1e20], 1.0),
            (&[-0.25, -0.5], -0.75),
            (&[-3.5, 1.25], -2.25),
            (&[1e-9, -3e-9], -2e-9),
        ] {
            let total = sum(values).unwrap();
            assert!((total - expected).abs() <= expected.abs() * 1e-9, "{values:?}: {total}");
        }
        assert_eq!(sum(&[1e30, 1.0]), None, "beyond the range is no data");
    }

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_the_order(
            values in prop::collection::vec(prop_oneof![-1e-3..1e-3f64, -1e6..1e6f64, -1e25..1e25f64], 0..60),
            cut in 0.0..1.0f64,
        ) {
            let forward = sum(&values);
            let backward = sum(&values.iter().rev().copied().collect::<Vec<_>>());
            prop_assert_eq!(forward.map(f64::to_bits), backward.map(f64::to_bits));
            let (left, right) = values.split_at((values.len() as f64 * cut) as usize);
            let mut merged = ExactSum::default();
            right.iter().for_each(|v| merged.add(*v));
            let mut more = ExactSum::default();
            left.iter().for_each(|v| more.add(*v));
            merged.merge(&more);
            prop_assert_eq!(forward.map(f64::to_bits), merged.total().map(f64::to_bits));
        }
    }
}
