//! `type: alertmanager`: Alertmanager's API v2, as Prometheus uses it.
//!
//! Alertmanager takes an alert for resolved when its end has passed, so a firing one is sent again each minute with an end
//! four minutes ahead, and a resolved one for a while (Prometheus: `rules/alerting.go`, `resolvedRetention`), so that an
//! Alertmanager that was restarted hears of it.

use super::http::{self, Endpoint, Options, Reach};
use super::message::is_resolved;
use super::{AlertmanagerConfig, Sink, SinkError};
use crate::place::Problem;
use crate::record::alert::AlertEvent;
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// Between two times that a firing alert is sent.
const AGAIN: Span = Span::from_secs(60);
/// How far ahead the end of a firing alert is put: four times that, as Prometheus does.
const AHEAD: Span = Span::from_secs(4 * 60);
/// How long a resolved alert is sent again.
const RESOLVED: Span = Span::from_secs(15 * 60);
/// Alerts in one request.
const PORTION: usize = 64;

impl AlertmanagerConfig {
    pub(crate) fn check(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            http::check_url(&self.url.value, self.url.place, Reach::Anywhere).err().into_iter().collect();
        problems.extend(self.password.as_ref().and_then(|secret| http::check_secret(secret, "password")));
        problems.extend(self.token.as_ref().and_then(|secret| http::check_secret(secret, "token")));
        match &self.user {
            Some(user) if self.password.is_none() && self.password_file.is_none() => {
                let problem = user.problem("cannot log in with a `user` alone");
                problems.push(problem.hint("give `password` or `password_file`, too"));
            }
            _ => {}
        }
        problems
    }

    pub(crate) fn probe(&self) -> Option<Problem> {
        let attempt = || {
            let (endpoint, base) = self.endpoint()?;
            let status = path(&base, "api/v2/status");
            http::wait_for(Box::pin(async move { endpoint.get(status).await }))
        };
        Some(http::unreachable(&attempt().err()?, self.url.place))
    }

    fn endpoint(&self) -> Result<(Endpoint, Url), SinkError> {
        let base = Url::parse(&self.url.value).map_err(|error| SinkError::Setting(error.to_string()))?;
        let password = http::secret(self.password.as_ref(), self.password_file.as_ref())?;
        let options = Options {
            timeout: self.timeout,
            ca: self.ca.as_ref().map(|ca| ca.value.as_str()),
            bearer: http::secret(self.token.as_ref(), self.token_file.as_ref())?,
            basic: self.user.as_ref().map(|user| user.value.clone()).zip(password),
            ..Options::default()
        };
        Ok((Endpoint::new(path(&base, "api/v2/alerts"), options)?, base))
    }
}

/// A path below that of the server's address.
fn path(base: &Url, below: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{below}", base.path().trim_end_matches('/')));
    url
}

/// Labels and the time from which the alert fires.
type Key = (BTreeMap<String, String>, EventTime);

pub(crate) struct Alertmanager {
    endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    firing: BTreeMap<Key, AlertEvent>,
    /// With the time of day until which they are sent again.
    resolved: BTreeMap<Key, (AlertEvent, EventTime)>,
}

impl fmt::Debug for Alertmanager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alertmanager").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Alertmanager {
    /// Connects to nothing yet.
    pub(crate) fn connect(config: &AlertmanagerConfig, clock: Arc<dyn Clock>) -> Result<Self, SinkError> {
        let (endpoint, _) = config.endpoint()?;
        Ok(Self { endpoint, clock, firing: BTreeMap::new(), resolved: BTreeMap::new() })
    }

    fn keep(&mut self, event: &AlertEvent) {
        let key = (event.labels.clone(), event.starts_at);
        if is_resolved(event) {
            self.firing.remove(&key);
            self.resolved.insert(key, (event.clone(), self.clock.now() + RESOLVED));
        } else {
            // It fires again: what was said of its last end would contradict.
            self.resolved.retain(|(labels, _), _| *labels != event.labels);
            self.firing.insert(key, event.clone());
        }
    }

    async fn post(&self, alerts: Vec<Value>) -> Result<(), SinkError> {
        let body = serde_json::to_vec(&alerts).expect("alerts are JSON");
        self.endpoint.post(body).await.map(drop)
    }
}

fn alert(event: &AlertEvent, now: EventTime) -> Value {
    let ends_at = event.ends_at.unwrap_or(now + AHEAD);
    let link = super::message::runbook(event).unwrap_or_default();
    json!({
        "labels": event.labels,
        "annotations": event.annotations,
        "startsAt": event.starts_at.to_string(),
        "endsAt": ends_at.max(event.starts_at).to_string(),
        "generatorURL": link,
    })
}

impl Sink for Alertmanager {
    fn at_once(&self) -> bool {
        true
    }

    fn portion(&self, events: &[AlertEvent], _: bool) -> usize {
        events.len().min(PORTION)
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let now = self.clock.now();
            self.post(events.iter().map(|event| alert(event, now)).collect()).await?;
            events.iter().for_each(|event| self.keep(event));
            Ok(())
        })
    }

    fn stand(&mut self, event: &AlertEvent) {
        self.keep(event);
    }

    fn repeats(&self) -> Option<Span> {
        Some(AGAIN)
    }

    fn repeat(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let now = self.clock.now();
            self.resolved.retain(|_, (_, until)| *until > now);
            let standing = self.firing.values().chain(self.resolved.values().map(|(event, _)| event));
            let alerts: Vec<Value> = standing.map(|event| alert(event, now)).collect();
            for portion in alerts.chunks(PORTION) {
                self.post(portion.to_vec()).await?;
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
    use crate::time::clock::Monotonic;
    use std::sync::atomic::{AtomicI64, Ordering};

    #[derive(Debug)]
    struct FakeClock(AtomicI64);

    impl FakeClock {
        fn at(time: EventTime) -> Self {
            Self(AtomicI64::new(time.micros()))
        }

        fn advance(&self, by: Span) {
            self.0.fetch_add(by.micros(), Ordering::Relaxed);
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> EventTime {
            EventTime::from_micros(self.0.load(Ordering::Relaxed))
        }

        fn monotonic(&self) -> Monotonic {
            unreachable!("the receiver goes by the time of day")
        }
    }

    fn config(url: &str) -> AlertmanagerConfig {
        AlertmanagerConfig {
            url: Located::nowhere(url.to_owned()),
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            ca: None,
            timeout: None,
        }
    }

    fn resolved() -> AlertEvent {
        let fired = event();
        AlertEvent { status: AlertStatus::Resolved, ends_at: Some(fired.starts_at + Span::from_secs(30)), ..fired }
    }

    #[tokio::test]
    async fn firing_alerts_are_said_again_until_they_are_resolved_and_then_for_a_while() {
        let server = Server::start(&[]).await;
        let clock = Arc::new(FakeClock::at(event().starts_at));
        let mut sink =
            Alertmanager::connect(&config(&format!("{}/am/", server.url)), Arc::<FakeClock>::clone(&clock)).unwrap();
        sink.deliver(&[event()]).await.unwrap();
        clock.advance(AGAIN);
        sink.repeat().await.unwrap();
        sink.deliver(&[resolved()]).await.unwrap();
        sink.repeat().await.unwrap();
        clock.advance(RESOLVED);
        sink.repeat().await.unwrap();
        let asked = server.asked();
        assert!(asked.iter().all(|asked| asked.line == "POST /am/api/v2/alerts"), "{asked:?}");
        let ends: Vec<String> =
            asked.iter().map(|asked| asked.body[0]["endsAt"].as_str().unwrap().to_owned()).collect();
        let at = |span: Span| (event().starts_at + span).to_string();
        let over = at(Span::from_secs(30));
        assert_eq!(ends, [at(AHEAD), at(Span::from_secs(300)), over.clone(), over], "and not once more");
        assert_eq!(asked[0].body[0]["labels"]["alertname"], "HighErrorRate");
        assert_eq!(asked[0].body[0]["startsAt"], at(Span::from_secs(0)));
    }

    #[tokio::test]
    async fn what_was_not_taken_is_not_said_again_by_itself() {
        let server = Server::start(&[(500, "", "")]).await;
        let mut sink = Alertmanager::connect(&config(&server.url), Arc::new(FakeClock::at(event().starts_at))).unwrap();
        assert!(sink.deliver(&[event()]).await.unwrap_err().is_retryable());
        sink.repeat().await.unwrap();
        assert_eq!(server.asked().len(), 1);
        sink.stand(&event());
        sink.repeat().await.unwrap();
        assert_eq!(server.asked().len(), 2, "what an earlier run had delivered");
    }

    #[test]
    fn a_login_has_both_its_parts() {
        let mut wrong = config("http://127.0.0.1:9093");
        assert!(wrong.check().is_empty());
        wrong.user = Some(Located::nowhere("me".to_owned()));
        assert_eq!(wrong.check().len(), 1);
        wrong.url.value = "127.0.0.1:9093".to_owned();
        assert_eq!(wrong.check().len(), 2);
    }
}
