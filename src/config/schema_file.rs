//! `schemas/NAME.yaml` → [`Schema`]: the built-in columns, and those that the file adds.

use super::deprecated;
use super::read::read;
use super::yaml;
use crate::place::{Located, Problem, did_you_mean};
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use serde::Deserialize;
use std::collections::HashMap;
use std::num::{NonZeroU8, NonZeroU32};

/// Schemas that are compiled in, by name.
const COMPILED_IN: [(&str, &str); 2] =
    [("access", include_str!("../../schemas/access.yaml")), ("minimal", include_str!("../../schemas/minimal.yaml"))];

/// How a file's text is read; injected, so that this folder does no I/O of its own.
pub(super) type ReadFile<'r> = &'r dyn Fn(&str) -> std::io::Result<String>;

/// A schema file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: Located<String>,
    #[serde(default = "first_version")]
    version: NonZeroU32,
    #[serde(default)]
    columns: Vec<FileColumn>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileColumn {
    name: Located<String>,
    #[serde(rename = "type")]
    kind: Located<FileType>,
    /// Of a `hex` column, and there it has to be.
    bytes: Option<Located<i64>>,
    from: Option<Vec<Located<String>>>,
    unit: Option<String>,
    #[serde(default)]
    dictionary: bool,
    #[serde(default)]
    bloom: bool,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    high_cardinality: bool,
    deprecated: Option<Located<String>>,
    description: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileType {
    Timestamp,
    Int,
    Float,
    Bool,
    Text,
    Json,
    /// Text that is stored as the bytes that its hex digits mean.
    Hex,
}

impl FileType {
    const fn column_type(self) -> ColumnType {
        match self {
            Self::Timestamp => ColumnType::Timestamp,
            Self::Int => ColumnType::Int,
            Self::Float => ColumnType::Float,
            Self::Bool => ColumnType::Bool,
            Self::Text | Self::Hex => ColumnType::Text,
            Self::Json => ColumnType::Json,
        }
    }
}

const fn first_version() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The schema that `decode: { schema: … }` names: a built-in one, or a file when it is a path.
///
/// # Errors
/// When there is none, when the file cannot be read, and all mistakes in it; each at the place of `name`, for that is
/// where the pipeline file has it.
pub(super) fn load(name: &Located<String>, read_file: ReadFile<'_>) -> Result<Schema, Vec<Problem>> {
    let path = name.value.as_str();
    if path.contains(['/', '\\']) || path.ends_with(".yaml") || path.ends_with(".yml") {
        let text = read_file(path).map_err(|error| {
            vec![
                name.problem(format!("cannot read the schema file {path}: {error}"))
                    .hint("paths are relative to the working directory"),
            ]
        })?;
        return parse(&text).map_err(|problems| problems.into_iter().map(|p| within(name, &p)).collect());
    }
    match COMPILED_IN.iter().find(|(known, _)| *known == path) {
        Some((_, text)) => Ok(parse(text).expect("the schemas that are compiled in are tested")),
        None => Err(vec![unknown(name)]),
    }
}

fn within(name: &Located<String>, inner: &Problem) -> Problem {
    let message = inner.message.strip_prefix("cannot ").unwrap_or(&inner.message);
    let message = format!("cannot use the schema file {}, at {}: cannot {message}", name.value, inner.place);
    Problem { place: name.place, message, hint: inner.hint.clone() }
}

fn unknown(name: &Located<String>) -> Problem {
    let names = COMPILED_IN.map(|(name, _)| name);
    let hint = match did_you_mean(&name.value, names) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("built in are {}; for a file write its path, as in ./{}.yaml", names.join(", "), name.value),
    };
    name.problem(format!("cannot find the schema `{}`", name.value)).hint(hint)
}

/// Reads the text of a schema file.
///
/// # Errors
/// All mistakes, at their places in `text` and sorted by them.
fn parse(text: &str) -> Result<Schema, Vec<Problem>> {
    let mut problems = Vec::new();
    let schema = parse_into(text, &mut problems);
    problems.sort_by_key(|problem| problem.place);
    schema.filter(|_| problems.is_empty()).ok_or(problems)
}

fn parse_into(text: &str, problems: &mut Vec<Problem>) -> Option<Schema> {
    let root = match yaml::parse(text, problems) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let file: File = read(&root, problems)?;
    let columns = columns(&file, problems);
    Some(Schema::new(file.schema.value, file.version.get(), columns))
}

fn columns(file: &File, problems: &mut Vec<Problem>) -> Vec<Column> {
    let mut columns: Vec<Column> = BUILT_IN.iter().map(|(name, kind)| built_in(name, *kind)).collect();
    let mut seen = HashMap::new();
    for given in &file.columns {
        let name = given.name.value.as_str();
        if let Some(first) = seen.insert(name, given.name.place) {
            let problem = given.name.problem(format!("cannot have the column `{name}` twice"));
            problems.push(problem.hint(format!("it stands at {first} already")));
            continue;
        }
        if !is_column_name(name) {
            problems.push(
                given.name.problem(format!("cannot use `{name}` as the name of a column")).hint(
                    "expected small letters, digits and _, with a letter or _ first; `from` names the log's keys",
                ),
            );
            continue;
        }
        if let Some(problem) = check_bytes(given) {
            problems.push(problem);
            continue;
        }
        match columns[..BUILT_IN.len()].iter_mut().find(|column| column.name == name) {
            Some(column) => problems.extend(amend(column, given)),
            None => {
                let deprecated =
                    given.deprecated.as_ref().map(deprecated::parse).transpose().unwrap_or_else(|problem| {
                        problems.push(problem);
                        None
                    });
                columns.push(Column { deprecated: deprecated.flatten(), ..own(given) });
            }
        }
    }
    for (name, given) in file.columns.iter().filter_map(|given| Some((&given.name.value, given.deprecated.as_ref()?))) {
        let column = columns.iter().find(|column| column.name == *name);
        problems.extend(column.and_then(|column| deprecated::check(column, given, &columns)));
    }
    columns
}

/// Most bytes of a `hex` column: those of a SHA-512.
const HEX_BYTES: u8 = 64;

/// What is wrong with `bytes`, which a hex column must have and no other may.
fn check_bytes(given: &FileColumn) -> Option<Problem> {
    match (given.kind.value, &given.bytes) {
        (FileType::Hex, None) => Some(
            given
                .kind
                .problem("cannot store a hex column without its size".to_owned())
                .hint("add `bytes:`, half the number of digits, as in `bytes: 16`"),
        ),
        (FileType::Hex, Some(bytes)) if hex_bytes(bytes).is_none() => Some(
            bytes
                .problem(format!("cannot store hex in {} bytes, expected 1 to {HEX_BYTES}", bytes.value))
                .hint("`bytes` is half the number of digits"),
        ),
        (FileType::Hex, Some(_)) | (_, None) => None,
        (_, Some(bytes)) => Some(
            bytes
                .problem("cannot use `bytes` here, it belongs to columns of type hex".to_owned())
                .hint("write `type: hex`, or remove it"),
        ),
    }
}

fn hex_bytes(bytes: &Located<i64>) -> Option<NonZeroU8> {
    u8::try_from(bytes.value).ok().filter(|bytes| *bytes <= HEX_BYTES).and_then(NonZeroU8::new)
}

/// Expressions see unquoted names in small letters, so a column has no other.
fn is_column_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn built_in(name: &str, kind: ColumnType) -> Column {
    let from: &[&str] = match name {
        "ts" => &["timestamp", "time", "ts", "@timestamp"],
        "level" => &["level", "severity", "levelname"],
        "event" => &["event"],
        "message" => &["message", "msg"],
        _ => &[],
    };
    Column {
        from: from.iter().map(|key| vec![(*key).to_owned()]).collect(),
        dictionary: !matches!(name, "ts" | "ingest_ts" | "message" | "attributes"),
        high_cardinality: matches!(name, "message" | "attributes"),
        ..Column::new(name, kind)
    }
}

/// Lets a file say where a built-in column comes from.
fn amend(column: &mut Column, given: &FileColumn) -> Option<Problem> {
    let name = &column.name;
    if matches!(name.as_str(), "attributes" | "ingest_ts" | "ts_source") {
        return Some(
            given
                .name
                .problem(format!("cannot define `{name}`, headrig fills it itself"))
                .hint("remove this column, every schema has it"),
        );
    }
    if given.kind.value.column_type() != column.kind || matches!(given.kind.value, FileType::Hex) {
        let expected = column.kind.as_str();
        return Some(
            given
                .kind
                .problem(format!("cannot change the type of the built-in column `{name}`"))
                .hint(format!("its type is {expected}")),
        );
    }
    if let Some(deprecated) = &given.deprecated {
        let problem = deprecated.problem(format!("cannot give up the built-in column `{name}`"));
        return Some(problem.hint("remove `deprecated`, every schema has this column"));
    }
    if let Some(from) = &given.from {
        column.from = paths(from);
    }
    column.unit.clone_from(&given.unit);
    column.dictionary |= given.dictionary;
    column.bloom |= given.bloom;
    column.required |= given.required;
    column.high_cardinality |= given.high_cardinality;
    column.description.clone_from(&given.description);
    None
}

fn own(given: &FileColumn) -> Column {
    Column {
        from: given.from.as_ref().map_or_else(|| vec![vec![given.name.value.clone()]], |from| paths(from)),
        unit: given.unit.clone(),
        dictionary: given.dictionary,
        bloom: given.bloom,
        hex_bytes: given.bytes.as_ref().and_then(hex_bytes),
        required: given.required,
        high_cardinality: given.high_cardinality,
        description: given.description.clone(),
        ..Column::new(given.name.value.clone(), given.kind.value.column_type())
    }
}

fn paths(from: &[Located<String>]) -> Vec<Vec<String>> {
    from.iter().map(|path| path.value.split('.').map(str::to_owned).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Schema, Vec<String>> {
        parse(text).map_err(|problems| problems.iter().map(|p| format!("{}: {}", p.place, p.message)).collect())
    }

    #[test]
    fn what_is_compiled_in_is_sound_and_named_by_its_file() {
        for (name, text) in COMPILED_IN {
            assert_eq!(check(text).unwrap().name, name);
        }
    }

    #[test]
    fn access_has_the_aliases_of_the_scenarios() {
        let schema = check(COMPILED_IN[0].1).unwrap();
        let from = |name: &str| {
            let paths = &schema.column(name).unwrap_or_else(|| panic!("no column {name}")).from;
            paths.iter().map(|path| path.join(".")).collect::<Vec<_>>()
        };
        for (column, aliases) in [
            ("status", &["status", "status_code"][..]),
            ("latency_ms", &["latency_ms", "duration_ms"]),
            ("logger", &["logger", "logger_name"]),
            ("service", &["service", "service_name"]),
            ("db_bytes", &["db_bytes", "sqlite_bytes"]),
            ("model", &["metadata.model"]),
            ("message", &["message", "msg"]),
        ] {
            assert!(aliases.iter().all(|alias| from(column).contains(&(*alias).to_owned())), "{column}");
        }
        for name in ["q", "api_key_hash_prefix", "request_id", "trace_id", "client_ip", "message", "attributes"] {
            assert!(schema.column(name).unwrap().high_cardinality, "{name}");
        }
        let latency = schema.column("latency_ms").unwrap();
        assert_eq!((latency.kind, latency.unit.as_deref()), (ColumnType::Float, Some("ms")));
    }

    #[test]
    fn hex_columns_are_text_with_a_size() {
        let schema = check("schema: x\ncolumns:\n  - { name: trace_id, type: hex, bytes: 16 }\n").unwrap();
        let column = schema.column("trace_id").unwrap();
        assert_eq!((column.kind, column.hex_bytes), (ColumnType::Text, NonZeroU8::new(16)));
        let text = "schema: x\ncolumns:\n  - { name: a, type: hex }\n  - { name: b, type: hex, bytes: 0 }\n  \
                    - { name: c, type: hex, bytes: 65 }\n  - { name: d, type: text, bytes: 4 }\n  \
                    - { name: host, type: hex, bytes: 4 }\n";
        assert_eq!(
            check(text).unwrap_err(),
            [
                "3:22: cannot store a hex column without its size",
                "4:34: cannot store hex in 0 bytes, expected 1 to 64",
                "5:34: cannot store hex in 65 bytes, expected 1 to 64",
                "6:35: cannot use `bytes` here, it belongs to columns of type hex",
                "7:25: cannot change the type of the built-in column `host`",
            ]
        );
    }

    #[test]
    fn all_mistakes_of_a_file_are_found() {
        let text = "schema: x\ncolumns:\n  - { name: attributes, type: json }\n  - { name: ts, type: text }\n  \
                    - { name: Status, type: int }\n  - { name: a, type: int }\n  - { name: a, type: nubmer }\n  \
                    - { name: b, type: int, form: [c] }\n  - { name: a, type: int }\n";
        assert_eq!(
            check(text).unwrap_err(),
            [
                "3:13: cannot define `attributes`, headrig fills it itself",
                "4:23: cannot change the type of the built-in column `ts`",
                "5:13: cannot use `Status` as the name of a column",
                "7:22: cannot use `nubmer` here, it is unknown",
                "8:27: cannot use the key `form`, it is unknown here",
                "9:13: cannot have the column `a` twice",
            ]
        );
    }

    #[test]
    fn a_file_is_told_from_a_name() {
        let read = |path: &str| match path {
            "my.yaml" => Ok("schema: mine\nversion: 3\n".to_owned()),
            _ => Err(std::io::Error::other("gone")),
        };
        let name = |text: &str| Located::nowhere(text.to_owned());
        assert_eq!(load(&name("my.yaml"), &read).unwrap().version, 3);
        assert!(load(&name("./x"), &read).unwrap_err()[0].message.ends_with("./x: gone"));
        assert_eq!(load(&name("acess"), &read).unwrap_err()[0].hint.as_deref(), Some("did you mean `access`?"));
    }
}
