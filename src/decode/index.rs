//! Where a record's quotes, backslashes and control characters stand: a bit for each byte.
//!
//! Made in one pass without branches, 16 bytes at a time; then the end of a text is found by counting zeros, however
//! long it is. (Langdale and Lemire's structural index, 2019, without its second half.)

use wide::u8x16;

/// The index of one record.
#[derive(Debug, Default)]
pub(super) struct Index {
    words: Vec<u64>,
    /// The record's byte that the first bit stands for.
    from: usize,
    is_ascii: bool,
}

const LANES: usize = 16;
/// Bytes of one word of the index.
const WORD: usize = 64;

impl Index {
    /// Indexes another record, the first `end` of `bytes`, from `from` on. What is behind it may be indexed, too, up to
    /// the end of a word.
    pub(super) fn build(&mut self, bytes: &[u8], from: usize, end: usize) {
        self.words.clear();
        self.from = from;
        let (chunks, rest) = bytes[from..].as_chunks::<WORD>();
        let whole = (end - from) / WORD;
        // Within a record there are hardly ever control characters, so they are looked for once instead of byte by byte.
        let mut seen = Seen { all: u8x16::ZERO, least: u8x16::MAX };
        self.words.extend(chunks.iter().take(whole).map(|chunk| marks(chunk, &mut seen)));
        if seen.least.min(u8x16::splat(0x1f)).simd_eq(seen.least).to_bitmask() != 0 {
            self.words.clear();
            self.words.extend(chunks.iter().take(whole).map(word));
        }
        if from + whole * WORD < end {
            let mut last = [0; WORD];
            let last = chunks.get(whole).unwrap_or_else(|| {
                // What is behind the last record counts as control characters.
                last[..rest.len()].copy_from_slice(rest);
                &last
            });
            marks(last, &mut seen);
            self.words.push(word(last));
        }
        self.is_ascii = seen.all.to_bitmask() == 0;
    }

    /// Whether surely no byte of the record is above 0x7f. (What was indexed behind it may have been.)
    pub(super) fn is_ascii(&self) -> bool {
        self.is_ascii
    }

    /// The first quote, backslash or control character from `at` on, which was indexed. Behind the record's end there
    /// may be more of them.
    #[inline(always)]
    pub(super) fn next(&self, at: usize) -> Option<usize> {
        self.view().next(at)
    }

    /// The same for who asks often: it is at hand, not behind a reference.
    #[inline(always)]
    pub(super) fn view(&self) -> View<'_> {
        View { words: &self.words, from: self.from }
    }
}

/// What an [`Index`] knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'i> {
    words: &'i [u64],
    from: usize,
}

impl View<'_> {
    /// As [`Index::next`].
    #[inline(always)]
    pub(super) fn next(self, at: usize) -> Option<usize> {
        let place = at - self.from;
        let ahead = self.words.get(place / WORD)? >> (place % WORD);
        if ahead != 0 { Some(at + ahead.trailing_zeros() as usize) } else { self.next_word(place / WORD) }
    }

    /// The same, from the word behind this one on.
    #[inline]
    fn next_word(self, mut number: usize) -> Option<usize> {
        loop {
            number += 1;
            let word = *self.words.get(number)?;
            if word != 0 {
                return Some(self.from + number * WORD + word.trailing_zeros() as usize);
            }
        }
    }
}

/// What bytes there were.
struct Seen {
    /// All bits that any of them has.
    all: u8x16,
    /// The least of them.
    least: u8x16,
}

/// The bits of the quotes and backslashes of 64 bytes.
#[inline]
fn marks(chunk: &[u8; WORD], seen: &mut Seen) -> u64 {
    let (lanes, _) = chunk.as_chunks::<LANES>();
    let mut bits = 0;
    for (number, lanes) in lanes.iter().enumerate() {
        let lanes = u8x16::new(*lanes);
        seen.all |= lanes;
        seen.least = seen.least.min(lanes);
        let ends = lanes.simd_eq(u8x16::splat(b'"')) | lanes.simd_eq(u8x16::splat(b'\\'));
        bits |= u64::from(ends.to_bitmask()) << (number * LANES);
    }
    bits
}

/// The bits of the quotes, backslashes and control characters of 64 bytes.
fn word(chunk: &[u8; WORD]) -> u64 {
    let (lanes, _) = chunk.as_chunks::<LANES>();
    let mut bits = 0;
    for (number, lanes) in lanes.iter().enumerate() {
        let lanes = u8x16::new(*lanes);
        // With the second bit turned, the control characters stay below 0x20 and the quote becomes 0x20.
        let turned = lanes ^ u8x16::splat(2);
        let ends = turned.min(u8x16::splat(0x20)).simd_eq(turned) | lanes.simd_eq(u8x16::splat(b'\\'));
        bits |= u64::from(ends.to_bitmask()) << (number * LANES);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ends_are_where_they_are(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), from in 0usize..300, behind in 0usize..300
        ) {
            let mut index = Index::default();
            let end = bytes.len() - behind.min(bytes.len());
            let from = from.min(end);
            index.build(&bytes, from, end);
            prop_assert!(!index.is_ascii() || bytes[from..end].is_ascii());
            prop_assert!(index.is_ascii() || !bytes[from..].is_ascii());
            for at in from..end {
                let stops = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
                let expected = bytes[at..end].iter().position(stops).map(|place| at + place);
                prop_assert_eq!(index.next(at).filter(|place| *place < end), expected);
            }
        }
    }
}
