//! `type: slack`: an incoming webhook of Slack, Mattermost or Rocket.Chat; one message for each change of state, or for each group.

use super::http::{self, Endpoint, Options, Reach, Target};
use super::message::{is_resolved, label, runbook, shortened, summary, title, values};
use super::{Sink, SinkError, SlackConfig};
use crate::place::{Place, Problem};
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// Slack cuts longer ones itself, in the middle of a message.
const TITLE: usize = 256;
const TEXT: usize = 3_000;
/// Slack advises to have no more in a message.
const ATTACHMENTS: usize = 20;

impl SlackConfig {
    fn target(&self) -> Target<'_> {
        Target { url: self.url.as_ref(), file: self.url_file.as_ref(), reach: Reach::new(self.allow_private) }
    }

    pub(crate) fn check(&self, at: Place) -> Vec<Problem> {
        let mut problems = self.target().check(at);
        problems.extend(self.url.as_ref().and_then(|secret| http::check_secret(secret, "url")));
        problems
    }

    pub(crate) fn probe(&self) -> Option<Problem> {
        self.target().probe()
    }
}

#[derive(Debug)]
pub(crate) struct Slack {
    config: SlackConfig,
    endpoint: Endpoint,
}

impl Slack {
    /// Connects to nothing yet.
    pub(crate) fn connect(config: &SlackConfig) -> Result<Self, SinkError> {
        let url = config.target().url()?;
        let reach = Reach::new(config.allow_private);
        let options = Options { reach, timeout: config.timeout, ..Options::default() };
        Ok(Self { config: config.clone(), endpoint: Endpoint::new(url, options)? })
    }
}

/// Slack's three special characters (<https://docs.slack.dev/messaging/formatting-message-text>); without this, a log's text could
/// write links and call people.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn colour(event: &AlertEvent) -> &'static str {
    match label(event, "severity") {
        _ if is_resolved(event) => "good",
        "P1" | "P2" | "warning" | "info" => "warning",
        _ => "danger",
    }
}

fn attachment(event: &AlertEvent) -> Value {
    let field = |(name, value): (&String, &String)| json!({ "title": name, "value": escaped(value), "short": true });
    let labels = event.labels.iter().filter(|(name, _)| !matches!(name.as_str(), "alertname" | "severity"));
    let title = shortened(&title(event), TITLE);
    let mut text = escaped(&summary(event));
    if !event.values.is_empty() {
        text.push_str(&format!("\n`{}`", escaped(&values(event)).replace('`', "'")));
    }
    let mut attachment = json!({
        "color": colour(event),
        "title": escaped(&title),
        "text": shortened(&text, TEXT),
        "fallback": title,
        "fields": labels.map(field).collect::<Vec<Value>>(),
        "ts": event.ends_at.unwrap_or(event.starts_at).micros() / 1_000_000,
        "mrkdwn_in": ["text"],
    });
    if let Some(url) = runbook(event) {
        attachment["title_link"] = url.into();
    }
    attachment
}

fn body(config: &SlackConfig, events: &[AlertEvent]) -> Value {
    let mut body = json!({ "attachments": events.iter().map(attachment).collect::<Vec<Value>>() });
    for (name, value) in
        [("channel", &config.channel), ("username", &config.username), ("icon_emoji", &config.icon_emoji)]
    {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    body
}

/// Some servers answer 200 with what has failed.
fn refusal(said: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(said).ok()?;
    (answer["ok"] == false).then(|| answer["error"].as_str().unwrap_or("it is not ok").to_owned())
}

impl Sink for Slack {
    fn portion(&self, events: &[AlertEvent], together: bool) -> usize {
        if together { events.len().min(ATTACHMENTS) } else { 1 }
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let body = serde_json::to_vec(&body(&self.config, events)).expect("a message is JSON");
            let said = self.endpoint.post(body).await?;
            let Some(said) = refusal(&said) else { return Ok(()) };
            let status = if said == "rate_limited" { 429 } else { 400 };
            Err(SinkError::Answer { to: self.endpoint.shown(), status, said, retry_after: None })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Located, Secret};
    use crate::sink::http::tests::Server;
    use crate::sink::readable::tests::event;

    const AT: Place = Place { line: 1, column: 1 };

    fn config(url: &str) -> SlackConfig {
        let url = Located { verbatim: false, ..Located::nowhere(Secret(url.to_owned())) };
        SlackConfig { url: Some(url), allow_private: true, channel: Some("#ops".to_owned()), ..SlackConfig::default() }
    }

    #[tokio::test]
    async fn a_message_says_what_and_why_and_calls_nobody() {
        let server = Server::start(&[]).await;
        let mut sink = Slack::connect(&config(&server.url)).unwrap();
        let mut event = event();
        event.annotations.insert("summary".to_owned(), "<!channel> & more".to_owned());
        event.annotations.insert("runbook_url".to_owned(), "https://x/y".to_owned());
        sink.deliver(&[event]).await.unwrap();
        let body = &server.bodies()[0];
        assert_eq!(body["channel"], "#ops");
        let attachment = &body["attachments"][0];
        assert_eq!(attachment["color"], "danger");
        assert_eq!(attachment["title"], "[FIRING] HighErrorRate P0 path=/v1/x");
        assert_eq!(attachment["title_link"], "https://x/y");
        assert_eq!(attachment["text"], "&lt;!channel&gt; &amp; more\n`error_rate=0.31 requests=412`");
        assert_eq!(attachment["fields"], json!([{ "title": "path", "value": "/v1/x", "short": true }]));
        assert_eq!(body["username"], Value::Null);
        let group = vec![self::event(); 25];
        assert_eq!((sink.portion(&group, false), sink.portion(&group, true)), (1, 20));
        sink.deliver(&group[..3]).await.unwrap();
        assert_eq!(server.bodies()[1]["attachments"].as_array().unwrap().len(), 3, "one message");
    }

    #[tokio::test]
    async fn what_is_not_ok_is_an_error() {
        let answers = [
            (200, "", r#"{"ok":false,"error":"channel_not_found"}"#),
            (200, "", r#"{"ok":false,"error":"rate_limited"}"#),
        ];
        let server = Server::start(&answers).await;
        let mut sink = Slack::connect(&config(&server.url)).unwrap();
        let error = sink.deliver(&[event()]).await.unwrap_err();
        assert!(error.to_string().contains("channel_not_found") && !error.is_retryable(), "{error}");
        assert!(sink.deliver(&[event()]).await.unwrap_err().is_retryable());
        sink.deliver(&[event()]).await.unwrap();
    }

    #[test]
    fn its_url_is_a_secret() {
        let mut written = config("https://hooks.slack.com/services/a");
        assert!(written.check(AT).is_empty());
        written.url.as_mut().unwrap().verbatim = true;
        assert_eq!(written.check(AT).len(), 1);
        assert!(!format!("{written:?}").contains("services"));
    }
}
