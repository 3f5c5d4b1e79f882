//! Delta Lake logs beside an archive's files, so that Spark, Trino, DuckDB, Polars and Databricks read snapshots.
//!
//! With `archive.table: delta` each table's folder, its *root* (`data`, `dead`, `alerts`, `windows/name=route_5m`), has a log:
//! `_delta_log/{version}.json`, lines of JSON by Delta's published protocol, reader version 1 and writer version 2
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md>). The files are the archive's; nothing is written twice.
//!
//! **The log follows the seals.** What counts is what the chains and the log of changes say (`catalogue.rs`), and a Delta log only
//! repeats it, always behind the entry that made it so: whoever commits reads the log first, then what counts, and puts the next version if
//! it is absent. So each version is what counted at some moment, later ones are later moments, and nothing is ever in it twice. Three do so:
//!
//! | who | when | what |
//! | --- | --- | --- |
//! | a chain's writer | behind each seal, its files being in place | `add`, and `txn` with the seal's number |
//! | upkeep | at each change: an expiry before its files go, a compaction when its file is in place | `remove` and `add`, and `txn` with the change's number |
//! | both, at their start, and the writer where the log is gone | | what is missing, what is too much |
//!
//! A `txn` is of an application `headrig/{pipeline}/{chain}`, or `…/upkeep`. One that is in already says that the commit is in: its reply was lost,
//! or somebody who started has made up for it. A path never comes back: who adds leaves out what others have removed since.
//!
//! There are no checkpoints: Delta's are Parquet files in `_delta_log`, and a reader with the glob `data/**/*.parquet` would take
//! them for rows (docs/decisions.md).

mod action;
mod compare;
mod ledger;
mod listing;
mod place;
mod schema;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use compare::compare;
pub(crate) use ledger::Ledger;
pub(crate) use place::is_log;
pub(crate) use schema::Layout;
