//! `additionalPrinterColumns`: cells found by JSONPath, as far as Kubernetes allows it there.

use serde_json::Value;

use crate::table::{Cell, Column, since};

/// The steps of a path: `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Elements whose field has this value.
    Where(String, Value),
}

pub(super) fn column(definition: &Value) -> Column {
    let text = |field: &str| definition.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
    let kind = text("type");
    let priority = definition.get("priority").and_then(Value::as_u64).and_then(|p| u8::try_from(p).ok()).unwrap_or(0);
    let path = Path::parse(&text("jsonPath"));
    let is_date = kind == "date";
    Column {
        format: text("format").into(),
        name: text("name").into(),
        kind: kind.into(),
        priority,
        description: text("description"),
        cell: Cell::Found(Box::new(move |object, now| match path.find(object).first() {
            Some(Value::String(at)) if is_date => since(at, now).into(),
            Some(found @ (Value::Array(_) | Value::Object(_))) => found.to_string().into(),
            Some(found) => (*found).clone(),
            None => Value::Null,
        })),
    }
}

// === impl Path ===

impl Path {
    /// Reads a path; what cannot be read leads nowhere.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text.trim_start_matches('$');
        while !rest.is_empty() {
            let (step, after) = match rest.strip_prefix('[') {
                Some(inner) => {
                    let Some(end) = closing(inner) else { return Self(vec![Step::Field(text.into())]) };
                    (bracket(&inner[..end]), &inner[end + 1..])
                }
                None => {
                    let inner = rest.trim_start_matches('.');
                    let end = name_end(inner);
                    (Some(Step::Field(inner[..end].replace("\\.", "."))), &inner[end..])
                }
            };
            let Some(step) = step else { return Self(vec![Step::Field(text.into())]) };
            if step != Step::Field(String::new()) {
                steps.push(step);
            } else if after == rest {
                break;
            }
            rest = after;
        }
        Self(steps)
    }

    pub(crate) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![object], |found, step| found.into_iter().flat_map(|value| step.of(value)).collect())
    }
}

impl Step {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let elements = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let at =
                    if *index < 0 { elements().len().checked_sub(index.unsigned_abs() as usize) } else { usize::try_from(*index).ok() };
                at.and_then(|at| elements().get(at)).into_iter().collect()
            }
            Self::All => elements().iter().chain(value.as_object().into_iter().flat_map(serde_json::Map::values)).collect(),
            Self::Where(field, wanted) => elements().iter().filter(|e| e.get(field) == Some(wanted)).collect(),
        }
    }
}

/// Where a field's name ends: at a dot or bracket that is not escaped.
fn name_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return at,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The bracket that closes; those inside quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| match (quote, c) {
        (Some(open), c) if c == open => {
            quote = None;
            None
        }
        (None, '"' | '\'') => {
            quote = Some(c);
            None
        }
        (None, ']') => Some(at),
        _ => None,
    })
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        let (field, wanted) = condition.split_once("==")?;
        let wanted = wanted.trim();
        let unquoted = wanted.trim_matches(['"', '\'']);
        let value = if unquoted == wanted { serde_json::from_str(wanted).ok()? } else { Value::from(unquoted) };
        return Some(Step::Where(field.trim().trim_start_matches("@.").into(), value));
    }
    Some(Step::Field(inner.trim_matches(['"', '\'']).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_what_kubectl_finds() {
        let object = json!({"a": {"b.c": 1, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}});
        let check = |path: &str, expected: &[Value]| {
            assert_eq!(Path::parse(path).find(&object), expected.iter().collect::<Vec<_>>(), "{path}");
        };
        check(".a.l[0].v", &[json!(1)]);
        check(".a.l[*].v", &[json!(1), json!(2)]);
        check(".a.l[?(@.n==\"y\")].v", &[json!(2)]);
        check(".a.b\\.c", &[json!(1)]);
        check("$.a['b.c']", &[json!(1)]);
        check(".x.y", &[]);
        check(".a.l[-1].n", &[json!("y")]);
        check(".a.l[", &[]);
    }
}
