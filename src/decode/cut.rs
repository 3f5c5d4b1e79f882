//! Cutting single values out of JSON text without parsing what is around them.
//!
//! Each function takes exactly what RFC 8259 allows and gives up on everything that is rare or doubtful: who calls it has
//! the strict parser behind. What was cut is what the strict parser would have read; a property test and a fuzz target
//! hold it to that.

use super::index::Index;
use super::learn::MAX_STEPS;
use super::swar;

/// What a value is. A bit each, so that sets of them are cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u32);

impl Kinds {
    /// A text that stands in the record as it is.
    pub(super) const PLAIN: Self = Self(1);
    /// A text with escapes; it stands in the scratch buffer.
    pub(super) const UNESCAPED: Self = Self(2);
    pub(super) const INT: Self = Self(4);
    pub(super) const FLOAT: Self = Self(8);
    pub(super) const BOOL: Self = Self(16);
    pub(super) const NULL: Self = Self(32);

    pub(super) const TEXT: Self = Self(1 | 2);
    pub(super) const ANY: Self = Self(63);

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[inline]
    pub(super) const fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

/// A value that was cut out.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
pub(super) struct Piece {
    /// The lower and the upper half of an integer's value or a float's bits; 1 for true. Of a text the places of its first
    /// byte and of that behind its last one, counted from the record's first byte or in the scratch buffer.
    halves: [u32; 2],
    /// One kind.
    pub(super) kind: Kinds,
}

impl Piece {
    const NONE: Self = Self { halves: [0; 2], kind: Kinds::NULL };

    const fn number(&self) -> u64 {
        self.halves[0] as u64 | (self.halves[1] as u64) << 32
    }

    pub(super) const fn int(&self) -> i64 {
        self.number() as i64
    }

    pub(super) const fn float(&self) -> f64 {
        f64::from_bits(self.number())
    }

    pub(super) const fn is_true(&self) -> bool {
        self.halves[0] == 1
    }

    /// Where a text stands.
    #[inline]
    pub(super) const fn range(&self) -> std::ops::Range<usize> {
        self.halves[0] as usize..self.halves[1] as usize
    }
}

/// The values of a record. As many as a layout can have, so that it takes no check to add or to find one.
#[derive(Debug)]
pub(super) struct Pieces {
    all: Box<[Piece; MAX_STEPS]>,
    count: usize,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { all: Box::new([Piece::NONE; MAX_STEPS]), count: 0 }
    }
}

impl Pieces {
    pub(super) fn get(&self) -> &[Piece] {
        &self.all[..self.count]
    }

    pub(super) fn set(&mut self, pieces: &[Piece]) {
        self.all[..pieces.len()].copy_from_slice(pieces);
        self.count = pieces.len();
    }

    /// All places for values, by step, whether or not they are in use.
    pub(super) fn all(&self) -> &[Piece; MAX_STEPS] {
        &self.all
    }

    /// The value that a step cut.
    #[inline(always)]
    pub(super) fn of(&self, step: u16) -> &Piece {
        &self.all[usize::from(step) % MAX_STEPS]
    }

    #[inline(always)]
    fn push(&mut self, kind: Kinds, number: u64) {
        self.add(Piece { halves: [number as u32, (number >> 32) as u32], kind });
    }

    /// Adds a text, plain or unescaped.
    #[inline(always)]
    pub(super) fn push_text(&mut self, kind: Kinds, start: usize, end: usize) {
        self.add(Piece { halves: [start as u32, end as u32], kind });
    }

    #[inline(always)]
    fn add(&mut self, piece: Piece) {
        // A layout has no more than fit; learning gives up behind them.
        self.all[self.count % MAX_STEPS] = piece;
        self.count += 1;
    }

    pub(super) fn pop(&mut self) {
        self.count -= 1;
    }
}

/// What a record is cut into.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub(super) pieces: Pieces,
    /// Texts that had escapes.
    pub(super) scratch: Vec<u8>,
    pub(super) index: Index,
}

impl Cuts {
    /// Forgets the last record.
    pub(super) fn clear(&mut self) {
        self.pieces.count = 0;
        self.scratch.clear();
    }

    /// Gets ready to cut a record, the first `end` of `bytes`, from `from` on, which is the beginning of a character; false
    /// when it is not UTF-8 from there on.
    pub(super) fn begin(&mut self, bytes: &[u8], from: usize, end: usize) -> bool {
        self.index.build(bytes, from, end);
        self.index.is_ascii() || std::str::from_utf8(&bytes[from..end]).is_ok()
    }

    /// The value that was cut last, which is a text.
    pub(super) fn last_text<'c>(&'c self, bytes: &'c [u8]) -> &'c [u8] {
        match self.pieces.get().last() {
            Some(piece) if piece.kind == Kinds::PLAIN => &bytes[piece.range()],
            Some(piece) => &self.scratch[piece.range()],
            None => &[],
        }
    }

    /// Takes the value back that was cut last, a plain text, and returns where it begins.
    pub(super) fn take_text(&mut self) -> usize {
        let start = self.pieces.get().last().map_or(0, |piece| piece.range().start);
        self.pieces.pop();
        start
    }
}

/// How a quote is written: in JSON as it stands, or within a JSON string, where each has a backslash before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quote {
    /// Two bytes, of which those in `mask` count.
    mark: u16,
    mask: u16,
    length: u16,
}

impl Quote {
    pub(super) const BARE: Self = Self { mark: b'"' as u16, mask: 0xff, length: 1 };
    pub(super) const NESTED: Self = Self { mark: u16::from_le_bytes(*b"\\\""), mask: 0xffff, length: 2 };

    pub(super) const fn as_bytes(self) -> &'static [u8] {
        if self.length == 1 { b"\"" } else { b"\\\"" }
    }

    #[inline(always)]
    pub(super) fn stands_at(self, bytes: &[u8], at: usize) -> Option<bool> {
        let two = bytes.get(at..)?.first_chunk()?;
        Some(u16::from_le_bytes(*two) & self.mask == self.mark)
    }
}

/// Cuts the value at `at`, which is no object or array, and returns the place behind. `None`: it is something else, or
/// not to be had here, or of no kind that is asked for.
#[inline]
pub(super) fn scalar(bytes: &[u8], at: usize, quote: Quote, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    if quote.stands_at(bytes, at)? {
        text(bytes, at + usize::from(quote.length), quote, kinds, cuts)
    } else if matches!(bytes[at], b'-' | b'0'..=b'9') {
        number(bytes, at, kinds, &mut cuts.pieces)
    } else {
        word(bytes, at, kinds, cuts)
    }
}

/// The same as [`scalar`] for a text that begins at `start`, behind its quote.
#[inline(always)]
pub(super) fn text(bytes: &[u8], start: usize, quote: Quote, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    let stop = cuts.index.next(start)?;
    if !quote.stands_at(bytes, stop)? {
        return unescaped(bytes, start, stop, quote, kinds, cuts);
    }
    if !kinds.has(Kinds::PLAIN) {
        return None;
    }
    cuts.pieces.push_text(Kinds::PLAIN, start, stop);
    Some(stop + usize::from(quote.length))
}

/// Cuts `true`, `false` or `null`.
#[inline(never)]
fn word(bytes: &[u8], at: usize, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    let (kind, number, length) = match bytes.get(at..)? {
        [b't', b'r', b'u', b'e', ..] => (Kinds::BOOL, 1, 4),
        [b'f', b'a', b'l', b's', b'e', ..] => (Kinds::BOOL, 0, 5),
        [b'n', b'u', b'l', b'l', ..] => (Kinds::NULL, 0, 4),
        _ => return None,
    };
    if !kinds.has(kind) {
        return None;
    }
    cuts.pieces.push(kind, number);
    Some(at + length)
}

/// Writes a text with escapes, of which the first stands at `at`, to `scratch`.
#[cold]
fn unescaped(bytes: &[u8], start: usize, mut at: usize, quote: Quote, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    if !kinds.has(Kinds::UNESCAPED) {
        return None;
    }
    let scratch = &mut cuts.scratch;
    let begin = scratch.len();
    scratch.extend_from_slice(&bytes[start..at]);
    let behind = loop {
        if quote.stands_at(bytes, at)? {
            break at + usize::from(quote.length);
        }
        at = match *bytes.get(at)? {
            b'\\' if quote == Quote::BARE => escape(bytes, at + 1, 1, scratch)?,
            b'\\' => match *bytes.get(at + 1)? {
                // The inner text's backslash; what it escapes may have a backslash of the outer text before it.
                b'\\' => match (*bytes.get(at + 2)?, bytes.get(at + 3)) {
                    (b'\\', Some(b'"' | b'\\')) => escape(bytes, at + 3, 2, scratch)?,
                    (b'\\' | b'"', _) => return None,
                    _ => escape(bytes, at + 2, 2, scratch)?,
                },
                _ => return None,
            },
            _ => return None,
        };
        let stop = cuts.index.next(at)?;
        scratch.extend_from_slice(&bytes[at..stop]);
        at = stop;
    };
    let end = scratch.len();
    cuts.pieces.push_text(Kinds::UNESCAPED, begin, end);
    Some(behind)
}

/// Writes the character that is escaped by what stands behind the backslash, at `at`; returns the place behind.
/// A further escape, of a surrogate's other half, has `backslashes` backslashes.
fn escape(bytes: &[u8], at: usize, backslashes: usize, out: &mut Vec<u8>) -> Option<usize> {
    let byte = match *bytes.get(at)? {
        byte @ (b'"' | b'\\' | b'/') => byte,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let unit = hex4(bytes, at + 1)?;
            let (code, behind) = match unit {
                0xd800..=0xdbff => {
                    let low_at = at + 5 + backslashes;
                    let marks = bytes.get(at + 5..low_at)?;
                    if marks.iter().any(|byte| *byte != b'\\') || *bytes.get(low_at)? != b'u' {
                        return None;
                    }
                    let low = hex4(bytes, low_at + 1).filter(|low| (0xdc00..=0xdfff).contains(low))?;
                    (0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00), low_at + 5)
                }
                _ => (unit, at + 5),
            };
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(behind);
        }
        _ => return None,
    };
    out.push(byte);
    Some(at + 1)
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// 10 to the power of 0 to 22, each exact as a double.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Cuts a number. Whether it ends where it seems to is seen by what the caller expects behind.
#[inline(never)]
pub(super) fn number(bytes: &[u8], at: usize, kinds: Kinds, pieces: &mut Pieces) -> Option<usize> {
    let negative = *bytes.get(at)? == b'-';
    let first = at + usize::from(negative);
    let Some(short) = swar::short(bytes, first) else { return long_number(bytes, at, first, kinds, pieces) };
    let end = first + short.length;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        return long_number(bytes, at, first, kinds, pieces);
    }
    if short.whole > 1 && bytes[first] == b'0' {
        return None;
    }
    if short.length > short.whole {
        if !kinds.has(Kinds::FLOAT) {
            return None;
        }
        // Both are exact, so the one rounding of the division is the only one (Clinger 1990).
        let float = f64::from(short.value) / POWERS[(short.length - short.whole - 1) % POWERS.len()];
        pieces.push(Kinds::FLOAT, if negative { -float } else { float }.to_bits());
    } else {
        if !kinds.has(Kinds::INT) {
            return None;
        }
        let int = i64::from(short.value);
        pieces.push(Kinds::INT, (if negative { -int } else { int }) as u64);
    }
    Some(end)
}

/// The same for a number of any length, of which the digits begin at `first`.
#[inline(never)]
fn long_number(bytes: &[u8], at: usize, first: usize, kinds: Kinds, pieces: &mut Pieces) -> Option<usize> {
    let negative = first > at;
    let (mut value, point) = digits(bytes, first, 0);
    let whole = point - first;
    if whole == 0 || whole > 18 || (whole > 1 && bytes[first] == b'0') {
        return None;
    }
    match bytes.get(point) {
        Some(b'.' | b'e' | b'E') if !kinds.has(Kinds::FLOAT) => None,
        Some(b'.') => {
            let end;
            (value, end) = digits(bytes, point + 1, value);
            let fraction = end - point - 1;
            if fraction == 0 {
                return None;
            }
            if whole + fraction > 18 || value >= 1 << 53 || matches!(bytes.get(end), Some(b'e' | b'E')) {
                return slow_float(bytes, at, end, pieces);
            }
            let float = value as f64 / POWERS[fraction];
            pieces.push(Kinds::FLOAT, if negative { -float } else { float }.to_bits());
            Some(end)
        }
        Some(b'e' | b'E') => slow_float(bytes, at, point, pieces),
        _ if !kinds.has(Kinds::INT) => None,
        _ => {
            let int = value as i64;
            pieces.push(Kinds::INT, (if negative { -int } else { int }) as u64);
            Some(point)
        }
    }
}

/// The value of the digits from `at` on, behind those of `value`, and where they end. Wraps behind the 19th.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(byte) = bytes.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

/// A number with an exponent or many digits, of which the mantissa ends at `mantissa`; the standard library rounds
/// correctly, as simd-json does.
#[cold]
fn slow_float(bytes: &[u8], at: usize, mantissa: usize, pieces: &mut Pieces) -> Option<usize> {
    let mut end = mantissa;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        end += 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let (_, behind) = digits(bytes, end, 0);
        if behind == end {
            return None;
        }
        end = behind;
    }
    let float: f64 = std::str::from_utf8(&bytes[at..end]).ok()?.parse().ok()?;
    if !float.is_finite() {
        return None;
    }
    pieces.push(Kinds::FLOAT, float.to_bits());
    Some(end)
}
