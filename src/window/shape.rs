//! How the windows of a definition lie in time: what is written of it → [`Shape`], with every mistake in it.

use super::axis::Axis;
use super::{Config, Kind};
use crate::limits::{PANES_PER_WINDOW, SESSION_MAX, SESSION_PIECES, WINDOW_SPAN};
use crate::place::{Located, Problem, did_you_mean};
use crate::time::Span;
use crate::time::zone::{self, Calendar, DAY};

/// Lengths in µs.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// `size` and `every` are multiples of `pane`.
    Panes { axis: Axis, size: i64, every: i64, pane: i64 },
    /// A session ends at the first gap of this length, or where a piece begins that would be one too many.
    Sessions { gap: i64, piece: i64 },
}

/// What stands for a shape where there are problems.
const NONE: Shape = Shape::Panes { axis: Axis::Epoch, size: 1, every: 1, pane: 1 };

impl Config {
    /// The shape; a harmless one where there are problems.
    pub(super) fn shape(&self, problems: &mut Vec<Problem>) -> Shape {
        let before = problems.len();
        let spans = [(&self.size, "length"), (&self.gap, "gap"), (&self.max, "length")];
        for (span, what) in spans.iter().filter_map(|(span, what)| Some((span.as_ref()?, what))) {
            if span.value <= Span::ZERO {
                problems.push(span.problem(format!("cannot use a window of no {what}")).hint("as in `5m`"));
            }
        }
        let written = spans.iter().filter_map(|(span, _)| span.as_ref()).map(|span| (span.value, span.place));
        for (span, place) in written.chain([(self.lateness, self.name.place)]) {
            if span > WINDOW_SPAN {
                let text = format!("cannot use a window over {span}, the longest is {WINDOW_SPAN}");
                problems.push(Problem::new(place, text));
            }
        }
        self.unfit(problems);
        let shape = match self.kind {
            Kind::Session => self.sessions(problems),
            Kind::Tumbling | Kind::Sliding => self.panes(problems),
        };
        if problems.len() > before { NONE } else { shape.unwrap_or(NONE) }
    }

    /// Keys that windows of this kind don't have.
    fn unfit(&self, problems: &mut Vec<Problem>) {
        let (kind, unfit): (_, &[_]) = match self.kind {
            Kind::Tumbling => ("a tumbling", &[("every", &self.every), ("gap", &self.gap), ("max", &self.max)]),
            Kind::Sliding => ("a sliding", &[("gap", &self.gap), ("max", &self.max)]),
            Kind::Session => ("a session", &[("size", &self.size), ("every", &self.every)]),
        };
        for (key, span) in unfit.iter().filter_map(|(key, span)| Some((key, span.as_ref()?))) {
            let hint = match *key {
                "every" if self.kind == Kind::Tumbling => {
                    "its windows follow each other; overlapping ones are `kind: sliding`"
                }
                "gap" | "max" => "that is for `kind: session`",
                _ => "a session ends when nothing has come for `gap`, or after `max`",
            };
            problems.push(span.problem(format!("cannot use `{key}` in {kind} window")).hint(hint));
        }
        if let Some(zone) = self.zone.as_ref().filter(|_| self.kind == Kind::Session) {
            let problem = zone.problem("cannot use `zone` in a session window");
            problems.push(problem.hint("a session begins with its first record, whatever the time of day"));
        }
    }

    fn sessions(&self, problems: &mut Vec<Problem>) -> Option<Shape> {
        let Some(gap) = &self.gap else {
            let problem = self.name.problem("cannot build a session window without `gap`");
            problems.push(problem.hint("say after how long without records a session has ended, as in `gap: 10m`"));
            return None;
        };
        let max = self.max.as_ref().map_or(SESSION_MAX, |max| max.value);
        if gap.value > max {
            let at = self.max.as_ref().unwrap_or(gap);
            let problem =
                at.problem(format!("cannot cut sessions at {max} when they end after a gap of {}", gap.value));
            problems.push(problem.hint("`max` is at least `gap`; its default is 1d"));
        }
        let piece = max.micros() / SESSION_PIECES;
        if piece == 0 {
            let at = self.max.as_ref().unwrap_or(gap);
            problems.push(at.problem(format!("cannot cut sessions at {max}, the least is {SESSION_PIECES}us")));
        }
        Some(Shape::Sessions { gap: gap.value.micros(), piece })
    }

    fn panes(&self, problems: &mut Vec<Problem>) -> Option<Shape> {
        let kind = if self.kind == Kind::Sliding { "sliding" } else { "tumbling" };
        let Some(size) = &self.size else {
            let problem = self.name.problem(format!("cannot build a {kind} window without `size`"));
            problems.push(problem.hint("say how long it is, as in `size: 5m`"));
            return None;
        };
        let every = match (self.kind, &self.every) {
            (Kind::Sliding, None) => {
                problems.push(
                    size.problem("cannot build a sliding window without `every`")
                        .hint("say how far apart windows start, as in `every: 30s`"),
                );
                return None;
            }
            (Kind::Sliding, Some(every)) if every.value <= Span::ZERO || every.value > size.value => {
                let text = format!("cannot start a window every {} when its size is {}", every.value, size.value);
                problems.push(every.problem(text).hint("`every` is more than 0 and at most `size`"));
                return None;
            }
            (Kind::Sliding, Some(every)) => every,
            _ => size,
        };
        if size.value <= Span::ZERO {
            return None;
        }
        let pane = gcd(size.value.micros(), every.value.micros());
        let panes = size.value.micros() / pane;
        if panes > PANES_PER_WINDOW {
            let pane = Span::from_micros(pane);
            problems.push(
                size.problem(format!(
                    "cannot put a window of {} together from {panes} panes of {pane}, at most {PANES_PER_WINDOW}",
                    size.value
                ))
                .hint("choose a longer `every` that divides `size`"),
            );
        }
        let axis = self.axis(size, every, problems)?;
        Some(Shape::Panes { axis, size: size.value.micros(), every: every.value.micros(), pane })
    }

    fn axis(&self, size: &Located<Span>, every: &Located<Span>, problems: &mut Vec<Problem>) -> Option<Axis> {
        let Some(name) = &self.zone else { return Some(Axis::Epoch) };
        let uneven = [size, every].into_iter().find(|span| span.value.micros() % DAY.micros() != 0);
        if let Some(span) = uneven {
            let text = format!("cannot begin a window of {} at midnight in {}", span.value, name.value);
            problems.push(span.problem(text).hint("with `zone` windows are whole days long, as in `size: 1d`"));
        }
        let Some(zone) = zone::find(&name.value) else {
            let known = zone::names();
            let hint = match did_you_mean(&name.value, known.iter().map(String::as_str)) {
                Some(close) => format!("did you mean `{close}`?"),
                None => "an IANA time zone, as in Asia/Tokyo".to_owned(),
            };
            problems.push(name.problem(format!("cannot find time zone {:?}", name.value)).hint(hint));
            return None;
        };
        Some(Axis::Days(Box::new(Calendar::new(zone))))
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
