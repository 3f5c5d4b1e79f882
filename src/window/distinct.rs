//! `count_distinct`: how many different values there were.
//!
//! Up to [`EXACT`] different values the hashes are kept and the count is exact (but for collisions of 64-bit hashes);
//! beyond, a HyperLogLog of 4,096 registers estimates it with a standard error of 1.6 %. The estimator is Ertl's
//! ("New cardinality estimation algorithms for HyperLogLog sketches", 2017), computed from the registers alone: the
//! result depends on the set of values, not on their order, and is the same on every machine.

use serde::{Deserialize, Serialize};

/// Different values up to which the count is exact.
const EXACT: usize = 128;
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Bits of a hash that are left for the rank.
const RANK_BITS: u32 = 64 - INDEX_BITS;

/// A set of hashes, exact while it is small.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Distinct {
    /// Sorted.
    Few(Vec<u64>),
    Many(Box<[u8]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Distinct {
    pub(super) fn add(&mut self, hash: u64) {
        match self {
            Self::Few(hashes) => {
                if let Err(at) = hashes.binary_search(&hash) {
                    hashes.insert(at, hash);
                    if hashes.len() > EXACT {
                        *self = Self::Many(registers(hashes));
                    }
                }
            }
            Self::Many(registers) => record(registers, hash),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Few(hashes)) => hashes.iter().for_each(|hash| self.add(*hash)),
            (Self::Many(own), Self::Many(others)) => {
                own.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
            }
            (Self::Few(hashes), Self::Many(others)) => {
                let mut own = others.clone();
                hashes.iter().for_each(|hash| record(&mut own, *hash));
                *self = Self::Many(own);
            }
        }
    }

    /// Whether adding values can have led here, for a set that was read from somewhere.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Few(hashes) => hashes.len() <= EXACT && hashes.is_sorted_by(|a, b| a < b),
            Self::Many(registers) => {
                registers.len() == REGISTERS && registers.iter().all(|rank| u32::from(*rank) <= RANK_BITS + 1)
            }
        }
    }

    pub(super) fn count(&self) -> i64 {
        match self {
            Self::Few(hashes) => hashes.len() as i64,
            Self::Many(registers) => estimate(registers).round() as i64,
        }
    }
}

fn registers(hashes: &[u64]) -> Box<[u8]> {
    let mut registers = vec![0; REGISTERS].into_boxed_slice();
    hashes.iter().for_each(|hash| record(&mut registers, *hash));
    registers
}

fn record(registers: &mut [u8], hash: u64) {
    let rank = ((hash << INDEX_BITS).leading_zeros() + 1).min(RANK_BITS + 1) as u8;
    let register = &mut registers[(hash >> RANK_BITS) as usize];
    *register = rank.max(*register);
}

fn estimate(registers: &[u8]) -> f64 {
    let mut histogram = [0u32; RANK_BITS as usize + 2];
    for register in registers {
        histogram[usize::from(*register)] += 1;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - f64::from(histogram[RANK_BITS as usize + 1]) / m);
    for rank in (1..=RANK_BITS as usize).rev() {
        z = 0.5 * (z + f64::from(histogram[rank]));
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// A hash that is the same on every machine and in every version; estimates that were stored depend on it.
///
/// Eight bytes at a time through a folded 128-bit multiplication, as wyhash does it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        state = fold(state ^ u64::from_le_bytes(chunk.try_into().expect("eight bytes")), 0xa076_1d64_78bd_642f);
    }
    let mut rest = [0; 8];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    state = fold(state ^ u64::from_le_bytes(rest), 0xe703_7ed1_a0b4_28db);
    fold(state ^ bytes.len() as u64, 0x8ebc_6af0_9c88_c6e3)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = u64>) -> Distinct {
        let mut distinct = Distinct::default();
        values.for_each(|v| distinct.add(hash(&v.to_le_bytes())));
        distinct
    }

    #[test]
    fn few_values_are_counted_exactly() {
        for n in [0, 1, 2, 100, EXACT as u64] {
            assert_eq!(of((0..n).chain(0..n)).count(), n as i64);
        }
    }

    #[test]
    fn many_values_are_estimated_within_five_percent() {
        for n in [129, 500, 4_000, 20_000, 300_000] {
            let count = of(0..n).count() as f64;
            assert!((count / n as f64 - 1.0).abs() < 0.05, "{n}: {count}");
            let texts = (0..n).fold(Distinct::default(), |mut d, i| {
                d.add(hash(format!("/v1/programs/{i}").as_bytes()));
                d
            });
            assert!((texts.count() as f64 / n as f64 - 1.0).abs() < 0.05, "{n} texts: {}", texts.count());
        }
    }

    #[test]
    fn neither_order_nor_merging_changes_the_count() {
        for (low, high) in [(50, 90), (100, 5_000), (5_000, 100), (5_000, 9_000)] {
            let whole = of(0..low + high).count();
            assert_eq!(of((0..low + high).rev()).count(), whole);
            let mut merged = of(0..low);
            merged.merge(&of(low..low + high));
            assert_eq!(merged.count(), whole, "{low} and {high}");
        }
    }
}
