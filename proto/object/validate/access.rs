//! Rules of roles and bindings (`pkg/apis/rbac/validation`).

use serde_json::{Value, json};

use super::at::At;
use super::{list, text};
use crate::field::{Errors, Path, Problem};
use crate::names;

pub fn role(role: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let namespaced = !crate::meta::text(role, "namespace").is_empty();
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let path = Path::new("rules").index(index);
        if list(rule, "verbs").is_empty() {
            errors.required(&path.child("verbs"), "");
        }
        let urls = list(rule, "nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                errors.invalid(&path.child("nonResourceURLs"), json!(urls), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !list(rule, field).is_empty()) {
                errors.invalid(
                    &path.child("nonResourceURLs"),
                    json!(urls),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if list(rule, "resources").is_empty() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
    if let Some(aggregation) = At::new(role, &Path::new("")).given("aggregationRule") {
        if aggregation.count("clusterRoleSelectors") == 0 {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&aggregation.child("clusterRoleSelectors"), why);
        }
        for selector in aggregation.each("clusterRoleSelectors") {
            let before = errors.len();
            super::label_selector(selector.value, &selector.path, errors);
            if errors.len() > before {
                errors.invalid(&selector.path, Value::Null, "invalid label selector.");
            }
        }
    }
}

pub fn binding(binding: &Value, old: Option<&Value>, errors: &mut Errors) {
    let role = binding.get("roleRef").cloned().unwrap_or_default();
    let path = Path::new("roleRef");
    if text(&role, "apiGroup") != GROUP {
        errors.unsupported(&path.child("apiGroup"), text(&role, "apiGroup"), &[GROUP]);
    }
    let namespaced = !crate::meta::text(binding, "namespace").is_empty();
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(&role, "kind")) {
        let in_order = kinds.iter().map(|kind| (*kind).to_string()).collect();
        errors.add(&path.child("kind"), Problem::Unsupported(text(&role, "kind").into(), in_order));
    }
    if text(&role, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    if let Some(old) = old
        && old.get("roleRef") != Some(&role)
    {
        errors.invalid(&path, role, "cannot change roleRef");
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        validate_subject(subject, &Path::new("subjects").index(index), errors);
    }
}

const GROUP: &str = "rbac.authorization.k8s.io";

fn validate_subject(subject: &Value, path: &Path, errors: &mut Errors) {
    if text(subject, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            At::new(subject, path).named("name", names::subdomain, errors);
            if !text(subject, "apiGroup").is_empty() {
                errors.unsupported(&path.child("apiGroup"), text(subject, "apiGroup"), &[""]);
            }
            if text(subject, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text(subject, "apiGroup") != GROUP {
                errors.unsupported(&path.child("apiGroup"), text(subject, "apiGroup"), &[GROUP]);
            }
        }
        other => errors.unsupported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// `ValidateClusterTrustBundleName`
pub(super) fn bundle_name(name: &str, signer: &str) -> names::Verdict {
    if signer.is_empty() {
        let alone = "ClusterTrustBundle without signer name must not have \":\" in its name";
        return if name.contains(':') { Err(alone.to_string().into()) } else { names::subdomain(name) };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::subdomain(rest),
        None => Err(format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}").into()),
    }
}

/// At least one certificate in PEM.
pub fn cluster_trust_bundle(bundle: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let (name, signer) = (crate::meta::name(bundle), text(&bundle["spec"], "signerName"));
    if !name.is_empty() {
        errors.judge(&Path::new("metadata").child("name"), name, bundle_name(name, signer));
    }
    if !signer.is_empty() {
        signer_name(signer, &Path::new("spec").child("signerName"), errors);
    }
    let bundle = bundle.pointer("/spec/trustBundle").and_then(Value::as_str).unwrap_or_default();
    if !bundle.contains("-----BEGIN CERTIFICATE-----") {
        errors.invalid(&Path::new("spec").child("trustBundle"), "<value omitted>", "at least one trust anchor must be provided");
    }
}

/// What certificates may be for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const DURATION_SECONDS_MIN: i64 = 600;

/// `pkg/apis/certificates/validation`; whether the request itself is sound is seen by who can read it.
pub fn certificate_signing_request(request: &Value, old: Option<&Value>, errors: &mut Errors) {
    if old.is_some() {
        return;
    }
    let spec = request.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    let usages = list(&spec, "usages");
    if usages.is_empty() {
        errors.required(&path.child("usages"), "usages must be provided");
    }
    for (index, usage) in usages.iter().enumerate() {
        let place = path.child("usages").index(index);
        if usage.as_str().is_none_or(|usage| !USAGES.contains(&usage)) {
            errors.unsupported(&place, usage.clone(), &USAGES);
        }
        if usages[..index].contains(usage) {
            errors.duplicate(&place, usage.clone());
        }
    }
    let signer = text(&spec, "signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        errors.invalid(&path.child("signerName"), signer, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(signer, &path.child("signerName"), errors);
    }
    if let Some(seconds) = spec.get("expirationSeconds").and_then(Value::as_i64).filter(|s| *s < DURATION_SECONDS_MIN) {
        errors.invalid(&path.child("expirationSeconds"), seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

/// `ValidateSignerName`
pub(super) fn signer_name(signer: &str, path: &Path, errors: &mut Errors) {
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, name)) = signer.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        return errors.invalid(path, signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    let wrong_label = domain.split('.').find_map(|label| names::dns1123_label(label).err().map(|why| (label, why)));
    if let Some((label, why)) = wrong_label {
        errors.invalid(path, domain, &format!("validating label {label:?}: {why}"));
    }
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    let wrong_part = name.split('.').find_map(|part| names::subdomain(part).err().map(|why| (part, why)));
    if let Some((part, why)) = wrong_part {
        errors.invalid(path, name, &format!("validating label {part:?}: {why}"));
    }
}
