//! How the steps of `headrig compact` and `headrig retain` are shown.

use crate::archive::Step;
use crate::units::ByteSize;
use anyhow::Context;
use std::io::{self, Write};

/// What was shown so far.
#[derive(Debug, Default)]
pub(super) struct Shown {
    steps: u64,
    files: u64,
    rows: u64,
    bytes: u64,
    bytes_after: u64,
}

/// Prints one step.
pub(super) fn show(shown: &mut Shown, step: &Step) {
    shown.steps += 1;
    shown.files += step.files;
    shown.rows += step.rows;
    shown.bytes += step.bytes;
    shown.bytes_after += step.done.map_or(0, |done| done.bytes_after);
    let into = step.done.filter(|done| done.files_after > 0);
    let into =
        into.map_or(String::new(), |done| format!(" -> {} file, {}", done.files_after, ByteSize(done.bytes_after)));
    let line = format!(
        "{} {}: {}: {} files, {} rows, {}{into}, {} to {}\n",
        step.act,
        step.pipeline,
        step.folder,
        step.files,
        step.rows,
        ByteSize(step.bytes),
        step.oldest,
        step.newest
    );
    // Nobody reads it any more; the work goes on.
    let _ = io::stdout().write_all(line.as_bytes());
}

impl Shown {
    pub(super) fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// Prints what it all came to.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(super) fn sum(&self, dry_run: bool) -> anyhow::Result<()> {
        let (what, after) = match dry_run {
            true => ("would be touched", String::new()),
            false => ("were touched", format!(", {} behind it", ByteSize(self.bytes_after))),
        };
        let line = format!("{} files, {} rows, {} {what}{after}\n", self.files, self.rows, ByteSize(self.bytes));
        io::stdout().write_all(line.as_bytes()).context("cannot write to standard output")
    }
}
