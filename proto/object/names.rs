//! The rules for names, labels and annotations (RFC 1035, RFC 1123, apimachinery's `validation` package).

use std::fmt;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1123_SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_OF_ANY_CASE: &str = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'Example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const HTTP_HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
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

/// What is wrong with a value, in Kubernetes' words; at times in several sentences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults(Vec<String>);

pub type Verdict = Result<(), Faults>;

impl Faults {
    fn verdict(self) -> Verdict {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    fn add_if(mut self, is_wrong: bool, why: impl Into<String>) -> Self {
        if is_wrong {
            self.0.push(why.into());
        }
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl From<String> for Faults {
    fn from(why: String) -> Self {
        Self(vec![why])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

pub fn check_name(rule: NameRule, name: &str) -> Verdict {
    match rule {
        NameRule::Subdomain => subdomain(name),
        NameRule::Label => dns1123_label(name),
        NameRule::Address if name.parse::<std::net::IpAddr>().is_ok() => Ok(()),
        NameRule::Address => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string().into()),
        NameRule::Any => Ok(()),
        NameRule::PathSegment => path_segment(name),
    }
}

/// `validation/path.IsValidPathSegmentName`.
pub fn path_segment(text: &str) -> Verdict {
    match text {
        "." | ".." => Err(format!("may not be '{text}'").into()),
        _ => {
            let parts = ["/", "%"]
                .iter()
                .fold(Faults::default(), |faults, part| faults.add_if(text.contains(part), format!("may not contain '{part}'")));
            parts.verdict()
        }
    }
}

pub fn dns1123_label(text: &str) -> Verdict {
    at_most(text, 63).add_if(!is_label(text), DNS1123_LABEL).verdict()
}

pub fn dns1035_label(text: &str) -> Verdict {
    let starts_right = text.starts_with(|c: char| c.is_ascii_lowercase());
    at_most(text, 63).add_if(!starts_right || !is_label(text), DNS1035_LABEL).verdict()
}

pub fn subdomain(text: &str) -> Verdict {
    at_most(text, 253).add_if(!text.split('.').all(is_label), DNS1123_SUBDOMAIN).verdict()
}

/// A host name that stands for all below a domain.
pub fn wildcard(text: &str) -> Verdict {
    let is_right = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    at_most(text, 253).add_if(!is_right, WILDCARD).verdict()
}

/// A domain, which drivers may write with capitals.
pub fn subdomain_of_any_case(text: &str) -> Verdict {
    at_most(text, 253).add_if(!text.to_lowercase().split('.').all(is_label), SUBDOMAIN_OF_ANY_CASE).verdict()
}

/// As names of a Pod's DNS search path may be.
pub fn subdomain_with_underscores(text: &str) -> Verdict {
    let is_right = text.split('.').all(|part| is_label(&part.replace('_', "a")));
    at_most(text, 253).add_if(!is_right, DNS1123_SUBDOMAIN_UNDERSCORE).verdict()
}

/// A label or annotation key: an optional DNS prefix, a slash and a name of at most 63 bytes.
pub fn qualified_name(text: &str) -> Verdict {
    let mut faults = Faults::default();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return Err(format!(
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.' with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName'): {QUALIFIED_NAME}"
            )
            .into());
        }
        Some(("", name)) => {
            faults = faults.add_if(true, "prefix part must be non-empty");
            name
        }
        Some((prefix, name)) => {
            let wrong = subdomain(prefix).err().unwrap_or_default();
            faults.0.extend(wrong.iter().map(|why| format!("prefix part {why}")));
            name
        }
    };
    faults
        .add_if(name.is_empty(), "name part must be non-empty")
        .add_if(name.len() > 63, "name part must be no more than 63 bytes")
        .add_if(!is_token(name), QUALIFIED_NAME)
        .verdict()
}

pub fn label_value(text: &str) -> Verdict {
    at_most(text, 63).add_if(!text.is_empty() && !is_token(text), LABEL_VALUE).verdict()
}

/// A key of a ConfigMap or Secret, which becomes a file's name.
pub fn config_key(text: &str) -> Verdict {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let climbs = text.starts_with("..") && text != "..";
    at_most(text, 253)
        .add_if(text.is_empty() || !text.chars().all(fine), CONFIG_KEY)
        .add_if(text == ".", "must not be '.'")
        .add_if(text == "..", "must not be '..'")
        .add_if(climbs, "must not start with '..'")
        .verdict()
}

/// A port's name (RFC 6335).
pub fn port_name(text: &str) -> Verdict {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    Faults::default()
        .add_if(text.len() > 15, "must be no more than 15 characters")
        .add_if(text.is_empty() || !text.chars().all(fine), "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
        .add_if(!text.contains(|c: char| c.is_ascii_lowercase()), "must contain at least one letter (a-z)")
        .add_if(text.contains("--"), "must not contain consecutive hyphens")
        .add_if(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen")
        .verdict()
}

/// A variable's name, since KEP-4369: nearly anything.
pub fn variable(text: &str) -> Verdict {
    let is_printable = text.chars().all(|c| (c.is_ascii_graphic() || c == ' ') && c != '=');
    Faults::default()
        .add_if(text.is_empty(), "environment variable name must be non-empty")
        .add_if(!is_printable, "a valid environment variable name must consist only of printable ASCII characters other than '='")
        .verdict()
}

pub fn http_header(text: &str) -> Verdict {
    let is_right = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    Faults::default().add_if(!is_right, HTTP_HEADER).verdict()
}

fn at_most(text: &str, bytes_max: usize) -> Faults {
    Faults::default().add_if(text.len() > bytes_max, format!("must be no more than {bytes_max} bytes"))
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
