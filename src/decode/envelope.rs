//! Fly.io's envelope around each log line.
//!
//! `{"event":{"provider":"app"},"fly":{"app":{"instance":"…","name":"…"},"region":"nrt"},"host":"0ad1",
//! "log":{"level":"info"},"message":"…","timestamp":"…"}` (flyctl's `logs/entry.go`). Key order and white space are not
//! promised, any part but `message` may be missing, and unknown keys must not hurt: they are kept in `attributes`.

use super::tape::{kind, members, text};
use simd_json::Node;

/// The parts of an envelope, borrowed from its tape.
#[derive(Debug, Default)]
pub(super) struct Parts<'i> {
    pub(super) app: Option<&'i str>,
    pub(super) instance: Option<&'i str>,
    pub(super) region: Option<&'i str>,
    pub(super) host: Option<&'i str>,
    pub(super) provider: Option<&'i str>,
    /// The level of the output channel, not the application's.
    pub(super) level: Option<&'i str>,
    pub(super) timestamp: Option<&'i str>,
    /// Where the message stands: a string, or the record itself as an object.
    pub(super) message_at: usize,
}

impl<'i> Parts<'i> {
    /// The values of the columns from `app` to `provider`, in the schema's order.
    pub(super) fn given(&self) -> [Option<&'i str>; 5] {
        [self.app, self.instance, self.region, self.host, self.provider]
    }
}

/// Takes an envelope apart. Indices of values that have no place of their own go to `unknown`.
///
/// # Errors
/// What is wrong, when it is no envelope.
pub(super) fn read<'i>(nodes: &[Node<'i>], unknown: &mut Vec<usize>) -> Result<Parts<'i>, String> {
    unknown.clear();
    if !matches!(nodes[0], Node::Object { .. }) {
        return Err(format!("the envelope is {}, not an object", kind(nodes, 0)));
    }
    let mut parts = Parts::default();
    let mut second_level = None;
    members(nodes, 0, |_, key, at| {
        let value = text(nodes, at);
        match (key, value) {
            ("message", _) => parts.message_at = at,
            ("timestamp", Some(_)) => parts.timestamp = value,
            ("host", Some(_)) => parts.host = value,
            ("level", Some(_)) => second_level = value,
            ("fly", _) => read_fly(nodes, at, &mut parts, unknown),
            ("event", _) => one_member(nodes, at, "provider", &mut parts.provider, unknown),
            ("log", _) => one_member(nodes, at, "level", &mut parts.level, unknown),
            _ => unknown.push(at),
        }
    });
    parts.level = parts.level.or(second_level);
    match nodes.get(parts.message_at) {
        _ if parts.message_at == 0 => Err("the envelope has no message".to_owned()),
        Some(Node::String(_) | Node::Object { .. }) => Ok(parts),
        _ => Err(format!("the envelope's message is {}, not a string", kind(nodes, parts.message_at))),
    }
}

fn read_fly<'i>(nodes: &[Node<'i>], fly: usize, parts: &mut Parts<'i>, unknown: &mut Vec<usize>) {
    if !matches!(nodes[fly], Node::Object { .. }) {
        unknown.push(fly);
    }
    members(nodes, fly, |_, key, at| match (key, text(nodes, at)) {
        ("region", Some(region)) => parts.region = Some(region),
        ("app", None) if matches!(nodes[at], Node::Object { .. }) => {
            members(nodes, at, |_, key, at| match (key, text(nodes, at)) {
                ("name", Some(name)) => parts.app = Some(name),
                ("instance", Some(instance)) => parts.instance = Some(instance),
                _ => unknown.push(at),
            });
        }
        _ => unknown.push(at),
    });
}

fn one_member<'i>(
    nodes: &[Node<'i>],
    object: usize,
    wanted: &str,
    target: &mut Option<&'i str>,
    unknown: &mut Vec<usize>,
) {
    if !matches!(nodes[object], Node::Object { .. }) {
        unknown.push(object);
    }
    members(nodes, object, |_, key, at| match text(nodes, at) {
        Some(value) if key == wanted => *target = Some(value),
        _ => unknown.push(at),
    });
}

#[cfg(test)]
mod tests {
    use super::super::tape::Parser;
    use super::*;

    fn check(json: &str, expected: Result<(&str, usize), &str>) {
        let mut unknown = Vec::new();
        let mut parser = Parser::new();
        let shown = parser
            .parse(json.as_bytes(), |nodes| {
                let parts = read(nodes, &mut unknown)?;
                let p =
                    [parts.app, parts.instance, parts.region, parts.host, parts.provider, parts.level, parts.timestamp];
                Ok::<_, String>(p.map(|part| part.unwrap_or("-")).join(" "))
            })
            .unwrap();
        let expected = expected.map(|(parts, unknown)| (parts.to_owned(), unknown)).map_err(str::to_owned);
        assert_eq!(shown.map(|shown| (shown, unknown.len())), expected, "{json}");
    }

    #[test]
    fn parts_are_found_in_any_order() {
        check(
            r#"{"event":{"provider":"app"},"fly":{"app":{"instance":"i1","name":"a"},"region":"sjc"},"host":"0ad1","log":{"level":"info"},"message":"m","timestamp":"t"}"#,
            Ok(("a i1 sjc 0ad1 app info t", 0)),
        );
        check(
            r#" { "timestamp" : "t" , "message" : "m" , "level" : "warn" , "extra" : [1] , "fly" : { "region" : "nrt" , "x" : {} } } "#,
            Ok(("- - nrt - - warn t", 2)),
        );
        check(r#"{"message":"m","log":{"level":"error"},"level":"info"}"#, Ok(("- - - - - error -", 0)));
        check(r#"{"message":{"event":"x"},"fly":3,"host":7}"#, Ok(("- - - - - - -", 2)));
    }

    #[test]
    fn what_is_no_envelope_is_named() {
        check("[1]", Err("the envelope is an array, not an object"));
        check("{}", Err("the envelope has no message"));
        check(r#"{"message":null}"#, Err("the envelope's message is null, not a string"));
    }
}
