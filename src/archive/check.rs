//! `archive:` checked without touching a disk.

use super::bucket::Bucket;
use super::chain::{Keys, MAIN};
use super::filling::{FileFormat, Written};
use super::lines::Compression;
use super::settings::{self, StoreConfig};
use super::{ArchiveError, CompactConfig, Config, KeepConfig, Kind};
use crate::place::{Located, Problem, did_you_mean};
use crate::record::schema::{ColumnType, Schema};
use crate::time::Span;
use crate::units::ByteSize;
use object_store::ObjectStoreScheme;
use std::path::PathBuf;

impl Config {
    /// All mistakes in this configuration, for events of `schema`.
    pub fn check(&self, schema: &Schema) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.check_url().into_iter().collect();
        for (number, level) in self.partition_by.iter().enumerate() {
            let before = &self.partition_by[..number];
            if let Some(problem) = check_level(&level.value, before, schema) {
                let mut found = level.problem(problem.0);
                found.hint = problem.1;
                problems.push(found);
            }
        }
        problems.extend(self.compact.iter().flat_map(check_compact));
        problems.extend(self.check_lines());
        for kind in Kind::ALL {
            problems.extend(
                self.retain.iter().filter_map(|retain| retain.of(kind)).flat_map(|keep| self.check_keep(kind, keep)),
            );
        }
        problems.extend(self.check_store());
        if self.tables.value.is_empty() {
            let problem = self.tables.problem("cannot keep an archive without tables");
            problems
                .push(problem.hint("name those to write, as in `tables: [windows, alerts]`, or leave `archive:` out"));
        }
        problems
    }

    /// What Parquet has and JSON Lines don't, and the other way round.
    fn check_lines(&self) -> Vec<Problem> {
        if self.format == FileFormat::Parquet {
            let problem = |given: &Located<Compression>| {
                given.problem("cannot use `compression` with Parquet, which packs each column by itself")
            };
            let problem = self.compression.as_ref().map(problem);
            return problem.into_iter().map(|found| found.hint("leave it out, or write `format: jsonl`")).collect();
        }
        let mut problems = Vec::new();
        if let Some(table) = self.table.as_ref().filter(|_| self.is_delta()) {
            let problem =
                table.problem("cannot keep a Delta log of JSON Lines, a Delta table is made of Parquet files");
            problems.push(problem.hint("leave `table` out, or write `format: parquet`"));
        }
        if let Some(compact) = self.compact.as_ref().filter(|compact| compact.value.enabled) {
            let problem = compact.problem("cannot compact JSON Lines, only Parquet is written again");
            problems
                .push(problem.hint(
                    "leave `compact` out, or write `format: parquet`; a longer `flush.every` makes larger files",
                ));
        }
        let keeps = Kind::ALL.into_iter().filter_map(|kind| self.retain.as_ref()?.of(kind));
        for cold in keeps.filter_map(|keep| keep.cold.as_ref()) {
            let problem = cold.url.problem("cannot move JSON Lines to a colder archive, only Parquet is written again");
            problems.push(problem.hint("leave `cold` out, or write `format: parquet`"));
        }
        problems
    }

    /// Whether the archive of `pipeline` can be written, or made; leaves nothing behind.
    pub fn probe(&self, pipeline: &str) -> Option<Problem> {
        let folder = match self.location().ok()? {
            Location::Folder(folder) => folder,
            Location::Bucket(url) => return self.probe_bucket(&url, pipeline),
        };
        let there = folder.ancestors().find(|part| part.exists());
        // A relative path's last ancestor is the empty one, which stands for the working directory.
        let there = there.filter(|part| !part.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        let error = if there.is_dir() {
            let tried = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).map_err(std::io::Error::from);
            ArchiveError::io("write to", there)(tried.err()?)
        } else {
            ArchiveError::io("make the folder", &folder)(std::io::ErrorKind::NotADirectory.into())
        };
        let mut problem = self.url.problem(error.to_string());
        problem.hint = error.hint();
        Some(problem)
    }

    /// Whether objects can be listed, put and removed in the bucket.
    fn probe_bucket(&self, url: &url::Url, pipeline: &str) -> Option<Problem> {
        let staging = Keys::new(pipeline).staging(MAIN);
        let tried = Bucket::connect_with(url, self.settings()).and_then(|bucket| bucket.try_out(&staging));
        let error = tried.err()?;
        let mut problem = self.url.problem(error.to_string());
        problem.hint = error.hint();
        Some(problem)
    }

    fn check_keep(&self, kind: Kind, keep: &KeepConfig) -> Vec<Problem> {
        let mut problems = Vec::new();
        if kind == Kind::Data && !self.partition_by.iter().any(|level| level.value == "date") {
            let problem =
                keep.keep.problem("cannot let rows of `data` go by their age, no folder says which day they are of");
            problems.push(problem.hint("partition by it: `partition_by: [date]`"));
        }
        if keep.keep.value < LEAST_KEEP {
            let problem = keep.keep.problem(format!("cannot keep rows for {} only", keep.keep.value));
            problems.push(problem.hint(format!("expected at least {LEAST_KEEP}")));
        }
        let Some(cold) = &keep.cold else { return problems };
        if let Err(bad) = location(&cold.url.value) {
            let problem = cold.url.problem(format!("cannot use {:?} as an archive: {bad}", cold.url.value));
            problems.push(problem.hint("use a folder or a bucket, as in s3://logs-cold/app"));
        } else if cold.url.value.trim_end_matches('/') == self.url.value.trim_end_matches('/') {
            let problem = cold.url.problem("cannot move rows to where they are");
            problems.push(problem.hint("give `cold.url` another bucket, prefix or folder than `archive.url`"));
        }
        if cold.keep.value <= keep.keep.value {
            let text = format!(
                "cannot keep rows there until they are {} old, they come when they are {}",
                cold.keep.value, keep.keep.value
            );
            problems.push(cold.keep.problem(text).hint("`cold.keep` is the age at which rows go for good, as in 365d"));
        }
        if !(1..=22).contains(&cold.level.value) {
            let problem = cold.level.problem(format!("cannot compress with level {}", cold.level.value));
            problems.push(problem.hint("expected 1 to 22"));
        }
        problems
    }

    fn check_url(&self) -> Option<Problem> {
        let problem =
            |detail: String| self.url.problem(format!("cannot use {:?} as an archive: {detail}", self.url.value));
        match location(&self.url.value) {
            Err(bad) => Some(
                problem(bad.to_string())
                    .hint("use a folder, as in file:///var/lib/headrig/archive, or a bucket, as in s3://logs/app"),
            ),
            Ok(_) => None,
        }
    }

    fn check_store(&self) -> Vec<Problem> {
        match (&self.store, self.location()) {
            (Some(store), Ok(Location::Folder(_))) => settings::check(store, None),
            (Some(store), Ok(Location::Bucket(url))) => settings::check(store, Some(&url)),
            // What the settings would have to fit is not known.
            (None, _) | (_, Err(_)) => Vec::new(),
        }
    }

    /// How files are written.
    pub(super) fn written(&self) -> Written {
        match self.format {
            FileFormat::Parquet => Written::Parquet,
            FileFormat::Jsonl => {
                Written::Lines(self.compression.as_ref().map_or_else(Compression::default, |given| given.value))
            }
        }
    }

    /// Settings of the bucket that the file gives.
    pub(super) fn settings(&self) -> Option<&StoreConfig> {
        self.store.as_ref().map(|store| &store.value)
    }

    /// Where the archive is.
    pub(crate) fn location(&self) -> Result<Location, ArchiveError> {
        location_of(&self.url.value)
    }
}

/// Least age at which rows may go.
const LEAST_KEEP: Span = Span::from_secs(3_600);
/// Least sizes and times of compaction.
const LEAST_FILES: usize = 2;
const LEAST_SIZE: ByteSize = ByteSize(1_000_000);
const LEAST_EVERY: Span = Span::from_secs(1);

fn check_compact(compact: &Located<CompactConfig>) -> Vec<Problem> {
    let CompactConfig { files, size, every, level, .. } = &compact.value;
    let mut problems = Vec::new();
    if files.get() < LEAST_FILES {
        problems.push(compact.problem("cannot make one file of one").hint("expected `files` of at least 2"));
    }
    if *size < LEAST_SIZE {
        let problem = compact.problem(format!("cannot make files of {size} only"));
        problems.push(problem.hint("expected a `size` of at least 1MB; 128MB to 512MB read well"));
    }
    if !(1..=22).contains(level) {
        problems.push(compact.problem(format!("cannot compress with level {level}")).hint("expected 1 to 22"));
    }
    if *every < LEAST_EVERY {
        problems.push(compact.problem(format!("cannot look for work every {every}")).hint("expected at least 1s"));
    }
    problems
}

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    Folder(PathBuf),
    /// A bucket, and perhaps a prefix in it.
    Bucket(url::Url),
}

/// Where the archive is that `url` names.
pub(super) fn location_of(url: &str) -> Result<Location, ArchiveError> {
    location(url).map_err(|bad| ArchiveError::Url { url: url.to_owned(), detail: bad.to_string() })
}

/// Why a URL names no folder.
#[derive(Debug, thiserror::Error)]
enum BadUrl {
    #[error("it is empty")]
    Empty,
    #[error("the scheme {0:?} is not known, expected file://, s3://, gs://, az:// or a folder")]
    UnknownScheme(String),
    #[error("expected three slashes and an absolute folder behind file:")]
    Relative,
}

fn location(url: &str) -> Result<Location, BadUrl> {
    if url.trim().is_empty() {
        return Err(BadUrl::Empty);
    }
    if url.starts_with("file:") {
        let parsed = url::Url::parse(url).map_err(|_| BadUrl::Relative)?;
        let absolute = url.starts_with("file:///").then(|| parsed.to_file_path().ok()).flatten();
        return absolute.map(Location::Folder).ok_or(BadUrl::Relative);
    }
    let Some((scheme, _)) = url.split_once("://") else { return Ok(Location::Folder(PathBuf::from(url))) };
    let parsed = url::Url::parse(url).ok().filter(|parsed| parsed.has_host());
    let known = parsed.filter(|parsed| {
        let scheme = ObjectStoreScheme::parse(parsed).map(|(scheme, _)| scheme);
        use ObjectStoreScheme as Scheme;
        matches!(scheme, Ok(Scheme::AmazonS3 | Scheme::GoogleCloudStorage | Scheme::MicrosoftAzure))
    });
    known.map(Location::Bucket).ok_or_else(|| BadUrl::UnknownScheme(scheme.to_owned()))
}

/// What is wrong with one entry of `partition_by`, and its remedy.
fn check_level(name: &str, before: &[Located<String>], schema: &Schema) -> Option<(String, Option<String>)> {
    if before.iter().any(|b| b.value == name) {
        return Some((format!("cannot partition by {name:?} twice"), None));
    }
    let column = schema.column(name);
    match (name, column) {
        ("date" | "hour", Some(_)) => Some((
            format!("cannot partition by {name:?}, the schema has a column of that name"),
            Some("rename the column in the schema".into()),
        )),
        ("hour", None) if !before.iter().any(|b| b.value == "date") => Some((
            "cannot partition by \"hour\" without \"date\" before it".into(),
            Some("write `partition_by: [date, hour]`".into()),
        )),
        ("date" | "hour", None) => None,
        (_, Some(column)) if column.high_cardinality => Some((
            format!("cannot partition by {name:?}, it is marked as high-cardinality: each value would be a folder"),
            Some("filter by it when reading, or `set:` a coarser column for it".into()),
        )),
        (_, Some(column)) if column.kind == ColumnType::Text => None,
        (_, Some(column)) => Some((
            format!("cannot partition by {name:?}, it is of type {}, expected a text column", column.kind.as_str()),
            None,
        )),
        (_, None) => {
            let texts = schema.columns.iter().filter(|c| c.kind == ColumnType::Text).map(|c| c.name.as_str());
            let hint = did_you_mean(name, texts.chain(["date", "hour"])).map(|near| format!("did you mean `{near}`?"));
            Some((format!("cannot partition by {name:?}, expected date, hour or a text column of the schema"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::table::tests::schema;

    fn check(url: &str, partition_by: &[&str]) -> Vec<String> {
        let config = Config {
            url: Located::nowhere(url.to_owned()),
            partition_by: partition_by.iter().map(|p| Located::nowhere((*p).to_owned())).collect(),
            store: None,
            format: FileFormat::default(),
            compression: None,
            patience: None,
            flush: super::super::FlushConfig::default(),
            tables: Located::nowhere(crate::archive::Kind::ALL.to_vec()),
            compact: None,
            retain: None,
            audit: false,
            table: None,
        };
        config.check(&schema()).into_iter().map(|p| format!("{} ({})", p.message, p.hint.unwrap_or_default())).collect()
    }

    #[test]
    fn good_ones_pass() {
        for url in [
            "file:///tmp/a",
            "data/archive",
            "/tmp/a",
            "file:///tmp/with%20space",
            "s3://logs/x",
            "gs://logs",
            "az://logs/x",
        ] {
            assert_eq!(check(url, &["date", "hour", "path"]), Vec::<String>::new(), "{url}");
        }
    }

    #[test]
    fn bad_ones_say_what_was_expected() {
        for url in ["", "file://relative/x", "file:/x", "ftp://x/y", "s3://", "memory:///x", "https://example.org/x"] {
            assert_eq!(check(url, &[]).len(), 1, "{url}");
        }
        assert_eq!(
            check("a", &["hour", "hour", "pth", "status"]),
            [
                "cannot partition by \"hour\" without \"date\" before it (write `partition_by: [date, hour]`)",
                "cannot partition by \"hour\" twice ()",
                "cannot partition by \"pth\", expected date, hour or a text column of the schema (did you mean `path`?)",
                "cannot partition by \"status\", it is of type int, expected a text column ()",
            ]
        );
    }
}
