//! A file that is being filled, in either of the two formats.

use super::ArchiveError;
use super::crew::Crew;
use super::encode::Encoder;
use super::lines::{Compression, Lines};
use super::patience::PatientFile;
use super::table::Table;
use arrow::array::RecordBatch;
use parquet::file::metadata::KeyValue;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fs::File;
use std::path::PathBuf;

/// What files of an archive are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    #[default]
    Parquet,
    /// One JSON object a line.
    Jsonl,
}

/// A format with all that is to be known to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Parquet,
    Lines(Compression),
}

impl Written {
    /// What files' names end in.
    pub(super) fn extension(self) -> String {
        match self {
            Self::Parquet => "parquet".to_owned(),
            Self::Lines(compression) => format!("jsonl{}", compression.suffix()),
        }
    }
}

/// A file that rows are written to.
pub(super) enum Filling {
    Parquet(Box<Encoder>),
    Lines(Box<Lines>),
}

impl Filling {
    /// Begins `file`, which is at `path`.
    ///
    /// # Errors
    /// When the file's head cannot be written.
    pub(super) fn begin(
        file: PatientFile,
        path: PathBuf,
        table: &Table,
        written: Written,
    ) -> Result<Self, ArchiveError> {
        Ok(match written {
            Written::Parquet => Self::Parquet(Box::new(Encoder::begin(file, path, table))),
            Written::Lines(compression) => Self::Lines(Box::new(Lines::begin(file, path, table, compression)?)),
        })
    }

    /// Adds an entry to the footer, where the format has one.
    pub(super) fn note(&mut self, entry: KeyValue) {
        if let Self::Parquet(encoder) = self {
            encoder.note(entry);
        }
    }

    /// Takes rows in. They are encoded by [`encode`](Self::encode) and [`finish`](Self::finish).
    pub(super) fn push(&mut self, rows: RecordBatch) {
        match self {
            Self::Parquet(encoder) => encoder.push(rows),
            Self::Lines(lines) => lines.push(rows),
        }
    }

    /// Whether enough rows wait that it pays to encode them.
    pub(super) fn is_due(&self) -> bool {
        match self {
            Self::Parquet(encoder) => encoder.is_due(),
            Self::Lines(lines) => lines.is_due(),
        }
    }

    /// Bytes that waiting rows take in memory.
    pub(super) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Parquet(encoder) => encoder.waiting_bytes(),
            Self::Lines(lines) => lines.waiting_bytes(),
        }
    }

    /// Bytes of the file so far; estimated for what is not written yet.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Parquet(encoder) => encoder.bytes(),
            Self::Lines(lines) => lines.bytes(),
        }
    }

    /// Memory that [`relieve`](Self::relieve) gives back.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Parquet(encoder) => encoder.memory_bytes(),
            Self::Lines(lines) => lines.waiting_bytes(),
        }
    }

    /// Writes what is in memory.
    ///
    /// # Errors
    /// When a value cannot be encoded or the file not be written.
    pub(super) fn relieve(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        match self {
            Self::Parquet(encoder) => encoder.relieve(crew),
            Self::Lines(lines) => lines.encode(),
        }
    }

    /// Encodes all rows that wait.
    ///
    /// # Errors
    /// As [`relieve`](Self::relieve).
    pub(super) fn encode(&mut self, crew: &Crew) -> Result<(), ArchiveError> {
        match self {
            Self::Parquet(encoder) => encoder.encode(crew),
            Self::Lines(lines) => lines.encode(),
        }
    }

    /// Writes all, to the file's end; returns the file, which is not synced yet.
    ///
    /// # Errors
    /// As [`relieve`](Self::relieve).
    pub(super) fn finish(&mut self, crew: &Crew) -> Result<&File, ArchiveError> {
        match self {
            Self::Parquet(encoder) => encoder.finish(crew),
            Self::Lines(lines) => lines.finish(),
        }
    }
}
