//! `headrig generate`: the built-in log generator as a command.

use super::kafka::Target;
use super::nats;
use crate::source::traffic::Traffic;
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// How often lines are written with `--pace`.
const TICK: Span = Span::from_micros(50_000);

/// Write log lines as a small API on Fly.io does
///
/// Each line is Fly's JSON envelope with a structlog record (or plain text) in `message`: requests on fifteen routes,
/// business events, cron reports, health checks, and the oddities of real streams, such as records up to 1.5 s out of order,
/// JSON cut short and values of the wrong type. The same options give the same bytes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  headrig generate --events 1000000 --output big.ndjson
  headrig generate --events 100000 --output kafka://127.0.0.1:9092/telemetry.logs
  headrig generate --start now --events 0 --pace --incident | headrig run pipe.yaml")]
pub struct Args {
    /// Other seeds give other lines
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// How many lines; 0 is without end
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub events: u64,

    /// Lines per second of event time
    #[arg(long, value_name = "N", default_value = "1000")]
    pub rate: NonZeroU64,

    /// Let two routes fail from second 20 to 45 and one be slow from second 60 to 85, every five minutes
    #[arg(long)]
    pub incident: bool,

    /// The first line's time: RFC 3339, or `now`
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z")]
    pub start: String,

    /// Write at the rate instead of as fast as possible
    #[arg(long)]
    pub pace: bool,

    /// Where to: a file (made anew); a message a line to kafka://HOST:PORT/TOPIC, nats://[USER:PASSWORD@]HOST:PORT/SUBJECT or,
    /// with each message acknowledged, jetstream://HOST:PORT/SUBJECT; or `-` for standard output
    #[arg(long, short, value_name = "FILE|URL", default_value = "-")]
    pub output: String,
}

/// Writes the lines. A reader that goes away ends it without an error.
///
/// # Errors
/// When an option makes no sense or the output cannot be written.
pub fn run(args: Args, clock: &dyn Clock) -> anyhow::Result<()> {
    let Args { seed, events, rate, incident, start, pace, output } = args;
    let traffic = Traffic::new(seed, start_time(&start, clock)?, rate.get(), incident);
    let plan = Plan { events, rate, pace };
    let mut out = open(&output)?;
    match write(plan, traffic, &mut *out, clock) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.with_context(|| format!("cannot write {}", describe(&output))),
    }
}

/// How many lines when.
#[derive(Debug, Clone, Copy)]
struct Plan {
    events: u64,
    rate: NonZeroU64,
    pace: bool,
}

fn start_time(text: &str, clock: &dyn Clock) -> anyhow::Result<EventTime> {
    if text == "now" {
        return Ok(clock.now());
    }
    let stamp: jiff::Timestamp =
        text.parse().with_context(|| format!("cannot read --start {text:?} as a time, expected RFC 3339 or `now`"))?;
    Ok(EventTime::from_micros(stamp.as_microsecond()))
}

fn open(text: &str) -> anyhow::Result<Box<dyn Write>> {
    match text.split_once("://") {
        _ if text == "-" => Ok(Box::new(io::stdout().lock())),
        Some(("kafka", _)) => Ok(Box::new(Target::parse(text)?.connect()?)),
        Some(("nats" | "tls" | "jetstream", _)) => Ok(Box::new(nats::connect(text)?)),
        Some((scheme, _)) => {
            bail!(
                "cannot write to {text:?}: {scheme} is not built, expected a file, kafka://, nats://, jetstream:// or `-`"
            )
        }
        None => {
            let file = File::create(text).with_context(|| format!("cannot create {text:?}"))?;
            Ok(Box::new(file))
        }
    }
}

fn describe(output: &str) -> String {
    if output == "-" { "standard output".to_owned() } else { format!("{output:?}") }
}

fn write(plan: Plan, mut traffic: Traffic, out: &mut dyn Write, clock: &dyn Clock) -> io::Result<()> {
    let total = if plan.events == 0 { u64::MAX } else { plan.events };
    let started = clock.monotonic();
    let mut buffer = Vec::with_capacity(WRITE_BYTES + 4_096);
    let mut written = 0;
    while written < total {
        let due = if plan.pace { due(plan.rate, clock.monotonic().since(started)).min(total) } else { total };
        while written < due && buffer.len() < WRITE_BYTES {
            traffic.next_line(&mut buffer);
            written += 1;
        }
        out.write_all(&buffer)?;
        buffer.clear();
        if plan.pace && written == due && written < total {
            out.flush()?;
            std::thread::sleep(TICK.to_std());
        }
    }
    out.flush()
}

/// Lines that should be out `elapsed` after the start; the first is due at once.
fn due(rate: NonZeroU64, elapsed: Span) -> u64 {
    let lines = elapsed.micros().max(0) as u128 * u128::from(rate.get()) / 1_000_000 + 1;
    u64::try_from(lines).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::clock::SystemClock;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// Runs with `options` into a file and returns what is in it.
    fn check(options: &[&str]) -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("out.ndjson");
        let path = path.to_str().expect("temporary paths are text");
        let cli = Cli::try_parse_from(["generate", "--output", path].iter().chain(options))?;
        run(cli.args, &SystemClock::start())?;
        Ok(std::fs::read_to_string(path)?)
    }

    #[test]
    fn the_asked_lines_come_and_are_the_same_again() {
        let text = check(&["--events", "700", "--incident", "--rate", "7"]).unwrap();
        assert_eq!(text.lines().count(), 700);
        assert_eq!(text, check(&["--events", "700", "--incident", "--rate", "7"]).unwrap());
        assert_ne!(text, check(&["--events", "700", "--incident", "--rate", "7", "--seed", "2"]).unwrap());
        assert_eq!(
            check(&["--events", "100", "--pace", "--rate", "1000000", "--start", "now"]).unwrap().lines().count(),
            100
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (options, expected) in [
            (&["--start", "yesterday"][..], "cannot read --start \"yesterday\" as a time"),
            (&["--rate", "0"], "--rate"),
            (&["--events", "-1"], "-1"),
        ] {
            let error = check(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (url, expected) in [("nats://x", "as a NATS subject"), ("http://x/loki/api/v1/push", "http is not built")] {
            let error = open(url).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(open("/no/such/folder/x").is_err());
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let plan = Plan { events: 0, rate: NonZeroU64::MIN, pace: false };
        let traffic = Traffic::new(1, EventTime::from_micros(0), 1, false);
        let error = write(plan, traffic, &mut writer, &SystemClock::start()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
