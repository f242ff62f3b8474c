//! Strings of a certain form, with the errors of Go's decoders: what is right may come back in its canonical form.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// `metav1.Time`: whole seconds, in UTC.
pub(super) fn time(text: &str) -> Result<Option<String>, String> {
    let at = parsed(text, "2006-01-02T15:04:05Z07:00", &["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", "Z07:00"])?;
    Ok(canonical(text, at, Some(0)))
}

/// `metav1.MicroTime`
pub(super) fn micro_time(text: &str) -> Result<Option<String>, String> {
    let elements = ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", ".000000", "Z07:00"];
    let at = parsed(text, "2006-01-02T15:04:05.000000Z07:00", &elements)?;
    Ok(canonical(text, at, Some(6)))
}

fn canonical(text: &str, at: Timestamp, precision: Option<u8>) -> Option<String> {
    let mut written = String::new();
    DateTimePrinter::new().precision(precision).print_timestamp(&at, &mut written).ok()?;
    (written != text).then_some(written)
}

/// RFC 3339, with the errors of Go's `time.Parse`.
fn parsed(text: &str, layout: &str, elements: &[&str]) -> Result<Timestamp, String> {
    let mut rest = text;
    for element in elements {
        let length = length_of(element, rest);
        let Some(length) = length else {
            return Err(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}"));
        };
        rest = &rest[length..];
        // Go takes a fraction after the seconds although the layout has none.
        if *element == "05" && !elements.contains(&".000000") && rest.starts_with('.') {
            rest = rest[1..].trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    if !rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {rest:?}"));
    }
    text.parse().map_err(|_| {
        let number = |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u32>().ok()).unwrap_or_default();
        let what = if !(1..=12).contains(&number(5..7)) {
            "month"
        } else if number(11..13) > 23 {
            "hour"
        } else if number(14..16) > 59 {
            "minute"
        } else if number(17..19) > 59 {
            "second"
        } else {
            "day"
        };
        format!("parsing time {text:?}: {what} out of range")
    })
}

/// How much of `text` an element of a layout takes.
fn length_of(element: &str, text: &str) -> Option<usize> {
    let digits = |from: usize, count: usize| text.get(from..from + count).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
    match element {
        "2006" => digits(0, 4).then_some(4),
        ".000000" => (text.starts_with('.') && digits(1, 6) && !digits(7, 1)).then_some(7),
        "Z07:00" if text.starts_with('Z') => Some(1),
        "Z07:00" => (text.starts_with(['+', '-']) && digits(1, 2) && text.get(3..4) == Some(":") && digits(4, 2)).then_some(6),
        "-" | "T" | ":" => text.starts_with(element).then_some(1),
        _ => digits(0, 2).then_some(2),
    }
}

/// `[]byte`: base64 with padding; line breaks are passed over.
pub(super) fn bytes(text: &str) -> Result<Option<String>, String> {
    let wrong = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let (mut quantum, mut padding) = (0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\r' | b'\n' => {}
            b'=' if padding == 0 && quantum >= 2 => padding = 4 - quantum - 1,
            b'=' if padding > 0 => padding -= 1,
            _ if padding > 0 || (quantum > 0 && text[..at].ends_with('=')) => return wrong(at),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => quantum = (quantum + 1) % 4,
            _ => return wrong(at),
        }
    }
    match (quantum, text.trim_end_matches(['\r', '\n']).ends_with('=')) {
        (_, true) if padding > 0 => wrong(text.len()),
        (0, _) | (_, true) => Ok(None),
        (quantum, false) => wrong(text.len() - quantum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_go_tells_them() {
        assert_eq!(time("2026-01-02T03:04:05Z"), Ok(None));
        assert_eq!(time("2026-01-02T03:04:05.25+01:00"), Ok(Some("2026-01-02T02:04:05Z".into())));
        assert_eq!(micro_time("2026-01-02T03:04:05.000001+01:00"), Ok(Some("2026-01-02T02:04:05.000001Z".into())));
        let refused = |text: &str| time(text).expect_err("it is no time");
        assert_eq!(refused("x"), "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"");
        assert!(refused("2026-01-02 03:04:05Z").ends_with("cannot parse \" 03:04:05Z\" as \"T\""));
        assert_eq!(refused("2026-13-02T03:04:05Z"), "parsing time \"2026-13-02T03:04:05Z\": month out of range");
        assert!(refused("2026-01-02T03:04:05Zx").ends_with("extra text: \"x\""));
        let wrong = micro_time("2026-01-02T03:04:05Z").expect_err("it has no fraction");
        assert!(wrong.ends_with("cannot parse \"Z\" as \".000000\""), "{wrong}");
    }

    #[test]
    fn bytes_are_told_as_go_tells_them() {
        for text in ["", "AAAA", "AA==", "AAA=", "AAAA\nAAAA"] {
            assert_eq!(bytes(text), Ok(None), "{text:?}");
        }
        for (text, at) in [("one", 0), ("Bad Value!", 3), ("AA", 0), ("AAAAA", 4), ("AA=", 3), ("AA=A", 3), ("A===", 1), ("AA==A", 4)] {
            assert_eq!(bytes(text), Err(format!("illegal base64 data at input byte {at}")), "{text:?}");
        }
    }
}
