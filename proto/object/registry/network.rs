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
            ..entry("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        },
        Resource {
            namespaced: false,
            has_generation: true,
            columns: table::network::ingress_class,
            validate: |o, _, e| validate::required(o, &[("spec.controller", "")], e),
            ..entry("networking.k8s.io", "v1", "IngressClass", "ingressclasses")
        },
        Resource {
            short_names: Cow::Borrowed(&["ing"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            validate: validate::network::ingress,
            columns: table::network::ingress,
            ..entry("networking.k8s.io", "v1", "Ingress", "ingresses")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["ip"]),
            columns: table::network::ip_address,
            name_rule: NameRule::Address,
            validate: |o, _, e| validate::required(o, &[("spec.parentRef", "")], e),
            ..entry("networking.k8s.io", "v1", "IPAddress", "ipaddresses")
        },
        Resource {
            short_names: Cow::Borrowed(&["netpol"]),
            has_generation: true,
            default: defaults::network::policy,
            columns: table::network::policy,
            ..entry("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::network::service_cidr,
            validate: |o, _, e| validate::required(o, &[("spec.cidrs", "at least one CIDR required")], e),
            ..entry("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
        },
    ]
}
