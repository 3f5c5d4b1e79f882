//! `headrig run`: runs pipelines, serves HTTP, minds signals.

use super::EXIT_CONFIG;
use super::display::Display;
use super::load::{self, PipelineFile};
use super::report::{self, Hinted};
use super::signals::{self, Wish};
use super::surface::{Phase, State, surface};
use crate::config::{Plan, Role};
use crate::limits;
use crate::metric;
use crate::server;
use crate::sink::Silences;
use crate::telemetry::logging;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use crate::time::clock::{Clock, SystemClock};
use crate::topology::{Connected, End, RunError, Surroundings};
use anyhow::Context;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// `headrig run`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Signals: SIGTERM and SIGINT stop reading, store what was read and exit; a second one exits at \
                        once. SIGHUP reads the files again and goes on with them; when they have mistakes, the running \
                        pipelines stay.\n\nExit code: 0 done, 78 bad configuration, 1 failure at run time."
)]
pub(super) struct Args {
    /// Pipeline files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// End when every source has ended (files without `follow`, stdin; Kafka where its topics ended at the start), with everything stored.
    #[arg(long)]
    once: bool,
    /// How long a shutdown may take before it is cut off.
    #[arg(long, value_name = "DURATION", default_value_t = limits::DRAIN)]
    drain_timeout: Span,
    /// Where what must outlive the process is kept: the spools of sources that cannot be read again.
    #[arg(long, value_name = "DIR", env = "HEADRIG_DATA_DIR", default_value = "./headrig-data")]
    data_dir: PathBuf,
}

/// Files that were read, and the sound plans in them.
struct Prepared {
    files: Vec<PipelineFile>,
    plans: Vec<Plan>,
}

type Ends = Vec<(String, Result<End, RunError>)>;

pub(super) fn run(args: &Args, clock: SystemClock) -> anyhow::Result<ExitCode> {
    logging::install().map_err(|text| anyhow::anyhow!(text))?;
    let Some(prepared) = prepare(&args.files)? else { return Ok(ExitCode::from(EXIT_CONFIG)) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(daemon(args, prepared, Arc::new(clock)));
    // A blocking read that nobody waits for any more must not hold the exit up.
    runtime.shutdown_background();
    result
}

/// Reads and validates; `None` when every mistake has been printed.
fn prepare(paths: &[PathBuf]) -> anyhow::Result<Option<Prepared>> {
    let files = paths.iter().map(|path| PipelineFile::read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(plans) = load::plans(&files) else { return Ok(None) };
    if let Some((error, hint)) = conflict(&plans) {
        report::error(&Hinted::new(&error, Some(hint.to_owned())).into());
        return Ok(None);
    }
    Ok(Some(Prepared { files, plans }))
}

/// Pipelines of one daemon share a listener and have different names.
fn conflict(plans: &[Plan]) -> Option<(String, &'static str)> {
    let names: BTreeSet<&str> = plans.iter().map(|plan| plan.pipeline.as_str()).collect();
    let listen: BTreeSet<_> = plans.iter().map(|plan| plan.listen).collect();
    if names.len() < plans.len() {
        Some(("cannot run two pipelines of one name".to_owned(), "rename one of them: `pipeline: …`"))
    } else if listen.len() > 1 {
        let hint = "give all files the same `server: { listen: … }`";
        Some(("cannot serve one daemon on several addresses".to_owned(), hint))
    } else {
        let name = metric::clash(plans.iter().map(|plan| plan.metrics.as_slice()))?;
        Some((format!("cannot serve the metric `{name}` with two types"), "rename it in one of the files"))
    }
}

async fn daemon(args: &Args, prepared: Prepared, clock: Arc<dyn Clock>) -> anyhow::Result<ExitCode> {
    let silences = Silences::open(&args.data_dir).map_err(|error| {
        let hint = "a silence that cannot be read might hold back what must be told: mend the file, or remove it";
        anyhow::Error::new(Hinted::new(&error, Some(hint.to_owned())))
    })?;
    let (telemetry, silences) = (SelfMetrics::new(), Arc::new(silences));
    let surroundings = Surroundings { clock, telemetry, data_dir: args.data_dir.clone(), silences };
    let mut wishes = signals::listen(args.drain_timeout)?;
    let Prepared { mut files, plans } = prepared;
    let listen = plans[0].listen;
    let listener = server::bind(listen).await.map_err(|error| anyhow::Error::new(Hinted::new(&error, error.hint())))?;
    let (first, mut later) = runs(plans, args.once);
    let mut connected = connect(first, &surroundings)?;
    let state = Arc::new(State::default());
    let shown = surface(&state, &surroundings);
    tokio::spawn(async move {
        if let Err(error) = server::serve(listener, shown, std::future::pending()).await {
            tracing::error!(%error, "HTTP listener failed");
        }
    });
    loop {
        let (code, next) = run_until_changed(args, connected, &state, &surroundings, &mut wishes, &files).await;
        let next = match next {
            Next::Exit => return Ok(code),
            Next::Ended if later.is_empty() => return Ok(code),
            Next::Ended => {
                connected = connect(std::mem::take(&mut later), &surroundings)?;
                continue;
            }
            Next::Reload(next) => next,
        };
        if next.plans[0].listen != listen {
            tracing::warn!(%listen, "`server.listen` changes only with a restart");
        }
        let (first, rest) = runs(next.plans, args.once);
        connected = match connect(first, &surroundings) {
            Ok(connected) => {
                (files, later) = (next.files, rest);
                connected
            }
            Err(error) => {
                tracing::error!(%error, "cannot start the new configuration, going back to the old one");
                let (first, rest) = runs(load::plans(&files).ok_or(error)?, args.once);
                later = rest;
                connect(first, &surroundings)?
            }
        };
    }
}

/// What comes behind a run.
enum Next {
    /// Nothing: it failed, or was told to stop.
    Exit,
    /// All input has ended.
    Ended,
    Reload(Prepared),
}

/// What runs of the plans, now and behind that: to the end, windows that daemons share are merged when all is gathered.
fn runs(plans: Vec<Plan>, once: bool) -> (Vec<Plan>, Vec<Plan>) {
    let all = plans.into_iter().flat_map(Plan::into_runs);
    all.partition(|plan| !once || !matches!(plan.role, Role::Merge { .. }))
}

/// Runs pipelines until they end, somebody stops them, or a reload replaces them (then what to go on with).
async fn run_until_changed(
    args: &Args,
    mut connected: Vec<Connected>,
    state: &State,
    surroundings: &Surroundings,
    wishes: &mut mpsc::Receiver<Wish>,
    files: &[PipelineFile],
) -> (ExitCode, Next) {
    if args.once {
        connected.iter_mut().for_each(Connected::bound);
    }
    if args.once && connected.iter().any(|pipeline| !pipeline.finite()) {
        tracing::warn!("a source never ends by itself, --once runs until it is stopped");
    }
    let stop = CancellationToken::new();
    let display = Display::start(args.once, &connected, Arc::clone(&surroundings.clock));
    state.show(&connected);
    state.set(Phase::Running);
    let mut running = JoinSet::new();
    for pipeline in connected {
        let (name, stop) = (pipeline.pipeline().to_owned(), stop.clone());
        running.spawn(async move { (name, pipeline.run(stop).await) });
    }
    let mut ends = Ends::new();
    let mut next = None;
    let mut waiting_to_be_told = !args.once;
    loop {
        tokio::select! {
            Some(ended) = running.join_next() => {
                let (name, end) = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                if end.is_err() {
                    // The others store what they have; a daemon that runs half is worse than one that is restarted.
                    stop.cancel();
                }
                ends.push((name, end));
                if running.is_empty() && waiting_to_be_told && !stop.is_cancelled() {
                    tracing::info!("all sources have ended, going on to serve (use --once to exit here)");
                }
            }
            Some(wish) = wishes.recv() => match wish {
                Wish::Stop => {
                    tracing::info!("stopping, storing what was read");
                    state.set(Phase::Draining);
                    waiting_to_be_told = false;
                    next = None;
                    stop.cancel();
                }
                Wish::Reload => if let Some(prepared) = reload(files, surroundings) {
                    state.set(Phase::Starting);
                    next = Some(prepared);
                    stop.cancel();
                }
            },
        }
        if running.is_empty() && (stop.is_cancelled() || !waiting_to_be_told) {
            break;
        }
    }
    display.end(&ends);
    let ended = if stop.is_cancelled() { Next::Exit } else { Next::Ended };
    let mut next = next.map_or(ended, Next::Reload);
    let mut code = ExitCode::SUCCESS;
    for (name, error) in ends.into_iter().filter_map(|(name, end)| Some((name, end.err()?))) {
        code = ExitCode::FAILURE;
        next = Next::Exit;
        report::error(&Hinted::new(&format!("pipeline {name}: {error}"), error.hint()).into());
    }
    (code, next)
}

/// Reads the files again; `None`, and everything stays as it is, when something is wrong with them.
fn reload(files: &[PipelineFile], surroundings: &Surroundings) -> Option<Prepared> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let prepared = prepare(&paths).unwrap_or_else(|error| {
        report::error(&error);
        None
    });
    let outcome = if prepared.is_some() { "done" } else { "failed" };
    surroundings.telemetry.reloads.with_label_values(&[outcome]).inc();
    match prepared {
        Some(_) => tracing::info!("configuration read again, changing over"),
        None => tracing::error!("configuration has mistakes, going on with the old one"),
    }
    prepared
}

/// # Errors
/// The first thing that a pipeline cannot open.
fn connect(plans: Vec<Plan>, surroundings: &Surroundings) -> anyhow::Result<Vec<Connected>> {
    plans
        .into_iter()
        .map(|plan| {
            Connected::connect(plan, surroundings.clone())
                .map_err(|error| anyhow::Error::new(Hinted::new(&error, error.hint())))
        })
        .collect()
}
