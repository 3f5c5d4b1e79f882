//! Why a query has no answer, where in its text, and what to do about it.

use crate::archive::ArchiveError;
use crate::place::{Place, did_you_mean};
use crate::units::ByteSize;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Something is wrong with the statement.
    #[error("{}{message}", place.map(|place| format!("{place}: ")).unwrap_or_default())]
    Statement { place: Option<Place>, message: String, hint: Option<String> },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot answer within {0} of memory: {1}")]
    Memory(ByteSize, String),
    /// While the archive was read.
    #[error("cannot read the archive: {message}")]
    Read { message: String, hint: Option<String> },
    #[error("cannot write the result: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot make room for the query: {0}")]
    Start(String),
}

impl QueryError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Statement { hint, .. } | Self::Read { hint, .. } => hint.clone(),
            Self::Archive(error) => error.hint(),
            Self::Memory(..) => Some(
                "allow more with --memory 1GB, or ask for less: fewer groups, a shorter time, `approx_percentile_cont(x, 0.95)` \
                 instead of `p95(x)`, `limit` with `order by`"
                    .to_owned(),
            ),
            Self::Write(_) | Self::Start(_) => None,
        }
    }

    /// A mistake in the statement that is known only by a name in it.
    pub(super) fn named(sql: &str, name: &str, message: String, hint: Option<String>) -> Self {
        Self::Statement { place: place_of(sql, name), message, hint }
    }
}

/// What the names in a query may mean, for "did you mean".
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) tables: Vec<String>,
    pub(super) functions: Vec<String>,
}

/// What DataFusion says, in this program's words, with its place in `sql`.
pub(super) fn translate(error: &DataFusionError, sql: &str, names: &Names, memory: ByteSize) -> QueryError {
    match innermost(error) {
        DataFusionError::SchemaError(error, _) => of_schema(error, sql),
        DataFusionError::ResourcesExhausted(message) => {
            let said = message.split(" with top memory consumers").next().unwrap_or(message);
            QueryError::Memory(memory, lower_first(first_line(said).trim_end_matches('.')))
        }
        DataFusionError::ObjectStore(error) => of_store(error),
        DataFusionError::External(error) => match error.downcast_ref::<object_store::Error>() {
            Some(error) => of_store(error),
            None => QueryError::Read { message: error.to_string(), hint: None },
        },
        DataFusionError::ParquetError(error) => of_read(&error.to_string()),
        DataFusionError::SQL(error, _) => of_syntax(&error.to_string()),
        error => of_plan(&error.strip_backtrace(), sql, names),
    }
}

fn innermost(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => innermost(inner),
        DataFusionError::Shared(inner) => innermost(inner),
        DataFusionError::Collection(all) => all.first().map_or(error, innermost),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            arrow::error::ArrowError::ExternalError(inner) => {
                inner.downcast_ref::<DataFusionError>().map_or(error, innermost)
            }
            _ => error,
        },
        DataFusionError::External(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, innermost),
        error => error,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn of_schema(error: &SchemaError, sql: &str) -> QueryError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let known = valid_fields.iter().map(|field| field.name());
            let near = did_you_mean(field.name(), known);
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "see `describe logs` for the columns; what has none is in `attributes ->> 'key'`".to_owned(),
            };
            QueryError::named(sql, field.name(), format!("cannot find column `{}`", field.name()), Some(hint))
        }
        SchemaError::AmbiguousReference { field } => QueryError::named(
            sql,
            field.name(),
            format!("cannot tell which column `{}` is meant", field.name()),
            Some("write the table's name before it".to_owned()),
        ),
        other => QueryError::Statement { place: None, message: format!("cannot plan: {other}"), hint: None },
    }
}

fn of_store(error: &object_store::Error) -> QueryError {
    let hint = match error {
        object_store::Error::NotFound { .. } => {
            "a file went away while the query ran (retention, compaction, or by hand): ask again"
        }
        _ => "see that the store can be reached and that these credentials may read it",
    };
    QueryError::Read { message: error.to_string(), hint: Some(hint.to_owned()) }
}

fn of_read(message: &str) -> QueryError {
    let gone = ["not found", "No such file"].iter().any(|part| message.contains(part));
    let hint = if gone {
        "a file went away while the query ran (retention, compaction, or by hand): ask again"
    } else {
        "`headrig verify --deep` tells whether the file is damaged"
    };
    QueryError::Read { message: first_line(message).to_owned(), hint: Some(hint.to_owned()) }
}

/// A mistake of syntax: `… at Line: 1, Column: 8`.
fn of_syntax(text: &str) -> QueryError {
    let text = text.replace("sql parser error: ", "");
    let (message, at) = text.split_once(" at Line: ").unwrap_or((&text, ""));
    let place = at.split_once(", Column: ").and_then(|(line, column)| {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        Some(Place { line: digits(line)?, column: digits(column)? })
    });
    let message = message.trim_end_matches('.').trim_start_matches("ParserError(\"").trim_end_matches("\")");
    QueryError::Statement {
        place: place.filter(|place| place.line > 0),
        message: format!("cannot read the SQL: {}", lower_first(message)),
        hint: message.contains("end of statement").then(|| "one statement at a time".to_owned()),
    }
}

/// Other mistakes that planning finds: unknown tables and functions, types that don't fit.
fn of_plan(text: &str, sql: &str, names: &Names) -> QueryError {
    let mut text = text;
    for prefix in ["Error during planning: ", "Execution error: ", "This feature is not implemented: ", "Arrow error: "]
    {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    let quoted = || text.split('\'').nth(1).unwrap_or_default();
    if text.starts_with("Invalid function") {
        let name = quoted();
        let near = did_you_mean(name, names.functions.iter().map(String::as_str));
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        return QueryError::named(sql, name, format!("cannot find function `{name}`"), hint);
    }
    if text.starts_with("table '") && text.contains("not found") {
        return unknown_table(sql, quoted().rsplit('.').next().unwrap_or_default(), names);
    }
    let mut message = first_line(text);
    for tail in [". Hint: ", "Hint: ", "\n\nThis issue was likely"] {
        message = message.split(tail).next().unwrap_or(message);
    }
    let of_types =
        ["coerce", "common type", "Cannot infer", "expects", "Candidate"].iter().any(|w| message.contains(w));
    let hint = of_types.then(|| "change a type with a cast, as in `status::text`; texts stand in '…'".to_owned());
    let message = format!("cannot answer: {}", lower_first(message.trim_end_matches('.')));
    QueryError::Statement { place: None, message, hint }
}

/// A table that the archive doesn't have.
pub(super) fn unknown_table(sql: &str, name: &str, names: &Names) -> QueryError {
    let hint = match did_you_mean(name, names.tables.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("an archive has the tables {}", names.tables.join(", ")),
    };
    QueryError::named(sql, name, format!("cannot find table `{name}`"), Some(hint))
}

/// Where `name` stands first in `sql` as a word of its own; letters may differ in case.
fn place_of(sql: &str, name: &str) -> Option<Place> {
    let (text, wanted) = (sql.to_ascii_lowercase(), name.to_ascii_lowercase());
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: &usize| {
        let before = text[..*at].chars().next_back();
        let behind = text[at + wanted.len()..].chars().next();
        !before.is_some_and(is_part) && !behind.is_some_and(is_part)
    };
    let at = text.match_indices(&wanted).map(|(at, _)| at).find(alone).filter(|_| !wanted.is_empty())?;
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[..at].matches('\n').count() + 1;
    let column = text[line_start..at].chars().count() + 1;
    Some(Place { line: u32::try_from(line).ok()?, column: u32::try_from(column).ok()? })
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_words() {
        let sql = "select statuses, (\n  Status) from x";
        assert_eq!(place_of(sql, "status"), Some(Place { line: 2, column: 3 }));
        assert_eq!(place_of(sql, "atus"), None);
        assert_eq!(place_of(sql, ""), None);
    }
}
