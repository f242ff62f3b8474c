//! What extends the API: admission, custom resources, aggregated servers.

use std::borrow::Cow;

use super::{Resource, Subresource, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            has_generation: true,
            columns: table::extension::mutating_policy,
            default: defaults::extension::admission_policy,
            validate: validate::admission::mutating_policy,
            ..entry("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            has_generation: true,
            columns: table::extension::policy_binding,
            default: defaults::extension::policy_binding,
            validate: validate::admission::mutating_binding,
            ..entry("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            has_generation: true,
            default: defaults::extension::mutating_webhooks,
            validate: validate::admission::webhooks,
            columns: table::extension::webhooks,
            ..entry("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            columns: table::extension::validating_policy,
            default: defaults::extension::admission_policy,
            validate: validate::admission::validating_policy,
            ..entry("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            has_generation: true,
            columns: table::extension::policy_binding,
            default: defaults::extension::policy_binding,
            validate: validate::admission::validating_binding,
            ..entry("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            has_generation: true,
            default: defaults::extension::validating_webhooks,
            validate: validate::admission::webhooks,
            columns: table::extension::webhooks,
            ..entry("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["crd", "crds"]),
            categories: Cow::Borrowed(&["api-extensions"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            default: defaults::extension::custom_resource_definition,
            prepare: defaults::extension::prepare_custom_resource_definition,
            validate: validate::definition::custom_resource_definition,
            columns: table::extension::custom_resource_definition,
            ..entry("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        },
        Resource {
            namespaced: false,
            categories: Cow::Borrowed(&["api-extensions"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            name_rule: NameRule::PathSegment,
            columns: table::extension::api_service,
            default: defaults::extension::api_service,
            validate: validate::extension::api_service,
            ..entry("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        },
    ]
}
