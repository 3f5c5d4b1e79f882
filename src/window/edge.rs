//! `first` and `last`: the value of the earliest record, and of the latest.
//!
//! Of several records of one time the greatest value counts, so that the order in which they came doesn't matter.

use super::state::Values;
use crate::limits::EDGE_TEXT_BYTES;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    First,
    Last,
}

/// What kind of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Integers, and timestamps in µs.
    Int,
    Float,
    Text,
}

/// A time in µs and the value that a record of that time had; `None` before the first record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Edge {
    Int(Option<(i64, i64)>),
    Float(Option<(i64, f64)>),
    /// At most [`EDGE_TEXT_BYTES`].
    Text(Option<(i64, String)>),
}

impl Edge {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Int => Self::Int(None),
            Kind::Float => Self::Float(None),
            Kind::Text => Self::Text(None),
        }
    }

    pub(super) fn is_sound(&self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Int(_), Kind::Int) => true,
            (Self::Float(own), Kind::Float) => own.is_none_or(|(_, value)| value.is_finite()),
            (Self::Text(own), Kind::Text) => own.as_ref().is_none_or(|(_, text)| text.len() <= EDGE_TEXT_BYTES),
            _ => false,
        }
    }

    pub(super) fn add(&mut self, side: Side, at: i64, values: &Values, row: usize) {
        match (self, values) {
            (Self::Int(own), Values::Int(ints)) => take_int(own, side, at, ints.value(row)),
            (Self::Float(own), Values::Float(floats)) => take_float(own, side, at, floats.value(row)),
            (Self::Text(own), Values::Text(texts)) => take_text(own, side, at, cut(texts.value(row))),
            (edge, values) => unreachable!("{edge:?} was planned for other values than {values:?}"),
        }
    }

    pub(super) fn merge(&mut self, side: Side, other: &Self) {
        match (self, other) {
            (Self::Int(own), Self::Int(Some((at, value)))) => take_int(own, side, *at, *value),
            (Self::Float(own), Self::Float(Some((at, value)))) => take_float(own, side, *at, *value),
            (Self::Text(own), Self::Text(Some((at, value)))) => take_text(own, side, *at, value),
            _ => {}
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        if let Self::Int(own) = self { own.map(|(_, value)| value) } else { None }
    }

    pub(super) fn float(&self) -> Option<f64> {
        if let Self::Float(own) = self { own.map(|(_, value)| value) } else { None }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(own) = self { own.as_ref().map(|(_, value)| value.as_str()) } else { None }
    }
}

fn wins(side: Side, new: i64, own: i64, greater: impl FnOnce() -> bool) -> bool {
    match new.cmp(&own) {
        Ordering::Less => side == Side::First,
        Ordering::Equal => greater(),
        Ordering::Greater => side == Side::Last,
    }
}

fn take_int(own: &mut Option<(i64, i64)>, side: Side, at: i64, value: i64) {
    if own.is_none_or(|(own_at, own)| wins(side, at, own_at, || value > own)) {
        *own = Some((at, value));
    }
}

fn take_float(own: &mut Option<(i64, f64)>, side: Side, at: i64, value: f64) {
    if own.is_none_or(|(own_at, own)| wins(side, at, own_at, || value.total_cmp(&own).is_gt())) {
        *own = Some((at, value));
    }
}

fn take_text(own: &mut Option<(i64, String)>, side: Side, at: i64, value: &str) {
    match own {
        None => *own = Some((at, value.to_owned())),
        Some((own_at, text)) if wins(side, at, *own_at, || value > text.as_str()) => {
            *own_at = at;
            // Its room is used again: the last text changes with nearly each record.
            text.clear();
            text.push_str(value);
        }
        Some(_) => {}
    }
}

/// The beginning of `text`, of at most [`EDGE_TEXT_BYTES`].
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(EDGE_TEXT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    fn of(side: Side, kind: Kind, values: &Values, rows: impl Iterator<Item = usize>, times: &[i64]) -> Edge {
        let mut edge = Edge::new(kind);
        rows.for_each(|row| edge.add(side, times[row], values, row));
        edge
    }

    proptest! {
        #[test]
        fn neither_order_nor_merging_matters(
            records in prop::collection::vec((-3i64..3, -3i64..3), 1..30), split in any::<prop::sample::Index>(),
        ) {
            let times: Vec<i64> = records.iter().map(|record| record.0).collect();
            let numbers = records.iter().map(|record| record.1);
            let ints = Values::Int(numbers.clone().collect::<Int64Array>());
            let floats = Values::Float(numbers.clone().map(|n| n as f64 / 2.0).collect::<Float64Array>());
            let texts = Values::Text(numbers.map(|n| Some(format!("{:02}", n + 3))).collect::<StringArray>());
            for side in [Side::First, Side::Last] {
                let time = if side == Side::First { times.iter().min() } else { times.iter().max() };
                let value = records.iter().filter(|record| Some(&record.0) == time).map(|record| record.1).max().unwrap();
                for (kind, values) in [(Kind::Int, &ints), (Kind::Float, &floats), (Kind::Text, &texts)] {
                    let count = records.len();
                    let whole = of(side, kind, values, 0..count, &times);
                    let split = split.index(count);
                    let mut back = of(side, kind, values, (split..count).rev(), &times);
                    back.merge(side, &of(side, kind, values, 0..split, &times));
                    prop_assert_eq!(format!("{whole:?}"), format!("{back:?}"));
                    prop_assert!(whole.is_sound(kind));
                    match kind {
                        Kind::Int => prop_assert_eq!(whole.int(), Some(value)),
                        Kind::Float => prop_assert_eq!(whole.float(), Some(value as f64 / 2.0)),
                        Kind::Text => prop_assert_eq!(whole.text().map(str::to_owned), Some(format!("{:02}", value + 3))),
                    }
                }
            }
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let text = "ü".repeat(EDGE_TEXT_BYTES);
        let edge = of(Side::Last, Kind::Text, &Values::Text(StringArray::from(vec![text])), 0..1, &[0]);
        assert_eq!(edge.text().map(str::len), Some(EDGE_TEXT_BYTES));
        assert!(edge.is_sound(Kind::Text) && !edge.is_sound(Kind::Int));
    }
}
