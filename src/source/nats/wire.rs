//! NATS' text protocol: bytes → operations, and the commands of a client. Pure.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>: lines that end in `\r\n`; `MSG` and `HMSG` carry a
//! payload of the length that they say.

use crate::limits::{NATS_LINE_BYTES, NATS_PAYLOAD_BYTES};
use memchr::memchr;
use serde::Deserialize;

/// What a server says of itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Info {
    pub server_id: String,
    pub version: String,
    pub max_payload: u64,
    /// The connection's number on that server.
    pub client_id: u64,
    pub auth_required: bool,
    pub tls_required: bool,
    pub tls_available: bool,
    pub headers: bool,
    /// To be signed by whoever has a key.
    pub nonce: String,
    /// Other servers of the cluster, as `host:port`.
    pub connect_urls: Vec<String>,
    /// Lame duck mode: it is about to go.
    pub ldm: bool,
}

/// A message; all borrowed from the connection's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'b> {
    pub subject: &'b str,
    /// The subscription's number.
    pub sid: u64,
    pub reply: Option<&'b str>,
    /// The head in the manner of HTTP, `NATS/1.0 …`; empty where there is none.
    pub headers: &'b [u8],
    pub payload: &'b [u8],
}

impl<'b> Message<'b> {
    /// The status in the head's first line (`NATS/1.0 404 No Messages`) with its text; `None` in ordinary messages.
    pub fn status(&self) -> Option<(u16, &'b str)> {
        let line = self.headers.split(|byte| *byte == b'\r').next()?;
        let rest = std::str::from_utf8(line).ok()?.strip_prefix("NATS/1.0")?.trim();
        let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((code.parse().ok()?, text))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&'b str> {
        let text = std::str::from_utf8(self.headers).ok()?;
        text.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What a server sends.
#[derive(Debug)]
pub enum Operation<'b> {
    Message(Message<'b>),
    Ping,
    Pong,
    Info(Box<Info>),
    Ok,
    Error(&'b str),
}

/// What is no NATS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot understand {0:?} as NATS")]
pub struct Malformed(pub String);

/// Reads the operation at the start of `bytes` and says how long it is; `None` when it hasn't come whole.
///
/// # Errors
/// When what stands there is none, or is longer than any.
pub fn operation(bytes: &[u8]) -> Result<Option<(Operation<'_>, usize)>, Malformed> {
    let Some(end) = memchr(b'\n', bytes) else {
        return if bytes.len() > NATS_LINE_BYTES { Err(malformed(bytes)) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed(bytes))?.trim_end();
    let after = end + 1;
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim();
    let done = |operation| Ok(Some((operation, after)));
    match word.to_ascii_uppercase().as_str() {
        "MSG" | "HMSG" => message(bytes, after, rest, word.len() == 4).ok_or_else(|| malformed(bytes))?.whole(),
        "PING" => done(Operation::Ping),
        "PONG" => done(Operation::Pong),
        "+OK" => done(Operation::Ok),
        "-ERR" => done(Operation::Error(rest.trim_matches('\''))),
        "INFO" => {
            let info = serde_json::from_str(rest).map_err(|_| malformed(bytes))?;
            done(Operation::Info(Box::new(info)))
        }
        _ => Err(malformed(bytes)),
    }
}

/// A message of which the head was understood.
struct Announced<'b>(Option<(Message<'b>, usize)>);

impl<'b> Announced<'b> {
    fn whole(self) -> Result<Option<(Operation<'b>, usize)>, Malformed> {
        Ok(self.0.map(|(message, length)| (Operation::Message(message), length)))
    }
}

fn message<'b>(bytes: &'b [u8], after: usize, line: &'b str, with_headers: bool) -> Option<Announced<'b>> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let lengths = if with_headers { 2 } else { 1 };
    let (names, sizes) = words.split_at_checked(words.len().checked_sub(lengths)?)?;
    let (subject, sid, reply) = match *names {
        [subject, sid] => (subject, sid, None),
        [subject, sid, reply] => (subject, sid, Some(reply)),
        _ => return None,
    };
    let total: usize = sizes.last()?.parse().ok()?;
    let head: usize = if with_headers { sizes[0].parse().ok()? } else { 0 };
    if total > NATS_PAYLOAD_BYTES || head > total {
        return None;
    }
    let Some(body) = bytes.get(after..after + total + 2) else { return Some(Announced(None)) };
    if &body[total..] != b"\r\n" {
        return None;
    }
    let message =
        Message { subject, sid: sid.parse().ok()?, reply, headers: &body[..head], payload: &body[head..total] };
    Some(Announced(Some((message, after + total + 2))))
}

fn malformed(bytes: &[u8]) -> Malformed {
    Malformed(String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned())
}

/// Appends a `PUB` or, where there are headers (name and value), an `HPUB`.
pub fn publish(out: &mut Vec<u8>, subject: &str, reply: Option<&str>, headers: &[(&str, &str)], payload: &[u8]) {
    let mut head = String::new();
    if !headers.is_empty() {
        head.push_str("NATS/1.0\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
    }
    let (word, reply) = (if head.is_empty() { "PUB" } else { "HPUB" }, reply.unwrap_or(""));
    let space = if reply.is_empty() { "" } else { " " };
    let lengths = match head.len() {
        0 => format!("{}", payload.len()),
        length => format!("{length} {}", length + payload.len()),
    };
    out.extend_from_slice(format!("{word} {subject} {reply}{space}{lengths}\r\n{head}").as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Whether a text may be a subject (with wildcards: a filter): tokens between dots, none empty, no white space, `>` only at
/// the end, `*` only as a whole token.
pub fn is_subject(text: &str, wildcards: bool) -> bool {
    let tokens: Vec<&str> = text.split('.').collect();
    !text.contains(|c: char| c.is_whitespace() || c.is_control())
        && tokens.iter().enumerate().all(|(index, token)| match *token {
            "" => false,
            "*" => wildcards,
            ">" => wildcards && index + 1 == tokens.len(),
            token => !token.contains(['*', '>']),
        })
}

/// Whether some subject matches both filters.
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_overlap_when_a_subject_matches_both() {
        for (one, other) in [("a.>", "a.b.c"), ("*.b", "a.*"), (">", "a"), ("a.*.c", "a.b.>"), ("a", "a")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [("a.>", "a"), ("a.b", "a.c"), ("*", "a.b"), ("a.0.>", "a.1.>"), ("*.x", "a.b")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }

    /// What is read from `text`, however it is cut.
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let bytes = text.as_bytes();
        let mut found = Vec::new();
        let mut at = 0;
        for end in 0..=bytes.len() {
            while let Some((operation, length)) = operation(&bytes[at..end]).unwrap() {
                found.push(match operation {
                    Operation::Info(info) => format!("Info {} {}", info.version, info.max_payload),
                    Operation::Message(m) => {
                        let body = String::from_utf8_lossy(m.payload);
                        format!("{} {} {:?} {:?} {body}", m.subject, m.sid, m.reply, m.status())
                    }
                    other => format!("{other:?}"),
                });
                at += length;
            }
        }
        assert_eq!(at, bytes.len());
        assert_eq!(found, expected);
    }

    #[test]
    fn operations_are_read_however_they_are_cut() {
        check(
            "INFO {\"version\":\"2.9\",\"max_payload\":9,\"new\":[]} \r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n",
            &["Info 2.9 9", "Ping", "Pong", "Ok", "Error(\"Stale Connection\")"],
        );
        check(
            "MSG logs.a 1 5\r\na\r\nbc\r\nMSG b 12 _INBOX.x 0\r\n\r\n",
            &["logs.a 1 None None a\r\nbc", "b 12 Some(\"_INBOX.x\") None "],
        );
        check(
            "HMSG s 1 r 28 30\r\nNATS/1.0 404 No Messages\r\n\r\nhi\r\nHMSG s 1 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n",
            &["s 1 Some(\"r\") Some((404, \"No Messages\")) hi", "s 1 None None "],
        );
    }

    #[test]
    fn what_is_no_nats_is_refused() {
        for bytes in
            ["HTTP/1.1 400 Bad\r\n", "MSG a\r\n", "MSG a 1 x\r\n", "MSG a 1 2\r\nabcd", "HMSG a 1 9 3\r\nabc\r\n"]
        {
            assert!(operation(bytes.as_bytes()).is_err(), "{bytes}");
        }
        assert!(operation(format!("MSG a 1 {}\r\n", usize::MAX).as_bytes()).is_err());
        assert!(operation("x".repeat(NATS_LINE_BYTES + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_published_can_be_read() {
        let mut out = Vec::new();
        publish(&mut out, "a.b", Some("r"), &[("Nats-Msg-Id", "7")], b"x");
        publish(&mut out, "a.b", None, &[], b"yz");
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "HPUB a.b r 28 29\r\nNATS/1.0\r\nNats-Msg-Id: 7\r\n\r\nx\r\nPUB a.b 2\r\nyz\r\n");
        let read = text.replace("HPUB a.b", "HMSG a.b 1").replace("PUB a.b", "MSG a.b 1");
        let (operation, _) = operation(read.as_bytes()).unwrap().unwrap();
        let Operation::Message(message) = operation else { panic!("a message") };
        assert_eq!((message.header("nats-msg-id"), message.reply), (Some("7"), Some("r")));
    }

    #[test]
    fn subjects() {
        for good in ["a", "logs.app.fra.0e2", "logs.>", "*.b.>", ">", "a.*"] {
            assert!(is_subject(good, true), "{good}");
        }
        for bad in ["", "a..b", ".a", "a.", "a b", "a.>.b", "a*.b"] {
            assert!(!is_subject(bad, true), "{bad}");
        }
        assert!(!is_subject("a.>", false) && !is_subject("*", false));
    }
}
