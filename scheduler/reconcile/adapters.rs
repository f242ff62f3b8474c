//! What adapters are asked for autoscalers beside what nodes measure, and what they have answered
//! (`custom.metrics.k8s.io`, `external.metrics.k8s.io`). Whoever leads asks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use skein_object::quantity::Quantity;

/// An answer is good for so long; older ones are asked for again before an autoscaler decides.
const FRESH_MS: i64 = 10_000;
/// What nobody has asked for this long is forgotten.
const KEPT_MS: i64 = 120_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Custom,
    External,
}

/// One question: a path below the group's version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub group: Group,
    pub path: String,
}

/// Values in thousandths, each with the name of what it is of.
pub(crate) type Values = Vec<(String, i128)>;

#[derive(Clone, Debug)]
pub struct Answer {
    pub at_ms: i64,
    pub values: Result<Values, String>,
}

/// The newest answers. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Adapters(BTreeMap<Question, Arc<Answer>>);

// === impl Group ===

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Self::Custom => "custom.metrics.k8s.io",
            Self::External => "external.metrics.k8s.io",
        }
    }

    /// The newest that anybody serves comes first.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Custom => &["v1beta2", "v1beta1"],
            Self::External => &["v1beta1"],
        }
    }
}

// === impl Adapters ===

impl Adapters {
    pub fn hear(&mut self, question: Question, answer: Answer) {
        let now = answer.at_ms;
        self.0.insert(question, Arc::new(answer));
        self.0.retain(|_, known| now - known.at_ms < KEPT_MS);
    }

    pub(crate) fn fresh(&self, question: &Question, now_ms: i64) -> Option<&Answer> {
        self.0.get(question).map(|answer| &**answer).filter(|answer| now_ms - answer.at_ms < FRESH_MS)
    }
}

/// The values of a `MetricValueList` or an `ExternalMetricValueList`.
pub fn values_of(list: &Value) -> Result<Values, String> {
    let items = list["items"].as_array().ok_or("the answer is no list of metrics")?;
    let value = |item: &Value| {
        let name = item["describedObject"]["name"].as_str().unwrap_or_default().to_string();
        let text = item["value"].as_str().map(String::from).unwrap_or_else(|| item["value"].to_string());
        text.parse::<Quantity>().map(|quantity| (name, quantity.milli())).map_err(|why| format!("value {text:?}: {why}"))
    };
    items.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_of_both_groups_are_read() {
        let custom = json!({"items": [{"describedObject": {"kind": "Pod", "name": "p"}, "value": "1500m"}]});
        assert_eq!(values_of(&custom), Ok(vec![("p".into(), 1500)]));
        let external = json!({"items": [{"metricName": "m", "value": "2"}, {"metricName": "m", "value": "1k"}]});
        assert_eq!(values_of(&external), Ok(vec![(String::new(), 2000), (String::new(), 1_000_000)]));
        assert!(values_of(&json!({"kind": "Status"})).is_err());
    }

    #[test]
    fn old_answers_are_asked_for_again() {
        let question = Question { group: Group::External, path: "namespaces/n/m".into() };
        let mut adapters = Adapters::default();
        adapters.hear(question.clone(), Answer { at_ms: 1000, values: Ok(Vec::new()) });
        assert!(adapters.fresh(&question, 5000).is_some() && adapters.fresh(&question, 11_000).is_none());
    }
}
