//! What the contract names but this version doesn't have: refused, with words other than "unknown".
//!
//! A thing that gets built disappears from here.

use crate::place::{Place, Problem};

/// Top-level keys whose mappings tell their variant by `type`.
const TYPED: [&str; 2] = ["sources", "notify"];

/// Keys by the top-level key that they stand under; `""` is the top.
const KEYS: [(&str, &[&str]); 2] = [("", &["rules", "forward", "slos", "slis", "spool"]), ("server", &["tls", "auth"])];

/// Types, kinds and steps by top-level key.
const VARIANTS: [(&str, &[&str]); 3] = [
    ("sources", &["loki_push", "otlp", "http", "syslog"]),
    ("transform", &["sample", "throttle", "dedupe", "parse", "split", "route"]),
    ("notify", &["mail", "loki", "kafka", "nats"]),
];

pub(super) fn is_typed(section: Option<&str>) -> bool {
    section.is_some_and(|section| TYPED.contains(&section))
}

pub(super) fn is_key(section: Option<&str>, key: &str) -> bool {
    listed(&KEYS, section.unwrap_or(""), key)
}

pub(super) fn is_variant(section: Option<&str>, variant: &str) -> bool {
    listed(&VARIANTS, section.unwrap_or(""), variant)
}

pub(super) fn problem(place: Place, name: &str, built: &[&str]) -> Problem {
    let problem = Problem::new(place, format!("cannot use `{name}` yet, it is not built in this version"));
    if built.is_empty() { problem } else { problem.hint(format!("built are: {}", built.join(", "))) }
}

fn listed(table: &[(&str, &[&str])], section: &str, name: &str) -> bool {
    table.iter().any(|(at, names)| *at == section && names.contains(&name))
}
