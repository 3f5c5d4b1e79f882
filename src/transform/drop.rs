//! `drop: [user_agent, q]`: removes columns.

use super::{Built, FIXED, Transform, TransformCounts};
use crate::place::{Located, Problem, did_you_mean};
use crate::record::event::EventBatch;
use crate::record::schema::{BUILT_IN, Schema};
use std::collections::BTreeSet;

#[derive(Debug)]
struct Drop {
    /// The columns that stay, by number.
    keep: Vec<usize>,
}

pub(super) fn build(columns: &[Located<String>], schema: &Schema) -> Result<Built, Vec<Problem>> {
    let mut dropped = BTreeSet::new();
    let problems: Vec<Problem> = columns.iter().filter_map(|name| check(name, schema, &mut dropped)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let keep: Vec<usize> =
        (0..schema.columns.len()).filter(|&i| !dropped.contains(schema.columns[i].name.as_str())).collect();
    let left = keep.iter().map(|&i| schema.columns[i].clone()).collect();
    let after = Schema::new(schema.name.clone(), schema.version, left);
    Ok((Box::new(Drop { keep }), after))
}

fn check<'a>(name: &'a Located<String>, schema: &Schema, dropped: &mut BTreeSet<&'a str>) -> Option<Problem> {
    let text = name.value.as_str();
    if schema.column(text).is_none() {
        let problem = name.problem(format!("cannot find column `{text}`"));
        let close = did_you_mean(text, schema.columns.iter().map(|c| c.name.as_str()));
        return Some(match close {
            Some(close) => problem.hint(format!("did you mean `{close}`?")),
            None => problem,
        });
    }
    if BUILT_IN.iter().any(|(built_in, _)| *built_in == text) {
        let problem = name.problem(format!("cannot drop `{text}`, every schema has it"));
        let hint = match text {
            "attributes" => "empty it with `mask: { column: attributes, with: redact }`".to_owned(),
            text if FIXED.contains(&text) => "the engine needs it".to_owned(),
            text => format!("empty it with `set: {{ {text}: \"null\" }}`"),
        };
        return Some(problem.hint(hint));
    }
    (!dropped.insert(text)).then(|| name.problem(format!("cannot drop `{text}` twice")).hint("write it once"))
}

impl Transform for Drop {
    fn apply(&self, batch: EventBatch, _: &mut TransformCounts) -> EventBatch {
        let rows = batch.rows.project(&self.keep).expect("the columns were found when the step was built");
        EventBatch { rows, ..batch }
    }
}

#[cfg(test)]
mod tests {
    use crate::place::{Located, Problem};
    use crate::transform::tests::{batch, build, schema};
    use crate::transform::{Config, TransformCounts};

    fn check(columns: &[&str]) -> Result<Vec<String>, Problem> {
        let config = Config::Drop(columns.iter().map(|c| Located::nowhere((*c).to_owned())).collect());
        let (step, after) = build(&config, &schema()).map_err(|mut problems| problems.remove(0))?;
        let rows = step.apply(batch(&[Some(1), None]), &mut TransformCounts::default()).rows;
        assert_eq!(rows.schema(), after.arrow);
        Ok(after.columns.iter().skip(12).map(|c| c.name.clone()).collect())
    }

    #[test]
    fn columns_go() {
        assert_eq!(check(&["status", "ratio"]).unwrap(), ["client_ip", "payload", "ok"]);
        assert_eq!(check(&[]).unwrap().len(), 5);
    }

    #[test]
    fn what_must_stay_is_refused() {
        for (column, message, hint) in [
            ("statsu", "cannot find column `statsu`", Some("did you mean `status`?")),
            ("ts", "cannot drop `ts`, every schema has it", Some("the engine needs it")),
            (
                "message",
                "cannot drop `message`, every schema has it",
                Some("empty it with `set: { message: \"null\" }`"),
            ),
            ("zzz", "cannot find column `zzz`", None),
        ] {
            let problem = check(&[column]).unwrap_err();
            assert_eq!((problem.message.as_str(), problem.hint.as_deref()), (message, hint));
        }
        assert_eq!(check(&["ok", "ok"]).unwrap_err().message, "cannot drop `ok` twice");
    }
}
