//! What DataFusion and its parser say, without what only those who build them need.

use crate::place::Place;

/// The first line of a message; what follows is a backtrace or a list of candidates.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The message without the classes of errors that DataFusion puts before it.
pub fn without_class(message: &str) -> &str {
    const CLASSES: [&str; 6] = [
        "Error during planning: ",
        "Execution error: ",
        "Internal error: ",
        "This feature is not implemented: ",
        "Arrow error: ",
        "SQL error: ",
    ];
    let mut text = message;
    while let Some(rest) = CLASSES.iter().find_map(|class| text.strip_prefix(class)) {
        text = rest;
    }
    text
}

/// The message without dumps of syntax trees and advice to those who build DataFusion.
pub fn without_advice(message: &str) -> &str {
    let mut text = message;
    for tail in [" Substring {", ". Hint: ", "Hint: ", "This issue was likely"] {
        text = text.split(tail).next().unwrap_or(text);
    }
    text.trim_end().trim_end_matches('.')
}

/// A parser's complaint and the place in the text that it names, both counted from 1:
/// `SQL error: ParserError("Expected: an expression, found: ) at Line: 1, Column: 8")`.
pub fn of_parser(message: &str) -> (String, Option<Place>) {
    let mut text = message.rsplit("Error: ").next().unwrap_or(message).trim().trim_end_matches('.').to_owned();
    for part in ["ParserError(\"", "TokenizerError(\"", "sql parser error: "] {
        text = text.replace(part, "");
    }
    let text = without_class(text.trim_end_matches("\")"));
    match text.split_once(" at Line: ") {
        Some((message, at)) => (message.to_owned(), line_and_column(at)),
        None => (text.to_owned(), None),
    }
}

/// `1, Column: 8…`
fn line_and_column(at: &str) -> Option<Place> {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let (line, column) = at.trim_start().split_once(", Column: ")?;
    let place = Place { line: digits(line)?, column: digits(column)? };
    (place.line > 0 && place.column > 0).then_some(place)
}

/// The message as the middle of a sentence; words in capitals stay.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_complaint_is_taken_apart() {
        let place = Some(Place { line: 2, column: 13 });
        for (said, expected) in [
            (
                "SQL error: ParserError(\"Expected: x, found: ) at Line: 2, Column: 13\")",
                ("Expected: x, found: )", place),
            ),
            ("sql parser error: Unexpected EOF at Line: 2, Column: 13", ("Unexpected EOF", place)),
            ("Error during planning: no place", ("no place", None)),
            ("odd at Line: 0, Column: 0", ("odd", None)),
        ] {
            let (message, at) = of_parser(said);
            assert_eq!((message.as_str(), at), expected, "{said}");
        }
    }

    #[test]
    fn classes_and_advice_go() {
        assert_eq!(without_class("Execution error: Error during planning: what"), "what");
        assert_eq!(without_advice("cannot coerce. Hint: recompile"), "cannot coerce");
        assert_eq!(lower_first("Cannot coerce"), "cannot coerce");
        assert_eq!(lower_first("SQL is odd"), "SQL is odd");
    }
}
