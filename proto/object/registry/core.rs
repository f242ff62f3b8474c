//! The core group, `v1`.

use k8s_openapi::api::core::v1;

use super::{Resource, Subresource, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            short_names: &["cm"],
            validate: validate::config::config_map,
            columns: table::core::config_map,
            ..entry::<v1::ConfigMap>("configmaps", "configmap", "io.k8s.api.core.v1.ConfigMap")
        },
        Resource {
            short_names: &["ep"],
            columns: table::core::endpoints,
            ..entry::<v1::Endpoints>("endpoints", "endpoints", "io.k8s.api.core.v1.Endpoints")
        },
        Resource {
            short_names: &["ev"],
            selectable: &[
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
            ],
            columns: table::core::event,
            ..entry::<v1::Event>("events", "event", "io.k8s.api.core.v1.Event")
        },
        Resource {
            short_names: &["ns"],
            namespaced: false,
            subresources: &[Subresource::Status, Subresource::Finalize],
            name_rule: NameRule::Label,
            default: defaults::namespace,
            selectable: &["status.phase"],
            columns: table::core::namespace,
            ..entry::<v1::Namespace>("namespaces", "namespace", "io.k8s.api.core.v1.Namespace")
        },
        Resource {
            short_names: &["no"],
            namespaced: false,
            subresources: &[Subresource::Status],
            validate: validate::node,
            selectable: &["spec.unschedulable"],
            columns: table::core::node,
            ..entry::<v1::Node>("nodes", "node", "io.k8s.api.core.v1.Node")
        },
        Resource {
            short_names: &["po"],
            categories: &["all"],
            subresources: &[
                Subresource::Status,
                Subresource::Log,
                Subresource::Exec,
                Subresource::Attach,
                Subresource::PortForward,
                Subresource::Binding,
                Subresource::Eviction,
            ],
            has_generation: true,
            default: defaults::pod::pod,
            validate: validate::pod::pod,
            selectable: &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            columns: table::core::pod,
            ..entry::<v1::Pod>("pods", "pod", "io.k8s.api.core.v1.Pod")
        },
        Resource {
            short_names: &["rc"],
            categories: &["all"],
            subresources: &[Subresource::Status, Subresource::Scale],
            has_generation: true,
            default: defaults::workload::replication_controller,
            validate: validate::workload::replication_controller,
            selectable: &["status.replicas"],
            columns: table::apps::replication_controller,
            ..entry::<v1::ReplicationController>(
                "replicationcontrollers",
                "replicationcontroller",
                "io.k8s.api.core.v1.ReplicationController",
            )
        },
        Resource {
            default: defaults::secret,
            validate: validate::config::secret,
            selectable: &["type"],
            columns: table::core::secret,
            ..entry::<v1::Secret>("secrets", "secret", "io.k8s.api.core.v1.Secret")
        },
        Resource {
            short_names: &["sa"],
            columns: table::core::service_account,
            ..entry::<v1::ServiceAccount>("serviceaccounts", "serviceaccount", "io.k8s.api.core.v1.ServiceAccount")
        },
        Resource {
            short_names: &["svc"],
            categories: &["all"],
            subresources: &[Subresource::Status],
            name_rule: NameRule::Dns1035,
            default: defaults::service::service,
            validate: validate::service::service,
            selectable: &["spec.clusterIP", "spec.type"],
            columns: table::core::service,
            ..entry::<v1::Service>("services", "service", "io.k8s.api.core.v1.Service")
        },
    ]
}
