//! The `apps` group: workloads.

use k8s_openapi::api::apps::v1;

use super::{Resource, Subresource, entry};
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            short_names: &["deploy"],
            categories: &["all"],
            subresources: &[Subresource::Status, Subresource::Scale],
            has_generation: true,
            default: defaults::workload::deployment,
            validate: validate::workload::deployment,
            columns: table::apps::deployment,
            ..entry::<v1::Deployment>("deployments", "deployment", "io.k8s.api.apps.v1.Deployment")
        },
        Resource {
            short_names: &["rs"],
            categories: &["all"],
            subresources: &[Subresource::Status, Subresource::Scale],
            has_generation: true,
            default: defaults::workload::replica_set,
            validate: validate::workload::replica_set,
            selectable: &["status.replicas"],
            columns: table::apps::replica_set,
            ..entry::<v1::ReplicaSet>("replicasets", "replicaset", "io.k8s.api.apps.v1.ReplicaSet")
        },
        Resource {
            short_names: &["ds"],
            categories: &["all"],
            subresources: &[Subresource::Status],
            has_generation: true,
            default: defaults::workload::daemon_set,
            validate: validate::workload::daemon_set,
            columns: table::apps::daemon_set,
            ..entry::<v1::DaemonSet>("daemonsets", "daemonset", "io.k8s.api.apps.v1.DaemonSet")
        },
    ]
}
