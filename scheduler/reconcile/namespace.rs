//! A namespace that is being deleted takes its content with it, and goes when nothing is left: Pods first, so that none
//! runs without the objects that guard it (KEP-5080). Its conditions say what is still there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::deletion::Wish;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::{Snapshot, ties};
use crate::write::{delete, edit_entry};

/// What is left, by resource; and by finalizer, in how many objects.
#[derive(Default)]
struct Left {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(namespace) = snapshot.state.get(key) else { return Vec::new() };
    if ties(&namespace.record).deletion_timestamp.is_none() {
        return Vec::new();
    }
    let mut left = Left::default();
    let mut transactions = Vec::new();
    let custom = snapshot.custom_resources().filter(|r| r.namespaced);
    let all: Vec<_> = registry::all().iter().filter(|r| r.namespaced && r.is_stored()).chain(custom).collect();
    let has_pods = snapshot.state.range(&Key::prefix("pods", key.name()), None).next().is_some();
    for resource in all {
        for (key, entry) in snapshot.state.range(&Key::prefix(resource.stored(), key.name()), None) {
            *left.resources.entry(resource.stored().into()).or_default() += 1;
            for finalizer in ties(&entry.record).finalizers {
                *left.finalizers.entry(finalizer).or_default() += 1;
            }
            if !has_pods || resource.stored() == "pods" {
                transactions.extend(delete(resource, key, entry, &Wish::default(), mint));
            }
        }
    }
    if left.resources.is_empty() {
        transactions.push(Write::delete(key, namespace.revision).into());
        return transactions;
    }
    // Told when something else is left than before, not for each object that goes.
    let resource = registry::by_key("namespaces").expect("the registry has namespaces");
    let now = mint.time();
    transactions.extend(edit_entry(resource, key, namespace, |object| {
        let conditions = conditions(&left, &now);
        let is_told = |told: &Value| told["status"]["conditions"].as_array().is_some_and(|known| names(known) == names(&conditions));
        if !is_told(object) {
            object["status"]["conditions"] = conditions.into();
        }
    }));
    transactions
}

/// In the words of `pkg/controller/namespace/deletion`.
fn conditions(left: &Left, now: &str) -> Vec<Value> {
    let condition = |kind: &str, status: &str, reason: &str, message: String| json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    // A resource of the core group keeps the dot before its empty group.
    let dotted = |name: &str| if name.contains('.') { name.to_string() } else { format!("{name}.") };
    let resources: Vec<String> =
        left.resources.iter().map(|(name, count)| format!("{} has {count} resource instances", dotted(name))).collect();
    let finalizers: Vec<String> = left.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let mut all = vec![
        condition("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered".into()),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        condition(
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", resources.join(", ")),
        ),
    ];
    all.push(if finalizers.is_empty() {
        condition("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".into())
    } else {
        let message = format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
        condition("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
    });
    all
}

/// What the conditions say, without how many there are of each.
fn names(conditions: &[Value]) -> BTreeSet<String> {
    let without_counts = |text: &str| text.split_whitespace().filter(|word| word.parse::<usize>().is_err()).collect::<Vec<_>>().join(" ");
    let one = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_string();
        format!("{} {} {}", text("type"), text("status"), without_counts(&text("message")))
    };
    conditions.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_sinks_is_nothing_new() {
        let left = |count| Left { resources: [("pods".to_string(), count)].into(), finalizers: BTreeMap::new() };
        let told = conditions(&left(3), "then");
        assert_eq!(told[3]["message"], "Some resources are remaining: pods. has 3 resource instances");
        assert_eq!(names(&told), names(&conditions(&left(2), "now")));
        let held = Left { finalizers: [("x/y".to_string(), 1)].into(), ..left(2) };
        assert_ne!(names(&told), names(&conditions(&held, "now")));
    }
}
