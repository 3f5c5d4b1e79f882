//! `type: webhook`: a POST with Alertmanager's webhook body, version 4, so that what takes Alertmanager's takes headrig's.

use super::http::{self, Endpoint, Options, Reach, Target};
use super::message::{fingerprint, is_resolved, label, runbook};
use super::{Sink, SinkError, WebhookConfig};
use crate::place::{Place, Problem};
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Alerts in one request.
const PORTION: usize = 64;
/// What Go writes for no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

impl WebhookConfig {
    fn target(&self) -> Target<'_> {
        Target { url: self.url.as_ref(), file: self.url_file.as_ref(), reach: Reach::new(self.allow_private) }
    }

    pub(crate) fn check(&self, at: Place) -> Vec<Problem> {
        let mut problems = self.target().check(at);
        problems.extend(self.token.as_ref().and_then(|secret| http::check_secret(secret, "token")));
        problems
    }

    pub(crate) fn probe(&self) -> Option<Problem> {
        self.target().probe()
    }
}

#[derive(Debug)]
pub(crate) struct Webhook {
    name: String,
    endpoint: Endpoint,
}

impl Webhook {
    /// Connects to nothing yet.
    pub(crate) fn connect(name: &str, config: &WebhookConfig) -> Result<Self, SinkError> {
        let url = config.target().url()?;
        let options = Options {
            reach: Reach::new(config.allow_private),
            timeout: config.timeout,
            ca: config.ca.as_ref().map(|ca| ca.value.as_str()),
            bearer: http::secret(config.token.as_ref(), config.token_file.as_ref())?,
            headers: config.headers.iter().map(|(name, value)| (name.as_str(), value)).collect(),
            ..Options::default()
        };
        Ok(Self { name: name.to_owned(), endpoint: Endpoint::new(url, options)? })
    }
}

/// What all maps have in common.
fn common<'e>(mut maps: impl Iterator<Item = &'e BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut common = maps.next().cloned().unwrap_or_default();
    maps.for_each(|map| common.retain(|name, value| map.get(name) == Some(value)));
    common
}

/// The body for events of one alert name.
fn body(receiver: &str, events: &[AlertEvent]) -> Value {
    let name = events.first().map(|event| label(event, "alertname")).unwrap_or_default();
    let alert = |event: &AlertEvent| {
        json!({
            "status": event.status.as_str(),
            "labels": event.labels,
            "annotations": event.annotations,
            "startsAt": event.starts_at.to_string(),
            "endsAt": event.ends_at.map_or_else(|| NO_TIME.to_owned(), |time| time.to_string()),
            "generatorURL": runbook(event).unwrap_or_default(),
            "fingerprint": fingerprint(&event.labels),
            // Beyond version 4: the stable id, by which a receiver knows a repetition, and what the condition looked at.
            "id": event.id,
            "values": event.values,
        })
    };
    let over = events.iter().all(is_resolved);
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={name:?}}}"),
        "truncatedAlerts": 0,
        "status": if over { "resolved" } else { "firing" },
        "receiver": receiver,
        "groupLabels": { "alertname": name },
        "commonLabels": common(events.iter().map(|event| &event.labels)),
        "commonAnnotations": common(events.iter().map(|event| &event.annotations)),
        "externalURL": "",
        "alerts": events.iter().map(alert).collect::<Vec<Value>>(),
    })
}

impl Sink for Webhook {
    /// Neighbours of one alert name go together where nobody has said what does.
    fn portion(&self, events: &[AlertEvent], together: bool) -> usize {
        let alike = |event: &&AlertEvent| together || label(event, "alertname") == label(&events[0], "alertname");
        events.iter().take(PORTION).take_while(alike).count()
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let body = serde_json::to_vec(&body(&self.name, events)).expect("a body is JSON");
            self.endpoint.post(body).await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Located, Secret};
    use crate::record::alert::AlertStatus;
    use crate::sink::http::tests::Server;
    use crate::sink::readable::tests::event;

    const AT: Place = Place { line: 1, column: 1 };

    fn config(url: &str, allow_private: bool) -> WebhookConfig {
        let url = Located { verbatim: false, ..Located::nowhere(Secret(url.to_owned())) };
        WebhookConfig { url: Some(url), allow_private, ..WebhookConfig::default() }
    }

    #[tokio::test]
    async fn the_body_is_alertmanagers_version_4() {
        let server = Server::start(&[]).await;
        let mut sink = Webhook::connect("ops", &config(&server.url, true)).unwrap();
        let mut other = AlertEvent { status: AlertStatus::Resolved, ends_at: Some(event().starts_at), ..event() };
        other.labels.insert("path".to_owned(), "/v1/y".to_owned());
        sink.deliver(&[event(), other]).await.unwrap();
        let body = &server.bodies()[0];
        assert_eq!(body["version"], "4");
        assert_eq!(body["status"], "firing");
        assert_eq!(body["receiver"], "ops");
        assert_eq!(body["groupKey"], "{}:{alertname=\"HighErrorRate\"}");
        assert_eq!(body["commonLabels"], json!({ "alertname": "HighErrorRate", "severity": "P0" }));
        assert_eq!(body["alerts"][0]["endsAt"], NO_TIME);
        assert_eq!(body["alerts"][1]["status"], "resolved");
        assert_eq!(body["alerts"][1]["endsAt"], event().starts_at.to_string());
        assert_eq!(body["alerts"][0]["id"], "a1");
        assert_ne!(body["alerts"][0]["fingerprint"], body["alerts"][1]["fingerprint"]);
    }

    #[test]
    fn neighbours_of_one_name_go_together() {
        let sink = Webhook::connect("ops", &config("http://127.0.0.1:1", true)).unwrap();
        let mut other = event();
        other.labels.insert("alertname".to_owned(), "Other".to_owned());
        assert_eq!(sink.portion(&[event(), event(), other.clone(), event()], false), 2);
        assert_eq!(sink.portion(&[other.clone(), event()], false), 1);
        assert_eq!(sink.portion(&[other, event()], true), 2);
        assert_eq!(sink.portion(&vec![event(); 200], false), PORTION);
    }

    #[test]
    fn one_address_is_given_and_it_is_public() {
        assert!(config("https://example.com/hook", false).check(AT).is_empty());
        assert_eq!(config("http://127.0.0.1/hook", false).check(AT).len(), 1);
        assert!(config("http://127.0.0.1/hook", true).check(AT).is_empty());
        assert_eq!(WebhookConfig::default().check(AT).len(), 1, "none");
        let both = WebhookConfig { url_file: Some(Located::nowhere("f".to_owned())), ..config("https://x.org", false) };
        assert_eq!(both.check(AT).len(), 1);
    }
}
