//! How fast an autoscaler may follow its metrics: stabilisation windows and rates (KEP-853).

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a lower number must have been asked for (`--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW_SECONDS: i64 = 300;

/// Nothing older is ever looked at: the longest window and the longest policy period are an hour and half of one.
const KEPT_SECONDS: i64 = 3600;

/// What an autoscaler has asked for and done lately. It belongs to the leader: a new one begins with what it finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    /// When, and how many replicas the metrics asked for.
    recommendations: Vec<(i64, i64)>,
    /// When, and by how many the replicas were changed.
    changes: Vec<(i64, i64)>,
}

pub(super) struct Asked {
    pub(super) current: i64,
    pub(super) proposed: i64,
    pub(super) least: i64,
    pub(super) most: i64,
    pub(super) now: i64,
}

#[derive(Debug, PartialEq)]
pub(super) struct Decided {
    pub(super) replicas: i64,
    /// Reason and message of AbleToScale.
    pub(super) able: (&'static str, &'static str),
    /// ScalingLimited, with reason and message.
    pub(super) limited: (bool, &'static str, &'static str),
}

impl History {
    /// A history that is new starts from the replicas that there are.
    pub(super) fn begin(&mut self, now: i64, replicas: i64) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    pub(super) fn rescaled(&mut self, now: i64, change: i64) {
        self.changes.push((now, change));
    }

    fn forget_old(&mut self, now: i64) {
        self.recommendations.retain(|(time, _)| now - time <= KEPT_SECONDS);
        self.changes.retain(|(time, _)| now - time <= KEPT_SECONDS);
    }

    /// How many were added (or, below zero, taken) in the last seconds.
    fn changed_within(&self, now: i64, seconds: i64) -> i64 {
        self.changes.iter().filter(|(time, _)| now - time < seconds).map(|(_, change)| change).sum()
    }
}

/// The number that is to be, and what stood in the way of the one that was proposed.
pub(super) fn decide(behavior: Option<&HorizontalPodAutoscalerBehavior>, history: &mut History, asked: &Asked) -> Decided {
    let rules = |which: fn(&HorizontalPodAutoscalerBehavior) -> Option<&HPAScalingRules>| behavior.and_then(which);
    let (up, down) = (rules(|b| b.scale_up.as_ref()), rules(|b| b.scale_down.as_ref()));
    let window = |rules: Option<&HPAScalingRules>, default| rules.and_then(|r| r.stabilization_window_seconds).map_or(default, i64::from);
    let stable = stabilize(history, asked, window(up, 0), window(down, DOWN_WINDOW_SECONDS));
    let able = if stable == asked.proposed {
        ("ReadyForNewScale", "recommended size matches current size")
    } else if asked.proposed >= asked.current {
        ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
    } else {
        ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
    };
    let within = (false, "DesiredWithinRange", "the desired count is within the acceptable range");
    let (replicas, limited) = if stable > asked.current || stable > asked.most {
        let limit = limit_up(up, history, asked);
        let too_fast = (true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
        let too_many = (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count");
        let (bound, why) = if asked.most > limit { (limit, too_fast) } else { (asked.most, too_many) };
        if stable > bound { (bound, why) } else { (stable, within) }
    } else {
        let limit = limit_down(down, history, asked);
        let too_fast = (true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
        let too_few = (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count");
        let (bound, why) = if asked.least < limit { (limit, too_fast) } else { (asked.least, too_few) };
        if stable < bound { (bound, why) } else { (stable, within) }
    };
    Decided { replicas, able, limited }
}

/// No more than the least that was asked for in the window up, and no less than the most in the window down.
fn stabilize(history: &mut History, asked: &Asked, up_seconds: i64, down_seconds: i64) -> i64 {
    let within = |seconds: i64| {
        let recent = history.recommendations.iter().filter(move |(time, _)| asked.now - time < seconds);
        recent.map(|(_, replicas)| *replicas)
    };
    let up = within(up_seconds).fold(asked.proposed, i64::min);
    let down = within(down_seconds).fold(asked.proposed, i64::max);
    history.recommendations.push((asked.now, asked.proposed));
    history.forget_old(asked.now);
    asked.current.max(up).min(down)
}

fn limit_up(rules: Option<&HPAScalingRules>, history: &History, asked: &Asked) -> i64 {
    // Without rules of its own: by four Pods or to twice as many in 15 s, whichever is more.
    let Some(rules) = rules else { return (asked.current * 2).max(asked.current + 4) };
    let proposed = |start: i64, kind: &str, value: i64| if kind == "Pods" { start + value } else { (start * (100 + value) + 99) / 100 };
    limit(rules, history, asked, proposed, false).max(asked.current)
}

fn limit_down(rules: Option<&HPAScalingRules>, history: &History, asked: &Asked) -> i64 {
    let Some(rules) = rules else { return asked.least };
    let proposed = |start: i64, kind: &str, value: i64| if kind == "Pods" { start - value } else { start * (100 - value) / 100 };
    limit(rules, history, asked, proposed, true).min(asked.current)
}

fn limit(rules: &HPAScalingRules, history: &History, asked: &Asked, proposed: fn(i64, &str, i64) -> i64, is_down: bool) -> i64 {
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return asked.current;
    }
    let limits = rules.policies.iter().flatten().map(|policy| {
        let start = asked.current - history.changed_within(asked.now, policy.period_seconds.into());
        proposed(start, &policy.type_, policy.value.into())
    });
    // The greatest change is the largest number on the way up and the smallest on the way down.
    let wants_largest = (select == "Max") != is_down;
    let chosen = if wants_largest { limits.max() } else { limits.min() };
    chosen.unwrap_or(if is_down { asked.least } else { asked.most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(now: i64, current: i64, proposed: i64) -> Asked {
        Asked { current, proposed, least: 1, most: 20, now }
    }

    #[test]
    fn goes_up_at_once_and_down_after_five_minutes() {
        let mut history = History::default();
        history.begin(0, 2);
        let decided = decide(None, &mut history, &asked(0, 2, 5));
        assert_eq!((decided.replicas, decided.able.0, decided.limited.1), (5, "ReadyForNewScale", "DesiredWithinRange"));
        assert_eq!(decide(None, &mut history, &asked(15, 2, 15)).limited.1, "ScaleUpLimit");
        let decided = decide(None, &mut history, &asked(30, 6, 1));
        assert_eq!((decided.replicas, decided.able.0), (6, "ScaleDownStabilized"));
        assert_eq!(decide(None, &mut history, &asked(400, 6, 1)).replicas, 1);
        assert_eq!(
            decide(None, &mut history, &asked(401, 15, 30)),
            Decided {
                replicas: 20,
                able: ("ReadyForNewScale", "recommended size matches current size"),
                limited: (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"),
            }
        );
    }

    #[test]
    fn keeps_to_the_rates_that_are_stated() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]}}))
        .expect("a behavior");
        let mut history = History::default();
        assert_eq!(decide(Some(&behavior), &mut history, &asked(0, 4, 10)).replicas, 5);
        history.rescaled(0, 1);
        // The one that this minute allows has been added already.
        assert_eq!(decide(Some(&behavior), &mut history, &asked(30, 5, 10)).replicas, 5);
        assert_eq!(decide(Some(&behavior), &mut history, &asked(61, 5, 10)).replicas, 6);
        assert_eq!(decide(Some(&behavior), &mut history, &asked(200, 8, 1)).replicas, 4);
    }
}
