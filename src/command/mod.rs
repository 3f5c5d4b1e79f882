//! The command line: one file per sub-command.
//!
//! Exit codes: 0 done; 1 failed at run time; 78 (`EX_CONFIG` of `sysexits.h`) bad configuration; 2 wrong arguments (by
//! clap). What a command is asked for goes to stdout, everything said to people to stderr.

mod backtest;
mod check;
mod compact;
mod display;
mod generate;
mod kafka;
mod live;
mod load;
mod nats;
mod query;
mod report;
mod retain;
mod run;
mod schema;
mod signals;
mod silence;
mod surface;
mod test;
mod upkeep;
mod verify;

use crate::time::clock::SystemClock;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Logs in, boards out: tails log streams, derives metrics, writes Parquet, alerts in event time.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
#[command(
    after_help = "Try it: headrig run pipelines/demo.yaml\n\nEnvironment: HEADRIG_LOG sets the log filter, as in \
                        HEADRIG_LOG=debug or HEADRIG_LOG=headrig::archive=trace."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs pipelines until told to stop (SIGTERM, SIGINT) or, with --once, until their input has ended.
    Run(run::Args),
    /// Validates pipeline files and prints every mistake with line, column and remedy.
    Check(check::Args),
    /// Plays event-time scripts against pipelines and says where they don't do what was expected.
    Test(test::Args),
    /// Says what a pipeline's alerts would have done over an archive, and with which thresholds.
    Backtest(backtest::Args),
    /// Answers SQL over an archive: logs, dead letters, window results, alerts.
    Query(query::Args),
    /// Proves from an archive alone that each position is there exactly once, and names what is wrong.
    Verify(verify::Args),
    /// Makes large files of an archive's small ones, while others read it.
    Compact(compact::Args),
    /// Lets an archive's old rows go, or says which would.
    Retain(retain::Args),
    /// Asks a running daemon not to tell some alerts for a while.
    Silence(silence::Args),
    /// Writes deterministic Fly-enveloped structlog lines.
    Generate(generate::Args),
    /// Prints the JSON Schema of the pipeline file.
    Schema(schema::Args),
}

/// The exit code for a bad configuration: `EX_CONFIG` of `sysexits.h`.
const EXIT_CONFIG: u8 = 78;

/// Runs the command and says what went wrong.
pub fn run(cli: Cli) -> ExitCode {
    let clock = SystemClock::start();
    let done = match cli.command {
        Command::Run(args) => run::run(&args, clock),
        Command::Check(args) => check::run(&args, clock),
        Command::Test(args) => test::run(&args),
        Command::Backtest(args) => backtest::run(&args, &clock),
        Command::Query(args) => query::run(&args, &clock),
        Command::Verify(args) => verify::run(&args),
        Command::Compact(args) => compact::run(&args, &clock),
        Command::Retain(args) => retain::run(&args, &clock),
        Command::Silence(args) => silence::run(&args, &clock),
        Command::Generate(args) => generate::run(args, &clock).map(|()| ExitCode::SUCCESS),
        Command::Schema(args) => schema::run(&args),
    };
    done.unwrap_or_else(|error| {
        report::error(&error);
        ExitCode::FAILURE
    })
}
