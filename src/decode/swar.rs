//! Eight bytes at a time, in one register: whether they look as they should, and the number that they make up.

/// Eight times the same byte.
const fn all(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The digits of eight bytes that look like `like`, where a `0` stands for any digit: each in its byte, 0 for the others.
#[inline]
pub(super) fn like(text: &[u8], at: usize, like: [u8; 8]) -> Option<[u8; 8]> {
    let piece: [u8; 8] = *text.get(at..)?.first_chunk()?;
    // A byte is 0 to 9 where a digit stands on a `0`, and 0 where what stands there is what should. More than that
    // shows in the highest bit once it is added to what just fits below it.
    let mut room = [0x7f; 8];
    let mut byte = 0;
    while byte < 8 {
        if like[byte] == b'0' {
            room[byte] = 0x76;
        }
        byte += 1;
    }
    let differs = u64::from_le_bytes(piece) ^ u64::from_le_bytes(like);
    let over = (differs | (differs & all(0x7f)).wrapping_add(u64::from_le_bytes(room))) & all(0x80);
    (over == 0).then_some(differs.to_le_bytes())
}

/// The number that eight digits make up, of the values 0 to 9.
#[inline]
pub(super) const fn eight(digits: [u8; 8]) -> u32 {
    // Neighbours are put together, then pairs, then fours (Lemire, "Quickly parsing eight digits", 2018).
    let ones = u64::from_le_bytes(digits);
    let pairs = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    ((fours * 10_000 + (fours >> 32)) & 0xffff_ffff) as u32
}

/// A number of at most seven bytes, without sign and exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    /// All digits, as if there were no point.
    pub(super) value: u32,
    /// Digits before the point, one at least.
    pub(super) whole: usize,
    /// Digits and the point, if there is one; then a digit is behind it.
    pub(super) length: usize,
}

/// The number at `at`. `None`: there is none, or it is not seen to end within eight bytes.
#[inline(always)]
pub(super) fn short(text: &[u8], at: usize) -> Option<Short> {
    let piece = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
    let digits = piece ^ all(b'0');
    // The highest bit of each byte that is no digit.
    let others = (digits | (digits & all(0x7f)).wrapping_add(all(0x76))) & all(0x80);
    let point = others.trailing_zeros() & !7;
    if point == 0 || point == 64 {
        return None;
    }
    let whole = point as usize / 8;
    if (piece >> point) as u8 != b'.' {
        let value = eight((digits << (64 - point)).to_le_bytes());
        return Some(Short { value, whole, length: whole });
    }
    let end = (others & (others - 1)).trailing_zeros() & !7;
    if end == 64 || end == point + 8 {
        return None;
    }
    // The digits behind the point close up to those before it.
    let joined = (digits & ((1 << point) - 1)) | digits >> point >> 8 << point;
    let value = eight((joined << (72 - end)).to_le_bytes());
    Some(Short { value, whole, length: end as usize / 8 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn short_numbers_are_read(text in prop_oneof!["[0-9]{0,8}[.]{0,2}[0-9]{0,8}[,}e.]", "\\PC{0,8}"]) {
            let whole = text.bytes().take_while(u8::is_ascii_digit).count();
            let behind = text[whole..].strip_prefix('.').map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
            let length = whole + behind.map_or(0, |digits| digits + 1);
            let is_short = whole > 0 && behind != Some(0) && length < 8 && text.len() >= 8;
            let expected = is_short.then(|| Short {
                value: text[..length].replace('.', "").parse().unwrap(), whole, length
            });
            prop_assert_eq!(short(text.as_bytes(), 0), expected);
        }

        #[test]
        fn eight_digits_are_a_number(digits in "[0-9]{8}") {
            let values = digits.as_bytes().first_chunk().unwrap().map(|digit| digit - b'0');
            prop_assert_eq!(eight(values), digits.parse::<u32>().unwrap());
        }

        #[test]
        fn only_what_looks_alike_is_taken(
            text in prop_oneof![any::<[u8; 8]>(), proptest::array::uniform8(b'-'..=b':'), "[0-9]{2}:[0-9]{2}Z[0-9]{2}".prop_map(|text| *text.as_bytes().first_chunk().unwrap())]
        ) {
            let fits = text.iter().zip(b"00:00Z00").all(|(found, expected)| match expected {
                b'0' => found.is_ascii_digit(),
                _ => found == expected,
            });
            let values = text.map(|byte| if byte.is_ascii_digit() { byte - b'0' } else { 0 });
            prop_assert_eq!(like(&text, 0, *b"00:00Z00"), fits.then_some(values));
        }
    }
}
