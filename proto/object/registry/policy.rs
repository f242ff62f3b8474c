//! What governs workloads from outside: scaling, disruption, priority, fairness, leases, events.

use std::borrow::Cow;

use super::{Resource, Subresource, View, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate, versions};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            short_names: Cow::Borrowed(&["ev"]),
            view: Some(View { of: "events", show: versions::event::show, store: versions::event::store }),
            selectable: Cow::Borrowed(&[
                "reason",
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "regarding.apiVersion",
                "regarding.resourceVersion",
                "regarding.fieldPath",
                "reportingController",
                "type",
            ]),
            default: defaults::event_of_events,
            columns: table::core::event,
            made_by_update: true,
            validate: validate::event::strict,
            ..entry("events.k8s.io", "v1", "Event", "events")
        },
        Resource {
            short_names: Cow::Borrowed(&["hpa"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            default: defaults::policy::autoscaler,
            validate: validate::autoscaler::autoscaler,
            validate_status: validate::status::autoscaler,
            columns: table::policy::autoscaler,
            has_generation: true,
            ..entry("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        },
        Resource {
            short_names: Cow::Borrowed(&["hpa"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            view: Some(View {
                of: "horizontalpodautoscalers.autoscaling",
                show: versions::autoscaler::show,
                store: versions::autoscaler::store,
            }),
            columns: table::policy::autoscaler,
            has_generation: true,
            default: defaults::policy::autoscaler_v1,
            validate: validate::autoscaler::autoscaler,
            validate_status: validate::status::autoscaler,
            ..entry("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        },
        Resource {
            short_names: Cow::Borrowed(&["pdb"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            validate: validate::policy::disruption_budget,
            validate_status: validate::status::disruption_budget,
            columns: table::policy::disruption_budget,
            name_rule: NameRule::Any,
            ..entry("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["pc"]),
            has_generation: true,
            default: defaults::policy::priority_class,
            validate: validate::policy::priority_class,
            columns: table::policy::priority_class,
            ..entry("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
        },
        Resource {
            columns: table::core::lease,
            validate: validate::policy::lease,
            prepare: defaults::policy::forget_coordination,
            made_by_update: true,
            ..entry("coordination.k8s.io", "v1", "Lease", "leases")
        },
        Resource {
            namespaced: false,
            validate: validate::policy::runtime_class,
            columns: table::policy::runtime_class,
            made_by_update: true,
            ..entry("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            columns: table::policy::flow_schema,
            default: defaults::policy::flow_schema,
            validate: validate::fairness::flow_schema,
            ..entry("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            columns: table::policy::priority_level,
            default: defaults::policy::priority_level,
            validate: validate::fairness::priority_level,
            ..entry("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        },
    ]
}
