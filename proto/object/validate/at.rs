//! A value together with the path to it, and the rules that many kinds share.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: Path,
}

impl<'a> At<'a> {
    pub(super) fn new(value: &'a Value, path: &Path) -> Self {
        Self { value, path: path.clone() }
    }

    /// The value of a field, if it says something.
    pub(super) fn given(&self, field: &str) -> Option<Self> {
        let value = self.value.get(field).filter(|value| !value.is_null())?;
        Some(At { value, path: self.path.child(field) })
    }

    pub(super) fn each(&self, field: &str) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path.child(field);
        super::list(self.value, field).iter().enumerate().map(move |(index, value)| At { value, path: path.index(index) })
    }

    pub(super) fn entries(&self, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.value.get(field).and_then(Value::as_object).into_iter().flatten()
    }

    pub(super) fn child(&self, field: &str) -> Path {
        self.path.child(field)
    }

    pub(super) fn str(&self, field: &str) -> &'a str {
        super::text(self.value, field)
    }

    pub(super) fn int(&self, field: &str) -> i64 {
        self.value.get(field).and_then(Value::as_i64).unwrap_or_default()
    }

    pub(super) fn flag(&self, field: &str) -> bool {
        self.value.get(field) == Some(&Value::Bool(true))
    }

    pub(super) fn count(&self, field: &str) -> usize {
        match self.value.get(field) {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    fn says(&self, field: &str) -> bool {
        !self.str(field).is_empty() || self.count(field) > 0
    }

    /// These must not be empty.
    pub(super) fn require(&self, fields: &[&str], errors: &mut Errors) {
        for field in fields.iter().filter(|field| !self.says(field)) {
            errors.required(&self.child(field), "");
        }
    }

    /// Must not be empty, and follow a rule.
    pub(super) fn require_named(&self, field: &str, rule: fn(&str) -> names::Verdict, errors: &mut Errors) {
        if self.says(field) { self.named(field, rule, errors) } else { errors.required(&self.child(field), "") }
    }

    /// Follows a rule where it is not empty.
    pub(super) fn named(&self, field: &str, rule: fn(&str) -> names::Verdict, errors: &mut Errors) {
        let text = self.str(field);
        if !text.is_empty() {
            errors.judge(&self.child(field), text, rule(text));
        }
    }

    /// One of a closed set, where it is given.
    pub(super) fn supported(&self, field: &str, supported: &[&str], errors: &mut Errors) {
        if let Some(found) = self.given(field).and_then(|at| at.value.as_str()).filter(|found| !supported.contains(found)) {
            errors.unsupported(&self.child(field), found, supported);
        }
    }

    /// One of a closed set; it must be given.
    pub(super) fn one_of(&self, field: &str, supported: &[&str], errors: &mut Errors) {
        super::one_of(self.value, field, supported, &self.path, errors);
    }

    pub(super) fn in_range(&self, field: &str, range: RangeInclusive<i64>, errors: &mut Errors) {
        let why = format!("must be between {} and {}, inclusive", range.start(), range.end());
        self.number(field, range, &why, errors);
    }

    pub(super) fn number(&self, field: &str, range: RangeInclusive<i64>, why: &str, errors: &mut Errors) {
        if let Some(number) = self.value.get(field).and_then(Value::as_i64).filter(|number| !range.contains(number)) {
            errors.invalid(&self.child(field), number, why);
        }
    }

    pub(super) fn non_negative(&self, fields: &[&str], errors: &mut Errors) {
        for field in fields {
            super::non_negative(self.value, field, &self.path, errors);
        }
    }

    /// A user's or group's id.
    pub(super) fn id(&self, fields: &[&str], errors: &mut Errors) {
        for field in fields {
            self.in_range(field, 0..=i64::from(i32::MAX), errors);
        }
    }

    pub(super) fn file_mode(&self, field: &str, errors: &mut Errors) {
        self.number(field, 0..=0o777, "must be a number between 0 and 0777 (octal), both inclusive", errors);
    }

    /// A port's number, or its name.
    pub(super) fn port(&self, field: &str, errors: &mut Errors) {
        match self.value.get(field) {
            Some(Value::String(name)) => errors.judge(&self.child(field), name.as_str(), names::port_name(name)),
            _ if (1..=65535).contains(&self.int(field)) => {}
            _ => errors.invalid(&self.child(field), self.int(field), "must be between 1 and 65535, inclusive"),
        }
    }

    /// An amount that is not below zero.
    pub(super) fn amount(&self, errors: &mut Errors) {
        if self.value.as_str().and_then(|text| text.parse::<Quantity>().ok()).is_some_and(|amount| amount < Quantity::ZERO) {
            errors.invalid(&self.path, self.value.clone(), "must be greater than or equal to 0");
        }
    }
}

/// A path in a volume, which must not lead out of it.
pub(super) fn inner_path(text: &str, path: &Path, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, errors);
}

/// The same, and its name is not one that the kubelet uses itself.
pub(super) fn free_inner_path(text: &str, path: &Path, errors: &mut Errors) {
    inner_path(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

pub(super) fn no_backsteps(text: &str, path: &Path, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// An address in its usual form.
pub(super) fn ip(text: &str, path: &Path, errors: &mut Errors) {
    match text.parse::<std::net::IpAddr>() {
        Err(_) => errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Ok(ip) if ip.to_string() != text => errors.invalid(path, text, &format!("must be in canonical form (\"{ip}\")")),
        Ok(_) => {}
    }
}
