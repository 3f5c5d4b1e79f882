//! `headrig query`: SQL over an archive.

use super::live;
use super::report::{self, Hinted};
use crate::archive::ArchivePlan;
use crate::limits;
use crate::query::print::{Format, Screen, printer};
use crate::query::{Answer, Engine, Limits, QueryError};
use crate::time::Span;
use crate::time::clock::Clock;
use crate::units::ByteSize;
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_stream::StreamExt;

/// `headrig query`
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The archive: a folder or bucket, as in `archive.url`.
    archive: String,
    /// What is asked, in SQL; `-` reads it from standard input.
    #[arg(required_unless_present = "file")]
    sql: Option<String>,
    /// Reads the SQL from a file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "sql")]
    file: Option<PathBuf>,
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Writes the answer to a file instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Stops behind so many rows; all by default.
    #[arg(long, value_name = "ROWS")]
    limit_rows: Option<usize>,
    /// Gives up after this time, as in 30s.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// What sorts, groups and joins may hold; more goes to disk where it can.
    #[arg(long, value_name = "SIZE", default_value_t = ByteSizeArg(ByteSize(limits::QUERY_MEMORY_BYTES)))]
    memory: ByteSizeArg,
    /// Threads; as many as there are cores by default.
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    /// Folder for what doesn't fit into memory; the system's for temporary files by default.
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Asks a running daemon, at its `server.listen`, to seal what it has read so far, and only then reads: so its newest rows are in the answer.
    #[arg(long, value_name = "URL")]
    live: Option<String>,
    /// Says on stderr what was read and what was skipped.
    #[arg(long)]
    stats: bool,
}

const HELP: &str = "\
Tables: logs (rows), dead (dead letters), windows (results of windows), alerts (what fired).
        `show tables` says what is there, `describe logs` names the columns; folders (date, hour, …) are columns, too.

SQL is DataFusion's, close to Postgres' and DuckDB's. Besides:
  attributes ->> 'key'        what has no column, as text; '$.a.b[0]' for a path; -> for JSON
  p50(x) p90(x) p95(x) p99(x) quantile(x, 0.95)    exact; approx_percentile_cont(x, 0.95) takes less memory
  per('5m', ts)               the beginning of the five minutes that ts lies in
  ip_mask(client_ip)          its network: 24 bits of IPv4, 48 of IPv6
  humanize(x)                 1234567 as 1.235M
  a / b                       a fraction; null where b is 0
A column that old files don't have is looked for in their `attributes`.

Examples:
  headrig query ./data \"select path, count(*) as n, p95(latency_ms) from logs group by path order by n desc\"
  headrig query ./data \"select ts, message from logs where date = '2026-05-06' and status >= 500 order by ts desc limit 20\"
  headrig query s3://logs/app \"select * from logs where request_id = '4bf92f3577b34da6'\" --format json
  headrig query ./data \"explain analyze select count(*) from logs where ts > now() - interval '1 hour'\"
docs/query.md has twenty more.

Say when: conditions on ts and date skip whole files; on request_id and other columns with bloom filters, row groups.
On a terminal the first and the last rows of a long table are shown; files and pipes get all.
Reads only, what is sealed, as of the start; may run beside the daemon. With --live http://127.0.0.1:8686 the daemon there seals first what it has read.

Exit code: 0; 1 when there is no answer.";

/// A size as an argument, printed as it is written.
#[derive(Debug, Clone, Copy)]
struct ByteSizeArg(ByteSize);

impl std::fmt::Display for ByteSizeArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}MB", self.0.0 / 1_000_000)
    }
}

impl std::str::FromStr for ByteSizeArg {
    type Err = crate::units::ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

pub(super) fn run(args: &Args, clock: &dyn Clock) -> anyhow::Result<ExitCode> {
    let sql = statement(args)?;
    if args.format == Format::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        bail!("cannot write Parquet to a terminal: add --output FILE");
    }
    let threads = args.threads.unwrap_or_else(ArchivePlan::all_cores);
    let started = clock.monotonic();
    let limits = Limits { memory: args.memory.0, threads, spill: args.spill.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads.get()).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    if let Some(url) = &args.live {
        runtime.block_on(live::seal(url, &args.archive))?;
    }
    let engine = Engine::open(&args.archive, limits).map_err(|error| explained(args, &error))?;
    engine.notes().iter().for_each(|note| report::line(&format!("note: {note}")));
    // On the runtime's threads, so that this one can be interrupted whatever the query does.
    let answering = runtime.spawn(answer(args.clone(), Arc::new(engine), sql));
    let asked = runtime.block_on(async {
        tokio::select! {
            answered = answering => answered.context("cannot answer: this is a bug")?.map_err(|error| explained(args, &error)),
            () = forever_or(args.timeout) => {
                let limit = args.timeout.unwrap_or(Span::from_secs(0));
                let hint = "allow more with --timeout, or ask for less: conditions on ts and date skip whole files";
                let message = format!("cannot answer within {limit}");
                Err(anyhow::Error::new(Hinted::new(&message, Some(hint.to_owned()))))
            }
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("cannot go on: interrupted")),
        }
    });
    runtime.shutdown_background();
    let rows = asked?;
    if args.stats {
        let took = clock.monotonic().since(started);
        report::line(&format!("{rows} rows in {:.3} s", took.as_secs_f64()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn forever_or(limit: Option<Span>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit.to_std()).await,
        None => std::future::pending().await,
    }
}

fn statement(args: &Args) -> anyhow::Result<String> {
    if let Some(file) = args.file.as_ref().filter(|file| file.as_os_str() != "-") {
        return std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    }
    match args.sql.as_deref() {
        Some(sql) if sql != "-" => Ok(sql.to_owned()),
        _ => {
            let mut sql = String::new();
            io::stdin().read_to_string(&mut sql).context("cannot read the SQL from standard input")?;
            Ok(sql)
        }
    }
}

/// An error with its remedy; a place in a file is named with the file.
fn explained(args: &Args, error: &QueryError) -> anyhow::Error {
    let file = match (error, &args.file) {
        (QueryError::Statement { place: Some(_), .. }, Some(file)) => format!("{}:", file.display()),
        _ => String::new(),
    };
    anyhow::Error::new(Hinted::new(&format!("{file}{error}"), error.hint()))
}

/// Writes the answer; returns how many rows it has.
async fn answer(args: Args, engine: Arc<Engine>, sql: String) -> Result<usize, QueryError> {
    let mut answer = engine.ask(&sql).await?;
    let written = write(&args, &mut answer).await;
    let rows = match written {
        // Whoever read it has seen enough.
        Err(QueryError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        written => written?,
    };
    if args.stats {
        engine.reading(&answer).lines(true).iter().for_each(|line| report::line(line));
    }
    Ok(rows)
}

async fn write(args: &Args, answer: &mut Answer) -> Result<usize, QueryError> {
    let mut out: Box<dyn Write + Send> = match &args.output {
        Some(path) => {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            Box::new(BufWriter::new(File::create(path).map_err(named)?))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    if answer.is_text && args.format == Format::Table {
        return lines(out.as_mut(), answer).await;
    }
    let screen = if args.output.is_none() { screen() } else { None };
    let mut printer = printer(args.format, &answer.schema, out, screen)?;
    let most = args.limit_rows.unwrap_or(usize::MAX);
    let (mut rows, mut cut) = (0, false);
    while let Some(batch) = answer.rows.try_next().await? {
        let batch = batch.slice(0, batch.num_rows().min(most - rows));
        rows += batch.num_rows();
        if batch.num_rows() > 0 || rows == 0 {
            printer.rows(&batch)?;
        }
        cut = rows == most;
        if cut {
            break;
        }
    }
    printer.finish()?;
    if cut {
        report::line(&format!("note: stopped behind {most} rows, as --limit-rows says; there may be more"));
    }
    Ok(rows)
}

async fn lines(out: &mut (dyn Write + Send), answer: &mut Answer) -> Result<usize, QueryError> {
    use arrow::array::AsArray;
    let mut rows = 0;
    while let Some(batch) = answer.rows.try_next().await? {
        for line in batch.column(0).as_string::<i32>().iter().flatten() {
            writeln!(out, "{line}")?;
            rows += 1;
        }
    }
    out.flush()?;
    Ok(rows)
}

/// The terminal that standard output is, if it is one.
fn screen() -> Option<Screen> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let width = terminal_size::terminal_size().map_or(120, |(width, _)| usize::from(width.0));
    Some(Screen { width, rows: limits::QUERY_SHOWN_ROWS })
}
