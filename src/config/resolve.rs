//! Text → [`Plan`]: reads the file, then asks each stage, in the order of the data, whether it can do what is written.
//!
//! A part is looked at only when the parts that it builds on are sound, so that one mistake isn't reported as many.

use super::deprecated::{self, Written};
use super::interpolate::{Environment, interpolate};
use super::plan::{Plan, Role};
use super::raw::{PARTS, Pipeline, Server};
use super::read::read;
use super::schema_file::{self, ReadFile};
use super::yaml::{self, Node, Value};
use super::{limits, needed};
use crate::expression::Compiler;
use crate::place::{Entries, Located, Place, Problem, did_you_mean};
use crate::record::sample::WindowSchema;
use crate::record::schema::{ColumnType, Schema};
use crate::transform::Transform;
use crate::{alert, decode, metric, sink, source, transform, window};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Reads and checks the text of the pipeline file `file_name`. Pure: variables come from `env`, schema files from
/// `read_file`.
///
/// # Errors
/// All mistakes that can be found in one go, sorted by place.
pub fn load(file_name: &str, text: &str, env: Environment<'_>, read_file: ReadFile<'_>) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let plan = load_into(file_name, text, env, read_file, &mut problems);
    problems.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
    problems.dedup();
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => {
            assert!(!problems.is_empty(), "a pipeline without a plan has a problem");
            Err(problems)
        }
    }
}

fn load_into(
    file_name: &str,
    text: &str,
    env: Environment<'_>,
    read_file: ReadFile<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Plan> {
    let mut root = match yaml::parse(text, problems) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    interpolate(&mut root, env, problems);
    let raw: Pipeline = read(&root, problems)?;
    let mut resolver = Resolver { root: &root, compiler: Compiler::default(), problems, unsound: Vec::new() };
    resolver.note_unsound();
    resolver.resolve(file_name, raw, read_file)
}

struct Resolver<'r> {
    root: &'r Node,
    compiler: Compiler,
    problems: &'r mut Vec<Problem>,
    /// Top-level keys under which something is wrong.
    unsound: Vec<&'r str>,
}

impl<'r> Resolver<'r> {
    /// Finds the parts in which reading found mistakes: those between whose key and the next one a mistake stands. A
    /// key that is unknown stands for the part that was probably meant.
    fn note_unsound(&mut self) {
        let Value::Map(entries) = &self.root.value else { return };
        for (at, (key, _)) in entries.iter().enumerate() {
            let end = entries.get(at + 1).map_or(Place { line: u32::MAX, column: 0 }, |(next, _)| next.place);
            if self.problems.iter().any(|problem| key.place <= problem.place && problem.place < end) {
                self.unsound.push(did_you_mean(key.text(), PARTS).unwrap_or(key.text()));
            }
        }
        if self.root.get("transform").is_some() && self.items("transform").iter().all(keeps_columns) {
            self.unsound.retain(|part| *part != "transform");
        }
    }

    fn is_sound(&self, parts: &[&str]) -> bool {
        parts.iter().all(|part| !self.unsound.contains(part))
    }

    /// The value, or its mistakes noted under `part`.
    fn keep<T>(&mut self, part: &'r str, result: Result<T, Vec<Problem>>) -> Option<T> {
        result
            .map_err(|more| {
                self.problems.extend(more);
                self.unsound.push(part);
            })
            .ok()
    }

    fn resolve(&mut self, file_name: &str, mut raw: Pipeline, read_file: ReadFile<'_>) -> Option<Plan> {
        let pipeline = self.name(raw.pipeline.as_ref());
        let sources = self.sources(raw.sources.take());
        let listen = self.listen(&raw.server);
        let limits = limits::limits(&raw.limits, self.problems);
        let decode = self.decode(&raw.decode, read_file);
        self.problems.extend(metric::check_names(&raw.metrics));
        self.unique("window", "windows", raw.windows.iter().map(|window| &window.name));
        self.unique("alert", "alerts", raw.alerts.iter().map(|alert| &alert.alert));
        self.problems.extend(raw.notify.0.iter().flat_map(|(name, receiver)| receiver.check(name.place)));
        self.routes(&raw.route);
        self.problems.extend(sink::check_quiet(&raw.inhibit, &raw.maintenance));
        let decode = decode?;
        let watermark_by = self.watermark_by(&raw.watermark_by, &decode.schema);
        let (transforms, schema) = self.transforms(&raw.transform, &decode.schema);
        let (metrics, windows, alerts, absences) = if self.is_sound(&["decode", "transform"]) {
            self.problems.extend(raw.archive.iter().flat_map(|archive| archive.check(&schema)));
            let metrics = self.metrics(&raw.metrics, &schema);
            let (windows, results) = self.windows(&raw.windows, &schema);
            let alerts = self.alerts(&raw.alerts, &results);
            let absences = self.absences(&raw.alerts, &results, sources.as_deref().unwrap_or_default());
            (metrics, windows, alerts, absences)
        } else {
            Default::default()
        };
        let role = self.role(raw.repartition.as_ref(), pipeline.as_deref(), sources.as_deref(), &raw, &windows);
        let windows = match role {
            Some(Role::Gather(_)) => windows.into_iter().map(window::Plan::shared).collect(),
            _ => windows,
        };
        let mut plan = Plan {
            file: file_name.to_owned(),
            pipeline: pipeline?,
            sources: sources?,
            decode,
            transforms,
            schema: Arc::new(schema),
            metrics,
            watermark_by,
            windows,
            alerts,
            absences,
            archive: raw.archive,
            notify: owned(raw.notify),
            routes: raw.route,
            inhibit: raw.inhibit,
            maintenance: raw.maintenance,
            listen: listen?,
            limits,
            role: role?,
            notes: Vec::new(),
        };
        plan.decode.needed = needed::needed(&plan);
        let steps = self.items("transform").iter().map(|step| step.place).collect();
        plan.notes = deprecated::notes(&plan, &Written { steps, metrics: &raw.metrics, windows: &raw.windows });
        Some(plan)
    }

    fn name(&mut self, name: Option<&Located<String>>) -> Option<String> {
        let Some(name) = name else {
            self.require("pipeline", "give the pipeline a name, as in `pipeline: shop`");
            return None;
        };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.value.starts_with(allowed) && name.value.chars().all(|c| allowed(c) || matches!(c, '_' | '-')) {
            return Some(name.value.clone());
        }
        let problem = name.problem(format!("cannot use `{}` as a pipeline's name", name.value));
        self.problems.push(problem.hint("expected small letters, digits, _ and -, with a letter or digit first"));
        None
    }

    fn sources(&mut self, sources: Option<Located<Entries<source::Config>>>) -> Option<Vec<(String, source::Config)>> {
        let Some(sources) = sources else {
            self.require("sources", "name at least one, as in `sources: { pipe: { type: stdin } }`");
            return None;
        };
        if sources.value.0.is_empty() && self.is_sound(&["sources"]) {
            let problem = sources.problem("cannot run without a source");
            self.problems.push(problem.hint("name at least one, as in `sources: { pipe: { type: stdin } }`"));
        }
        for (name, source) in &sources.value.0 {
            // A problem of the source as a whole stands where its name does.
            let placed = |problem: Problem| match problem.place {
                Place { line: 0, .. } => Problem { place: name.place, ..problem },
                _ => problem,
            };
            self.problems.extend(source.check().into_iter().map(placed));
        }
        Some(owned(sources.value))
    }

    /// Who closes the windows; `None` when what is written of it is wrong.
    fn role(
        &mut self,
        config: Option<&Located<source::RepartitionConfig>>,
        pipeline: Option<&str>,
        sources: Option<&[(String, source::Config)]>,
        raw: &Pipeline,
        windows: &[window::Plan],
    ) -> Option<Role> {
        let Some(config) = config else { return self.is_sound(&["repartition"]).then_some(Role::Alone) };
        if raw.windows.is_empty() && self.is_sound(&["windows"]) {
            let problem = config.problem("cannot share windows among daemons, there are none");
            self.problems.push(problem.hint("define `windows`, or take `repartition` out"));
        }
        if raw.archive.is_none() && self.is_sound(&["archive"]) {
            let problem = config.problem("cannot share windows among daemons without an archive");
            self.problems.push(
                problem.hint("the archive says which records are in which part: as in `archive: { url: ./data }`"),
            );
        }
        if let Some(column) = raw.watermark_by.first() {
            let problem = column.problem("cannot use `watermark_by` where daemons share windows");
            self.problems
                .push(problem.hint("they tell each other of partitions, not of producers: take one of the two out"));
        }
        for absence in raw.alerts.iter().filter_map(|alert| alert.absent_for.as_ref()) {
            let problem = absence.problem("cannot use `absent_for` where daemons share windows");
            self.problems
                .push(problem.hint("a group that one daemon doesn't read another one does: take `repartition` out"));
        }
        for ((text, hint), window) in
            windows.iter().filter_map(|plan| Some((plan.check_shared()?, plan.schema().window)))
        {
            let at =
                raw.windows.iter().find(|config| config.name.value == *window).map_or(config.place, |w| w.name.place);
            self.problems.push(Problem::new(at, text).hint(hint));
        }
        let (pipeline, sources) = (pipeline?, sources?);
        if !self.is_sound(&["repartition", "sources"]) {
            return None;
        }
        self.keep("repartition", source::Repartition::resolve(config, pipeline, sources)).map(Role::Gather)
    }

    /// A top-level key that must be there; silent when it has a value, for then that was reported.
    fn require(&mut self, key: &str, hint: &str) {
        let is_null = |value: &Node| matches!(&value.value, Value::Scalar(scalar) if scalar.is_null());
        if self.root.get(key).map_or(self.is_sound(&[key]), is_null) {
            let place = self.root.get(key).map_or(self.root.place, |value| value.place);
            let problem = Problem::new(place, format!("cannot find the key `{key}`, it is required"));
            self.problems.push(problem.hint(hint));
        }
    }

    fn listen(&mut self, server: &Server) -> Option<SocketAddr> {
        let text = &server.listen;
        match text.value.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => return Some(address),
            Ok(address) => self.problems.push(
                text.problem(format!("cannot listen on {address}, it can be reached from other machines"))
                    .hint(format!("there is no authentication yet: listen on 127.0.0.1:{}", address.port())),
            ),
            Err(_) => self.problems.push(
                text.problem(format!("cannot read `{}` as an address to listen on", text.value))
                    .hint("expected an IP address and a port, as in 127.0.0.1:8686"),
            ),
        }
        None
    }

    fn decode(&mut self, config: &decode::Config, read_file: ReadFile<'_>) -> Option<decode::Plan> {
        self.problems.extend(config.check());
        // Without its schema nothing can be said about columns; with another one than was meant, only nonsense.
        if !self.is_sound(&["decode"]) {
            return None;
        }
        let schema = self.keep("decode", schema_file::load(&config.schema, read_file))?;
        self.keep("decode", config.build(Arc::new(schema)))
    }

    /// Steps see what the steps before them leave. One that is wrong may have made columns that later ones use, so
    /// after it only unknown columns can be told, and wrongly: the rest is not looked at.
    fn transforms(&mut self, configs: &[transform::Config], input: &Schema) -> (Vec<Box<dyn Transform>>, Schema) {
        let mut schema = input.clone();
        let mut steps = Vec::new();
        if !self.is_sound(&["transform"]) {
            return (steps, schema);
        }
        for config in configs {
            let changes_columns = matches!(config, transform::Config::Set(_) | transform::Config::Drop(_));
            match config.build(&schema, &self.compiler) {
                Ok((step, after)) => {
                    steps.push(step);
                    schema = after;
                }
                Err(more) => {
                    self.problems.extend(more);
                    if changes_columns {
                        self.unsound.push("transform");
                        break;
                    }
                }
            }
        }
        (steps, schema)
    }

    /// The positions of the columns that tell producers apart.
    fn watermark_by(&mut self, names: &[Located<String>], schema: &Schema) -> Vec<usize> {
        let mut columns = Vec::new();
        for name in names {
            let at = schema.columns.iter().position(|column| column.name == name.value);
            let Some((at, kind)) = at.map(|at| (at, schema.columns[at].kind)) else {
                let known = schema.columns.iter().map(|column| column.name.as_str());
                self.problems.push(not_found("column", name, known));
                continue;
            };
            if kind != ColumnType::Text {
                let text = format!("cannot tell producers apart by `{}`, its type is {}", name.value, kind.as_str());
                self.problems.push(name.problem(text).hint("name text columns, as in `watermark_by: [instance]`"));
            } else if columns.contains(&at) {
                self.problems.push(name.problem(format!("cannot tell producers apart by `{}` twice", name.value)));
            }
            columns.push(at);
        }
        columns
    }

    fn metrics(&mut self, configs: &[metric::Config], schema: &Schema) -> Vec<metric::Plan> {
        let built = configs.iter().map(|config| config.build(schema, &self.compiler)).collect::<Vec<_>>();
        built.into_iter().filter_map(|result| self.keep("metrics", result)).collect()
    }

    fn windows(&mut self, configs: &[window::Config], schema: &Schema) -> (Vec<window::Plan>, Vec<WindowSchema>) {
        let built = configs.iter().map(|config| config.build(schema, &self.compiler)).collect::<Vec<_>>();
        let plans = built.into_iter().filter_map(|result| self.keep("windows", result));
        plans
            .map(|plan| {
                let schema = plan.schema();
                (plan, schema)
            })
            .unzip()
    }

    fn alerts(&mut self, configs: &[alert::Config], windows: &[WindowSchema]) -> Vec<alert::Plan> {
        // A window that is written but wrong has no result columns to check against.
        let written = self.window_names();
        let is_resolved = |on: &str| windows.iter().any(|window| &*window.window == on);
        let is_wrong = |on: &str| !is_resolved(on) && written.contains(&on);
        let sound = self.is_sound(&["windows"]);
        let mut alerts = Vec::new();
        if !sound && written.is_empty() {
            return alerts;
        }
        for config in configs.iter().filter(|config| config.absent_for.is_none()) {
            let on = &config.on;
            if is_wrong(&on.value) || (!sound && is_resolved(&on.value) && !self.window_is_sound(&on.value)) {
                continue;
            }
            if !is_resolved(&on.value) {
                self.problems.push(not_found("window", on, written.iter().copied()));
                continue;
            }
            let result = config.build_levels(windows, &self.compiler);
            alerts.extend(self.keep("alerts", result).into_iter().flatten());
        }
        alerts
    }

    /// Alerts over what doesn't come; left alone where the window that they name is wrong, or the sources are.
    fn absences(
        &mut self,
        configs: &[alert::Config],
        windows: &[WindowSchema],
        sources: &[(String, source::Config)],
    ) -> Vec<alert::Absence> {
        let sources: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        let is_known = |on: &str| windows.iter().any(|window| &*window.window == on) || sources.contains(&on);
        let all_known = self.is_sound(&["windows", "sources"]);
        let built = configs.iter().filter(|config| config.absent_for.is_some());
        let built = built.filter(|config| all_known || is_known(&config.on.value));
        let built = built.map(|config| config.build_absence(windows, &sources)).collect::<Vec<_>>();
        built.into_iter().filter_map(|result| self.keep("alerts", result)).collect()
    }

    /// The elements of the list under a top-level key.
    fn items(&self, key: &str) -> &'r [Node] {
        match self.root.get(key).map(|list| &list.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    fn window_names(&self) -> Vec<&'r str> {
        self.items("windows").iter().filter_map(|item| item.get("name")).map(Node::text).collect()
    }

    /// Whether nothing is wrong between the start of this window and that of the next one.
    fn window_is_sound(&self, name: &str) -> bool {
        let items = self.items("windows");
        let Some(at) = items.iter().position(|item| item.get("name").is_some_and(|n| n.text() == name)) else {
            return true;
        };
        let start = items[at].place;
        let after = items.get(at + 1).map_or_else(|| self.key_after("windows"), |next| next.place);
        !self.problems.iter().any(|problem| start <= problem.place && problem.place < after)
    }

    /// Where the top-level key after `key` stands.
    fn key_after(&self, key: &str) -> Place {
        let end = Place { line: u32::MAX, column: 0 };
        let Value::Map(entries) = &self.root.value else { return end };
        let at = entries.iter().position(|(k, _)| k.text() == key);
        at.and_then(|at| entries.get(at + 1)).map_or(end, |(next, _)| next.place)
    }

    /// Refuses a name that stands twice.
    fn unique<'n>(&mut self, what: &str, part: &'r str, names: impl Iterator<Item = &'n Located<String>>) {
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for name in names {
            if let Some(first) = seen.get(name.value.as_str()) {
                let problem = name.problem(format!("cannot have two {part} of the name `{}`", name.value));
                self.problems.push(problem.hint(format!("the first {what} of this name stands at {first}")));
            } else {
                seen.insert(&name.value, name.place);
            }
        }
    }

    fn routes(&mut self, routes: &[sink::Route]) {
        let receivers: Vec<&str> = match self.root.get("notify").map(|notify| &notify.value) {
            Some(Value::Map(entries)) => entries.iter().map(|(key, _)| key.text()).collect(),
            _ if self.is_sound(&["notify"]) => Vec::new(),
            _ => return,
        };
        for to in routes.iter().flat_map(|route| &route.to) {
            if !receivers.contains(&to.value.as_str()) {
                self.problems.push(not_found("receiver", to, receivers.iter().copied()));
            }
        }
    }
}

/// Whether a step, as written, adds no columns, so that later steps can be checked even if it is wrong.
fn keeps_columns(step: &Node) -> bool {
    ["filter", "mask", "drop"].iter().any(|key| step.get(key).is_some())
}

fn owned<T>(entries: Entries<T>) -> Vec<(String, T)> {
    entries.0.into_iter().map(|(name, value)| (name.value, value)).collect()
}

/// `cannot find the window `x``, with the closest name or all names.
fn not_found<'n>(what: &str, name: &Located<String>, names: impl Iterator<Item = &'n str>) -> Problem {
    let names: Vec<&str> = names.collect();
    let hint = match did_you_mean(&name.value, names.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if names.is_empty() => format!("there is no {what} here"),
        None => format!("{what}s here: {}", names.join(", ")),
    };
    name.problem(format!("cannot find the {what} `{}`", name.value)).hint(hint)
}
