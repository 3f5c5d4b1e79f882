//! Cutting single values out of JSON text without parsing what is around them.
//!
//! Each function takes exactly what RFC 8259 allows and gives up on everything that is rare or doubtful: who calls it has
//! the strict parser behind. What was cut is what the strict parser would have read; a property test and a fuzz target
//! hold it to that.

use super::index::Index;

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
pub(super) struct Piece {
    /// An integer's value, the bits of a float, 1 for true; of a text the place of its first byte in the lower and of
    /// that behind its last one in the upper half, counted from the record's first byte or in the scratch buffer.
    number: u64,
    /// One kind.
    pub(super) kind: Kinds,
}

impl Piece {
    pub(super) const fn int(&self) -> i64 {
        self.number as i64
    }

    pub(super) const fn float(&self) -> f64 {
        f64::from_bits(self.number)
    }

    pub(super) const fn is_true(&self) -> bool {
        self.number == 1
    }

    /// Where a text stands.
    #[inline]
    pub(super) const fn range(&self) -> std::ops::Range<usize> {
        self.number as u32 as usize..(self.number >> 32) as usize
    }
}

/// What a record is cut into.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub(super) pieces: Vec<Piece>,
    /// Texts that had escapes.
    pub(super) scratch: Vec<u8>,
    index: Index,
}

impl Cuts {
    /// Forgets the last record.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
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
        match self.pieces.last() {
            Some(piece) if piece.kind == Kinds::PLAIN => &bytes[piece.range()],
            Some(piece) => &self.scratch[piece.range()],
            None => &[],
        }
    }

    /// Adds a value and returns the place behind it. (A piece that is handed around by value costs more than cutting it.)
    #[inline(always)]
    fn push(&mut self, kind: Kinds, number: u64, behind: usize) -> Option<usize> {
        self.pieces.push(Piece { number, kind });
        Some(behind)
    }

    #[inline(always)]
    fn push_text(&mut self, kind: Kinds, start: usize, end: usize, behind: usize) -> Option<usize> {
        self.push(kind, start as u64 | (end as u64) << 32, behind)
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
    fn stands_at(self, bytes: &[u8], at: usize) -> Option<bool> {
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
        number(bytes, at, kinds, cuts)
    } else {
        word(bytes, at, kinds, cuts)
    }
}

/// Cuts the text without escapes that begins at `start`, behind its quote, and returns what stands behind.
#[inline(always)]
pub(super) fn plain<'b>(bytes: &'b [u8], start: usize, quote: Quote, cuts: &mut Cuts) -> Option<&'b [u8]> {
    let stop = cuts.index.next(start)?;
    let ahead = bytes.get(stop..)?;
    let behind = ahead.get(usize::from(quote.length)..)?;
    if u16::from_le_bytes(*ahead.first_chunk()?) & quote.mask != quote.mark {
        return None;
    }
    cuts.push_text(Kinds::PLAIN, start, stop, stop)?;
    Some(behind)
}

/// The same as [`scalar`] for a text that begins at `start`, behind its quote.
#[inline(always)]
pub(super) fn text(bytes: &[u8], start: usize, quote: Quote, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    let stop = cuts.index.next(start)?;
    if !quote.stands_at(bytes, stop)? {
        return unescaped(bytes, start, stop, quote, kinds, cuts);
    }
    if kinds.has(Kinds::PLAIN) {
        cuts.push_text(Kinds::PLAIN, start, stop, stop + usize::from(quote.length))
    } else {
        None
    }
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
    if kinds.has(kind) { cuts.push(kind, number, at + length) } else { None }
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
    cuts.push_text(Kinds::UNESCAPED, begin, end, behind)
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
pub(super) fn number(bytes: &[u8], at: usize, kinds: Kinds, cuts: &mut Cuts) -> Option<usize> {
    let negative = *bytes.get(at)? == b'-';
    let first = at + usize::from(negative);
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
                return slow_float(bytes, at, end, cuts);
            }
            // Both are exact, so the one rounding of the division is the only one (Clinger 1990).
            let float = value as f64 / POWERS[fraction];
            let float = if negative { -float } else { float };
            cuts.push(Kinds::FLOAT, float.to_bits(), end)
        }
        Some(b'e' | b'E') => slow_float(bytes, at, point, cuts),
        _ if !kinds.has(Kinds::INT) => None,
        _ => {
            let int = value as i64;
            cuts.push(Kinds::INT, (if negative { -int } else { int }) as u64, point)
        }
    }
}

/// The value of the digits from `at` on, behind those of `value`, and where they end. Wraps behind the 19th.
///
/// Most numbers are short: eight digits at a time took more instructions (measured).
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
fn slow_float(bytes: &[u8], at: usize, mantissa: usize, cuts: &mut Cuts) -> Option<usize> {
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
    if float.is_finite() { cuts.push(Kinds::FLOAT, float.to_bits(), end) } else { None }
}
