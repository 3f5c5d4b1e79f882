//! The long differential run: `cargo run --release --example differential -- --cases 10000000 --seed 1`.
//!
//! A case is one record that both decoders got; all that they return is compared, batch by batch (`fuzz/rounds.rs`).

#[path = "differential.rs"]
mod differential;
#[path = "lines.rs"]
#[expect(dead_code, reason = "choices from bytes are for the tests")]
mod lines;
#[path = "rounds.rs"]
mod rounds;

use rounds::{Tally, corpus, round};
use std::io::Write;
use std::process::ExitCode;

/// Rounds between two signs of life.
const ROUNDS: u64 = 1_000;

fn main() -> ExitCode {
    let (mut cases, mut seed) = (1_000_000_u64, 1_u64);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments.next().and_then(|text| text.parse().ok());
        match (name.as_str(), number) {
            ("--cases", Some(number)) => cases = number,
            ("--seed", Some(number)) => seed = number,
            _ => {
                say(&format!("cannot use the argument {name}: expected --cases N or --seed N"));
                return ExitCode::from(2);
            }
        }
    }
    let (plans, corpus) = (differential::plans(), corpus());
    let mut tally = Tally::default();
    while tally.cases < cases {
        if let Err(found) = round(&plans, &corpus, seed, &mut tally) {
            say(&found);
            return ExitCode::FAILURE;
        }
        if tally.rounds.is_multiple_of(ROUNDS) {
            say(&format!("{tally:?}"));
        }
    }
    say(&format!("no difference: {tally:?}"));
    ExitCode::SUCCESS
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
