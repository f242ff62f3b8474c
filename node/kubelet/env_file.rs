//! Files of variables that one container writes and another starts with (KEP-3721): `NAME='VALUE'` lines. Pure.

/// The value of one name. A value may go over several lines; a name without one is as good as missing.
///
/// # Errors
/// The line that is malformed, as Kubernetes tells it.
pub(crate) fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let malformed = |line: usize, why: &str| Err(format!("invalid environment variable format at line {}: {why}", line + 1));
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, stated)) = line.split_once('=') else { return malformed(number, "missing '='") };
        if name.is_empty() {
            return malformed(number, "empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return malformed(number, "whitespace before '=' is not allowed");
        }
        if stated.starts_with([' ', '\t']) || stated.is_empty() && name == key {
            // As in a shell, the value is empty and the rest is something else.
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(mut rest) = stated.strip_prefix('\'') else {
            return malformed(number, "value must be enclosed in single quotes");
        };
        let mut found = String::new();
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                found.push_str(last);
                break after.trim_start_matches([' ', '\t']);
            }
            found.push_str(rest);
            found.push('\n');
            let Some((_, next)) = lines.next() else {
                return Err(format!("invalid environment variable format starting at line {}: unclosed single quote", number + 1));
            };
            rest = next;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return malformed(number, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(found).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quoted_values() {
        let check = |text: &str, expected: Result<Option<&str>, ()>| {
            assert_eq!(value(text, "A").as_ref().map(Option::as_deref).map_err(|_| ()), expected, "{text}");
        };
        check("# x\n\n  B='1'\nA='2' # y\n", Ok(Some("2")));
        check("A='1\n2'", Ok(Some("1\n2")));
        check("A= '1'", Ok(None));
        check("B='1'", Ok(None));
        check("A=1", Err(()));
        check("A ='1'", Err(()));
        check("nonsense", Err(()));
        check("A='1' x", Err(()));
        check("A='1", Err(()));
    }
}
