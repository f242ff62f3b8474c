//! The rules for names, labels and annotations (RFC 1035, RFC 1123, apimachinery's `validation` package).

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// What a resource demands of its objects' names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 bytes: most resources.
    Subdomain,
    /// RFC 1123 label, at most 63 bytes: Namespaces, Services, StatefulSets.
    Label,
    /// An address of either family in its usual form: IPAddresses.
    Address,
    /// Anything: Events, budgets.
    Any,
    /// Whatever can stand in a path: roles, signing requests.
    PathSegment,
}

/// `Err` carries Kubernetes' explanation.
pub type Verdict = Result<(), String>;

pub fn check_name(rule: NameRule, name: &str) -> Verdict {
    match rule {
        NameRule::Subdomain => subdomain(name),
        NameRule::Label => dns1123_label(name),
        NameRule::Address if name.parse::<std::net::IpAddr>().is_ok() => Ok(()),
        NameRule::Address => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()),
        NameRule::Any => Ok(()),
        NameRule::PathSegment => path_segment(name),
    }
}

/// `validation/path.IsValidPathSegmentName`.
fn path_segment(text: &str) -> Verdict {
    match text {
        "." | ".." => Err(format!("may not be '{text}'")),
        _ => match ["/", "%"].iter().find(|part| text.contains(**part)) {
            Some(part) => Err(format!("may not contain '{part}'")),
            None => Ok(()),
        },
    }
}

pub fn dns1123_label(text: &str) -> Verdict {
    at_most(text, 63)?;
    if is_label(text) { Ok(()) } else { Err(DNS1123_LABEL.into()) }
}

pub fn dns1035_label(text: &str) -> Verdict {
    at_most(text, 63)?;
    let starts_right = text.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_right && is_label(text) { Ok(()) } else { Err(DNS1035_LABEL.into()) }
}

pub fn subdomain(text: &str) -> Verdict {
    at_most(text, 253)?;
    if text.split('.').all(is_label) { Ok(()) } else { Err(DNS1123_SUBDOMAIN.into()) }
}

/// A label or annotation key: an optional DNS prefix, a slash and a name of at most 63 bytes.
pub fn qualified_name(text: &str) -> Verdict {
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return Err(format!(
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.' with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName'): {QUALIFIED_NAME}"
            ));
        }
        Some(("", _)) => return Err("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            subdomain(prefix).map_err(|why| format!("prefix part {why}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 bytes".into());
    }
    if is_token(name) { Ok(()) } else { Err(QUALIFIED_NAME.into()) }
}

pub fn label_value(text: &str) -> Verdict {
    at_most(text, 63)?;
    if text.is_empty() || is_token(text) { Ok(()) } else { Err(LABEL_VALUE.into()) }
}

/// A key of a ConfigMap or Secret, which becomes a file's name.
pub fn config_key(text: &str) -> Verdict {
    at_most(text, 253)?;
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "." => Err("must not be '.'".into()),
        ".." => Err("must not be '..'".into()),
        _ if !text.is_empty() && text.chars().all(fine) => Ok(()),
        _ => Err(CONFIG_KEY.into()),
    }
}

fn at_most(text: &str, bytes_max: usize) -> Verdict {
    if text.len() > bytes_max { Err(format!("must be no more than {bytes_max} bytes")) } else { Ok(()) }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_token(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || matches!(c, '-' | '_' | '.');
    text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_rules_for_names() {
        let check = |rule, name: &str, fine| assert_eq!(check_name(rule, name).is_ok(), fine, "{name}");
        check(NameRule::Subdomain, "a.b-c.d", true);
        check(NameRule::Subdomain, "A", false);
        check(NameRule::Subdomain, "a..b", false);
        check(NameRule::Label, "1a", true);
        check(NameRule::Label, "a.b", false);
        check(NameRule::Subdomain, &"a".repeat(254), false);
    }

    #[test]
    fn follows_the_rules_for_labels() {
        assert!(qualified_name("app.kubernetes.io/name").is_ok());
        assert!(qualified_name("/name").is_err());
        assert!(qualified_name("a/b/c").is_err());
        assert!(label_value("").is_ok());
        assert!(label_value("-a").is_err());
    }
}
