//! Writes structlog's JSON as it stands within an envelope's `message`, for the generator: each quote with one
//! backslash before it, each backslash of the inner JSON doubled.

use crate::time::EventTime;

const TRACEBACK: &str = r#"Traceback (most recent call last):\\n  File \\\"/app/src/api/handlers.py\\\", line 73, in handle\\n    row = db.execute(sql, args).fetchone()\\n"#;

/// A JSON object within a JSON string, after its first member.
pub(super) struct Object<'a> {
    pub out: &'a mut Vec<u8>,
    /// With a space behind `:` and `,`, as Python writes it, or without.
    pub spaced: bool,
}

impl Object<'_> {
    fn key(&mut self, name: &str) {
        self.out.extend_from_slice(if self.spaced { br#", \""# } else { br#",\""# });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(if self.spaced { br#"\": "# } else { br#"\":"# });
    }

    pub(super) fn text(&mut self, name: &str, escaped: &[u8]) {
        self.key(name);
        self.out.extend_from_slice(br#"\""#);
        self.out.extend_from_slice(escaped);
        self.out.extend_from_slice(br#"\""#);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.key(name);
        decimal(self.out, value);
    }

    /// A fraction with three digits, of which there is at least one.
    pub(super) fn thousandths(&mut self, name: &str, value: u64) {
        self.key(name);
        decimal(self.out, value / 1_000);
        self.out.push(b'.');
        digits(self.out, value % 1_000, 3);
        while self.out.ends_with(b"0") && !self.out.ends_with(b".0") {
            self.out.pop();
        }
    }

    /// The lower `count` hexadecimal digits of `value`.
    pub(super) fn hex(&mut self, name: &str, value: u64, count: u32) {
        self.key(name);
        self.out.extend_from_slice(br#"\""#);
        hex(self.out, value, count);
        self.out.extend_from_slice(br#"\""#);
    }

    /// Sixteen digits more for the text before.
    pub(super) fn more_hex(&mut self, value: u64) {
        self.out.truncate(self.out.len() - 2);
        hex(self.out, value, 16);
        self.out.extend_from_slice(br#"\""#);
    }

    /// An address of the network that is for documentation.
    pub(super) fn address(&mut self, name: &str, last: u64) {
        self.key(name);
        self.out.extend_from_slice(br#"\"203.0.113."#);
        decimal(self.out, last);
        self.out.extend_from_slice(br#"\""#);
    }

    pub(super) fn extra(&mut self, tokens: u64) {
        self.key("extra");
        self.out.extend_from_slice(br#"{\"model\": \"gpt-4\", \"tokens\": "#);
        decimal(self.out, tokens);
        self.out.extend_from_slice(br#", \"tags\": [\"a\", null, 1.5]}"#);
    }

    pub(super) fn exception(&mut self, last_line: &str) {
        self.key("exception");
        self.out.extend_from_slice(br#"\""#);
        self.out.extend_from_slice(TRACEBACK.as_bytes());
        self.out.extend_from_slice(last_line.as_bytes());
        self.out.extend_from_slice(br#"\""#);
    }

    pub(super) fn end(mut self, level: &str) {
        self.text("level", level.as_bytes());
        self.out.push(b'}');
    }
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    let mut buffer = [0; 20];
    let mut start = buffer.len();
    let mut rest = value;
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[start..]);
}

/// The lower `count` decimal digits of `value`.
fn digits(out: &mut Vec<u8>, value: u64, count: usize) {
    let start = out.len();
    out.resize(start + count, b'0');
    let mut rest = value;
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn hex(out: &mut Vec<u8>, value: u64, count: u32) {
    let mut buffer = [0; 16];
    let digits = &mut buffer[..count as usize];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * place)) as usize & 15];
    }
    out.extend_from_slice(digits);
}

/// Writes times; remembers the text of the day that it wrote last.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps {
    day: Option<i64>,
    date: String,
}

impl Stamps {
    pub(super) fn millis(&mut self, out: &mut Vec<u8>, micros: i64) {
        self.seconds(out, micros);
        digits(out, micros.rem_euclid(1_000_000) as u64 / 1_000, 3);
        out.push(b'Z');
    }

    /// With milliseconds as the source gave them, printed as microseconds.
    pub(super) fn micros(&mut self, out: &mut Vec<u8>, micros: i64, zone: &[u8]) {
        self.seconds(out, micros);
        digits(out, micros.rem_euclid(1_000_000) as u64, 6);
        out.extend_from_slice(zone);
    }

    /// As Fly stamps envelopes; `salt` makes up the nanoseconds.
    pub(super) fn nanos(&mut self, out: &mut Vec<u8>, micros: i64, salt: u64) {
        self.seconds(out, micros);
        digits(out, micros.rem_euclid(1_000_000) as u64 * 1_000 + salt % 1_000, 9);
        out.push(b'Z');
    }

    /// `2026-05-06T04:53:31.`
    fn seconds(&mut self, out: &mut Vec<u8>, micros: i64) {
        const DAY: i64 = 86_400;
        let second = micros.div_euclid(1_000_000);
        let day = second.div_euclid(DAY);
        if self.day != Some(day) {
            self.date = EventTime::from_micros(day.saturating_mul(DAY * 1_000_000)).to_string();
            self.date.truncate(self.date.find('T').unwrap_or(self.date.len()));
            self.day = Some(day);
        }
        let second = second.rem_euclid(DAY) as u64;
        out.extend_from_slice(self.date.as_bytes());
        out.push(b'T');
        digits(out, second / 3_600, 2);
        out.push(b':');
        digits(out, second / 60 % 60, 2);
        out.push(b':');
        digits(out, second % 60, 2);
        out.push(b'.');
    }
}
