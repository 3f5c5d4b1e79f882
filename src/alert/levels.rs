//! Rules with levels: one alert that is told by the worst level that it has come to.
//!
//! Each level is a rule of its own, the worst first. While a level fires for a group, those below it are outranked there: they are resolved, and
//! go on as pending. So when the worst is over and a lower level's condition still holds, that one fires at once.

use super::{Config, Plan};
use crate::expression::Compiler;
use crate::place::{Entries, Located, Problem};
use crate::record::sample::WindowSchema;
use schemars::JsonSchema;
use serde::Deserialize;

/// One level, as written in `levels:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// The condition, over the window's columns.
    pub when: Located<String>,
    /// Labels of this level, beside and before the rule's own. They tell the levels apart.
    pub labels: Entries<Located<String>>,
}

impl Config {
    /// Checks and compiles this rule: one plan for each level, the worst first.
    ///
    /// # Errors
    /// As [`Config::build`], of all levels.
    pub fn build_levels(&self, windows: &[WindowSchema], compiler: &Compiler) -> Result<Vec<Plan>, Vec<Problem>> {
        let Some(levels) = &self.levels else { return self.build(windows, compiler).map(|plan| vec![plan]) };
        let mut problems = Vec::new();
        if let Some(when) = &self.when {
            let problem = when.problem("cannot use `when` beside `levels`, each level has its own");
            problems.push(problem.hint("make a level of it, or take `levels` out"));
        }
        if levels.value.is_empty() {
            let problem = levels.problem("cannot use `levels` without a level");
            problems.push(problem.hint("the worst first, as in `- { when: used > 85, labels: { severity: P1 } }`"));
        }
        let own = |level: &Level| {
            let labels = level.labels.0.iter().map(|(name, text)| (name.value.clone(), text.value.clone()));
            labels.collect::<std::collections::BTreeMap<_, _>>()
        };
        for (at, level) in levels.value.iter().enumerate() {
            if levels.value[..at].iter().any(|above| own(above) == own(level)) {
                let problem = level.when.problem("cannot tell this level from one above it, it has the same labels");
                problems.push(problem.hint("give each a label of its own, as in `labels: { severity: P2 }`"));
            }
        }
        let mut plans = Vec::new();
        for (above, level) in levels.value.iter().enumerate() {
            match self.of_level(level).build(windows, compiler) {
                Ok(plan) => plans.push(Plan { above, ..plan }),
                Err(more) => problems.extend(more),
            }
        }
        // What is wrong with the rule as a whole was found once for each level.
        problems.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
        problems.dedup();
        if problems.is_empty() { Ok(plans) } else { Err(problems) }
    }

    /// The rule that it would be with this level alone.
    fn of_level(&self, level: &Level) -> Self {
        let kept =
            self.labels.0.iter().filter(|(name, _)| level.labels.0.iter().all(|(own, _)| own.value != name.value));
        let labels = level.labels.0.iter().chain(kept).cloned().collect();
        Self { when: Some(level.when.clone()), labels: Entries(labels), levels: None, ..self.clone() }
    }
}
