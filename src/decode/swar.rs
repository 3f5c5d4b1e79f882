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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
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
