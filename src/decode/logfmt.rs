//! logfmt: `level=info msg="hello world" status=200 debug`.
//!
//! There is no standard; this reads what `go-logfmt` writes: keys without blanks or `=`, values bare or in double quotes
//! with JSON's escapes, a key alone meaning true.

/// Calls `each` with every key and its value as text (`None`: a key alone).
///
/// # Errors
/// What is wrong, with the byte where.
pub(super) fn read(line: &str, mut each: impl FnMut(&str, Option<&str>)) -> Result<(), String> {
    let mut rest = line.trim_start();
    let mut pairs = 0;
    while !rest.is_empty() {
        let at = line.len() - rest.len();
        let key_end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, behind) = rest.split_at(key_end);
        if key.is_empty() || key.contains('"') {
            return Err(format!("no key at byte {at}"));
        }
        rest = match behind.strip_prefix('=') {
            None => {
                each(key, None);
                behind
            }
            Some(value) if value.starts_with('"') => {
                let end = closing_quote(value).ok_or_else(|| format!("a quote at byte {at} that is never closed"))?;
                let unescaped: String = serde_json::from_str(&value[..=end])
                    .map_err(|error| format!("a quoted value at byte {at} that cannot be read: {error}"))?;
                each(key, Some(&unescaped));
                &value[end + 1..]
            }
            Some(value) => {
                let end = value.find(char::is_whitespace).unwrap_or(value.len());
                each(key, Some(&value[..end]));
                &value[end..]
            }
        };
        if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
            return Err(format!("no blank behind the value at byte {at}"));
        }
        rest = rest.trim_start();
        pairs += usize::from(behind.starts_with('='));
    }
    if pairs == 0 { Err("no key=value pair".to_owned()) } else { Ok(()) }
}

/// The index of the quote that closes the one at index 0.
fn closing_quote(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().enumerate().skip(1).find_map(|(index, byte)| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes.then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(line: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let mut pairs = Vec::new();
        read(line, |key, value| pairs.push((key.to_owned(), value.map(str::to_owned))))?;
        Ok(pairs)
    }

    #[test]
    fn pairs_are_read() {
        let read = pairs(r#" level=info msg="say \"hi\" \u00e9" status=200 empty= debug "#).unwrap();
        let shown: Vec<String> = read.iter().map(|(k, v)| format!("{k}:{}", v.as_deref().unwrap_or("-"))).collect();
        assert_eq!(shown, ["level:info", "msg:say \"hi\" é", "status:200", "empty:", "debug:-"]);
    }

    #[test]
    fn other_text_is_refused() {
        for line in ["", "just some words", "=x", "a=\"open", "a=\"x\"y=1", "\"a\"=1"] {
            assert!(pairs(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in "\\PC{0,60}") {
            let _ = pairs(&line);
        }
    }
}
