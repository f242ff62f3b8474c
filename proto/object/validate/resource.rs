//! Names of resources (`pkg/apis/core/helper`): cpu, memory, what devices are called, what quotas count.

use serde_json::Value;

use super::at::At;
use crate::amounts::{is_extended, is_native};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

/// What is counted, not measured.
const COUNTED: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// More of it may be asked for than there is.
pub(super) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

pub(super) fn is_standard(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    COUNTED.contains(&name)
        || matches!(bare, "cpu" | "memory" | "ephemeral-storage")
        || matches!(name, "storage" | "requests.storage")
        || is_huge_pages(name.strip_prefix("requests.").unwrap_or(name))
}

/// `validateResourceName`; says whether it is right.
pub(super) fn name(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let verdict = names::qualified_name(name);
    let is_right = verdict.is_ok() && (name.contains('/') || is_standard(name));
    if verdict.is_ok() && !is_right {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    errors.judge(path, name, verdict);
    is_right
}

/// `ValidateContainerResourceName`
pub(super) fn of_container(text: &str, path: &Path, errors: &mut Errors) {
    name(text, path, errors);
    if !text.contains('/') {
        if !matches!(text, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(text) {
            errors.invalid(path, text, "must be a standard resource for containers");
        }
    } else if !is_native(text) && !is_extended(text) {
        errors.invalid(path, text, "doesn't follow extended resource name standard");
    }
}

/// What quotas count, without a domain.
pub(super) fn is_of_quota(name: &str) -> bool {
    is_standard(name) && name != "storage" && !is_huge_pages(name)
}

/// `ValidateResourceQuotaResourceName`
pub(super) fn of_quota(text: &str, path: &Path, errors: &mut Errors) {
    name(text, path, errors);
    if !text.contains('/') && !is_of_quota(text) {
        errors.invalid(path, text, "must be a standard resource for quota");
    }
}

/// What a whole Pod may ask for (KEP-2837).
pub(super) fn of_pod(text: &str, path: &Path, errors: &mut Errors) {
    if name(text, path, errors) && !matches!(text, "cpu" | "memory") && !is_huge_pages(text) {
        errors.unsupported(path, text, &["cpu", "memory"]);
    }
}

/// `ValidateResourceQuantityValue`
pub(super) fn amount(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    At::new(value, path).amount(errors);
    let is_whole = value.as_str().and_then(|text| text.parse::<Quantity>().ok()).is_none_or(|amount| amount.milli() % 1000 == 0);
    if !is_whole && (COUNTED.contains(&name) || is_extended(name)) {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}
