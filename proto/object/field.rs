//! Validation errors: a path to a field and what is wrong there, in the words of apimachinery's `field` package.

use std::fmt;

use serde_json::Value;

use crate::names::{Faults, Verdict};
use crate::status::Cause;

/// The path to a field, as in `spec.containers[0].image`.
#[derive(Clone, Debug, Default)]
pub struct Path(String);

impl Path {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.into()) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Required(String),
    Invalid(Value, String),
    /// Of another type than it must be.
    Mistyped(Value, String),
    /// Of a value that is too large to be shown.
    Omitted(String),
    Unsupported(Value, Vec<String>),
    Forbidden(String),
    Duplicate(Value),
    NotFound(Value),
    /// Not found, and where it was looked for.
    Unknown(Value, String),
    TooLong(usize),
    TooMany {
        found: usize,
        most: usize,
    },
}

/// All that is wrong with one object.
#[derive(Clone, Debug, Default)]
pub struct Errors(Vec<(String, Problem)>);

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what was found after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.0.truncate(count);
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub fn add(&mut self, path: &Path, problem: Problem) {
        self.0.push((path.0.clone(), problem));
    }

    pub fn required(&mut self, path: &Path, detail: &str) {
        self.add(path, Problem::Required(detail.into()));
    }

    pub fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.add(path, Problem::Invalid(value.into(), detail.into()));
    }

    pub fn mistyped(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.add(path, Problem::Mistyped(value.into(), detail.into()));
    }

    /// Reports all that a rule for names found.
    pub fn judge(&mut self, path: &Path, value: impl Into<Value>, verdict: Verdict) {
        let value = value.into();
        for why in verdict.err().iter().flat_map(Faults::iter) {
            self.invalid(path, value.clone(), why);
        }
    }

    /// Values are shown in the order in which they are given: Kubernetes sorts some lists and not others.
    pub fn unsupported(&mut self, path: &Path, value: impl Into<Value>, supported: &[&str]) {
        let supported = supported.iter().map(|s| (*s).to_string()).collect();
        self.add(path, Problem::Unsupported(value.into(), supported));
    }

    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.add(path, Problem::Forbidden(detail.into()));
    }

    pub fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(path, Problem::Duplicate(value.into()));
    }

    pub fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(path, Problem::NotFound(value.into()));
    }

    pub fn causes(&self) -> Vec<Cause> {
        let cause = |(field, problem): &(String, Problem)| Cause {
            reason: problem.reason().into(),
            message: problem.to_string(),
            field: field.clone(),
        };
        self.0.iter().map(cause).collect()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.0.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
        lines.dedup();
        match lines.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl Problem {
    fn reason(&self) -> &'static str {
        match self {
            Self::Required(_) => "FieldValueRequired",
            Self::Invalid(..) | Self::Omitted(_) => "FieldValueInvalid",
            Self::Mistyped(..) => "FieldValueTypeInvalid",
            Self::Unsupported(..) => "FieldValueNotSupported",
            Self::Forbidden(_) => "FieldValueForbidden",
            Self::Duplicate(_) => "FieldValueDuplicate",
            Self::NotFound(_) | Self::Unknown(..) => "FieldValueNotFound",
            Self::TooLong(_) => "FieldValueTooLong",
            Self::TooMany { .. } => "FieldValueTooMany",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required(detail) if detail.is_empty() => f.write_str("Required value"),
            Self::Required(detail) => write!(f, "Required value: {detail}"),
            Self::Invalid(value, detail) if detail.is_empty() => write!(f, "Invalid value: {value}"),
            Self::Invalid(value, detail) | Self::Mistyped(value, detail) => write!(f, "Invalid value: {value}: {detail}"),
            Self::Omitted(detail) => write!(f, "Invalid value: {detail}"),
            Self::Unsupported(value, supported) => {
                let quoted: Vec<_> = supported.iter().map(|s| format!("\"{s}\"")).collect();
                write!(f, "Unsupported value: {value}: supported values: {}", quoted.join(", "))
            }
            Self::Forbidden(detail) if detail.is_empty() => f.write_str("Forbidden"),
            Self::Forbidden(detail) => write!(f, "Forbidden: {detail}"),
            Self::Duplicate(value) => write!(f, "Duplicate value: {value}"),
            Self::NotFound(value) => write!(f, "Not found: {value}"),
            Self::Unknown(value, detail) => write!(f, "Not found: {value}: {detail}"),
            Self::TooMany { found, most } => write!(f, "Too many: {found}: must have at most {most} items"),
            Self::TooLong(bytes_max) => write!(f, "Too long: may not be more than {bytes_max} bytes"),
        }
    }
}
