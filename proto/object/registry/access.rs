//! Who somebody is and what he may: authentication, authorization, RBAC, certificates.

use std::borrow::Cow;

use super::{Resource, Serving, Subresource, entry};
use crate::names::NameRule;
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            serving: Serving::Asked,
            ..entry("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews")
        },
        Resource { namespaced: false, serving: Serving::Asked, ..entry("authentication.k8s.io", "v1", "TokenReview", "tokenreviews") },
        Resource {
            serving: Serving::Asked,
            ..entry("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
        },
        Resource {
            namespaced: false,
            serving: Serving::Asked,
            ..entry("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
        },
        Resource {
            namespaced: false,
            serving: Serving::Asked,
            ..entry("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
        },
        Resource {
            namespaced: false,
            serving: Serving::Asked,
            ..entry("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews")
        },
        Resource {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            default: defaults::access::binding,
            validate: validate::access::binding,
            columns: table::access::binding,
            made_by_update: true,
            ..entry("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
        },
        Resource {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            default: defaults::access::role,
            validate: validate::access::role,
            columns: table::name_and_creation,
            made_by_update: true,
            ..entry("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
        },
        Resource {
            name_rule: NameRule::PathSegment,
            default: defaults::access::binding,
            validate: validate::access::binding,
            columns: table::access::binding,
            made_by_update: true,
            ..entry("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
        },
        Resource {
            name_rule: NameRule::PathSegment,
            default: defaults::access::role,
            validate: validate::access::role,
            columns: table::name_and_creation,
            made_by_update: true,
            ..entry("rbac.authorization.k8s.io", "v1", "Role", "roles")
        },
        Resource {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            short_names: Cow::Borrowed(&["csr"]),
            subresources: Cow::Borrowed(&[Subresource::Status, Subresource::Approval]),
            selectable: Cow::Borrowed(&["spec.signerName"]),
            carry_over: |request, old| request["spec"] = old["spec"].clone(),
            validate: validate::access::certificate_signing_request,
            columns: table::access::certificate_signing_request,
            ..entry("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        },
        Resource {
            namespaced: false,
            name_rule: NameRule::PathSegment,
            selectable: Cow::Borrowed(&["spec.signerName"]),
            validate: validate::access::cluster_trust_bundle,
            columns: table::access::cluster_trust_bundle,
            ..entry("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles")
        },
        Resource {
            subresources: Cow::Borrowed(&[Subresource::Status]),
            selectable: Cow::Borrowed(&["spec.signerName", "spec.podName", "spec.nodeName"]),
            default: defaults::access::pod_certificate_request,
            validate: validate::pod_certificate::request,
            validate_status: validate::pod_certificate::status,
            columns: table::access::pod_certificate_request,
            ..entry("certificates.k8s.io", "v1", "PodCertificateRequest", "podcertificaterequests")
        },
    ]
}
