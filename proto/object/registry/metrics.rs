//! What is measured: the resources of metrics-server.

use super::{Resource, Serving, entry};
use crate::table;

pub(super) fn resources() -> Vec<Resource> {
    let measured = |kind, plural| Resource { serving: Serving::Measured, ..entry("metrics.k8s.io", "v1beta1", kind, plural) };
    vec![
        Resource { namespaced: false, columns: table::metrics::node, ..measured("NodeMetrics", "nodes") },
        Resource { columns: table::metrics::pod, ..measured("PodMetrics", "pods") },
    ]
}
