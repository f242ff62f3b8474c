//! Prometheus' text format (exposition format 0.0.4).

use std::fmt::{Display, Write};

/// A page of metrics, family by family.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
    family: &'static str,
}

// === impl Page ===

impl Page {
    /// Begins a family, whose samples follow.
    pub(crate) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// `at_ms` is when it was measured, where that is told.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display, at_ms: Option<i64>) {
        self.text.push_str(self.family);
        for (index, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = write!(self.text, " {value}");
        if let Some(at_ms) = at_ms {
            let _ = write!(self.text, " {at_ms}");
        }
        self.text.push('\n');
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_look_as_prometheus_reads_them() {
        let mut page = Page::default();
        page.family("a_total", "counter", "What it is");
        page.sample(&[("b", "c\"d"), ("e", "")], 1.5, Some(7));
        page.sample(&[], 2, None);
        assert_eq!(page.into_text(), "# HELP a_total What it is\n# TYPE a_total counter\na_total{b=\"c\\\"d\",e=\"\"} 1.5 7\na_total 2\n");
    }
}
