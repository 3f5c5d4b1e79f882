//! The read side: SQL over an archive's files, with DataFusion.
//!
//! A query sees the four tables as they were at one moment: the list of files comes from the archive's chains
//! ([`crate::archive::live_files`]), not from a listing, so that of a compaction it never sees both sides. Nothing is
//! written; statements that would write are refused before they are planned.
//!
//! | file | what |
//! | --- | --- |
//! | `statement.rs` | SQL text → one statement that reads |
//! | `error.rs` | what went wrong, with its place in the text and a remedy |
//! | `engine.rs` | the session: limits, functions, tables; runs a statement |
//! | `provider.rs` | a table: which files, which of them a filter skips, the scan of the others |
//! | `files.rs` | its files, and what is known of them before they are read |
//! | `columns.rs` | the columns of a table: those of all its files together |
//! | `adapt.rs` | one file's columns as the table has them: missing ones from `attributes`, hex as text |
//! | `lines.rs`, `rows.rs` | files of JSON Lines: their scan, and how a line becomes a row |
//! | `bloom.rs` | which row groups cannot have a value that is asked for |
//! | `objects.rs` | the archive's bytes, read only and counted |
//! | `function.rs`, `json.rs`, `quantile.rs`, `operators.rs` | what SQL has here beyond DataFusion's |
//! | `skipped.rs` | what was read and what was skipped, for `explain` and `--stats` |
//! | `print/` | results as tables, CSV, JSON lines, Parquet |
//!
//! Everything is asynchronous and runs on the caller's runtime. How far a file is skipped, from cheap to dear: folders'
//! values and the seal's least and greatest time (nothing of the file is read), statistics and bloom filters of row groups
//! (its footer is), the page index (the footer's neighbour), and late materialisation (only columns of the filter).

mod adapt;
mod bloom;
mod columns;
mod engine;
mod error;
mod files;
mod function;
mod json;
mod lines;
#[cfg(test)]
mod lines_tests;
mod objects;
mod operators;
pub mod print;
mod provider;
mod quantile;
mod rows;
mod skipped;
mod statement;
#[cfg(test)]
mod tests;

pub use engine::{Answer, Engine, Limits};
pub use error::QueryError;
pub use skipped::Reading;
