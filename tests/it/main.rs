//! The one integration binary: the house's rules, and the program as its users see it.
//!
//! `tests/run.sh` sets up what is needed (Python with DuckDB) and starts it. Input that lies outside the project
//! (`../shared/data`) may be missing; the tests that need it say so and fail, unless `HEADRIG_WITHOUT_SHARED=1` says that
//! this is known.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;
mod absence;
mod delta;
mod hex;
mod house;
mod layering;
mod speculation;
mod survival;
mod upkeep;
mod commands;
mod real_input;
mod sharing;
mod failures;
mod files;
mod kafka;
mod lines;
mod live;
mod bucket;
mod demo;
mod served;
mod nats;
mod notify;

mod faults;
mod proxy;
mod jetstream;
mod jetstream_shared;
mod query;
mod rehearsal;
