//! The pattern of `mask: { with: regex }` and what it puts in place of a match.

use crate::place::{Located, Place, Problem, did_you_mean};
use regex::Regex;

/// Compiles a pattern and looks at what replaces it.
///
/// # Errors
/// When the pattern is none (at its place inside the pattern), matches the empty text, or lacks a group that
/// `replacement` names.
pub(super) fn compile(pattern: &Located<String>, replacement: &str) -> Result<Regex, Problem> {
    let text = pattern.value.as_str();
    let regex = Regex::new(text).map_err(|error| broken(pattern, &error))?;
    if regex.is_match("") {
        return Err(pattern
            .problem(format!("cannot mask by `{text}`, it matches the empty text between any two characters"))
            .hint("write `+` instead of `*`"));
    }
    match groups_of(replacement).find(|group| !has_group(&regex, group)) {
        Some(group) => Err(unknown_group(pattern, &regex, group)),
        None => Ok(regex),
    }
}

fn broken(pattern: &Located<String>, error: &regex::Error) -> Problem {
    let (place, reason) = match regex_syntax::parse(&pattern.value) {
        Err(regex_syntax::Error::Parse(error)) => (place(pattern, error.span()), error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => (place(pattern, error.span()), error.kind().to_string()),
        _ => {
            let whole = error.to_string();
            let last = whole.lines().last().unwrap_or_default().trim().trim_end_matches('.').to_owned();
            (pattern.place, last.strip_prefix("error: ").unwrap_or(&last).to_owned())
        }
    };
    let message = format!("cannot read `{}` as a regular expression: {reason}", pattern.value);
    Problem::new(place, message).hint("escape a character that stands for itself with a backslash")
}

fn place(pattern: &Located<String>, span: &regex_syntax::ast::Span) -> Place {
    let column = |n: usize| u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX);
    pattern.inside(column(span.start.line), column(span.start.column))
}

/// The groups that a replacement names, as `$1`, `$name` or `${name}`.
fn groups_of(replacement: &str) -> impl Iterator<Item = &str> {
    let mut rest = replacement;
    std::iter::from_fn(move || {
        loop {
            let (_, behind) = rest.split_once('$')?;
            if let Some(escaped) = behind.strip_prefix('$') {
                rest = escaped;
                continue;
            }
            if let Some((name, after)) = behind.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                rest = after;
                return Some(name);
            }
            let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
            rest = &behind[end..];
            if end > 0 {
                return Some(&behind[..end]);
            }
        }
    })
}

fn has_group(regex: &Regex, group: &str) -> bool {
    match group.parse::<usize>() {
        Ok(number) => number < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|name| name == group),
    }
}

fn unknown_group(pattern: &Located<String>, regex: &Regex, group: &str) -> Problem {
    let problem = pattern.problem(format!("cannot put `${group}` in place, the pattern has no such group"));
    let digits = group.find(|c: char| !c.is_ascii_digit()).unwrap_or(group.len());
    let (number, letters) = group.split_at(digits);
    let hint = match did_you_mean(group, regex.capture_names().flatten()) {
        Some(close) => format!("did you mean `${{{close}}}`?"),
        None if digits > 0 && !letters.is_empty() => {
            format!("write `${{{number}}}{letters}` for group {number} with `{letters}` behind it")
        }
        None => "groups are the parts in (…), counted from 1; `$$` is a dollar sign".to_owned(),
    };
    problem.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, replacement: &str) -> Result<String, (String, String)> {
        compile(&Located::nowhere(pattern.to_owned()), replacement)
            .map(|regex| regex.replace_all("id=42&q=a", replacement).into_owned())
            .map_err(|problem| (problem.place.to_string(), problem.message))
    }

    #[test]
    fn groups_are_put_in_place() {
        assert_eq!(check("id=[0-9]+", "id=…").unwrap(), "id=…&q=a");
        assert_eq!(check("(id)=[0-9]+", "${1}_=x").unwrap(), "id_=x&q=a");
        assert_eq!(check("(?<key>q)=(.)", "$key=$$").unwrap(), "id=42&q=$");
    }

    #[test]
    fn mistakes_are_found_before_the_start() {
        for (pattern, replacement, place, message) in [
            ("ab(c", "", "1:3", "cannot read `ab(c` as a regular expression: unclosed group"),
            (
                r"a\p{Nosuch}",
                "",
                "1:2",
                r"cannot read `a\p{Nosuch}` as a regular expression: Unicode property not found",
            ),
            ("[0-9]*", "", "1:1", "cannot mask by `[0-9]*`, it matches the empty text between any two characters"),
            ("(a)", "$1_x", "1:1", "cannot put `$1_x` in place, the pattern has no such group"),
            ("(a)", "$2", "1:1", "cannot put `$2` in place, the pattern has no such group"),
        ] {
            let found = check(pattern, replacement).unwrap_err();
            assert_eq!((found.0.as_str(), found.1.as_str()), (place, message));
        }
        assert!(check("(a{500}){500}{500}", "").unwrap_err().1.contains("size limit"));
    }
}
