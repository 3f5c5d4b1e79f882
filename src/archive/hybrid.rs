//! Parquet's hybrid of runs and bit packing, for dictionary codes and definition levels.
//!
//! A *run* is `count << 1` and the value in as few whole bytes as hold it; a *packed* stretch is `groups << 1 | 1` and
//! eight values a group, each in `width` bits, lowest first. Counts are LEB128.

/// A run shorter than this stays packed: a header of its own would cost more than it saves.
const RUN: usize = 16;
const GROUP: usize = 8;

/// Appends `values`, each below `2^width`; `width` is 1 to 32.
pub(super) fn put_codes(out: &mut Vec<u8>, values: &[u32], width: u32) {
    let (mut at, mut packed_from) = (0, 0);
    while at < values.len() {
        let run = run_length(&values[at..]);
        if run >= RUN {
            pack(out, &values[packed_from..at], width);
            put_varint(out, (run as u64) << 1);
            out.extend_from_slice(&values[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
            packed_from = at;
        } else {
            // All packed stretches but the last are of whole groups.
            at = values.len().min(at + GROUP);
        }
    }
    pack(out, &values[packed_from..], width);
}

/// Appends `count` bits, lowest first in `bits`, as levels 0 and 1. Bits behind the last are 0.
pub(super) fn put_levels(out: &mut Vec<u8>, bits: &[u8], count: usize) {
    let whole = count / GROUP;
    let (mut at, mut packed_from) = (0, 0);
    let pack = |out: &mut Vec<u8>, groups: &[u8]| {
        if !groups.is_empty() {
            put_varint(out, (groups.len() as u64) << 1 | 1);
            out.extend_from_slice(groups);
        }
    };
    while at < whole {
        let run = match bits[at] {
            0 | 0xff => bits[at..whole].iter().take_while(|group| **group == bits[at]).count(),
            _ => 0,
        };
        if run * GROUP >= RUN {
            pack(out, &bits[packed_from..at]);
            put_varint(out, ((run * GROUP) as u64) << 1);
            out.push(bits[at] & 1);
            at += run;
            packed_from = at;
        } else {
            at += 1;
        }
    }
    pack(out, &bits[packed_from..count.div_ceil(GROUP)]);
}

/// Appends `count` equal levels.
pub(super) fn put_equal_levels(out: &mut Vec<u8>, level: u8, count: usize) {
    put_varint(out, (count as u64) << 1);
    out.push(level);
}

fn run_length(values: &[u32]) -> usize {
    values.iter().take_while(|value| **value == values[0]).count()
}

fn pack(out: &mut Vec<u8>, values: &[u32], width: u32) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(GROUP);
    put_varint(out, (groups as u64) << 1 | 1);
    let end = out.len() + groups * width as usize;
    let (mut word, mut used) = (0u64, 0);
    for value in values {
        word |= u64::from(*value) << used;
        used += width;
        while used >= 32 {
            out.extend_from_slice(&(word as u32).to_le_bytes());
            word >>= 32;
            used -= 32;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..used.div_ceil(8) as usize]);
    out.resize(end, 0);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Parquet's text says it is read.
    fn read(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut header, mut shift) = (0u64, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                header |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if header & 1 == 0 {
                let size = width.div_ceil(8) as usize;
                let value = bytes[..size].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                bytes = &bytes[size..];
                values.extend(std::iter::repeat_n(value, (header >> 1) as usize));
            } else {
                let size = (header >> 1) as usize * width as usize;
                let bit = |bit: usize| u32::from(bytes[bit / 8] >> (bit % 8) & 1);
                for value in 0..(header >> 1) as usize * 8 {
                    values.push((0..width as usize).map(|b| bit(value * width as usize + b) << b).sum());
                }
                bytes = &bytes[size..];
            }
        }
        assert_eq!(bytes, [0u8; 0], "nothing stands behind the last value");
        assert!(values[count..].iter().all(|value| *value == 0));
        values.truncate(count);
        values
    }

    /// Values with runs: each one stands as often as it says.
    fn runs() -> impl Strategy<Value = (Vec<u32>, u32)> {
        (1u32..=32).prop_flat_map(|width| {
            let run = (0..=u32::MAX >> (32 - width), prop_oneof![1usize..4, 5usize..60]);
            proptest::collection::vec(run, 0..20).prop_map(move |runs| {
                let values = runs.into_iter().flat_map(|(value, count)| std::iter::repeat_n(value, count));
                (values.collect(), width)
            })
        })
    }

    proptest! {
        #[test]
        fn codes_read_back((values, width) in runs()) {
            let mut out = Vec::new();
            put_codes(&mut out, &values, width);
            prop_assert_eq!(read(&out, width, values.len()), values);
        }

        #[test]
        fn levels_read_back(runs in proptest::collection::vec((0u8..2, 1usize..60), 0..12)) {
            let levels: Vec<u8> = runs.iter().flat_map(|(level, count)| std::iter::repeat_n(*level, *count)).collect();
            let mut bits = vec![0; levels.len().div_ceil(8)];
            levels.iter().enumerate().for_each(|(at, level)| bits[at / 8] |= level << (at % 8));
            let mut out = Vec::new();
            put_levels(&mut out, &bits, levels.len());
            prop_assert_eq!(read(&out, 1, levels.len()), levels.iter().map(|l| u32::from(*l)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_run_is_short() {
        let mut out = Vec::new();
        put_codes(&mut out, &[300; 20_000], 9);
        assert_eq!(out, [0xc0, 0xb8, 0x02, 0x2c, 0x01]);
        out.clear();
        put_equal_levels(&mut out, 1, 20_000);
        assert_eq!(out, [0xc0, 0xb8, 0x02, 0x01]);
    }
}
