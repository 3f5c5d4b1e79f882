//! Alert events as text: JSON lines for programs, a readable line for people at a terminal.

use crate::record::alert::{AlertEvent, AlertStatus};
use std::fmt::Write;

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

impl Colour {
    /// On, unless `NO_COLOR` says otherwise (<https://no-color.org>) or the terminal cannot.
    pub(crate) fn of_terminal() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let unable = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        if refused || unable { Self::Off } else { Self::On }
    }
}

/// One JSON object a line, each line ended.
pub(crate) fn json_lines(events: &[AlertEvent]) -> String {
    let mut lines = String::new();
    for event in events {
        lines.push_str(&serde_json::to_string(event).expect("an alert event is JSON"));
        lines.push('\n');
    }
    lines
}

/// One event as one line without its end, as in
/// `05:38:30 FIRING   P0 HighErrorRate path=/v1/x  error_rate=0.31 requests=412 — summary text`.
/// The time is that of the change of state, in UTC.
pub(crate) fn readable(event: &AlertEvent, colour: Colour) -> String {
    let label = |name: &str| event.labels.get(name).map_or("-", String::as_str);
    let time = event.ends_at.unwrap_or(event.starts_at).to_string();
    let time = time.get(11..19).unwrap_or(&time).to_owned();
    let status = event.status.as_str().to_uppercase();
    let (on, off) = match (colour, event.status, label("severity")) {
        (Colour::Off, ..) => ("", ""),
        (_, AlertStatus::Resolved, _) => ("\x1b[32m", "\x1b[0m"),
        (_, AlertStatus::Firing, "P1" | "warning") => ("\x1b[33m", "\x1b[0m"),
        (_, AlertStatus::Firing, _) => ("\x1b[1;31m", "\x1b[0m"),
    };
    let mut line = format!("{time} {on}{status:<8}{off} {} ", safe(label("severity")));
    line.push_str(&safe(label("alertname")));
    for (name, value) in event.labels.iter().filter(|(n, _)| !matches!(n.as_str(), "alertname" | "severity")) {
        write!(line, " {}={}", safe(name), safe(value)).expect("a text takes all");
    }
    for (number, (name, value)) in event.values.iter().enumerate() {
        let gap = if number == 0 { "  " } else { " " };
        write!(line, "{gap}{}={}", safe(name), safe(&short(value))).expect("a text takes all");
    }
    if let Some(summary) = event.annotations.get("summary").or_else(|| event.annotations.get("description")) {
        write!(line, " — {}", safe(summary)).expect("a text takes all");
    }
    line
}

/// A number with at most four digits behind the point; anything else as JSON.
fn short(value: &serde_json::Value) -> String {
    match value.as_f64() {
        Some(float) if value.is_f64() && float.abs() >= 1e-3 && float.abs() < 1e15 => {
            let text = format!("{float:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => value.to_string(),
    }
}

/// A text that comes from logs and must not steer a terminal: control characters, and those that turn the direction
/// of writing, are spelled out.
fn safe(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::time::EventTime;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// An alert that fires.
    pub(crate) fn event() -> AlertEvent {
        let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let time = EventTime::from_micros(1_778_045_910_000_000);
        AlertEvent {
            id: "a1".into(),
            pipeline: "auto".into(),
            status: AlertStatus::Firing,
            labels: texts(&[("alertname", "HighErrorRate"), ("path", "/v1/x"), ("severity", "P0")]),
            annotations: texts(&[("summary", "31% of requests fail")]),
            values: BTreeMap::from([
                ("error_rate".into(), serde_json::json!(0.31)),
                ("requests".into(), serde_json::json!(412)),
            ]),
            window_start: time,
            window_end: time,
            starts_at: time,
            ends_at: None,
        }
    }

    #[test]
    fn a_line_says_it_all() {
        let mut event = event();
        let line = "05:38:30 FIRING   P0 HighErrorRate path=/v1/x  error_rate=0.31 requests=412 — 31% of requests fail";
        assert_eq!(readable(&event, Colour::Off), line);
        assert_eq!(readable(&event, Colour::On), line.replace("FIRING  ", "\x1b[1;31mFIRING  \x1b[0m"));
        event.status = AlertStatus::Resolved;
        event.ends_at = Some(EventTime::from_micros(1_778_045_970_500_000));
        assert!(readable(&event, Colour::On).starts_with("05:39:30 \x1b[32mRESOLVED\x1b[0m P0"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in
            [("0.3123456", "0.3123"), ("2.0", "2"), ("1e-7", "1e-7"), ("412", "412"), ("null", "null")]
        {
            assert_eq!(short(&serde_json::from_str(value).unwrap()), expected);
        }
    }

    proptest! {
        #[test]
        fn hostile_text_never_steers_the_terminal(text in "(?s).*|[\u{1b}\u{7}\u{9b}\u{202e}\r\n]+.*") {
            let mut event = event();
            for name in ["path", "alertname", "severity", text.as_str()] {
                event.labels.insert(name.to_owned(), text.clone());
            }
            event.annotations.insert("summary".into(), text.clone());
            event.values.insert(text.clone(), serde_json::Value::String(text));
            let line = readable(&event, Colour::Off);
            prop_assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}
