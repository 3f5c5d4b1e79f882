//! Progress on a terminal while `run --once` works, and what it did when it has ended.

use super::report;
use crate::time::Span;
use crate::time::clock::{Clock, Monotonic};
use crate::topology::{Connected, End, Progress, RunError, Totals};
use crate::units::ByteSize;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// How often the line on the terminal is drawn.
const REDRAW: Span = Span::from_micros(200_000);

/// Shows how far pipelines have come.
pub(super) struct Display {
    counts: Arc<Counts>,
    drawing: Option<JoinHandle<()>>,
    summary: bool,
}

struct Counts {
    /// By the name of the pipeline.
    pipelines: Vec<(String, Arc<Progress>)>,
    clock: Arc<dyn Clock>,
    started: Monotonic,
}

impl Display {
    /// With `--once`: draws on a terminal from now on, and sums up at the end.
    pub(super) fn start(once: bool, connected: &[Connected], clock: Arc<dyn Clock>) -> Self {
        let pipelines = connected.iter().map(|c| (c.pipeline().to_owned(), c.progress())).collect();
        let counts = Arc::new(Counts { pipelines, started: clock.monotonic(), clock });
        let drawn = Arc::clone(&counts);
        let drawing = (once && io::stderr().is_terminal()).then(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(REDRAW.to_std()).await;
                    draw(&drawn.line());
                }
            })
        });
        Self { counts, drawing, summary: once }
    }

    /// Ends drawing and says what was done.
    pub(super) fn end(self, ends: &[(String, Result<End, RunError>)]) {
        if let Some(drawing) = &self.drawing {
            drawing.abort();
            draw("");
        }
        if !self.summary {
            return;
        }
        let on_terminal = self.drawing.is_some();
        if on_terminal {
            report::line(&self.counts.line());
        }
        for (pipeline, end) in ends.iter().filter_map(|(name, end)| Some((name, end.as_ref().ok()?))) {
            self.sum_up(pipeline, end, on_terminal);
        }
    }

    fn sum_up(&self, pipeline: &str, end: &End, on_terminal: bool) {
        let totals = self.counts.totals(Some(pipeline));
        let errors: Vec<String> = end.errors.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let late: Vec<String> = end.late.iter().map(|(window, count)| format!("{window} {count}")).collect();
        let seconds = self.counts.seconds();
        if !on_terminal {
            tracing::info!(
                pipeline,
                lines = totals.lines,
                rows = totals.rows,
                dead = totals.dead,
                filtered = end.filtered,
                errors = errors.join(", "),
                late = late.join(", "),
                fired = end.fired,
                resolved = end.resolved,
                sealed_rows = end.sealed_rows,
                sealed_files = end.sealed_files,
                seconds,
                "input has ended, everything is stored"
            );
            return;
        }
        let mut lines = vec![format!(
            "{pipeline}: {} lines → {} rows, {} dead letters; {} files, {} in the archive",
            grouped(totals.lines),
            grouped(totals.rows),
            grouped(totals.dead),
            end.sealed_files,
            ByteSize(end.sealed_bytes)
        )];
        if end.filtered > 0 {
            lines.push(format!("  filtered out: {}", grouped(end.filtered)));
        }
        if !errors.is_empty() {
            lines.push(format!("  found wrong (kept all the same, or dead): {}", errors.join(", ")));
        }
        if end.late.iter().any(|(_, count)| *count > 0) {
            lines.push(format!("  too late for a window: {}", late.join(", ")));
        }
        lines.push(format!("  alerts: {} fired, {} resolved", end.fired, end.resolved));
        report::line(&lines.join("\n"));
    }
}

impl Counts {
    /// Of one pipeline, or of all.
    fn totals(&self, only: Option<&str>) -> Totals {
        let mut sum = Totals { lines: 0, bytes: 0, rows: 0, dead: 0, total_bytes: Some(0) };
        for totals in self.pipelines.iter().filter(|p| only.is_none_or(|only| p.0 == only)).map(|p| p.1.totals()) {
            sum.lines += totals.lines;
            sum.bytes += totals.bytes;
            sum.rows += totals.rows;
            sum.dead += totals.dead;
            sum.total_bytes = sum.total_bytes.zip(totals.total_bytes).map(|(a, b)| a + b);
        }
        sum
    }

    fn seconds(&self) -> f64 {
        self.clock.monotonic().since(self.started).as_secs_f64().max(1e-6)
    }

    fn line(&self) -> String {
        let totals = self.totals(None);
        let rate = totals.bytes as f64 / 1e6 / self.seconds();
        let percent = totals.total_bytes.filter(|total| *total > 0).map_or(String::new(), |total| {
            format!("  {:.0} %", (totals.bytes as f64 / total as f64 * 100.0).min(100.0))
        });
        format!("{} lines  {}  {rate:.0} MB/s{percent}", grouped(totals.lines), ByteSize(totals.bytes))
    }
}

/// Puts a text in place of the terminal's current line.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    // Progress that cannot be shown is no reason to stop.
    let _ = write!(stderr, "\r\x1b[2K{text}").and_then(|()| stderr.flush());
}

/// `1234567` → `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (54_863, "54,863"), (1_234_567, "1,234,567")] {
            assert_eq!(super::grouped(number), text);
        }
    }
}
