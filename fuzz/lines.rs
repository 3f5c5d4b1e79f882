//! Log lines as producers and attackers write them, and mutations of lines.
//!
//! Everything is made from one stream of choices. It comes from a seeded generator in long runs, and from bytes where
//! `proptest` or a person shall shrink it: behind the last byte every choice is the first, which is the plainest.

/// Where choices come from.
#[derive(Debug)]
pub struct Draw<'b> {
    bytes: Option<&'b [u8]>,
    state: u64,
}

impl<'b> Draw<'b> {
    pub fn bytes(bytes: &'b [u8]) -> Self {
        Self { bytes: Some(bytes), state: 0 }
    }

    pub fn seeded(seed: u64) -> Self {
        Self { bytes: None, state: seed }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        let Some(bytes) = &mut self.bytes else { return (self.next() % end as u64) as usize };
        let mut take = || {
            let Some((first, rest)) = bytes.split_first() else { return 0 };
            *bytes = rest;
            usize::from(*first)
        };
        let number = if end > 256 { take() * 256 + take() } else { take() };
        number % end
    }

    /// True once in `times`.
    fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

const KEYS: [&str; 44] = [
    "status",
    "status_code",
    "path",
    "level",
    "event",
    "message",
    "timestamp",
    "latency_ms",
    "request_id",
    "q",
    "method",
    "tags",
    "cached",
    "seen",
    "note",
    "count",
    "msg",
    "ts",
    "app",
    "host",
    "http",
    "a",
    "b",
    "c",
    "d",
    "n",
    "body",
    "context",
    "metadata",
    "model",
    "tokens",
    "http.status",
    "a.b.c",
    "a.b",
    "metadata.model",
    "unknown",
    "x",
    "",
    "severity",
    "region",
    "schlüssel",
    "with space",
    "service",
    "context.path",
];

const NUMBERS: [&str; 48] = [
    "200",
    "0",
    "1",
    "-1",
    "-0",
    "-0.0",
    "0.0",
    "1.0",
    "200.0",
    "1.5",
    "39.104",
    "007",
    "01.5",
    "-01",
    "1e3",
    "1E+3",
    "2.5e-3",
    "1e400",
    "-1e400",
    "1e-400",
    "1e",
    "1.",
    ".5",
    "-",
    "+1",
    "1.5e",
    "0e0",
    "0E-0",
    "9007199254740993",
    "9007199254740992.0",
    "9007199254740993.0",
    "123456789012345678",
    "1234567890123456789",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "100000000000000000000000000",
    "0.1",
    "0.30000000000000004",
    "5e-324",
    "2.2250738585072011e-308",
    "1.7976931348623157e308",
    "1778043180",
    "1778043180.123",
    "1778043180000",
];

const TIMES: [&str; 18] = [
    "2026-05-06T04:53:32.950000+00:00",
    "2026-05-06T04:53:31.789153741Z",
    "2026-05-06T04:53:32.950Z",
    "2026-05-06T04:53:32.950000Z",
    "2026-05-06T04:53:32Z",
    "2026-05-06 04:53:32",
    "2026-05-06 04:53:32,123",
    "2026-05-06t04:53:32z",
    "2026-05-06T13:53:32+09:00",
    "2099-01-01T00:00:00Z",
    "2026-05-06T05:30:00.000Z",
    "2026-02-30T00:00:00.000Z",
    "2026-05-06T24:00:00.000Z",
    "soon",
    "1778043180",
    "1778043180.5",
    "06/May/2026:04:53:32",
    "2016-12-31T23:59:60Z",
];

const ESCAPES: [&str; 24] = [
    "\\\"",
    "\\\\",
    "\\/",
    "\\b",
    "\\f",
    "\\n",
    "\\r",
    "\\t",
    "\\u0041",
    "\\u00e9",
    "\\u0022",
    "\\u005c",
    "\\u007b",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
    "\\ud83d",
    "\\ude00",
    "\\ud83d\\ue000",
    "\\ud83d\\ud83d",
    "\\ud83dx",
    "\\ud83d\\n",
    "\\u12",
    "\\x",
];

const WORDS: [&str; 16] = [
    "info",
    "GET",
    "/v1/programs/search",
    "request_processed",
    "75a89294c2cd789a",
    "é",
    "日本語",
    "😀",
    "\u{7f}",
    "{",
    "}",
    "\"",
    "\u{1}",
    "\t",
    "INFO:  started",
    "a=b c=\"d\"",
];

/// Writes what stands between the quotes of a JSON string.
fn text_body(draw: &mut Draw<'_>, out: &mut Vec<u8>) {
    for _ in 0..draw.below(4) {
        match draw.below(8) {
            0..=2 => out.extend_from_slice(draw.pick(&WORDS[..5]).as_bytes()),
            3 => out.extend_from_slice(draw.pick(&ESCAPES).as_bytes()),
            4 => out.extend_from_slice(draw.pick(&WORDS).as_bytes()),
            5 => {
                // Around the widths of vectors.
                let length = draw.pick(&[15, 16, 17, 31, 32, 33, 63, 64, 65]) - draw.below(2);
                out.resize(out.len() + length, b'x');
            }
            6 => out.extend_from_slice(draw.pick(&TIMES).as_bytes()),
            _ if draw.rarely(8) => out.push(128 + draw.below(128) as u8),
            _ => out.push(b' ' + draw.below(95) as u8),
        }
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn space(draw: &mut Draw<'_>, style: usize, out: &mut Vec<u8>) {
    match style {
        0 => {}
        1 => out.push(b' '),
        _ => out.extend_from_slice(draw.pick(&["", " ", "  ", "\t", "\n", "\r\n", "\u{b}"]).as_bytes()),
    }
}

fn scalar(draw: &mut Draw<'_>, out: &mut Vec<u8>) {
    match draw.below(12) {
        0..=3 => quoted(out, |out| text_body(draw, out)),
        4..=6 => out.extend_from_slice(draw.pick(&NUMBERS).as_bytes()),
        7 => out.extend_from_slice(random_number(draw).as_bytes()),
        8 => quoted(out, |out| out.extend_from_slice(draw.pick(&TIMES).as_bytes())),
        9 => out.extend_from_slice(draw.pick(&["true", "false", "null"]).as_bytes()),
        10 => out.extend_from_slice(b"null"),
        _ => {
            out.extend_from_slice(draw.pick(&["tru", "nul", "True", "NaN", "Infinity", "truex", "{}", "[]"]).as_bytes())
        }
    }
}

/// Digits, of which some numbers have very many.
fn random_number(draw: &mut Draw<'_>) -> String {
    let mut digits = |most: usize| -> String {
        let count = 1 + draw.below(most);
        (0..count).map(|_| char::from(b'0' + draw.below(10) as u8)).collect()
    };
    let (whole, fraction, exponent) = (digits(19), digits(20), digits(3));
    let sign = if draw.rarely(3) { "-" } else { "" };
    match draw.below(6) {
        0 => format!("{sign}{whole}"),
        1 => format!("{sign}0.{fraction}"),
        2 => format!("{sign}{whole}e-{exponent}"),
        3 => format!("{sign}{whole}.{fraction}E{exponent}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

fn value(draw: &mut Draw<'_>, depth: usize, style: usize, out: &mut Vec<u8>) {
    match draw.below(10) {
        8 if depth > 0 => object(draw, depth - 1, style, out),
        9 if depth > 0 => {
            out.push(b'[');
            for number in 0..draw.below(4) {
                if number > 0 {
                    out.push(b',');
                    space(draw, style, out);
                }
                value(draw, depth - 1, style, out);
            }
            out.push(b']');
        }
        _ => scalar(draw, out),
    }
}

/// A value such as the key has mostly.
fn value_of(draw: &mut Draw<'_>, key: &str, depth: usize, style: usize, out: &mut Vec<u8>) {
    if draw.rarely(12) {
        return value(draw, depth, style, out);
    }
    match key {
        "status" | "status_code" | "count" | "n" | "tokens" | "http.status" => {
            out.extend_from_slice(draw.pick(&["200", "404", "0", "-1", "123456789012345678"]).as_bytes());
        }
        "latency_ms" | "c" | "a.b.c" => match draw.below(2) {
            0 => out.extend_from_slice(draw.pick(&["39.104", "0.5", "7", "-0", "1e3"]).as_bytes()),
            _ => out.extend_from_slice(random_number(draw).as_bytes()),
        },
        "timestamp" | "ts" | "seen" => quoted(out, |out| out.extend_from_slice(draw.pick(&TIMES[..8]).as_bytes())),
        "cached" => out.extend_from_slice(draw.pick(&["true", "false"]).as_bytes()),
        "http" | "a" | "b" | "context" | "metadata" if depth > 0 => object(draw, depth - 1, style, out),
        _ => quoted(out, |out| text_body(draw, out)),
    }
}

fn object(draw: &mut Draw<'_>, depth: usize, style: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    let count = draw.below(9);
    for number in 0..count {
        if number > 0 {
            out.push(b',');
            space(draw, style, out);
        }
        let key = *draw.pick(&KEYS);
        quoted(out, |out| out.extend_from_slice(key.as_bytes()));
        if style > 1 {
            space(draw, style, out);
        }
        out.push(b':');
        space(draw, style, out);
        value_of(draw, key, depth, style, out);
    }
    out.push(b'}');
}

/// A record's own text: an object, cut short at times, or something else.
fn content(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let style = draw.below(3);
    match draw.below(12) {
        10 => text_body(draw, &mut out),
        11 => {
            object(draw, 2, style, &mut out);
            out.truncate(draw.below(out.len() + 1));
        }
        9 => {
            out.extend_from_slice(draw.pick(&[" ", "\t", "\n", "  "]).as_bytes());
            object(draw, 2, style, &mut out);
            out.extend_from_slice(draw.pick(&["", " ", "x", "}", "\n"]).as_bytes());
        }
        _ => object(draw, 3, style, &mut out),
    }
    out
}

/// Writes bytes as a JSON string, in one of the ways in which that can be done.
fn wrap(draw: &mut Draw<'_>, inner: &[u8], out: &mut Vec<u8>) {
    let odd = draw.rarely(6);
    quoted(out, |out| {
        for byte in inner {
            match byte {
                _ if odd && byte.is_ascii() && draw.rarely(20) => {
                    out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                }
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                b'/' if odd => out.extend_from_slice(b"\\/"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\r' => out.extend_from_slice(b"\\r"),
                0..=0x1f if !odd => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => out.push(*byte),
            }
        }
    });
}

/// One member of an envelope, by its number in the usual order.
fn envelope_member(draw: &mut Draw<'_>, number: usize, style: usize, out: &mut Vec<u8>) {
    const NAMES: [&str; 8] = ["event", "fly", "host", "log", "message", "timestamp", "level", "new"];
    quoted(out, |out| out.extend_from_slice(NAMES[number].as_bytes()));
    out.push(b':');
    space(draw, style, out);
    if draw.rarely(16) && number != 4 {
        return value(draw, 2, style, out);
    }
    match number {
        0 => {
            out.extend_from_slice(draw.pick(&[r#"{"provider":"app"}"#, "{}", r#"{"provider":"app","x":1}"#]).as_bytes())
        }
        1 => out.extend_from_slice(
            draw.pick(&[
                r#"{"app":{"instance":"414c","name":"autonomath"},"region":"nrt"}"#,
                r#"{"region":"nrt","app":{"name":"a"}}"#,
                r#"{"app":{"name":"a","name":"b"},"region":7}"#,
                r#"{"app":"a","region":"s\u006ac","x":{"y":[]}}"#,
            ])
            .as_bytes(),
        ),
        3 => out.extend_from_slice(draw.pick(&[r#"{"level":"info"}"#, r#"{"level":"error","y":null}"#]).as_bytes()),
        4 => match draw.below(16) {
            14 => object(draw, 2, style, out),
            15 => value(draw, 1, style, out),
            _ => {
                let inner = content(draw);
                wrap(draw, &inner, out);
            }
        },
        5 => quoted(out, |out| out.extend_from_slice(draw.pick(&TIMES[..5]).as_bytes())),
        7 => value(draw, 2, style, out),
        _ => quoted(out, |out| text_body(draw, out)),
    }
}

/// A record, with or without envelope.
pub fn record(draw: &mut Draw<'_>, enveloped: bool) -> Vec<u8> {
    if !enveloped {
        return content(draw);
    }
    let mut members: Vec<usize> = (0..6).collect();
    if draw.rarely(3) {
        for _ in 0..draw.below(4) {
            match draw.below(3) {
                0 => members.push(draw.below(8)),
                1 => {
                    let (one, other) = (draw.below(members.len()), draw.below(members.len()));
                    members.swap(one, other);
                }
                _ => {
                    members.remove(draw.below(members.len()));
                }
            }
        }
    }
    let style = draw.below(8).saturating_sub(5);
    let mut out = vec![b'{'];
    for (number, member) in members.iter().enumerate() {
        if number > 0 {
            out.push(b',');
            space(draw, style, &mut out);
        }
        envelope_member(draw, *member, style, &mut out);
    }
    out.push(b'}');
    out
}

/// Bytes that mean something to a parser.
const TELLING: &[u8] = b"{}[]:,\"\\/ \t\n\r0019-+.eEutfn\x00\x1f\x7f\x80\xc3\xff";

/// The record with one to three small changes; `other` is a record of which pieces may be taken.
pub fn mutate(draw: &mut Draw<'_>, record: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = record.to_vec();
    for _ in 0..1 + draw.below(6).saturating_sub(3) {
        if out.is_empty() {
            out.push(*draw.pick(TELLING));
        }
        let at = draw.below(out.len());
        let end = at + draw.below((out.len() - at).min(12) + 1);
        match draw.below(14) {
            0 => out[at] ^= 1 << draw.below(8),
            1 => out[at] = *draw.pick(TELLING),
            2 => out.insert(at, *draw.pick(TELLING)),
            3 => {
                out.remove(at);
            }
            4 => {
                out.drain(at..end);
            }
            5 => {
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
            6 => {
                let second = draw.below(out.len());
                out.swap(at, second);
            }
            7 => {
                let backslashes = ["\\", "\\\\", "\\\\\\"][draw.below(3)];
                let piece = draw.pick(&ESCAPES).replace('\\', backslashes);
                out.splice(at..at, piece.into_bytes());
            }
            8 if draw.rarely(4) => out.truncate(at),
            9 if draw.rarely(4) => {
                // The beginning of one record and the end of another.
                let from = draw.below(other.len() + 1);
                out.truncate(at);
                out.extend_from_slice(&other[from..]);
            }
            10 => double_member(draw, &mut out, at),
            _ => replace_value(draw, &mut out, at),
        }
    }
    out
}

/// Writes what stands between two commas twice.
fn double_member(draw: &mut Draw<'_>, out: &mut Vec<u8>, at: usize) {
    let commas: Vec<usize> = (at..out.len()).filter(|place| out[*place] == b',').take(3).collect();
    if let [first, rest @ ..] = &commas[..]
        && let Some(last) = rest.last()
    {
        let member = out[*first..*last].to_vec();
        let to = *draw.pick(&commas);
        out.splice(to..to, member);
    }
}

/// Writes another value behind the next colon, escaped as what stands there is.
fn replace_value(draw: &mut Draw<'_>, out: &mut Vec<u8>, at: usize) {
    let Some(colon) = (at.max(2)..out.len()).find(|place| out[*place] == b':') else { return };
    let nested = out[colon - 1] == b'"' && out[colon - 2] == b'\\';
    let mut start = colon + 1;
    start += usize::from(out.get(start) == Some(&b' '));
    let quote: &[u8] = if nested { b"\\\"" } else { b"\"" };
    let end = if out[start..].starts_with(quote) {
        let body = start + quote.len();
        out[body..].windows(quote.len()).position(|w| w == quote).map(|place| body + place + quote.len())
    } else {
        out[start..].iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ')).map(|place| start + place)
    };
    let Some(end) = end else { return };
    let mut value = Vec::new();
    match draw.below(3) {
        0 => scalar(draw, &mut value),
        1 => value_of(draw, "status", 0, 0, &mut value),
        _ => quoted(&mut value, |out| text_body(draw, out)),
    }
    if nested {
        let mut wrapped = Vec::new();
        wrap(draw, &value, &mut wrapped);
        value = wrapped[1..wrapped.len() - 1].to_vec();
    }
    out.splice(start..end, value);
}
