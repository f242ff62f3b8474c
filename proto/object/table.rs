//! Tables: how a list is printed by the server (`pkg/printers`), and ages as kubectl shows them.

pub mod access;
pub mod apps;
pub mod batch;
pub mod core;
pub mod extension;
pub mod metrics;
pub mod network;
pub mod policy;
pub mod storage;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

/// One column and how to fill it.
pub struct Column {
    pub name: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    /// What the text is: `name` for the object's name.
    pub format: Cow<'static, str>,
    /// Columns above 0 are shown by `-o wide` only.
    pub priority: u8,
    pub description: String,
    pub cell: Cell,
}

type Find = dyn Fn(&Value, Timestamp) -> Value + Send + Sync;

/// What stands in a cell: a function of the object and of now.
pub enum Cell {
    Known(fn(&Value, Timestamp) -> Value),
    /// Of a custom resource: found by a path that is read at run time.
    Found(Box<Find>),
}

/// What `includeObject` asked each row to carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Cell {
    fn of(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Self::Known(cell) => cell(object, now),
            Self::Found(cell) => cell(object, now),
        }
    }
}

pub fn column(name: &'static str, kind: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name: name.into(), kind: kind.into(), format: "".into(), priority: 0, description: String::new(), cell: Cell::Known(cell) }
}

pub fn wide(name: &'static str, kind: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { priority: 1, ..column(name, kind, cell) }
}

/// The columns of a kind without a printer of its own.
pub fn name_and_age() -> Vec<Column> {
    vec![name(), age()]
}

/// The columns of kinds that show when they were made, in full.
pub(crate) fn name_and_creation() -> Vec<Column> {
    vec![name(), column("Created At", "date", |o, _| crate::meta::text(o, "creationTimestamp").into())]
}

pub(crate) fn name() -> Column {
    formatted("name", column("Name", "string", |o, _| crate::meta::name(o).into()))
}

pub(crate) fn formatted(format: &'static str, column: Column) -> Column {
    Column { format: format.into(), ..column }
}

pub(crate) fn age() -> Column {
    column("Age", "string", |o, now| since(crate::meta::text(o, "creationTimestamp"), now).into())
}

pub fn definitions(columns: &[Column]) -> Vec<Value> {
    let definition =
        |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    columns.iter().map(definition).collect()
}

pub fn row(columns: &[Column], object: Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = columns.iter().map(|c| c.cell.of(&object, now)).collect();
    match include {
        Include::None => json!({"cells": cells}),
        Include::Object => json!({"cells": cells, "object": object}),
        Include::Metadata => json!({"cells": cells, "object": partial(&object)}),
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")})
}

/// The time since an RFC 3339 instant, as `duration.HumanDuration` writes it; `<unknown>` where there is none.
pub fn since(instant: &str, now: Timestamp) -> String {
    match instant.parse::<Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |a: i64, x: &str, b: i64, y: &str| if b == 0 { format!("{a}{x}") } else { format!("{a}{x}{b}{y}") };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The selector of a workload, in the form of a query: its label selector, or the map of a ReplicationController.
pub fn selector_text(workload: &Value) -> String {
    let is_map = workload.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| s.values().all(Value::is_string));
    if is_map { labels_text(workload.pointer("/spec/selector")) } else { apps::selector_text(workload) }
}

/// The text at a pointer, or `missing`.
pub(crate) fn text_or(object: &Value, pointer: &str, missing: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => missing.into(),
    }
}

pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `true`, `false`, or what stands for an unset flag.
pub(crate) fn flag(object: &Value, pointer: &str, unset: bool) -> Value {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(unset).into()
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels_text(labels: Option<&Value>) -> String {
    let pairs: Vec<String> =
        labels.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

pub(crate) fn joined(values: impl IntoIterator<Item = String>) -> String {
    values.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_durations_as_kubectl_does() {
        let check = |seconds, text: &str| assert_eq!(human_duration(seconds), text);
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(185, "3m5s");
        check(3600, "60m");
        check(4 * 3600 + 120, "4h2m");
        check(9 * 3600, "9h");
        check(3 * 86400 + 7200, "3d2h");
        check(100 * 86400, "100d");
        check(-5, "<invalid>");
    }
}
