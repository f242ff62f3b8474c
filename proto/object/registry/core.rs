//! The core group, `v1`.

use std::borrow::Cow;

use super::{Resource, Serving, Subresource, entry};
use crate::field::Path;
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            short_names: Cow::Borrowed(&["cm"]),
            validate: validate::config::config_map,
            columns: table::core::config_map,
            ..entry("", "v1", "ConfigMap", "configmaps")
        },
        Resource {
            short_names: Cow::Borrowed(&["ep"]),
            default: defaults::service::endpoints,
            validate: validate::service::endpoints,
            columns: table::core::endpoints,
            made_by_update: true,
            ..entry("", "v1", "Endpoints", "endpoints")
        },
        Resource {
            short_names: Cow::Borrowed(&["ev"]),
            selectable: Cow::Borrowed(&[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ]),
            default: defaults::event,
            validate: validate::event::core,
            columns: table::core::event,
            made_by_update: true,
            name_rule: NameRule::Any,
            ..entry("", "v1", "Event", "events")
        },
        Resource {
            short_names: Cow::Borrowed(&["ns"]),
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Finalize]),
            name_rule: NameRule::Label,
            default: defaults::namespace,
            prepare: defaults::prepare_namespace,
            selectable: Cow::Borrowed(&["status.phase"]),
            validate: validate::namespace,
            validate_status: validate::status::namespace,
            columns: table::core::namespace,
            deleted_is_shown: true,
            ..entry("", "v1", "Namespace", "namespaces")
        },
        Resource {
            short_names: Cow::Borrowed(&["no"]),
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Proxy]),
            validate: validate::node,
            prepare: defaults::forget_of_node,
            selectable: Cow::Borrowed(&["spec.unschedulable"]),
            columns: table::core::node,
            ..entry("", "v1", "Node", "nodes")
        },
        Resource {
            short_names: Cow::Borrowed(&["po"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[
                Subresource::Status,
                Subresource::Log,
                Subresource::Exec,
                Subresource::Attach,
                Subresource::PortForward,
                Subresource::Binding,
                Subresource::Eviction,
                Subresource::Proxy,
                Subresource::EphemeralContainers,
                Subresource::Resize,
            ]),
            has_generation: true,
            default: defaults::pod::pod,
            prepare: defaults::pod::forget_disabled,
            validate: validate::pod::pod,
            validate_status: validate::status::pod,
            selectable: Cow::Borrowed(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ]),
            columns: table::core::pod,
            deleted_is_shown: true,
            ..entry("", "v1", "Pod", "pods")
        },
        Resource {
            short_names: Cow::Borrowed(&["rc"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Scale]),
            has_generation: true,
            default: defaults::workload::replication_controller,
            prepare: defaults::workload::prepare_replication_controller,
            validate: validate::workload::replication_controller,
            validate_status: validate::status::replica_set,
            selectable: Cow::Borrowed(&["status.replicas"]),
            columns: table::apps::replication_controller,
            ..entry("", "v1", "ReplicationController", "replicationcontrollers")
        },
        Resource {
            default: defaults::secret,
            validate: validate::config::secret,
            sealed: Some("data"),
            selectable: Cow::Borrowed(&["type"]),
            columns: table::core::secret,
            ..entry("", "v1", "Secret", "secrets")
        },
        Resource {
            short_names: Cow::Borrowed(&["sa"]),
            prepare: defaults::name_secrets,
            subresources: Cow::Borrowed(&[Subresource::Token]),
            deleted_is_shown: true,
            ..entry("", "v1", "ServiceAccount", "serviceaccounts")
        },
        Resource {
            short_names: Cow::Borrowed(&["svc"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Proxy]),
            name_rule: NameRule::Label,
            default: defaults::service::service,
            prepare: defaults::service::prepare_service,
            validate: validate::service::service,
            validate_status: validate::status::service,
            selectable: Cow::Borrowed(&["spec.clusterIP", "spec.type"]),
            carry_over: defaults::service::carry_over_service,
            columns: table::core::service,
            made_by_update: true,
            deleted_is_shown: true,
            ..entry("", "v1", "Service", "services")
        },
        Resource {
            columns: table::name_and_creation,
            default: defaults::limit_range,
            prepare: defaults::name_limit_range,
            validate: validate::amounts::limit_range,
            short_names: Cow::Borrowed(&["limits"]),
            made_by_update: true,
            ..entry("", "v1", "LimitRange", "limitranges")
        },
        Resource {
            short_names: Cow::Borrowed(&["pvc"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            default: defaults::storage::claim,
            prepare: defaults::storage::prepare_claim,
            validate: validate::storage::claim,
            columns: table::storage::claim,
            deleted_is_shown: true,
            ..entry("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        },
        Resource {
            short_names: Cow::Borrowed(&["pv"]),
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            default: defaults::storage::volume,
            validate: validate::storage::volume,
            columns: table::storage::volume,
            deleted_is_shown: true,
            ..entry("", "v1", "PersistentVolume", "persistentvolumes")
        },
        Resource { serving: Serving::Asked, ..entry("", "v1", "Binding", "bindings") },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["cs"]),
            serving: Serving::Measured,
            columns: table::core::component_status,
            ..entry("", "v1", "ComponentStatus", "componentstatuses")
        },
        Resource {
            has_generation: true,
            default: defaults::workload::pod_template,
            validate: |o, _, e| validate::workload::any_pod_template(&o["template"], &Path::new("template"), e),
            columns: table::apps::pod_template,
            deleted_is_shown: true,
            ..entry("", "v1", "PodTemplate", "podtemplates")
        },
        Resource {
            short_names: Cow::Borrowed(&["quota"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::core::resource_quota,
            validate: validate::amounts::resource_quota,
            deleted_is_shown: true,
            ..entry("", "v1", "ResourceQuota", "resourcequotas")
        },
    ]
}
