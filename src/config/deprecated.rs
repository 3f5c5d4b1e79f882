//! `deprecated:` of a column, and who still uses it.

use super::plan::Plan;
use crate::place::{Located, Place, Problem, did_you_mean};
use crate::record::schema::{Column, Deprecated, Schema};
use crate::{metric, window};

/// What a schema file says of a column: `true`, `false`, or `use NAME` of what stands for it now.
///
/// # Errors
/// When it says something else.
pub(super) fn parse(given: &Located<String>) -> Result<Option<Deprecated>, Problem> {
    match given.value.trim() {
        "true" => Ok(Some(Deprecated::default())),
        "false" => Ok(None),
        text => match text.strip_prefix("use ").map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => Ok(Some(Deprecated { instead: Some(name.to_owned()) })),
            None => Err(given
                .problem(format!("cannot read `{text}` as what becomes of a column"))
                .hint("write `deprecated: true`, or name what is used instead, as in `deprecated: use total_eur`")),
        },
    }
}

/// What is wrong with what a column says is used instead of it, given all columns.
pub(super) fn check(column: &Column, given: &Located<String>, columns: &[Column]) -> Option<Problem> {
    let instead = column.deprecated.as_ref()?.instead.as_deref()?;
    let problem = |text: String| given.problem(format!("cannot use `{instead}` instead of `{}`, {text}", column.name));
    if instead == column.name {
        return Some(problem("it is the same column".to_owned()).hint("name another one, or write `deprecated: true`"));
    }
    match columns.iter().find(|other| other.name == instead) {
        Some(other) if other.deprecated.is_some() => {
            Some(problem("that is deprecated, too".to_owned()).hint("name the column that is used by now"))
        }
        Some(_) => None,
        None => {
            let near = did_you_mean(instead, columns.iter().map(|other| other.name.as_str()));
            let hint = near.map_or("it has to be in this file".to_owned(), |near| format!("did you mean `{near}`?"));
            Some(problem("there is no such column".to_owned()).hint(hint))
        }
    }
}

/// The parts of a pipeline file whose places are needed.
pub(super) struct Written<'r> {
    /// Of each step of `transform`.
    pub(super) steps: Vec<Place>,
    pub(super) metrics: &'r [metric::Config],
    pub(super) windows: &'r [window::Config],
}

/// Where a sound pipeline uses columns that nobody should use any more.
pub(super) fn notes(plan: &Plan, written: &Written<'_>) -> Vec<Problem> {
    let mut notes = Vec::new();
    for (step, place) in plan.transforms.iter().zip(&written.steps) {
        note(&mut notes, "a step", &plan.decode.schema, step.reads(), |_| *place);
    }
    for (metric, config) in plan.metrics.iter().zip(written.metrics) {
        let place = |column: &str| named(&config.labels, column).unwrap_or(config.name.place);
        note(&mut notes, &format!("metric `{}`", config.name.value), &plan.schema, metric.reads(), place);
    }
    for (window, config) in plan.windows.iter().zip(written.windows) {
        let place = |column: &str| named(&config.group_by, column).unwrap_or(config.name.place);
        note(&mut notes, &format!("window `{}`", config.name.value), &plan.schema, window.reads(), place);
    }
    for level in plan.archive.iter().flat_map(|archive| &archive.partition_by) {
        note(&mut notes, "the archive", &plan.schema, [level.value.as_str()], |_| level.place);
    }
    notes.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
    notes.dedup();
    notes
}

fn named(list: &[Located<String>], column: &str) -> Option<Place> {
    list.iter().find(|name| name.value == column).map(|name| name.place)
}

fn note<'c>(
    notes: &mut Vec<Problem>,
    who: &str,
    schema: &Schema,
    reads: impl IntoIterator<Item = &'c str>,
    place: impl Fn(&str) -> Place,
) {
    for name in reads {
        let Some(deprecated) = schema.column(name).and_then(|column| column.deprecated.as_ref()) else { continue };
        let found = Problem::new(place(name), format!("{who} uses the column `{name}`, which is deprecated"));
        notes.push(match &deprecated.instead {
            Some(instead) => found.hint(format!("use `{instead}`")),
            None => found.hint("the schema names nothing that is used instead"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;

    const SCHEMA: &str = "schema: shop\nversion: 2\ncolumns:\n  - { name: total, type: int, deprecated: use total_eur }\n  \
                          - { name: total_eur, type: float }\n  - { name: old, type: text, deprecated: true }\n  \
                          - { name: kept, type: text, deprecated: false }\n";

    fn check(schema: &str, pipeline: &str) -> Vec<String> {
        let text = format!(
            "pipeline: p\nsources: {{ pipe: {{ type: stdin }} }}\ndecode: {{ schema: ./shop.yaml }}\n{pipeline}"
        );
        let loaded = load("p.yaml", &text, &|_| None, &|_| Ok(schema.to_owned()));
        let problems = match loaded {
            Ok(plan) => plan.notes,
            Err(problems) => problems,
        };
        problems.into_iter().map(|p| format!("{}: {} ({})", p.place, p.message, p.hint.unwrap_or_default())).collect()
    }

    #[test]
    fn who_uses_a_deprecated_column_is_told_what_to_use() {
        let unused =
            "windows: [{ name: w, kind: tumbling, size: 1m, group_by: [kept], aggregate: { n: sum(total_eur) } }]\n";
        assert_eq!(check(SCHEMA, unused), Vec::<String>::new());
        let uses = "transform:\n  - { filter: \"old = 'x'\" }\n\
                    metrics:\n  - { name: m_total, type: counter, help: h, where: \"total > 1\" }\n\
                    windows:\n  - { name: w, kind: tumbling, size: 1m, group_by: [kept, old], aggregate: { n: sum(total) } }\n\
                    archive: { url: ./a, partition_by: [date, old] }\n";
        let nothing = "(the schema names nothing that is used instead)";
        assert_eq!(
            check(SCHEMA, uses),
            [
                format!("5:5: a step uses the column `old`, which is deprecated {nothing}"),
                "7:13: metric `m_total` uses the column `total`, which is deprecated (use `total_eur`)".to_owned(),
                "9:13: window `w` uses the column `total`, which is deprecated (use `total_eur`)".to_owned(),
                format!("9:59: window `w` uses the column `old`, which is deprecated {nothing}"),
                format!("10:43: the archive uses the column `old`, which is deprecated {nothing}"),
            ]
        );
        // What a step puts in its place is another column to what follows; the step itself reads the old one.
        let set = "transform:\n  - set: { shown: \"coalesce(total_eur, total)\" }\n";
        assert_eq!(check(SCHEMA, set).len(), 1);
    }

    #[test]
    fn what_is_used_instead_has_to_be_there() {
        let bad = "schema: shop\ncolumns:\n  - { name: a, type: int, deprecated: maybe }\n  - { name: b, type: int, deprecated: use cc }\n  \
                   - { name: c, type: int, deprecated: use c }\n  - { name: d, type: int, deprecated: use c }\n  \
                   - { name: level, type: text, deprecated: true }\n";
        let found = check(bad, "");
        let expected = [
            "at 3:39: cannot read `maybe` as what becomes of a column (write `deprecated: true`",
            "at 4:39: cannot use `cc` instead of `b`, there is no such column (did you mean `c`?)",
            "at 5:39: cannot use `c` instead of `c`, it is the same column",
            "at 6:39: cannot use `c` instead of `d`, that is deprecated, too",
            "at 7:44: cannot give up the built-in column `level`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        found
            .iter()
            .zip(expected)
            .for_each(|(found, expected)| assert!(found.contains(expected), "{found}\n{expected}"));
    }
}
