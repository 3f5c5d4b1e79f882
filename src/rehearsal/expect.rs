//! What a script expects, and whether it is so. What came instead is written as an expectation, so that a script can be updated.

use super::view::{Came, View, times};
use super::words::{When, Word, plain, shown, words};
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::sample::WindowRows;
use crate::time::EventTime;
use serde_json::Value;
use std::collections::BTreeSet;

type Pairs = Vec<(String, Value)>;

/// One expectation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expect {
    /// All rows that closed since the last look, of one window or of all.
    Windows(Option<String>, Vec<String>),
    /// A row.
    Window(RowOf),
    NoWindow(RowOf),
    /// All changes of state since the last look.
    Alerts(Vec<String>),
    Alert(AlertIs),
    /// Nothing pending or firing.
    NoAlert(Option<String>, Pairs),
    /// Records that came too late, of one window or of all.
    Late(Option<String>, u64),
    Watermark(Option<When>),
    /// Numbers that are only counted.
    Count(Counted, u64),
}

/// Rows of a window, by what is known of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RowOf {
    pub(super) window: Option<String>,
    pub(super) range: Option<(When, When)>,
    pub(super) pairs: Pairs,
}

/// How an alert stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AlertIs {
    pub(super) name: String,
    pub(super) labels: Pairs,
    pub(super) state: &'static str,
    pub(super) time: When,
    pub(super) values: Pairs,
}

/// What `expect NAME N` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Dead,
    Told,
    Repeated,
    Abandoned,
}

impl Counted {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Dead, "dead"), (Self::Told, "told"), (Self::Repeated, "repeated"), (Self::Abandoned, "abandoned")];
}

/// What was shown to a script already.
#[derive(Debug, Default)]
pub(super) struct Seen {
    windows: BTreeSet<(String, String)>,
    events: BTreeSet<String>,
}

/// Whether lines stand below `expect WHAT`.
pub(super) fn takes_block(what: &str) -> bool {
    matches!(what, "windows" | "alerts")
}

/// Reads what stands behind `expect`, and the lines below.
///
/// # Errors
/// What cannot be read.
pub(super) fn parse(text: &str, block: &[&str]) -> Result<Expect, String> {
    let all = words(text)?;
    let bare = |word: &Word| if let Word::Bare(text) = word { Some(text.clone()) } else { None };
    let lines = || {
        let lines = block.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(normal).collect::<Vec<String>>()
    };
    let first = all.first().and_then(bare).unwrap_or_default();
    let rest = all.get(1..).unwrap_or_default();
    match (first.as_str(), rest) {
        ("windows", []) => Ok(Expect::Windows(None, lines())),
        ("windows", [Word::Bare(name)]) => Ok(Expect::Windows(Some(name.clone()), lines())),
        ("alerts", []) => Ok(Expect::Alerts(lines())),
        ("window", rest) => {
            let row = row_of(rest)?;
            let whole = row.window.is_some() && row.range.is_some();
            if whole {
                Ok(Expect::Window(row))
            } else {
                Err("cannot find a row without window and range, as in `expect window NAME 0s..1m requests=3`"
                    .to_owned())
            }
        }
        ("no", [Word::Bare(what), rest @ ..]) if what == "window" => row_of(rest).map(Expect::NoWindow),
        ("no", [Word::Bare(what), rest @ ..]) if what == "alert" => {
            let (name, rest) = match rest {
                [Word::Bare(name), rest @ ..] => (Some(name.clone()), rest),
                rest => (None, rest),
            };
            Ok(Expect::NoAlert(name, pairs(rest)?))
        }
        ("alert", [Word::Bare(name), rest @ ..]) => alert(name, rest).map(Expect::Alert),
        ("late", [Word::Bare(count)]) => Ok(Expect::Late(None, number(count)?)),
        ("late", [Word::Bare(window), Word::Bare(count)]) => Ok(Expect::Late(Some(window.clone()), number(count)?)),
        ("watermark", [Word::Bare(time)]) if time == "none" => Ok(Expect::Watermark(None)),
        ("watermark", [Word::Bare(time)]) => Ok(Expect::Watermark(Some(when(time)?))),
        (what, [Word::Bare(count)]) if Counted::ALL.iter().any(|(_, name)| *name == what) => {
            let counted = Counted::ALL.into_iter().find(|(_, name)| *name == what);
            counted.map_or_else(|| Err(String::new()), |(counted, _)| Ok(Expect::Count(counted, number(count)?)))
        }
        _ => Err(format!(
            "cannot expect {text:?}; there are window, windows, no window, alert, alerts, no alert, late, watermark, dead, told, repeated and abandoned"
        )),
    }
}

fn when(text: &str) -> Result<When, String> {
    When::parse(text).ok_or_else(|| format!("cannot read {text:?} as a time, as in 5m or 2026-05-06T00:00:00Z"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("cannot read {text:?} as a number"))
}

fn pairs(words: &[Word]) -> Result<Pairs, String> {
    let pair = |word: &Word| match word {
        Word::Pair(name, value) => Ok((name.clone(), value.clone())),
        Word::Bare(text) | Word::Text(text) => Err(format!("cannot read {text:?}, expected name=value")),
    };
    words.iter().map(pair).collect()
}

fn row_of(words: &[Word]) -> Result<RowOf, String> {
    let mut row = RowOf::default();
    let mut left = words;
    while let [Word::Bare(text), rest @ ..] = left {
        match text.split_once("..") {
            Some((start, end)) => row.range = Some((when(start)?, when(end)?)),
            None if row.window.is_none() => row.window = Some(text.clone()),
            None => return Err(format!("cannot read {text:?}, expected name=value")),
        }
        left = rest;
    }
    row.pairs = pairs(left)?;
    Ok(row)
}

fn alert(name: &str, words: &[Word]) -> Result<AlertIs, String> {
    let state = words.iter().position(|word| matches!(word, Word::Bare(_)));
    let wrong =
        || "cannot read how the alert is, expected `firing since T`, `pending since T` or `resolved at T`".to_owned();
    let (labels, rest) = words.split_at(state.ok_or_else(wrong)?);
    let [Word::Bare(state), Word::Bare(word), Word::Bare(time), values @ ..] = rest else { return Err(wrong()) };
    let state = match (state.as_str(), word.as_str()) {
        ("firing", "since") => "firing",
        ("pending", "since") => "pending",
        ("resolved", "at") => "resolved",
        _ => return Err(wrong()),
    };
    Ok(AlertIs { name: name.to_owned(), labels: pairs(labels)?, state, time: when(time)?, values: pairs(values)? })
}

/// One blank between words.
fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Expect {
    /// What came where something else was expected.
    ///
    /// # Errors
    /// When there is nothing of that name.
    pub(super) fn check(&self, view: &View, seen: &mut Seen) -> Result<Option<Came>, String> {
        match self {
            Self::Windows(name, lines) => {
                view.known(name.as_deref())?;
                let came = windows(view, name.as_deref(), seen);
                Ok((came != *lines).then_some(Came::Block(came)))
            }
            Self::Alerts(lines) => {
                let new: Vec<&AlertEvent> = view.events.iter().filter(|e| seen.events.insert(e.id.clone())).collect();
                let came: Vec<String> = new.into_iter().map(|event| event_line(event, view.origin)).collect();
                Ok((came != *lines).then_some(Came::Block(came)))
            }
            Self::Window(row) => {
                view.known(row.window.as_deref())?;
                Ok(row.missing(view))
            }
            Self::NoWindow(row) => {
                view.known(row.window.as_deref())?;
                Ok(row.found(view).next().map(|(window, at)| Came::Line(row.line(view, window, at, None))))
            }
            Self::Alert(alert) => Ok(alert.check(view)),
            Self::NoAlert(name, labels) => Ok(no_alert(view, name.as_deref(), labels)),
            Self::Late(window, expected) => {
                view.known(window.as_deref())?;
                let counts = view.late.iter().filter(|(name, _)| window.as_deref().is_none_or(|w| w == &**name));
                let count: u64 = counts.map(|(_, count)| count).sum();
                let name = window.as_ref().map_or(String::new(), |window| format!("{window} "));
                Ok((count != *expected).then(|| Came::Line(format!("late {name}{count}"))))
            }
            Self::Watermark(expected) => {
                let expected = expected.map(|when| when.from(view.origin));
                let came = view.now.map_or("none".to_owned(), |now| shown(now, view.origin));
                Ok((view.now != expected).then(|| Came::Line(format!("watermark {came}"))))
            }
            Self::Count(counted, expected) => {
                let count = match counted {
                    Counted::Dead => view.dead,
                    Counted::Told => view.told,
                    Counted::Repeated => view.repeated,
                    Counted::Abandoned => view.abandoned,
                };
                let name = Counted::ALL.iter().find(|(known, _)| known == counted).map_or("", |(_, name)| name);
                Ok((count != *expected).then(|| Came::Line(format!("{name} {count}"))))
            }
        }
    }
}

fn windows(view: &View, name: Option<&str>, seen: &mut Seen) -> Vec<String> {
    let mut lines = Vec::new();
    for window in view.windows.iter().filter(|window| name.is_none_or(|name| name == &*window.window)) {
        for row in 0..window.rows.num_rows() {
            let line = row_line(view, window, row);
            // What comes late for a window that is closed and not sealed is counted in its row; that is no new one.
            let groups = view.cells(window, row).into_iter().filter(|(name, _)| view.is_group(window, name));
            let place = groups.fold(view.range(window, row), |all, (_, value)| format!("{all} {}", plain(&value)));
            if seen.windows.insert((window.window.to_string(), place)) {
                let before = if name.is_none() { format!("{} ", window.window) } else { String::new() };
                lines.push(format!("{before}{line}"));
            }
        }
    }
    lines
}

fn row_line(view: &View, window: &WindowRows, row: usize) -> String {
    let mut line = view.range(window, row);
    for (name, value) in view.cells(window, row) {
        let unsaid = (name == "late" && value == 0) || (name == "provisional" && value == false);
        if !unsaid {
            line.push_str(&format!(" {name}={}", plain(&value)));
        }
    }
    line
}

fn event_line(event: &AlertEvent, origin: EventTime) -> String {
    let time = shown(event.ends_at.unwrap_or(event.starts_at), origin);
    let name = event.labels.get("alertname").map_or("", String::as_str);
    let mut line = format!("{time} {} {name}", event.status.as_str());
    for (label, value) in event.labels.iter().filter(|(label, _)| *label != "alertname") {
        line.push_str(&format!(" {label}={}", plain(&Value::from(value.as_str()))));
    }
    for (name, value) in &event.values {
        line.push_str(&format!(" {name}={}", plain(value)));
    }
    line
}

fn is_same(expected: &Value, came: &Value) -> bool {
    let near = |(a, b): (f64, f64)| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    plain(expected) == plain(came) || expected.as_f64().zip(came.as_f64()).is_some_and(near)
}

/// As labels are: texts.
fn label_is(expected: &Value, came: Option<&String>) -> bool {
    let expected = if let Value::String(text) = expected { text.clone() } else { expected.to_string() };
    came.map_or("", String::as_str) == expected
}

fn of_labels(name: Option<&str>, labels: &Pairs, of: &std::collections::BTreeMap<String, String>) -> bool {
    let named = name.is_none_or(|name| of.get("alertname").is_some_and(|own| own == name));
    named && labels.iter().all(|(label, value)| label_is(value, of.get(label)))
}

fn written(pairs: &Pairs) -> String {
    pairs.iter().map(|(name, value)| format!(" {name}={}", plain(value))).collect()
}

impl RowOf {
    /// Rows of the range whose group columns are as said.
    fn candidates<'v>(&'v self, view: &'v View) -> impl Iterator<Item = (&'v WindowRows, usize)> {
        let range = self.range.map(|(start, end)| (start.from(view.origin), end.from(view.origin)));
        let windows =
            view.windows.iter().filter(move |window| self.window.as_deref().is_none_or(|name| name == &*window.window));
        let rows = windows.flat_map(|window| (0..window.rows.num_rows()).map(move |row| (window, row)));
        let rows = rows.filter(move |(window, row)| range.is_none_or(|range| range == times(window, *row)));
        rows.filter(|(window, row)| {
            let cells = view.cells(window, *row);
            let groups = self.pairs.iter().filter(|(name, _)| view.is_group(window, name));
            groups.clone().all(|(name, value)| cells.iter().any(|(n, v)| n == name && is_same(value, v)))
        })
    }

    /// Rows that are as said in all.
    fn found<'v>(&'v self, view: &'v View) -> impl Iterator<Item = (&'v WindowRows, usize)> {
        self.candidates(view).filter(|(window, row)| {
            let cells = view.cells(window, *row);
            self.pairs.iter().all(|(name, value)| cells.iter().any(|(n, v)| n == name && is_same(value, v)))
        })
    }

    fn missing(&self, view: &View) -> Option<Came> {
        if self.found(view).next().is_some() {
            return None;
        }
        let came = match self.candidates(view).next() {
            Some((window, row)) => self.line(view, window, row, Some(&self.pairs)),
            None => {
                let range = self.range.map(|(start, end)| {
                    format!(
                        " {}..{}",
                        shown(start.from(view.origin), view.origin),
                        shown(end.from(view.origin), view.origin)
                    )
                });
                let groups: Pairs = self.pairs.iter().filter(|(name, _)| view.is_a_group(name)).cloned().collect();
                let name = self.window.as_deref().unwrap_or_default();
                format!("no window {name}{}{}", range.unwrap_or_default(), written(&groups))
            }
        };
        Some(Came::Line(came))
    }

    /// A row as an expectation, with the columns of `only`.
    fn line(&self, view: &View, window: &WindowRows, row: usize, only: Option<&Pairs>) -> String {
        let cells = view.cells(window, row);
        let wanted = |name: &str| match only {
            Some(pairs) => pairs.iter().any(|(known, _)| known == name),
            None => name != "late" && name != "provisional",
        };
        let cells: Pairs = cells.into_iter().filter(|(name, _)| wanted(name)).collect();
        format!("window {} {}{}", window.window, view.range(window, row), written(&cells))
    }
}

impl AlertIs {
    fn check(&self, view: &View) -> Option<Came> {
        let standing = view.standing(|labels| of_labels(Some(&self.name), &self.labels, labels));
        let is_it = |(state, time, values): &(&str, EventTime, Pairs)| {
            let value = |name: &String| values.iter().find(|(known, _)| known == name).map(|(_, value)| value);
            *state == self.state
                && *time == self.time.from(view.origin)
                && self.values.iter().all(|(name, expected)| value(name).is_some_and(|came| is_same(expected, came)))
        };
        if standing.iter().any(is_it) {
            return None;
        }
        let before = format!("{}{}", self.name, written(&self.labels));
        let came = match standing.into_iter().next() {
            None => format!("no alert {before}"),
            Some((state, time, values)) => {
                let asked = values.into_iter().filter(|(name, _)| self.values.iter().any(|(known, _)| known == name));
                let word = if state == "resolved" { "at" } else { "since" };
                let values = written(&asked.collect());
                format!("alert {before} {state} {word} {}{values}", shown(time, view.origin))
            }
        };
        Some(Came::Line(came))
    }
}

fn no_alert(view: &View, name: Option<&str>, labels: &Pairs) -> Option<Came> {
    let active = view.active.iter().find(|alert| of_labels(name, labels, &alert.labels))?;
    let own = active.labels.clone();
    let standing = view.standing(|labels| *labels == own);
    let (state, time, _) = standing.into_iter().find(|(state, ..)| *state != AlertStatus::Resolved.as_str())?;
    let name = own.get("alertname").cloned().unwrap_or_default();
    let labels = own.iter().filter(|(label, _)| *label != "alertname");
    let labels: Pairs = labels.map(|(label, value)| (label.clone(), Value::from(value.as_str()))).collect();
    Some(Came::Line(format!("alert {name}{} {state} since {}", written(&labels), shown(time, view.origin))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_read() {
        let read = |text: &str| parse(text, &["    0s..1m  a=1", "  # why", ""]);
        assert_eq!(read("windows w"), Ok(Expect::Windows(Some("w".to_owned()), vec!["0s..1m a=1".to_owned()])));
        let Ok(Expect::Window(row)) = read("window w 0s..1m path=/a n=3") else { panic!("a window") };
        assert_eq!((row.window.as_deref(), row.pairs.len()), (Some("w"), 2));
        let Ok(Expect::Alert(alert)) = read("alert A path=/a firing since 5m error_rate=0.5") else {
            panic!("an alert")
        };
        assert_eq!((alert.state, alert.labels.len(), alert.values.len()), ("firing", 1, 1));
        assert_eq!(read("late w 3"), Ok(Expect::Late(Some("w".to_owned()), 3)));
        assert_eq!(read("told 3"), Ok(Expect::Count(Counted::Told, 3)));
        assert_eq!(read("watermark none"), Ok(Expect::Watermark(None)));
        for broken in ["", "window w", "alert A", "alert A firing at 5m", "late x", "rain", "no rain", "watermark x"] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }
}
