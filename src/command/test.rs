//! `headrig test`: event-time scripts against pipelines.

use super::load::read_text;
use super::report::Hinted;
use crate::limits;
use crate::rehearsal::{Files, Played, play};
use anyhow::Context;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `headrig test`
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Scripts, or folders that are searched for `*.test`.
    #[arg(required = true)]
    scripts: Vec<PathBuf>,
    /// The pipeline of scripts that name none.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Writes into the scripts what came, instead of what was expected; as UPDATE=1 does.
    #[arg(long)]
    update: bool,
}

const HELP: &str = "\
A script plays records to a pipeline and says what is to come of it. Nothing is read but the script and the pipeline's file;
time is what the script says, so a day takes a moment and the result is always the same.

  pipeline ../pipelines/fly.yaml          # relative to the script; or the YAML itself below, indented
  origin 2026-05-06T00:00:00Z             # what 0s is

  load                                    # records, in the order of their times
      @0s path=/a status=200 latency_ms=12 every 1s for 10m
      @5m path=/a status=500 latency_ms=3 every 2s for 5m
      @9m \"a line of plain text\"
  expect alert HighErrorRate path=/a firing since 10m30s

  advance 1m                              # the clock on the wall goes on, and nobody writes
  restart                                 # or: restart replacing \"error_rate > 0.02\" by \"error_rate > 0.05\"
  expect windows route_1m                 # all rows since the last look
      0s..1m path=/a requests=60 errors=0 error_rate=0

Records:      load [file FILE] [partition NAME] [at TIME] [in order], replay, open NAME, end NAME, finish
Time:         advance SPAN, step clock ±SPAN
What happens: stall, resume, seal, crash, restart [with FILE | replacing \"OLD\" by \"NEW\"] [without NAME]
Expectations: expect windows, window, no window, alerts, alert, no alert, late, watermark, dead, told, repeated, abandoned

UPDATE=1 (or --update) writes what came into the scripts: look at the difference before you keep it. docs/testing.md has every statement.

Exit code: 0 when everything was as expected, 1 otherwise.";

/// What scripts may read: files beside the script, and schema files as pipelines name them.
struct Disk {
    /// The script's folder.
    folder: PathBuf,
}

impl Files for Disk {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let (mut bytes, most) = (Vec::new(), limits::SCRIPT_INPUT_BYTES);
        let file = fs::File::open(self.folder.join(path))?;
        #[expect(clippy::disallowed_methods, reason = "taken up to the limit")]
        let read = file.take(most + 1).read_to_end(&mut bytes)?;
        if read as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {most} bytes")));
        }
        Ok(bytes)
    }

    fn schema(&self, path: &str) -> io::Result<String> {
        read_text(Path::new(path))
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut scripts = Vec::new();
    for path in &args.scripts {
        find(path, &mut scripts).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if scripts.is_empty() {
        let hint = "scripts end with .test; docs/testing.md shows how they are written".to_owned();
        return Err(Hinted::new(&"cannot find a script there", Some(hint)).into());
    }
    let update = args.update || std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let usual = args.pipeline.as_ref().map(std::path::absolute).transpose().context("cannot find --pipeline")?;
    let usual = usual.map(|path| path.display().to_string());
    let (mut failed, mut expectations) = (0, 0);
    for path in &scripts {
        let text = read_text(path).with_context(|| format!("cannot read {}", path.display()))?;
        let files = Disk { folder: path.parent().unwrap_or(Path::new("")).to_owned() };
        let played = play(&text, usual.as_deref(), &files);
        expectations += played.expectations;
        let updated = update && played.mistakes.is_empty() && !played.unmet.is_empty();
        if updated {
            fs::write(path, &played.updated).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let holds = played.mistakes.is_empty() && played.unmet.is_empty();
        failed += usize::from(!(updated || holds));
        say(&told(path, &played, updated))?;
    }
    say(&format!("{} scripts, {expectations} expectations, {failed} scripts failed\n", scripts.len()))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Scripts at or below `path`, in the order of their names.
fn find(path: &Path, scripts: &mut Vec<PathBuf>) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        scripts.push(path.to_owned());
        return Ok(());
    }
    let mut below: Vec<PathBuf> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    below.sort();
    for path in below {
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "test") {
            find(&path, scripts)?;
        }
    }
    Ok(())
}

fn told(path: &Path, played: &Played, updated: bool) -> String {
    let name = path.display();
    if updated {
        return format!("new  {name}: {} expectations written\n", played.unmet.len());
    }
    if played.mistakes.is_empty() && played.unmet.is_empty() {
        return format!("ok   {name}: {} expectations\n", played.expectations);
    }
    let mut text = format!("FAIL {name}\n");
    for unmet in &played.unmet {
        text.push_str(&format!("{name}:{}: cannot find what was expected: {}\n", unmet.line, unmet.what));
        unmet.difference().iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    for mistake in &played.mistakes {
        text.push_str(&format!("{name}:{}: {}\n", mistake.line, mistake.message));
    }
    text
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
