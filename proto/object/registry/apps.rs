//! The `apps` group: workloads.

use std::borrow::Cow;

use super::{Resource, Subresource, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            short_names: Cow::Borrowed(&["deploy"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Scale]),
            has_generation: true,
            default: defaults::workload::deployment,
            prepare: defaults::workload::forget_disabled,
            validate: validate::workload::deployment,
            validate_status: validate::status::deployment,
            columns: table::apps::deployment,
            ..entry("apps", "v1", "Deployment", "deployments")
        },
        Resource {
            short_names: Cow::Borrowed(&["rs"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Scale]),
            has_generation: true,
            default: defaults::workload::replica_set,
            prepare: defaults::workload::forget_disabled,
            validate: validate::workload::replica_set,
            validate_status: validate::status::replica_set,
            selectable: Cow::Borrowed(&["status.replicas"]),
            columns: table::apps::replica_set,
            ..entry("apps", "v1", "ReplicaSet", "replicasets")
        },
        Resource {
            short_names: Cow::Borrowed(&["ds"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            default: defaults::workload::daemon_set,
            prepare: defaults::workload::forget_disabled,
            carry_over: defaults::workload::count_template,
            validate: validate::workload::daemon_set,
            validate_status: validate::status::daemon_set,
            columns: table::apps::daemon_set,
            ..entry("apps", "v1", "DaemonSet", "daemonsets")
        },
        Resource {
            short_names: Cow::Borrowed(&["sts"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Scale]),
            has_generation: true,
            default: defaults::workload::stateful_set,
            prepare: defaults::workload::forget_disabled,
            validate: validate::workload::stateful_set,
            validate_status: validate::status::stateful_set,
            name_rule: NameRule::Label,
            columns: table::apps::stateful_set,
            ..entry("apps", "v1", "StatefulSet", "statefulsets")
        },
        Resource {
            columns: table::apps::controller_revision,
            validate: validate::workload::controller_revision,
            ..entry("apps", "v1", "ControllerRevision", "controllerrevisions")
        },
    ]
}
