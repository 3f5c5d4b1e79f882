//! `headrig backtest`: what a pipeline's alerts would have done over an archive.

use super::load::PipelineFile;
use super::report::{self, Hinted};
use super::{EXIT_CONFIG, load};
use crate::archive::{self, ArchivePlan};
use crate::config::Plan;
use crate::limits;
use crate::query::print::{self, Screen, printer};
use crate::query::{Engine, Limits, QueryError};
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::rehearsal::{Backtest, BacktestError, Order, Sweep, Tried};
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use crate::units::ByteSize;
use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

/// `headrig backtest`
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The pipeline file whose windows and alerts are tried.
    pipeline: PathBuf,
    /// The archive: a folder or bucket; the pipeline's own by default.
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// Only what happened at or after this time (RFC 3339, or a date).
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<EventTime>,
    /// Only what happened before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<EventTime>,
    /// Tries thresholds for a column that `when` compares with a number: NAME=LOW..HIGH, or NAME=LOW..HIGH:STEP.
    #[arg(long, value_name = "RANGE")]
    sweep: Option<Sweep>,
    /// How the result is written: a table, or JSON lines; without --sweep they are the alert events, as `run` prints them.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// In which order rows come.
    #[arg(long, value_enum, default_value_t = By::Auto)]
    order: By,
}

const HELP: &str = "\
Reads the rows of an archive (only the columns that the windows of alerts read), puts them through the pipeline's windows and
rules, and prints what would have fired, when, for how long and at which values. Nobody is told, nothing is written.

  headrig backtest pipelines/fly.yaml --archive ./fly-archive
  headrig backtest pipelines/fly.yaml --from 2026-05-01 --to 2026-06-01 --format json
  headrig backtest pipelines/fly.yaml --sweep error_rate=0.01..0.05

--sweep reads the archive once and tries every threshold on it: alerts a month, how long they fire, the longest, how many groups.

The order: rows come as they came (by ingest_ts), as what comes too late is decided by that; exactly where files are still in the order
of arrival, and to the read batch where seals or compaction have put rows in another one. Of a pipeline that reads several
partitions rows come by time, as the archive doesn't say of which one a row was: then nothing is late. --order says otherwise.

Rows are as they were stored: transforms are not applied again, and what a filter took out is not there. docs/testing.md says more.

Exit code: 0; 1 when the archive cannot be read; 78 when the pipeline's file has mistakes.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Which order is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// As they came where there is one partition, else by time.
    Auto,
    /// As they came.
    Arrival,
    /// By event time.
    Time,
}

fn time(text: &str) -> Result<EventTime, String> {
    let stamp = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let found = stamp(text).or_else(|| stamp(&format!("{text}T00:00:00Z")));
    let found = found.ok_or_else(|| "expected RFC 3339, as in 2026-05-06T12:00:00Z, or a date".to_owned())?;
    Ok(EventTime::from_micros(found.as_microsecond()))
}

pub(super) fn run(args: &Args, clock: &dyn Clock) -> anyhow::Result<ExitCode> {
    let file = PipelineFile::read(&args.pipeline)?;
    let Some(mut plan) = load::plans(std::slice::from_ref(&file)).and_then(|mut plans| plans.pop()) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    let own = plan.archive.as_ref().map(|archive| archive.url.value.clone());
    let Some(url) = args.archive.clone().or(own) else {
        let hint = "say which with --archive, or give the pipeline an `archive:`".to_owned();
        return Err(Hinted::new(&"cannot backtest without an archive", Some(hint)).into());
    };
    let started = clock.monotonic();
    let mut backtest = Backtest::new(&mut plan, args.sweep.as_ref()).map_err(|error| of_backtest(&error))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let (order, exact) = runtime.block_on(replay(args, &plan, &url, &mut backtest))?;
    runtime.shutdown_background();
    backtest.finish();
    tell(&backtest, (order, exact), clock.monotonic().since(started));
    let range = Range::of(args, &backtest);
    match (&args.sweep, args.format) {
        (Some(sweep), _) => print_sweep(args, sweep, &backtest, range)?,
        (None, Format::Json) => {
            let lines = backtest.tried().iter().flat_map(|tried| &tried.events).filter(|event| range.has(at(event)));
            for event in lines {
                let line = serde_json::to_string(event).context("cannot write an alert event")?;
                writeln!(io::stdout(), "{line}").context("cannot write to standard output")?;
            }
        }
        (None, Format::Table) => print_alerts(&backtest, range)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn of_query(error: &QueryError) -> anyhow::Error {
    Hinted::new(error, error.hint()).into()
}

fn of_backtest(error: &BacktestError) -> anyhow::Error {
    Hinted::new(error, error.hint()).into()
}

/// Reads history and puts it through; returns the order in which it came, and whether that is the order of arrival to the row.
async fn replay(args: &Args, plan: &Plan, url: &str, backtest: &mut Backtest) -> anyhow::Result<(Order, bool)> {
    let open = |threads| {
        let limits = Limits { memory: ByteSize(limits::QUERY_MEMORY_BYTES), threads, spill: None };
        Engine::open(url, limits).map_err(|error| of_query(&error))
    };
    let mut engine = open(NonZeroUsize::MIN)?;
    let others = engine.only(&plan.pipeline);
    if engine.extent().is_none() && !others.is_empty() {
        let message = format!("cannot find rows of pipeline {:?} in {url}", plan.pipeline);
        let hint = format!("it has those of {}", others.join(", "));
        return Err(Hinted::new(&message, Some(hint)).into());
    }
    engine.notes().iter().for_each(|note| report::line(&format!("note: {note}")));
    let partitions =
        archive::held_partitions(url, &plan.pipeline).map_err(|error| Hinted::new(&error, error.hint()))?;
    let by_time = args.order == By::Time || (args.order == By::Auto && partitions > 1);
    let exact = !by_time && engine.is_as_it_came().await.map_err(|error| of_query(&error))?;
    let order = match by_time {
        true => Order::Time,
        false if exact || has_one_app(&engine).await? => Order::Arrival,
        false => Order::Batches,
    };
    if order != Order::Arrival {
        // The order of files tells nothing then, so they may be read side by side.
        engine = open(ArchivePlan::all_cores())?;
        engine.only(&plan.pipeline);
    }
    let columns = columns(&engine).await?;
    let sql = backtest.question(&columns, (args.from, args.to), order).map_err(|error| of_backtest(&error))?;
    let (batches, mut coming) = mpsc::channel(4);
    // Beside the windows, which keep this thread busy.
    let reading = tokio::spawn(async move {
        let mut answer = engine.ask(&sql).await?;
        while let Some(rows) = answer.rows.try_next().await? {
            if batches.send(rows).await.is_err() {
                break;
            }
        }
        Ok::<(), QueryError>(())
    });
    while let Some(rows) = coming.recv().await {
        backtest.push(&rows).map_err(|error| of_backtest(&error))?;
    }
    reading.await.context("cannot read the archive: this is a bug")?.map_err(|error| of_query(&error))?;
    Ok((order, exact))
}

/// Whether rows that are in the order of `app` and `ts` are in the order of `ts`.
async fn has_one_app(engine: &Engine) -> anyhow::Result<bool> {
    let sql = "select distinct app from logs limit 2";
    let mut answer = engine.ask(sql).await.map_err(|error| of_query(&error))?;
    let mut apps = 0;
    while let Some(rows) = answer.rows.try_next().await.map_err(|error| of_query(&error))? {
        apps += rows.num_rows();
    }
    Ok(apps <= 1)
}

/// The columns that rows of the archive have.
async fn columns(engine: &Engine) -> anyhow::Result<BTreeSet<String>> {
    let mut answer = engine.ask("describe logs").await.map_err(|error| of_query(&error))?;
    let mut columns = BTreeSet::new();
    while let Some(rows) = answer.rows.try_next().await.map_err(|error| of_query(&error))? {
        columns.extend(rows.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(columns)
}

fn tell(backtest: &Backtest, order: (Order, bool), took: Span) {
    let (rows, seen) = backtest.seen();
    let order = match order {
        (Order::Arrival, true) => "in the order of arrival",
        (Order::Arrival | Order::Batches, _) => {
            "in the order of arrival, those of a read batch by time where files are"
        }
        (Order::Time, _) => "by time",
    };
    let range = seen.map_or_else(String::new, |(first, last)| format!(" of {first} to {last}"));
    report::line(&format!("{rows} rows{range} in {:.1} s, {order}", took.as_secs_f64()));
    let late: Vec<String> =
        backtest.late().iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if !late.is_empty() {
        report::line(&format!("too late for their windows: {}", late.join(", ")));
    }
}

/// What is reported.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: Option<EventTime>,
    to: Option<EventTime>,
    /// How long that is, as far as there are rows.
    length: Span,
    /// Its end, as far as there are rows.
    end: EventTime,
}

impl Range {
    fn of(args: &Args, backtest: &Backtest) -> Self {
        let (first, last) = backtest.seen().1.unwrap_or((EventTime::from_micros(0), EventTime::from_micros(0)));
        let (start, end) = (args.from.map_or(first, |from| from.max(first)), args.to.map_or(last, |to| to.min(last)));
        Self { from: args.from, to: args.to, length: end - start, end }
    }

    fn has(&self, time: EventTime) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

fn at(event: &AlertEvent) -> EventTime {
    event.ends_at.unwrap_or(event.starts_at)
}

/// An alert from its firing to its end.
struct Episode<'e> {
    fired: &'e AlertEvent,
    ended: Option<EventTime>,
}

impl Episode<'_> {
    fn length(&self, range: Range) -> Span {
        let end = self.ended.unwrap_or(range.end);
        (end - self.fired.starts_at).max(Span::ZERO)
    }
}

fn episodes(tried: &Tried, range: Range) -> Vec<Episode<'_>> {
    let fired = tried.events.iter().enumerate().filter(|(_, event)| event.status == AlertStatus::Firing);
    let episode = |(number, fired): (usize, &'_ AlertEvent)| {
        let is_its = |event: &&AlertEvent| event.status == AlertStatus::Resolved && event.labels == fired.labels;
        tried.events[number..].iter().find(is_its).and_then(|event| event.ends_at)
    };
    let all = fired.map(|(number, fired)| Episode { fired, ended: episode((number, fired)) });
    all.filter(|episode| range.has(episode.fired.starts_at)).collect()
}

fn print_alerts(backtest: &Backtest, range: Range) -> anyhow::Result<()> {
    let all: Vec<Episode<'_>> = backtest.tried().iter().flat_map(|tried| episodes(tried, range)).collect();
    let texts = |text: &dyn Fn(&Episode<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(all.iter().map(text).collect::<StringArray>())
    };
    let labels = |event: &AlertEvent| {
        let own = event.labels.iter().filter(|(name, _)| *name != "alertname");
        own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let values = |event: &AlertEvent| {
        event.values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    print_table(vec![
        ("fired", texts(&|episode| Some(episode.fired.starts_at.to_string()))),
        ("resolved", texts(&|episode| episode.ended.map(|ended| ended.to_string()))),
        ("for", texts(&|episode| Some(episode.length(range).to_string()))),
        ("alert", texts(&|episode| episode.fired.labels.get("alertname").cloned())),
        ("labels", texts(&|episode| Some(labels(episode.fired)))),
        ("values", texts(&|episode| Some(values(episode.fired)))),
    ])
}

/// What a threshold would have meant.
struct Outcome<'t> {
    tried: &'t Tried,
    alerts: usize,
    a_month: f64,
    firing: Span,
    longest: Span,
    groups: usize,
}

impl<'t> Outcome<'t> {
    fn of(tried: &'t Tried, range: Range) -> Self {
        let all = episodes(tried, range);
        let lengths = || all.iter().map(|episode| episode.length(range));
        let months = range.length.as_secs_f64().max(1.0) / (30.0 * 86_400.0);
        Self {
            tried,
            alerts: all.len(),
            a_month: (all.len() as f64 / months * 10.0).round() / 10.0,
            firing: Span::from_micros(lengths().map(Span::micros).sum()),
            longest: lengths().max().unwrap_or(Span::ZERO),
            groups: all.iter().map(|episode| &episode.fired.labels).collect::<BTreeSet<_>>().len(),
        }
    }
}

fn print_sweep(args: &Args, sweep: &Sweep, backtest: &Backtest, range: Range) -> anyhow::Result<()> {
    let outcomes: Vec<Outcome<'_>> = backtest.tried().iter().map(|tried| Outcome::of(tried, range)).collect();
    if args.format == Format::Json {
        for outcome in &outcomes {
            let (alert, threshold) =
                outcome.tried.threshold.as_ref().context("cannot find the threshold: this is a bug")?;
            let line = serde_json::json!({
                "alert": alert,
                "column": sweep.column,
                "threshold": threshold,
                "condition": outcome.tried.condition,
                "alerts": outcome.alerts,
                "alerts_a_month": outcome.a_month,
                "firing_seconds": outcome.firing.as_secs_f64(),
                "longest_seconds": outcome.longest.as_secs_f64(),
                "groups": outcome.groups,
            });
            writeln!(io::stdout(), "{line}").context("cannot write to standard output")?;
        }
        return Ok(());
    }
    let names = outcomes.iter().map(|outcome| outcome.tried.threshold.as_ref().map(|(alert, _)| alert.clone()));
    let thresholds = outcomes.iter().map(|outcome| outcome.tried.threshold.as_ref().map(|(_, value)| *value));
    let spans = |span: fn(&Outcome<'_>) -> Span| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(outcomes.iter().map(|outcome| span(outcome).to_string())))
    };
    let counts = |count: fn(&Outcome<'_>) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(outcomes.iter().map(|outcome| count(outcome) as i64)))
    };
    print_table(vec![
        ("alert", Arc::new(names.collect::<StringArray>())),
        (sweep.column.as_str(), Arc::new(thresholds.collect::<Float64Array>())),
        ("alerts", counts(|outcome| outcome.alerts)),
        ("a month", Arc::new(Float64Array::from_iter_values(outcomes.iter().map(|outcome| outcome.a_month)))),
        ("firing", spans(|outcome| outcome.firing)),
        ("longest", spans(|outcome| outcome.longest)),
        ("groups", counts(|outcome| outcome.groups)),
    ])
}

fn print_table(columns: Vec<(&str, ArrayRef)>) -> anyhow::Result<()> {
    debug_assert!(columns.iter().all(|(_, column)| column.len() == columns[0].1.len()));
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .context("cannot make a table: this is a bug")?;
    let screen = io::stdout().is_terminal().then(|| {
        let width = terminal_size::terminal_size().map_or(120, |(width, _)| usize::from(width.0));
        Screen { width, rows: limits::QUERY_SHOWN_ROWS }
    });
    let mut printer = printer(print::Format::Table, &rows.schema(), Box::new(io::stdout()), screen)
        .map_err(|error| of_query(&error))?;
    printer.rows(&rows).map_err(|error| of_query(&error))?;
    printer.finish().map_err(|error| of_query(&error))
}
