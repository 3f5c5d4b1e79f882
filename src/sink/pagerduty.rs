//! `type: pagerduty`: PagerDuty's Events API v2. An alert opens an incident, or joins it, by its `dedup_key`, and closes it
//! by the same (<https://developer.pagerduty.com/docs/send-alert-event>).

use super::http::{self, Endpoint, Options, Reach};
use super::message::{fingerprint, is_resolved, label, runbook, shortened, summary};
use super::{PagerdutyConfig, Sink, SinkError};
use crate::place::{Place, Problem, Secret};
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use url::Url;

const URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Longest summary that the API takes, in characters.
const SUMMARY: usize = 1_024;
/// Largest body that it takes, less what stands beside the details.
const DETAILS: usize = 500_000;

impl PagerdutyConfig {
    fn place(&self) -> Place {
        let key = self.routing_key.as_ref().map(|key| key.place);
        key.or(self.routing_key_file.as_ref().map(|file| file.place)).unwrap_or(Place { line: 1, column: 1 })
    }

    pub(crate) fn check(&self, at: Place) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(url) = &self.url {
            problems.extend(http::check_url(&url.value, url.place, Reach::new(self.allow_private)).err());
        }
        problems.extend(self.routing_key.as_ref().and_then(|secret| http::check_secret(secret, "routing_key")));
        if self.routing_key.is_some() == self.routing_key_file.is_some() {
            let message = "cannot page without exactly one of `routing_key` and `routing_key_file`";
            let hint = "the integration key of an Events API v2 integration, as in `routing_key: \"${PAGERDUTY_KEY}\"`";
            problems.push(Problem::new(at, message).hint(hint));
        }
        problems
    }

    pub(crate) fn probe(&self) -> Option<Problem> {
        let attempt = || {
            let (url, reach) = (self.target()?, Reach::new(self.allow_private));
            http::secret(self.routing_key.as_ref(), self.routing_key_file.as_ref())?;
            http::wait_for(Box::pin(async move { http::reach(&url, reach).await }))
        };
        Some(http::unreachable(&attempt().err()?, self.url.as_ref().map_or_else(|| self.place(), |url| url.place)))
    }

    fn target(&self) -> Result<Url, SinkError> {
        let text = self.url.as_ref().map_or(URL, |url| url.value.as_str());
        Url::parse(text).map_err(|error| SinkError::Setting(error.to_string()))
    }
}

#[derive(Debug)]
pub(crate) struct Pagerduty {
    config: PagerdutyConfig,
    key: Secret,
    endpoint: Endpoint,
}

impl Pagerduty {
    /// Connects to nothing yet.
    pub(crate) fn connect(config: &PagerdutyConfig) -> Result<Self, SinkError> {
        let key = http::secret(config.routing_key.as_ref(), config.routing_key_file.as_ref())?;
        let key = key.ok_or_else(|| SinkError::Setting("it has no routing key".to_owned()))?;
        let reach = Reach::new(config.allow_private);
        let options = Options { reach, timeout: config.timeout, ..Options::default() };
        Ok(Self { endpoint: Endpoint::new(config.target()?, options)?, key, config: config.clone() })
    }
}

/// One of the four that the API knows.
fn severity(event: &AlertEvent) -> &'static str {
    match label(event, "severity").to_ascii_lowercase().as_str() {
        "p0" | "critical" | "page" => "critical",
        "p2" | "warning" | "warn" => "warning",
        "p3" | "info" => "info",
        _ => "error",
    }
}

fn body(config: &PagerdutyConfig, key: &Secret, event: &AlertEvent) -> Value {
    let dedup_key = format!("{}/{}", shortened(&event.pipeline, 200), fingerprint(&event.labels));
    if is_resolved(event) {
        return json!({ "routing_key": key.0, "event_action": "resolve", "dedup_key": dedup_key });
    }
    let named = |names: &[&str]| names.iter().map(|name| label(event, name)).find(|text| !text.is_empty());
    let mut details = json!({
        "labels": event.labels, "annotations": event.annotations, "values": event.values, "id": event.id,
        "window_start": event.window_start.to_string(), "window_end": event.window_end.to_string(),
    });
    if details.to_string().len() > DETAILS {
        details = json!({ "id": event.id, "error": "the alert's texts are too long for PagerDuty" });
    }
    let mut payload = json!({
        "summary": shortened(&summary(event), SUMMARY),
        "source": named(&["instance", "host", "app"]).unwrap_or(&event.pipeline),
        "severity": severity(event),
        "timestamp": event.starts_at.to_string(),
        "class": label(event, "alertname"),
        "group": event.pipeline,
        "custom_details": details,
    });
    if let Some(component) = named(&["app", "service", "path"]) {
        payload["component"] = component.into();
    }
    let mut body = json!({
        "routing_key": key.0, "event_action": "trigger", "dedup_key": dedup_key,
        "client": config.client.as_deref().unwrap_or("headrig"), "payload": payload,
    });
    if let Some(url) = &config.client_url {
        body["client_url"] = url.as_str().into();
    }
    if let Some(url) = runbook(event) {
        body["links"] = json!([{ "href": url, "text": "Runbook" }]);
    }
    body
}

impl Sink for Pagerduty {
    fn portion(&self, _: &[AlertEvent], _: bool) -> usize {
        1
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            for event in events {
                let body = serde_json::to_vec(&body(&self.config, &self.key, event)).expect("an event is JSON");
                self.endpoint.post(body).await?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Located;
    use crate::record::alert::AlertStatus;
    use crate::sink::http::tests::Server;
    use crate::sink::readable::tests::event;

    const AT: Place = Place { line: 1, column: 1 };

    fn config(url: &str) -> PagerdutyConfig {
        let key = Located { verbatim: false, ..Located::nowhere(Secret("key".to_owned())) };
        let url = Some(Located::nowhere(url.to_owned()));
        PagerdutyConfig { routing_key: Some(key), url, allow_private: true, ..PagerdutyConfig::default() }
    }

    #[tokio::test]
    async fn an_incident_is_opened_and_closed_by_one_key() {
        let server = Server::start(&[(202, "", r#"{"status":"success"}"#)]).await;
        let mut sink = Pagerduty::connect(&config(&server.url)).unwrap();
        let mut long = event();
        long.annotations.insert("summary".to_owned(), "x".repeat(2_000));
        sink.deliver(&[long]).await.unwrap();
        let over = AlertEvent { status: AlertStatus::Resolved, ends_at: Some(event().starts_at), ..event() };
        sink.deliver(&[over]).await.unwrap();
        let bodies = server.bodies();
        assert_eq!(bodies[0]["event_action"], "trigger");
        assert_eq!(bodies[1]["event_action"], "resolve");
        assert_eq!(bodies[0]["dedup_key"], bodies[1]["dedup_key"]);
        assert_eq!(bodies[0]["routing_key"], "key");
        let payload = &bodies[0]["payload"];
        assert_eq!(payload["summary"].as_str().unwrap().chars().count(), SUMMARY);
        assert_eq!(payload["severity"], "critical");
        assert_eq!(payload["source"], "auto");
        assert_eq!(payload["custom_details"]["values"]["requests"], 412);
        assert!(!format!("{sink:?}").contains("\"key\""), "{sink:?}");
    }

    #[tokio::test]
    async fn what_pagerduty_cannot_read_is_not_sent_again() {
        let server = Server::start(&[(400, "", "invalid event"), (429, "", "")]).await;
        let mut sink = Pagerduty::connect(&config(&server.url)).unwrap();
        assert!(!sink.deliver(&[event()]).await.unwrap_err().is_retryable());
        assert!(sink.deliver(&[event()]).await.unwrap_err().is_retryable());
    }

    #[test]
    fn a_key_is_needed_and_secret() {
        assert!(config("https://events.eu.pagerduty.com/v2/enqueue").check(AT).is_empty());
        assert_eq!(PagerdutyConfig::default().check(AT).len(), 1);
        let mut written = config("https://events.pagerduty.com/v2/enqueue");
        written.routing_key.as_mut().unwrap().verbatim = true;
        assert_eq!(written.check(AT).len(), 1);
    }
}
