//! Label and field selectors: parsed from queries and from objects, and evaluated on labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

pub type Labels = BTreeMap<String, String>;

/// A conjunction of requirements; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct Malformed(String);

impl Selector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing: what a missing selector means for controllers.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The `labelSelector` query: `a=b,c!=d,e in (f,g),!h`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let parts = split_top_level(text);
        let requirements = parts.iter().map(|part| parse_requirement(part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { requirements, nothing: false })
    }

    /// Equality with every entry of a map, as in a Service's or ReplicationController's selector.
    pub fn from_map<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) };
        Self { requirements: map.into_iter().map(requirement).collect(), nothing: false }
    }

    /// `metav1.LabelSelector`. An unknown operator matches nothing; validation has refused it before.
    pub fn from_label_selector(selector: &LabelSelector) -> Self {
        let mut result = Self::from_map(selector.match_labels.iter().flatten());
        for expression in selector.match_expressions.iter().flatten() {
            match Self::requirement(&expression.key, &expression.operator, expression.values.as_deref().unwrap_or_default()) {
                Some(requirement) => result.requirements.push(requirement),
                None => return Self::nothing(),
            }
        }
        result
    }

    /// One expression of a node selector or label selector.
    pub fn from_expression(key: &str, operator: &str, values: &[String]) -> Self {
        match Self::requirement(key, operator, values) {
            Some(requirement) => Self { requirements: vec![requirement], nothing: false },
            None => Self::nothing(),
        }
    }

    /// Narrows the selector by one more requirement.
    pub fn require(&mut self, key: &str, operator: &str, values: &[String]) {
        match Self::requirement(key, operator, values) {
            Some(requirement) => self.requirements.push(requirement),
            None => self.nothing = true,
        }
    }

    fn requirement(key: &str, operator: &str, values: &[String]) -> Option<Requirement> {
        let number = || values.first().and_then(|v| v.parse().ok());
        let test = match operator {
            "In" => Test::In(values.to_vec()),
            "NotIn" => Test::NotIn(values.to_vec()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Absent,
            "Gt" => Test::Greater(number()?),
            "Lt" => Test::Less(number()?),
            _ => return None,
        };
        Some(Requirement { key: key.into(), test })
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    pub fn matches_optional(&self, labels: Option<&Labels>) -> bool {
        match labels {
            Some(labels) => self.matches(labels),
            None => !self.nothing && self.requirements.iter().all(|r| r.matches(None)),
        }
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| !values.iter().any(|w| w == v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|v| v > *than),
            Test::Less(than) => number().is_some_and(|v| v < *than),
        }
    }
}

/// Splits at commas that are not inside parentheses.
fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn parse_requirement(text: &str) -> Result<Requirement, Malformed> {
    let malformed = || Malformed(format!("found '{text}'"));
    let checked = |key: &str, test: Test| {
        let key = key.trim();
        crate::names::qualified_name(key).map_err(|why| Malformed(format!("<nil>: Invalid value: \"{key}\": {why}")))?;
        Ok(Requirement { key: key.into(), test })
    };
    if let Some(list) = text.strip_suffix(')') {
        let (head, values) = list.split_once('(').ok_or_else(malformed)?;
        let values = values.split(',').map(|v| v.trim().to_string()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => checked(key, Test::In(values)),
            (Some(key), Some("notin"), None) => checked(key, Test::NotIn(values)),
            _ => Err(malformed()),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return checked(key, Test::NotIn(vec![value.trim().into()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        if value.trim_start().starts_with('=') {
            return Err(Malformed("found '=', expected: identifier".into()));
        }
        return checked(key, Test::In(vec![value.trim().into()]));
    }
    if let Some((key, value)) = text.split_once('>') {
        return checked(key, Test::Greater(value.trim().parse().map_err(|_| malformed())?));
    }
    if let Some((key, value)) = text.split_once('<') {
        return checked(key, Test::Less(value.trim().parse().map_err(|_| malformed())?));
    }
    match text.strip_prefix('!') {
        Some(key) => checked(key, Test::Absent),
        None => checked(text, Test::Exists),
    }
}

/// A `fieldSelector` query: equalities on dotted paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector(Vec<(String, String, bool)>);

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let term = if let Some((field, value)) = part.split_once("!=") {
                (field.into(), value.into(), false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field.into(), value.into(), true)
            } else {
                return Err(Malformed(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(term);
        }
        Ok(Self(terms))
    }

    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(field, ..)| field.as_str())
    }

    /// The one name that can match, when the selector asks for it.
    pub fn name(&self) -> Option<&str> {
        self.value("metadata.name")
    }

    /// What a field must be.
    pub fn value(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|(own, _, equal)| *equal && own == field).map(|(_, value, _)| value.as_str())
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, wanted, equal)| (field_text(object, field) == *wanted) == *equal)
    }
}

fn field_text(object: &Value, path: &str) -> String {
    // A Job counts under another name than it is selected by.
    let path = if path == "status.successful" { "status.succeeded" } else { path };
    if path == "source" {
        // An Event's, by either of its names.
        let component = object.pointer("/source/component").and_then(Value::as_str).filter(|name| !name.is_empty());
        return component.unwrap_or_else(|| object["reportingComponent"].as_str().unwrap_or_default()).into();
    }
    let found = path.split('.').try_fold(object, |value, part| value.get(part));
    match found {
        // What Go leaves out because it is false or zero.
        None if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        None if matches!(path, "status.replicas" | "status.succeeded") => "0".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_kubectl_expects() {
        let labels: Labels = [("app", "web"), ("tier", "3")].map(|(k, v)| (k.to_string(), v.to_string())).into();
        let check = |text: &str, expected: bool| assert_eq!(Selector::parse(text).map(|s| s.matches(&labels)), Ok(expected), "{text}");
        check("", true);
        check("app=web", true);
        check("app==web,tier!=4", true);
        check("app in (web, db),!gone", true);
        check("app notin (web)", false);
        check("missing", false);
        check("missing!=x", true);
        check("tier>2", true);
        assert!(Selector::parse("app in web").is_err());
        assert!(Selector::parse("-bad=1").is_err());
    }

    #[test]
    fn selects_by_field() {
        let pod = serde_json::json!({"metadata": {"name": "a"}, "spec": {}});
        let check = |text: &str, expected: bool| assert_eq!(FieldSelector::parse(text).map(|s| s.matches(&pod)), Ok(expected), "{text}");
        check("metadata.name=a", true);
        check("spec.nodeName=", true);
        check("metadata.name!=a", false);
    }
}
