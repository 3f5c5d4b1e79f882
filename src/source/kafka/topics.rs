//! What can be said of a Kafka source's settings from the text alone.

use crate::place::{Located, Place, Problem};
use crate::source::KafkaConfig;
use std::collections::BTreeSet;

/// Says what is wrong with the settings as texts.
pub(crate) fn check(config: &KafkaConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    for broker in config.brokers.value.split(',') {
        let port = broker.trim().rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if broker.contains("://") || !port.is_some_and(|port| port.parse().is_ok_and(|port: u16| port > 0)) {
            let message = format!("cannot use {broker:?} as a Kafka broker");
            problems.push(config.brokers.problem(message).hint("expected HOST:PORT, as in `127.0.0.1:9092`"));
        }
    }
    if config.topics.is_empty() {
        let problem = Problem::new(Place::default(), "cannot read from Kafka, `topics` is empty");
        problems.push(problem.hint("name at least one topic"));
    }
    let mut seen = BTreeSet::new();
    for topic in &config.topics {
        if !seen.insert(&topic.value) {
            problems.push(topic.problem(format!("cannot read the topic {:?} twice", topic.value)));
        } else if !is_topic(&topic.value) {
            let problem = topic.problem(format!("cannot use {:?} as a Kafka topic", topic.value));
            problems
                .push(problem.hint("a name has up to 249 letters, digits, dots, hyphens and underscores; no patterns"));
        }
    }
    let mut needed = vec![("group", &config.group)];
    needed.extend(config.sasl.iter().map(|sasl| ("sasl.username", &sasl.username)));
    problems.extend(needed.into_iter().filter_map(|(key, text)| empty(key, text)));
    if let Some(tls) = &config.tls
        && let (Some(alone), None) | (None, Some(alone)) = (&tls.certificate, &tls.key)
    {
        let problem = alone.problem("cannot use one of `certificate` and `key` alone");
        problems.push(problem.hint("name both, or neither"));
    }
    problems
}

pub(super) fn is_topic(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 249 && name.chars().all(known) && name != "." && name != ".."
}

fn empty(key: &str, text: &Located<String>) -> Option<Problem> {
    text.value.trim().is_empty().then(|| text.problem(format!("cannot use an empty text as `{key}`")))
}
