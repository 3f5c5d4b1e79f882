//! Variables in values: `${V}`, `${V:-default}`, `${V:?message}`; `$$` is a dollar sign.
//!
//! They are put into the tree, not into the text, so that no variable can add a key, and every place stays right.
//! Any other `$` is left alone (`$1` in a replacement, `$labels` in a template, the end of a pattern).

use super::yaml::{Node, Scalar, Value};
use crate::limits::CONFIG_BYTES;
use crate::place::{Place, Problem};

/// How a variable is looked up.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Replaces the variables in all values below `node`; one that cannot be replaced makes its value [`Value::Broken`].
pub(super) fn interpolate(node: &mut Node, env: Environment<'_>, problems: &mut Vec<Problem>) {
    let place = node.place;
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => match expand(scalar, place, env) {
            Ok(text) if text == scalar.text => {}
            Ok(text) => {
                scalar.text = text;
                scalar.verbatim = false;
                scalar.interpolated = true;
            }
            Err(problem) => {
                problems.push(problem);
                node.value = Value::Broken;
            }
        },
        Value::Scalar(_) | Value::Broken => {}
        Value::List(items) => items.iter_mut().for_each(|item| interpolate(item, env, problems)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| interpolate(value, env, problems)),
    }
}

fn expand(scalar: &Scalar, place: Place, env: Environment<'_>) -> Result<String, Problem> {
    let mut out = String::with_capacity(scalar.text.len());
    let mut rest = scalar.text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let failed = |message, hint: String| {
                let before = scalar.text.len() - rest.len();
                let column = scalar.text[..before].chars().count() as u32;
                let here = if scalar.verbatim { Place { column: place.column + column, ..place } } else { place };
                Problem::new(here, message).hint(hint)
            };
            let (inside, behind) = after.split_once('}').ok_or_else(|| {
                failed("cannot find the } of this ${".to_owned(), "write $${ for the text ${".to_owned())
            })?;
            out.push_str(&lookup(inside, env).map_err(|(message, hint)| failed(message, hint))?);
            rest = behind;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
        if out.len() as u64 > CONFIG_BYTES {
            return Err(Problem::new(place, format!("cannot use a value of more than {CONFIG_BYTES} bytes")));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between `${` and `}`; else message and hint.
fn lookup(inside: &str, env: Environment<'_>) -> Result<String, (String, String)> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, rule) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err((format!("cannot read `${{{inside}}}` as a variable"), "write $${ for the text ${".to_owned()));
    }
    let value = env(name);
    if rule.is_empty() {
        return value.ok_or_else(|| {
            let hint = format!("set it, or give a default: ${{{name}:-default}}");
            (format!("cannot find the environment variable `{name}`"), hint)
        });
    }
    // As in a shell, the colon makes an empty variable count as none.
    let value = value.filter(|value| !value.is_empty());
    if let Some(default) = rule.strip_prefix(":-") {
        Ok(value.unwrap_or_else(|| default.to_owned()))
    } else if let Some(message) = rule.strip_prefix(":?") {
        let message = if message.is_empty() { "it is required" } else { message };
        let missing = || (format!("cannot find the environment variable `{name}`: {message}"), format!("set {name}"));
        value.ok_or_else(missing)
    } else {
        let hint = "known are ${V}, ${V:-default} and ${V:?message}; write $${ for the text ${".to_owned();
        Err((format!("cannot read `${{{inside}}}` as a variable"), hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, String> {
        let scalar = Scalar { text: text.to_owned(), plain: true, verbatim: true, interpolated: false };
        let env = |name: &str| match name {
            "A" => Some("a: [1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(&scalar, Place { line: 1, column: 1 }, &env).map_err(|p| format!("{}: {}", p.place, p.message))
    }

    #[test]
    fn variables_are_replaced_and_other_dollars_are_not() {
        for (text, expected) in [
            ("x${A}y", "xa: [1y"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-}", ""),
            ("${NONE:-a:b}", "a:b"),
            ("${A:?needed}", "a: [1"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("$1 $labels ^x$ {{ $values.x }}", "$1 $labels ^x$ {{ $values.x }}"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, expected) in [
            ("µ${NONE}", "1:2: cannot find the environment variable `NONE`"),
            ("${EMPTY:?key of the mask}", "1:1: cannot find the environment variable `EMPTY`: key of the mask"),
            ("${A", "1:1: cannot find the } of this ${"),
            ("${A+b}", "1:1: cannot read `${A+b}` as a variable"),
            ("${}", "1:1: cannot read `${}` as a variable"),
        ] {
            assert_eq!(check(text), Err(expected.to_owned()), "{text}");
        }
    }
}
