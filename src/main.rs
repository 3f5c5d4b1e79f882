//! Arguments → exit code. Everything else is in the library; start reading at `lib.rs`.

use clap::Parser;
use headrig::command::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Cli::parse())
}
