//! Cutting single values out of JSON text without parsing what is around them.
//!
//! Each function takes exactly what RFC 8259 allows and gives up on everything that is rare or doubtful: who calls it has
//! the strict parser behind. What was cut is what the strict parser would have read; a property test and a fuzz target
//! hold it to that.

use wide::u8x16;

/// What a value is. A bit each, so that sets of them are cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

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
    /// One kind.
    pub(super) kind: Kinds,
    /// Where a text begins and ends: in the batch's bytes, or in the scratch buffer.
    pub(super) start: u32,
    pub(super) end: u32,
    /// An integer's value, the bits of a float, 1 for true.
    pub(super) number: u64,
}

impl Piece {
    const fn other(kind: Kinds, number: u64) -> Self {
        Self { kind, start: 0, end: 0, number }
    }

    pub(super) const fn int(&self) -> i64 {
        self.number as i64
    }

    pub(super) const fn float(&self) -> f64 {
        f64::from_bits(self.number)
    }
}

/// Whether JSON stands as it is, or within a JSON string, where each of its quotes has a backslash before it.
pub(super) const BARE: bool = false;
pub(super) const NESTED: bool = true;

/// Cuts the value at `at`, which is no object or array; returns it and the place behind. Texts with escapes are written
/// behind what `scratch` holds. `None`: it is something else, or not to be had here.
#[inline]
pub(super) fn scalar<const LEVEL: bool>(bytes: &[u8], at: usize, scratch: &mut Vec<u8>) -> Option<(Piece, usize)> {
    match *bytes.get(at)? {
        b'"' if LEVEL == BARE => text::<BARE>(bytes, at + 1, scratch),
        b'\\' if LEVEL == NESTED && *bytes.get(at + 1)? == b'"' => text::<NESTED>(bytes, at + 2, scratch),
        b'-' | b'0'..=b'9' => number(bytes, at),
        b't' if bytes[at..].starts_with(b"true") => Some((Piece::other(Kinds::BOOL, 1), at + 4)),
        b'f' if bytes[at..].starts_with(b"false") => Some((Piece::other(Kinds::BOOL, 0), at + 5)),
        b'n' if bytes[at..].starts_with(b"null") => Some((Piece::other(Kinds::NULL, 0), at + 4)),
        _ => None,
    }
}

/// Whether a value that is no object or array can begin with this byte.
#[inline]
pub(super) const fn begins_scalar<const LEVEL: bool>(byte: u8) -> bool {
    match byte {
        b'"' => LEVEL == BARE,
        b'\\' => LEVEL == NESTED,
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => true,
        _ => false,
    }
}

/// Cuts a text behind its opening quote.
#[inline]
fn text<const LEVEL: bool>(bytes: &[u8], start: usize, scratch: &mut Vec<u8>) -> Option<(Piece, usize)> {
    let (stop, is_ascii) = plain(bytes, start)?;
    let behind = match (LEVEL, bytes[stop]) {
        (BARE, b'"') => stop + 1,
        (NESTED, b'\\') if bytes.get(stop + 1) == Some(&b'"') => stop + 2,
        (_, b'\\') => return unescaped::<LEVEL>(bytes, start, stop, scratch),
        _ => return None,
    };
    if !is_ascii && std::str::from_utf8(&bytes[start..stop]).is_err() {
        return None;
    }
    Some((Piece { kind: Kinds::PLAIN, start: start as u32, end: stop as u32, number: 0 }, behind))
}

/// Where the first quote, backslash or control character from `at` on stands, and whether all before it is ASCII.
#[inline]
fn plain(bytes: &[u8], mut at: usize) -> Option<(usize, bool)> {
    const LANES: usize = 16;
    let (quote, backslash, last_control) = (u8x16::splat(b'"'), u8x16::splat(b'\\'), u8x16::splat(0x1f));
    let mut high = 0;
    while let Some(chunk) = bytes.get(at..at + LANES) {
        let lanes = u8x16::new(chunk.try_into().expect("it was cut to this length"));
        let ends = lanes.simd_eq(quote) | lanes.simd_eq(backslash) | lanes.min(last_control).simd_eq(lanes);
        let (ends, not_ascii) = (ends.to_bitmask(), lanes.to_bitmask());
        if ends != 0 {
            let stop = ends.trailing_zeros();
            high |= not_ascii & ((1 << stop) - 1);
            return Some((at + stop as usize, high == 0));
        }
        high |= not_ascii;
        at += LANES;
    }
    let rest = bytes.get(at..)?;
    let stop = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
    Some((at + stop, high == 0 && rest[..stop].is_ascii()))
}

/// Writes a text with escapes, of which the first stands at `at`, to `scratch`.
#[cold]
fn unescaped<const LEVEL: bool>(
    bytes: &[u8],
    start: usize,
    mut at: usize,
    scratch: &mut Vec<u8>,
) -> Option<(Piece, usize)> {
    let begin = scratch.len();
    scratch.extend_from_slice(&bytes[start..at]);
    let behind = loop {
        at = match (LEVEL, *bytes.get(at)?) {
            (BARE, b'"') => break at + 1,
            (BARE, b'\\') => escape(bytes, at + 1, 1, scratch)?,
            (NESTED, b'\\') => match *bytes.get(at + 1)? {
                b'"' => break at + 2,
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
        let (stop, _) = plain(bytes, at)?;
        scratch.extend_from_slice(&bytes[at..stop]);
        at = stop;
    };
    std::str::from_utf8(&scratch[begin..]).ok()?;
    let (start, end) = (begin as u32, scratch.len() as u32);
    Some((Piece { kind: Kinds::UNESCAPED, start, end, number: 0 }, behind))
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
#[inline]
fn number(bytes: &[u8], at: usize) -> Option<(Piece, usize)> {
    let negative = bytes[at] == b'-';
    let first = at + usize::from(negative);
    let (mut value, point) = digits(bytes, first, 0);
    let whole = point - first;
    if whole == 0 || whole > 18 || (whole > 1 && bytes[first] == b'0') {
        return None;
    }
    match bytes.get(point) {
        Some(b'.') => {
            let end;
            (value, end) = digits(bytes, point + 1, value);
            let fraction = end - point - 1;
            if fraction == 0 {
                return None;
            }
            if whole + fraction > 18 || value >= 1 << 53 || matches!(bytes.get(end), Some(b'e' | b'E')) {
                return slow_float(bytes, at, end);
            }
            // Both are exact, so the one rounding of the division is the only one (Clinger 1990).
            let float = value as f64 / POWERS[fraction];
            let float = if negative { -float } else { float };
            Some((Piece::other(Kinds::FLOAT, float.to_bits()), end))
        }
        Some(b'e' | b'E') => slow_float(bytes, at, point),
        _ => {
            let int = value as i64;
            Some((Piece::other(Kinds::INT, (if negative { -int } else { int }) as u64), point))
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
fn slow_float(bytes: &[u8], at: usize, mantissa: usize) -> Option<(Piece, usize)> {
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
    float.is_finite().then_some((Piece::other(Kinds::FLOAT, float.to_bits()), end))
}
