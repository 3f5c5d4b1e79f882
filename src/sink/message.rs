//! What receivers for people and pagers say of an alert, and by what they know it again.

use crate::record::alert::{AlertEvent, AlertStatus};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A label that may be missing.
pub(super) fn label<'e>(event: &'e AlertEvent, name: &str) -> &'e str {
    event.labels.get(name).map_or("", String::as_str)
}

/// `[FIRING] HighErrorRate P0 path=/v1/x`
pub(super) fn title(event: &AlertEvent) -> String {
    let mut title = format!("[{}] {}", event.status.as_str().to_uppercase(), label(event, "alertname"));
    if event.labels.contains_key("severity") {
        write!(title, " {}", label(event, "severity")).expect("a text takes all");
    }
    for (name, value) in event.labels.iter().filter(|(name, _)| !matches!(name.as_str(), "alertname" | "severity")) {
        write!(title, " {name}={value}").expect("a text takes all");
    }
    title
}

/// What the rule's author wrote for people, or the title where that is nothing.
pub(super) fn summary(event: &AlertEvent) -> String {
    let written = ["summary", "description", "message"].iter().find_map(|name| event.annotations.get(*name));
    written.filter(|text| !text.trim().is_empty()).cloned().unwrap_or_else(|| title(event))
}

/// The address of the runbook, where it is one that a browser can open.
pub(super) fn runbook(event: &AlertEvent) -> Option<&str> {
    let url = event.annotations.get("runbook_url")?;
    ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)).then_some(url)
}

/// Values of the condition, as in `error_rate=0.31 requests=412`.
pub(super) fn values(event: &AlertEvent) -> String {
    let shown: Vec<String> = event.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    shown.join(" ")
}

/// Prometheus' fingerprint of a set of labels: FNV-1a of 64 bits over names and values, each ended by 0xff
/// (`prometheus/common/model/signature.go`).
pub(super) fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for (name, value) in labels {
        name.bytes().chain([0xff]).chain(value.bytes()).chain([0xff]).for_each(&mut add);
    }
    format!("{hash:016x}")
}

/// At most `most` characters, the last an ellipsis where some are missing.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Whether the alert is over.
pub(super) fn is_resolved(event: &AlertEvent) -> bool {
    event.status == AlertStatus::Resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::readable::tests::event;

    #[test]
    fn an_alert_is_told_in_one_line() {
        let mut event = event();
        assert_eq!(title(&event), "[FIRING] HighErrorRate P0 path=/v1/x");
        assert_eq!(summary(&event), "31% of requests fail");
        assert_eq!(runbook(&event), None);
        event.annotations = [("runbook_url".to_owned(), "https://x/y".to_owned())].into();
        assert_eq!(summary(&event), title(&event));
        assert_eq!(runbook(&event), Some("https://x/y"));
        assert_eq!(shortened("abcde", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }

    #[test]
    fn fingerprints_are_prometheus_ones() {
        // `model.LabelSet{}.Fingerprint()`, and FNV-1a's published value for nothing.
        assert_eq!(fingerprint(&BTreeMap::new()), "cbf29ce484222325");
        let labels = [("a".to_owned(), "b".to_owned())].into();
        let other = [("a".to_owned(), "c".to_owned())].into();
        assert_ne!(fingerprint(&labels), fingerprint(&other));
        assert_eq!(fingerprint(&labels).len(), 16);
    }
}
