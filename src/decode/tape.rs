//! Parsing JSON into a tape on reused buffers, and writing parts of a tape back as JSON text.
//!
//! A tape is simd-json's flat form: an object is a node with the number of its members and of all nodes below it,
//! followed by key, value, key, value, …

use crate::limits;
use simd_json::tape::Tape;
use simd_json::{Buffers, Node, StaticNode};

/// A JSON parser that keeps its memory between documents.
pub(super) struct Parser {
    bytes: Vec<u8>,
    buffers: Buffers,
    tape: Option<Tape<'static>>,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parser")
    }
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), buffers: Buffers::with_max_depth(4_096, limits::JSON_DEPTH), tape: None }
    }

    /// Parses a copy of `input` (parsing unescapes strings in place) and hands its nodes to `then`.
    pub(super) fn parse<R>(
        &mut self,
        input: &[u8],
        then: impl FnOnce(&[Node<'_>]) -> R,
    ) -> Result<R, simd_json::Error> {
        self.bytes.clear();
        self.bytes.extend_from_slice(input);
        self.bytes.resize(input.len() + simd_json::INPUT_PADDING, 0);
        let mut tape = self.tape.take().unwrap_or_else(Tape::null).reset();
        let filled = simd_json::fill_tape_padded(&mut self.bytes, input.len(), &mut self.buffers, &mut tape);
        let result = filled.map(|()| then(&tape.0));
        self.tape = Some(tape.reset());
        result
    }
}

/// The index of the node behind the value at `at`.
pub(super) fn behind(nodes: &[Node<'_>], at: usize) -> usize {
    match nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        Node::String(_) | Node::Static(_) => at + 1,
    }
}

/// The text at `at`, where it is a string.
pub(super) fn text<'i>(nodes: &[Node<'i>], at: usize) -> Option<&'i str> {
    match nodes[at] {
        Node::String(text) => Some(text),
        _ => None,
    }
}

/// Calls `each` with the key and the value's index of every member of the object at `at`, and the member's number.
pub(super) fn members<'i>(nodes: &[Node<'i>], at: usize, mut each: impl FnMut(usize, &'i str, usize)) {
    let Node::Object { len, .. } = nodes[at] else { return };
    let mut key_at = at + 1;
    for place in 0..len {
        let key = text(nodes, key_at).expect("a key is a string");
        each(place, key, key_at + 1);
        key_at = behind(nodes, key_at + 1);
    }
}

/// What the value at `at` is, for people.
pub(super) fn kind(nodes: &[Node<'_>], at: usize) -> &'static str {
    match nodes[at] {
        Node::Object { .. } => "an object",
        Node::Array { .. } => "an array",
        Node::String(_) => "a string",
        Node::Static(StaticNode::Null) => "null",
        Node::Static(StaticNode::Bool(_)) => "a boolean",
        Node::Static(_) => "a number",
    }
}

/// Writes the value at `at` as JSON and returns the index of the node behind it. Depth is bounded by the parser's.
pub(super) fn write_json(nodes: &[Node<'_>], at: usize, out: &mut Vec<u8>) -> usize {
    match nodes[at] {
        Node::String(text) => write_text(text, out),
        Node::Static(value) => write_static(value, out),
        Node::Object { len, .. } => {
            out.push(b'{');
            let mut next = at + 1;
            for member in 0..len {
                if member > 0 {
                    out.push(b',');
                }
                next = write_json(nodes, next, out);
                out.push(b':');
                next = write_json(nodes, next, out);
            }
            out.push(b'}');
        }
        Node::Array { len, .. } => {
            out.push(b'[');
            let mut next = at + 1;
            for element in 0..len {
                if element > 0 {
                    out.push(b',');
                }
                next = write_json(nodes, next, out);
            }
            out.push(b']');
        }
    }
    behind(nodes, at)
}

/// Writes a JSON string with its quotes.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}

fn write_static(value: StaticNode, out: &mut Vec<u8>) {
    let written = match value {
        StaticNode::Null => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        StaticNode::Bool(value) => serde_json::to_writer(out, &value),
        StaticNode::I64(value) => serde_json::to_writer(out, &value),
        StaticNode::U64(value) => serde_json::to_writer(out, &value),
        StaticNode::F64(value) => serde_json::to_writer(out, &value),
    };
    written.expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_were_read() {
        let mut parser = Parser::new();
        for json in
            [r#"{"a":1,"b":[true,null,-2,{"c":"x\ny\"é"}],"d":1.5,"e":18446744073709551615}"#, r#"[]"#, r#"{"":{}}"#]
        {
            let mut out = Vec::new();
            let end = parser.parse(json.as_bytes(), |nodes| (write_json(nodes, 0, &mut out), nodes.len())).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), json);
            assert_eq!(end.0, end.1);
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let mut parser = Parser::new();
        let deep = "[".repeat(100_000);
        for json in [deep.as_bytes(), b"{\"a\":", b"{\"a\":\xff}", b"", b"{\"a\":1}{", b"{\"a\":\"\\ud800\"}"] {
            assert!(parser.parse(json, |_| ()).is_err(), "{:?}", String::from_utf8_lossy(&json[..json.len().min(20)]));
        }
        assert!(parser.parse(b"{}", |_| ()).is_ok(), "it works again after an error");
    }
}
