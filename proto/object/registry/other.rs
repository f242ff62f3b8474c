//! The smaller groups.

use k8s_openapi::api::{authorization, coordination, discovery};

use super::{Resource, entry};
use crate::{table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            is_virtual: true,
            ..entry::<authorization::v1::SelfSubjectAccessReview>(
                "selfsubjectaccessreviews",
                "selfsubjectaccessreview",
                "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            )
        },
        Resource { columns: table::core::lease, ..entry::<coordination::v1::Lease>("leases", "lease", "io.k8s.api.coordination.v1.Lease") },
        Resource {
            has_generation: true,
            validate: validate::service::endpoint_slice,
            columns: table::core::endpoint_slice,
            ..entry::<discovery::v1::EndpointSlice>("endpointslices", "endpointslice", "io.k8s.api.discovery.v1.EndpointSlice")
        },
    ]
}
