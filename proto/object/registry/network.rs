//! What leads to Pods: EndpointSlices, Ingresses, policies, address ranges.

use std::borrow::Cow;

use super::{Resource, Subresource, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            has_generation: true,
            validate: validate::service::endpoint_slice,
            columns: table::core::endpoint_slice,
            default: defaults::service::endpoint_slice,
            prepare: defaults::service::prepare_endpoint_slice,
            ..entry("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        },
        Resource {
            namespaced: false,
            has_generation: true,
            default: defaults::network::ingress_class,
            columns: table::network::ingress_class,
            validate: validate::network::ingress_class,
            ..entry("networking.k8s.io", "v1", "IngressClass", "ingressclasses")
        },
        Resource {
            short_names: Cow::Borrowed(&["ing"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            prepare: defaults::network::prepare_ingress,
            validate: validate::network::ingress,
            validate_status: validate::status::ingress,
            columns: table::network::ingress,
            ..entry("networking.k8s.io", "v1", "Ingress", "ingresses")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["ip"]),
            columns: table::network::ip_address,
            name_rule: NameRule::Address,
            validate: validate::network::ip_address,
            ..entry("networking.k8s.io", "v1", "IPAddress", "ipaddresses")
        },
        Resource {
            short_names: Cow::Borrowed(&["netpol"]),
            has_generation: true,
            default: defaults::network::policy,
            columns: table::network::policy,
            validate: validate::network::policy,
            ..entry("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::network::service_cidr,
            validate: validate::network::service_cidr,
            ..entry("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
        },
    ]
}
