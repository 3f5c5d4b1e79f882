//! Times as logs write them → [`EventTime`].
//!
//! RFC 3339 has a hand-written reader because every record has two of them; patterns go through `jiff`.

use super::swar;
use crate::limits;
use crate::time::{EventTime, Span};
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

/// One way of writing a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 with any fraction and offset; without an offset (Python's naive `isoformat`) the zone counts.
    Rfc3339,
    /// A number since 1970 in seconds, milliseconds, microseconds or nanoseconds, told apart by its size: up to 10^11
    /// it is seconds (until the year 5138), each further factor of 1,000 the next unit.
    Epoch,
    /// A `strptime` pattern, in jiff's dialect.
    Pattern(String),
}

/// The formats that a pipeline accepts, in order, and the zone of times without one.
#[derive(Debug, Clone)]
pub struct TimeFormats {
    formats: Vec<TimeFormat>,
    zone: TimeZone,
    max_future: Span,
}

impl Default for TimeFormats {
    fn default() -> Self {
        Self::new(vec![TimeFormat::Rfc3339, TimeFormat::Epoch], TimeZone::UTC)
    }
}

impl TimeFormats {
    pub fn new(formats: Vec<TimeFormat>, zone: TimeZone) -> Self {
        Self { formats, zone, max_future: limits::MAX_FUTURE }
    }

    /// A time that lies further ahead of the next one is not usable.
    #[must_use]
    pub fn with_max_future(self, max_future: Span) -> Self {
        Self { max_future, ..self }
    }

    /// See [`Self::with_max_future`]; [`limits::MAX_FUTURE`] if nothing else was said.
    pub(super) fn max_future(&self) -> Span {
        self.max_future
    }

    /// Reads a time written as text; `None` when no format fits or it lies outside the years −9999 to 9999.
    pub fn read_text(&self, text: &str) -> Option<EventTime> {
        self.formats.iter().find_map(|format| match format {
            TimeFormat::Rfc3339 => self.read_rfc3339(text.as_bytes()),
            TimeFormat::Epoch => read_epoch_text(text),
            TimeFormat::Pattern(pattern) => self.read_pattern(pattern, text),
        })
    }

    /// The same for bytes that were found to be text, faster where `minute` is that of the time before.
    #[inline]
    pub(super) fn read_bytes(&self, text: &[u8], minute: &mut Minute) -> Option<EventTime> {
        if self.formats.first() == Some(&TimeFormat::Rfc3339)
            && let Some(micros) = minute.read(text)
        {
            return Some(EventTime::from_micros(micros));
        }
        self.read_text(std::str::from_utf8(text).ok()?)
    }

    /// Reads a time written as a whole number.
    pub fn read_int(&self, number: i64) -> Option<EventTime> {
        self.takes_epoch().then(|| epoch_int(number)).flatten()
    }

    /// Reads a time written as a number with a fraction.
    pub fn read_float(&self, number: f64) -> Option<EventTime> {
        self.takes_epoch().then(|| epoch_float(number)).flatten()
    }

    fn takes_epoch(&self) -> bool {
        self.formats.contains(&TimeFormat::Epoch)
    }

    fn read_rfc3339(&self, text: &[u8]) -> Option<EventTime> {
        let mut minute = Minute::NEW;
        if let Some(micros) = minute.read(text) {
            return Some(EventTime::from_micros(micros));
        }
        let stamp = Rfc3339::read(text)?;
        match stamp.offset_seconds {
            Some(offset) => Some(EventTime::from_micros(stamp.local_micros - i64::from(offset) * 1_000_000)),
            None if self.zone == TimeZone::UTC => Some(EventTime::from_micros(stamp.local_micros)),
            None => {
                let local = jiff::Timestamp::from_microsecond(stamp.local_micros).ok()?;
                self.zoned(TimeZone::UTC.to_datetime(local))
            }
        }
    }

    fn read_pattern(&self, pattern: &str, text: &str) -> Option<EventTime> {
        let parsed = BrokenDownTime::parse(pattern, text.trim()).ok()?;
        match parsed.to_timestamp() {
            Ok(stamp) => Some(EventTime::from_micros(stamp.as_microsecond())),
            Err(_) => self.zoned(parsed.to_datetime().or_else(|_| parsed.to_date().map(DateTime::from)).ok()?),
        }
    }

    /// A local time in the configured zone. In a fold the earlier one counts, in a gap it is moved forward (RFC 5545).
    fn zoned(&self, local: DateTime) -> Option<EventTime> {
        let zoned = self.zone.to_ambiguous_timestamp(local).compatible().ok()?;
        Some(EventTime::from_micros(zoned.as_microsecond()))
    }
}

fn read_epoch_text(text: &str) -> Option<EventTime> {
    let text = text.trim();
    text.parse::<i64>().ok().and_then(epoch_int).or_else(|| {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
        plain.then(|| text.parse::<f64>().ok()).flatten().and_then(epoch_float)
    })
}

const SECONDS_BELOW: u64 = 100_000_000_000;
/// 9999-12-31T23:59:59.999999Z, the last time that RFC 3339 can write.
const LAST_MICROS: i64 = 253_402_300_799_999_999;
const FIRST_MICROS: i64 = -62_135_596_800_000_000;

fn in_range(micros: i64) -> Option<EventTime> {
    (FIRST_MICROS..=LAST_MICROS).contains(&micros).then_some(EventTime::from_micros(micros))
}

fn epoch_int(number: i64) -> Option<EventTime> {
    let size = number.unsigned_abs();
    let micros = if size < SECONDS_BELOW {
        number * 1_000_000
    } else if size < SECONDS_BELOW * 1_000 {
        number * 1_000
    } else if size < SECONDS_BELOW * 1_000_000 {
        number
    } else {
        number.div_euclid(1_000)
    };
    in_range(micros)
}

fn epoch_float(number: f64) -> Option<EventTime> {
    let size = number.abs();
    let micros = if !size.is_finite() {
        return None;
    } else if size < 1e11 {
        number * 1e6
    } else if size < 1e14 {
        number * 1e3
    } else if size < 1e17 {
        number
    } else {
        number / 1e3
    };
    in_range(micros.round() as i64)
}

/// The minute that was read last: times that follow each other mostly lie in the same one.
#[derive(Debug)]
pub(super) struct Minute {
    text: [u8; 16],
    micros: i64,
}

impl Minute {
    pub(super) const NEW: Self = Self { text: *b"1970-01-01T00:00", micros: 0 };

    /// The usual ways of writing a time in UTC, `2026-05-06T04:53:32.950Z` with three, six or nine digits of a second's
    /// fraction, or six and `+00:00`, in µs since 1970. `None`: read it the slow way.
    #[inline]
    fn read(&mut self, text: &[u8]) -> Option<i64> {
        let minute: &[u8; 16] = text.first_chunk()?;
        if *minute != self.text {
            *self = Self { text: *minute, micros: read_minute(minute)? };
        }
        // The last digit of the minutes once more.
        let last = swar::like(text, 12, *b"0:00:00.")?;
        let second = i64::from(last[5]) * 10 + i64::from(last[6]);
        let fraction = fraction_utc(text)?;
        (second < 60).then(|| self.micros + second * 1_000_000 + fraction)
    }
}

/// A date and a time of day up to its minute, in UTC.
fn read_minute(text: &[u8; 16]) -> Option<i64> {
    let date = swar::like(text, 0, *b"0000-00-")?.map(u32::from);
    let time = swar::like(text, 8, *b"00T00:00")?.map(u32::from);
    let year = i64::from(date[0] * 1000 + date[1] * 100 + date[2] * 10 + date[3]);
    let (month, day) = (date[5] * 10 + date[6], time[0] * 10 + time[1]);
    let (hour, minute) = (time[3] * 10 + time[4], time[6] * 10 + time[7]);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 {
        return None;
    }
    Some((days_from_civil(year, month, day) * 86_400 + i64::from(hour * 3_600 + minute * 60)) * 1_000_000)
}

/// The microseconds of a fraction of three, six or nine digits from the 20th byte on, with a zone of UTC behind them.
#[inline]
fn fraction_utc(text: &[u8]) -> Option<i64> {
    let micros = match text.len() {
        24 => swar::eight(swar::like(text, 16, *b":00.000Z")?) % 10_000 * 100,
        27 => swar::eight(swar::like(text, 19, *b".000000Z")?) / 10,
        30 => {
            swar::like(text, 22, *b"0000000Z")?;
            swar::eight(swar::like(text, 19, *b".0000000")?) / 10
        }
        32 => {
            swar::like(text, 24, *b"00+00:00")?;
            swar::eight(swar::like(text, 19, *b".000000+")?) / 10
        }
        _ => return None,
    };
    Some(i64::from(micros))
}

/// A time of day on a date, as if it were UTC, and the offset that was written behind it.
struct Rfc3339 {
    local_micros: i64,
    offset_seconds: Option<i32>,
}

impl Rfc3339 {
    fn read(text: &[u8]) -> Option<Self> {
        let head = text.get(..19)?;
        if head[4] != b'-' || head[7] != b'-' || head[13] != b':' || head[16] != b':' {
            return None;
        }
        if !matches!(head[10], b'T' | b't' | b' ') {
            return None;
        }
        let year = i64::from(two(head, 0)?) * 100 + i64::from(two(head, 2)?);
        let (month, day) = (two(head, 5)?, two(head, 8)?);
        let (hour, minute, second) = (two(head, 11)?, two(head, 14)?, two(head, 17)?);
        // A leap second is read as the second before it, as POSIX clocks repeat it.
        let second = second.min(if second == 60 { 59 } else { second });
        if !(1..=12).contains(&month)
            || day < 1
            || day > days_in(year, month)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return None;
        }
        let (fraction, rest) = fraction(&text[19..])?;
        let seconds = days_from_civil(year, month, day) * 86_400
            + i64::from(hour) * 3_600
            + i64::from(minute) * 60
            + i64::from(second);
        Some(Self { local_micros: seconds * 1_000_000 + fraction, offset_seconds: offset(rest)? })
    }
}

fn two(text: &[u8], at: usize) -> Option<u32> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// Microseconds of a fraction of any length (further digits are cut off), and what stands behind it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(b'.' | b',') = text.first() else { return Some((0, text)) };
    let digits = text[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut micros = 0;
    for at in 0..6 {
        let digit = if at < digits { i64::from(text[1 + at] - b'0') } else { 0 };
        micros = micros * 10 + digit;
    }
    (digits > 0).then_some((micros, &text[1 + digits..]))
}

/// `Z`, `+hh:mm`, `+hhmm`, `+hh` or nothing; the outer `None` means that it is something else.
#[expect(clippy::option_option, reason = "not readable and not written are two different things here")]
fn offset(text: &[u8]) -> Option<Option<i32>> {
    let (sign, digits) = match text {
        [] => return Some(None),
        [b'Z' | b'z'] => return Some(Some(0)),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        5 if digits[2] == b':' => (two(digits, 0)?, two(digits, 3)?),
        4 => (two(digits, 0)?, two(digits, 2)?),
        2 => (two(digits, 0)?, 0),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then(|| Some(sign * (hours * 3_600 + minutes * 60) as i32))
}

fn days_in(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
///
/// The algorithm is Howard Hinnant's `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>).
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Option<&str>) {
        let read = TimeFormats::default().read_text(text).map(|t| t.to_string());
        assert_eq!(read.as_deref(), expected, "{text}");
    }

    #[test]
    fn rfc_3339_with_any_fraction_and_offset() {
        check("2026-05-06T04:53:32Z", Some("2026-05-06T04:53:32Z"));
        check("2026-05-06 04:53:32.5+09:00", Some("2026-05-05T19:53:32.500Z"));
        check("2026-05-06T04:53:32.950000+00:00", Some("2026-05-06T04:53:32.950Z"));
        check("2026-05-06T04:53:31.789153741Z", Some("2026-05-06T04:53:31.789153Z"));
        check("2026-05-06t04:53:31,25-0130", Some("2026-05-06T06:23:31.250Z"));
        check("2026-05-06T04:53:32", Some("2026-05-06T04:53:32Z"));
        check("2016-12-31T23:59:60Z", Some("2016-12-31T23:59:59Z"));
        check("1969-12-31T23:59:59.999999Z", Some("1969-12-31T23:59:59.999999Z"));
        check("2024-02-29T00:00:00Z", Some("2024-02-29T00:00:00Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "teapot",
            "2026-05-06",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-05-06T24:00:00Z",
            "2026-05-06T04:53:32.Z",
            "2026-05-06T04:53:32Zx",
            "2026-05-06T04:53:32+25:00",
            "2026-05-06T04:53:3é",
            "inf",
            "1e5",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn epochs_are_told_apart_by_size() {
        for text in ["1778043180", "1778043180000", "1778043180000000", "1778043180000000000", "1778043180.0"] {
            check(text, Some("2026-05-06T04:53:00Z"));
        }
        assert_eq!(
            TimeFormats::default().read_int(i64::MAX).map(|t| t.to_string()),
            Some("2262-04-11T23:47:16.854775Z".into())
        );
        assert_eq!(TimeFormats::default().read_float(f64::NAN), None);
        assert_eq!(TimeFormats::default().read_float(1e300), None);
    }

    #[test]
    fn patterns_take_the_configured_zone() {
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        let formats = TimeFormats::new(vec![TimeFormat::Pattern("%Y-%m-%d %H:%M:%S".into())], zone.clone());
        assert_eq!(formats.read_text("2026-05-06 09:00:00").unwrap().to_string(), "2026-05-06T00:00:00Z");
        assert_eq!(formats.read_int(1), None, "epoch numbers only where asked for");
        let formats = TimeFormats::new(vec![TimeFormat::Pattern("%d/%b/%Y:%H:%M:%S %z".into())], zone.clone());
        assert_eq!(formats.read_text("06/May/2026:09:00:00 +0200").unwrap().to_string(), "2026-05-06T07:00:00Z");
        let formats = TimeFormats::new(vec![TimeFormat::Rfc3339], zone);
        assert_eq!(formats.read_text("2026-05-06T09:00:00").unwrap().to_string(), "2026-05-06T00:00:00Z");
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(micros in FIRST_MICROS..=LAST_MICROS) {
            let stamp = jiff::Timestamp::from_microsecond(micros).unwrap();
            let read = TimeFormats::default().read_text(&stamp.to_string());
            prop_assert_eq!(read, Some(EventTime::from_micros(micros)));
        }

        #[test]
        fn the_time_before_changes_nothing(
            times in proptest::collection::vec((0i64..200_000_000, 0usize..6, 0usize..60, any::<u8>()), 1..8)
        ) {
            let formats = TimeFormats::default();
            let mut minute = Minute::NEW;
            for (micros, form, place, byte) in times {
                let stamp = jiff::Timestamp::from_microsecond(1_778_043_180_000_000 + micros).unwrap();
                let mut text = match form {
                    0 => format!("{stamp:.3}"),
                    1 => format!("{stamp:.9}"),
                    2 => format!("{stamp:.6}").replace('Z', "+00:00"),
                    _ => format!("{stamp:.6}"),
                }.into_bytes();
                // Most of the others are no times any more.
                if form > 3 && let Some(at) = text.get_mut(place) {
                    *at = byte % 0x80;
                }
                let anew = formats.read_text(std::str::from_utf8(&text).unwrap());
                prop_assert_eq!(formats.read_bytes(&text, &mut minute), anew);
                let slow = Rfc3339::read(&text).filter(|slow| slow.offset_seconds.is_some());
                let slow = slow.map(|slow| slow.local_micros - i64::from(slow.offset_seconds.unwrap_or(0)) * 1_000_000);
                prop_assert!(form > 3 || anew.map(EventTime::micros) == slow);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = TimeFormats::default().read_text(&text);
        }
    }
}
