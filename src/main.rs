//! Arguments → exit code. Everything else is in the library; start reading at `lib.rs`.

use clap::Parser;
use headrig::command::{Cli, run};
use std::process::ExitCode;

/// Measured against the system's and mimalloc (docs/performance.md, "Allocator"): as fast as glibc's, and a daemon that runs
/// for long stays as small as it was.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    run(Cli::parse())
}
