//! Columns of what is measured.

use serde_json::Value;

use super::{Column, column, items, name, text_or};
use crate::amounts::{Amounts, add, quantities};

pub(crate) fn node() -> Vec<Column> {
    vec![
        name(),
        column("CPU", "string", |o, _| text_or(o, "/usage/cpu", "").into()),
        column("Memory", "string", |o, _| text_or(o, "/usage/memory", "").into()),
        column("Window", "string", |o, _| text_or(o, "/window", "").into()),
    ]
}

pub(crate) fn pod() -> Vec<Column> {
    vec![
        name(),
        column("CPU", "string", |o, _| total(o, "cpu").into()),
        column("Memory", "string", |o, _| total(o, "memory").into()),
        column("Window", "string", |o, _| text_or(o, "/window", "").into()),
    ]
}

fn total(pod: &Value, resource: &str) -> String {
    let mut sum = Amounts::new();
    items(pod, "/containers").iter().for_each(|container| add(&mut sum, quantities(&container["usage"])));
    sum.get(resource).copied().unwrap_or_default().to_string()
}
