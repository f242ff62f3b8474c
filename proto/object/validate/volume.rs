//! Where volumes come from: of Pods, and of PersistentVolumes (`validateVolumeSource`, `ValidatePersistentVolumeSpec`).

use std::collections::BTreeSet;

use super::at::{At, free_inner_path, inner_path, no_backsteps};
use super::{label_selector, storage};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

/// What a rule must know beside the source.
#[derive(Clone, Copy)]
pub(super) struct Volume<'a> {
    pub(super) name: &'a str,
    /// Of a PersistentVolume, where what is referred to has a namespace.
    pub(super) is_persistent: bool,
}

type Rule = fn(&At<'_>, Volume<'_>, &mut Errors);

/// The kinds of sources, in Kubernetes' order.
const KINDS: [(&str, Rule); 31] = [
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", |at, _, errors| {
        at.require(&["repository"], errors);
        inner_path(at.str("directory"), &at.child("directory"), errors);
    }),
    ("gcePersistentDisk", |at, _, errors| disk(at, "pdName", errors)),
    ("awsElasticBlockStore", |at, _, errors| disk(at, "volumeID", errors)),
    ("secret", |at, _, errors| keys(at, "secretName", errors)),
    ("nfs", |at, _, errors| {
        at.require(&["server", "path"], errors);
        if !at.str("path").starts_with('/') {
            errors.invalid(&at.child("path"), at.str("path"), "must be an absolute path");
        }
    }),
    ("iscsi", iscsi),
    ("glusterfs", glusterfs),
    ("flocker", flocker),
    ("persistentVolumeClaim", |at, _, errors| at.require(&["claimName"], errors)),
    ("rbd", |at, _, errors| at.require(&["monitors", "image"], errors)),
    ("cinder", |at, volume, errors| {
        at.require(&["volumeID"], errors);
        secret_ref(at, volume, errors);
    }),
    ("cephfs", |at, _, errors| at.require(&["monitors"], errors)),
    ("quobyte", quobyte),
    ("downwardAPI", |at, _, errors| {
        at.file_mode("defaultMode", errors);
        at.id(&["defaultUser"], errors);
        at.each("items").for_each(|file| downward_file(&At::new(file.value, &at.path), errors));
    }),
    ("fc", fibre_channel),
    ("flexVolume", flex),
    ("configMap", |at, _, errors| keys(at, "name", errors)),
    ("azureFile", |at, _, errors| {
        at.require(&["secretName", "shareName"], errors);
        if at.given("secretNamespace").is_some_and(|namespace| namespace.value == "") {
            errors.required(&at.child("secretNamespace"), "");
        }
    }),
    ("vsphereVolume", |at, _, errors| at.require(&["volumePath"], errors)),
    ("photonPersistentDisk", |at, _, errors| at.require(&["pdID"], errors)),
    ("portworxVolume", |at, _, errors| at.require(&["volumeID"], errors)),
    ("azureDisk", azure_disk),
    ("storageos", |at, volume, errors| {
        at.require_named("volumeName", names::dns1123_label, errors);
        at.named("volumeNamespace", names::dns1123_label, errors);
        secret_ref(at, volume, errors);
    }),
    ("projected", projected),
    ("scaleIO", |at, _, errors| at.require(&["gateway", "system", "volumeName"], errors)),
    ("local", |at, _, errors| {
        at.require(&["path"], errors);
        no_backsteps(at.str("path"), &at.child("path"), errors);
    }),
    ("csi", csi),
    ("ephemeral", |at, _, errors| match at.given("volumeClaimTemplate") {
        None => errors.required(&at.child("volumeClaimTemplate"), ""),
        Some(template) => claim_template(&template, errors),
    }),
    ("image", |at, _, errors| {
        at.require(&["reference"], errors);
        at.one_of("pullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    }),
];

/// Exactly one kind of source must be given; says which it is.
pub(super) fn source(at: &At<'_>, volume: Volume<'_>, errors: &mut Errors) -> &'static str {
    let mut given = KINDS.iter().filter_map(|(kind, rule)| Some((*kind, rule, at.given(kind)?)));
    let Some((kind, rule, source)) = given.next() else {
        errors.required(&at.path, "must specify a volume type");
        return "";
    };
    let source = if kind == "gcePersistentDisk" { At::new(source.value, &at.child("persistentDisk")) } else { source };
    rule(&source, volume, errors);
    for (kind, rule, more) in given {
        match kind {
            // Kubernetes lets this one pass.
            "flexVolume" if volume.is_persistent => rule(&more, volume, errors),
            "cephfs" => errors.forbidden(&at.child("cephFS"), "may not specify more than 1 volume type"),
            _ => errors.forbidden(&more.path, "may not specify more than 1 volume type"),
        }
    }
    kind
}

fn empty_dir(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    if at.str("sizeLimit").parse::<Quantity>().is_ok_and(|limit| limit < Quantity::ZERO) {
        errors.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    at.number("mode", 0..=0o1777, "must be a number between 0 and 01777 (octal), both inclusive", errors);
}

fn host_path(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    const KINDS: [&str; 8] = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    at.require(&["path"], errors);
    if !at.str("path").is_empty() {
        no_backsteps(at.str("path"), &at.child("path"), errors);
        at.supported("type", &KINDS, errors);
    }
}

fn disk(at: &At<'_>, id: &str, errors: &mut Errors) {
    at.require(&[id], errors);
    at.number("partition", 0..=255, "must be between 1 and 255, inclusive", errors);
}

/// A Secret or ConfigMap, or some keys of it.
fn keys(at: &At<'_>, name: &str, errors: &mut Errors) {
    at.require(&[name], errors);
    at.file_mode("defaultMode", errors);
    at.id(&["defaultUser"], errors);
    at.each("items").for_each(|item| key_to_path(&item, errors));
}

fn key_to_path(at: &At<'_>, errors: &mut Errors) {
    at.require(&["key", "path"], errors);
    free_inner_path(at.str("path"), &at.child("path"), errors);
    at.file_mode("mode", errors);
    at.id(&["user"], errors);
}

fn secret_ref(at: &At<'_>, volume: Volume<'_>, errors: &mut Errors) {
    if let Some(secret) = at.given("secretRef") {
        secret.require(if volume.is_persistent { &["name", "namespace"] } else { &["name"] }, errors);
    }
}

fn iscsi(at: &At<'_>, volume: Volume<'_>, errors: &mut Errors) {
    at.require(&["targetPortal", "iqn"], errors);
    let is_qualified = |name: &str| ["iqn", "eui", "naa"].iter().any(|form| name.starts_with(form));
    let is_right = |name: &str| match name.get(..4) {
        Some("iqn.") => is_iqn(&name[4..]),
        Some("eui.") => name.len() == 20 && name[4..].bytes().all(|c| c.is_ascii_alphanumeric()),
        Some("naa.") => name.len() == 36 && name[4..].bytes().all(|c| c.is_ascii_alphanumeric()),
        _ => false,
    };
    let mut check = |field: &str, shown: &str| {
        let name = at.str(field);
        let form = if volume.is_persistent { "must be valid format" } else { "must be valid format starting with iqn, eui, or naa" };
        if !name.is_empty() && !is_qualified(name) {
            errors.invalid(&at.child(shown), name, form);
        } else if !name.is_empty() && !is_right(name) {
            errors.invalid(&at.child(shown), name, "must be valid format");
        }
    };
    check("iqn", "iqn");
    check("initiatorName", "initiatorname");
    at.in_range("lun", 0..=255, errors);
    if (at.flag("chapAuthDiscovery") || at.flag("chapAuthSession")) && at.given("secretRef").is_none() {
        errors.required(&at.child("secretRef"), "");
    }
    if let Some(secret) = at.given("secretRef").filter(|_| volume.is_persistent) {
        secret.require(&["name"], errors);
    }
    if at.given("initiatorName").is_some() && volume.name.len() + 1 + at.str("targetPortal").len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(&at.child("targetportal"), at.str("targetPortal"), why);
    }
}

/// What follows `iqn.`: a date, a domain, and whatever its owner adds.
fn is_iqn(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|c| c.is_ascii_digit());
    let Some((date, rest)) = text.split_once('.') else { return false };
    let domain = rest.split_once(':').map_or(rest, |(domain, _)| domain);
    date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && !domain.is_empty()
        && domain.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
        && rest.split_once(':').is_none_or(|(_, own)| !own.is_empty() && !own.contains([',', ';', '*', '&', '$', '|', ' ']))
}

fn glusterfs(at: &At<'_>, volume: Volume<'_>, errors: &mut Errors) {
    at.require(&["endpoints", "path"], errors);
    if let Some(namespace) = at.given("endpointsNamespace").filter(|_| volume.is_persistent) {
        let text = namespace.value.as_str().unwrap_or_default();
        if text.is_empty() {
            errors.invalid(&namespace.path, text, "if the endpointnamespace is set, it must be a valid namespace name");
        } else {
            errors.judge(&namespace.path, text, names::dns1123_label(text));
        }
    }
}

fn flocker(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    match (at.str("datasetName"), at.str("datasetUUID")) {
        ("", "") => errors.required(&at.path, "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        _ => errors.invalid(&at.path, "resource", "datasetName and datasetUUID can not be specified simultaneously"),
    }
    if at.str("datasetName").contains('/') {
        errors.invalid(&at.child("datasetName"), at.str("datasetName"), "must not contain '/'");
    }
}

fn quobyte(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    if at.str("registry").is_empty() {
        errors.required(&at.child("registry"), why);
    } else if at.str("tenant").len() >= 65 {
        errors.required(&at.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in at.str("registry").split(',').filter(|pair| pair.matches(':').count() != 1) {
            errors.invalid(&at.child("registry"), at.str("registry"), why);
        }
    }
    at.require(&["volume"], errors);
}

fn fibre_channel(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    match (at.count("targetWWNs"), at.count("wwids")) {
        (0, 0) => errors.required(&at.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"),
        (0, _) => {}
        (_, others) => {
            if others > 0 {
                let why = "targetWWNs and wwids can not be specified simultaneously";
                errors.invalid(&at.child("targetWWNs"), at.value["targetWWNs"].clone(), why);
            }
            if at.given("lun").is_none() {
                errors.required(&at.child("lun"), "lun is required if targetWWNs is specified");
            }
            at.in_range("lun", 0..=255, errors);
        }
    }
}

fn flex(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    at.require(&["driver"], errors);
    for (key, _) in at.entries("options") {
        let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            errors.invalid(&at.child("options").key(key), key.as_str(), "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    at.require(&["diskName", "diskURI"], errors);
    at.supported("cachingMode", &["None", "ReadOnly", "ReadWrite"], errors);
    at.supported("kind", &["Dedicated", "Managed", "Shared"], errors);
    let (start, form) = if at.str("kind") == "Managed" {
        ("/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}")
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if at.given("kind").is_some() && !at.str("diskURI").starts_with(start) {
        errors.unsupported(&at.child("diskURI"), at.str("diskURI"), &[form]);
    }
}

/// A driver's name, which may have capitals.
pub(super) fn driver(at: &At<'_>, field: &str, errors: &mut Errors) {
    let name = at.str(field);
    if name.is_empty() {
        errors.required(&at.child(field), "");
        return;
    }
    if name.len() > 63 {
        errors.add(&at.child(field), crate::field::Problem::TooLong(63));
    }
    errors.judge(&at.child(field), name, names::subdomain(&name.to_lowercase()));
}

fn csi(at: &At<'_>, volume: Volume<'_>, errors: &mut Errors) {
    const SECRETS: [&str; 4] = ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    driver(at, "driver", errors);
    if !volume.is_persistent {
        if let Some(secret) = at.given("nodePublishSecretRef") {
            secret.require(&["name"], errors);
            let name = secret.str("name");
            if !name.is_empty() {
                errors.judge(&at.child("name"), name, names::subdomain(name));
            }
        }
        return;
    }
    at.require(&["volumeHandle"], errors);
    for secret in SECRETS.iter().filter_map(|field| at.given(field)) {
        secret.require_named("name", names::subdomain, errors);
        secret.require_named("namespace", names::dns1123_label, errors);
    }
}

fn claim_template(at: &At<'_>, errors: &mut Errors) {
    let metadata = at.child("metadata");
    let none = serde_json::Value::Null;
    let given = at.value.get("metadata").unwrap_or(&none);
    crate::meta::validate_annotations(given.get("annotations"), &metadata.child("annotations"), errors);
    crate::meta::validate_labels(given.get("labels"), &metadata.child("labels"), errors);
    for (field, _) in given.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if !matches!(field.as_str(), "annotations" | "labels") {
            errors.forbidden(&metadata.child(field), "cannot be set");
        }
    }
    storage::claim_spec(&At::new(at.value.get("spec").unwrap_or(&none), &at.child("spec")), errors);
}

const FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_file(at: &At<'_>, errors: &mut Errors) {
    at.require(&["path"], errors);
    free_inner_path(at.str("path"), &at.child("path"), errors);
    match (at.given("fieldRef"), at.given("resourceFieldRef")) {
        (None, None) => errors.required(&at.path, "one of fieldRef and resourceFieldRef is required"),
        (Some(field), other) => {
            super::pod::environment::field_ref(&field, &FIELDS, errors);
            if other.is_some() {
                errors.invalid(&at.path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => super::pod::environment::resource_ref(&resource, true, errors),
    }
    at.file_mode("mode", errors);
    at.id(&["user"], errors);
}

fn projected(at: &At<'_>, _: Volume<'_>, errors: &mut Errors) {
    at.file_mode("defaultMode", errors);
    at.id(&["defaultUser"], errors);
    let mut paths = BTreeSet::new();
    for source in at.each("sources") {
        let mut free = |shown: &str, text: &str, errors: &mut Errors| {
            if !text.is_empty() && !paths.insert(text.to_owned()) {
                errors.invalid(&at.path, shown, "conflicting duplicate paths");
            }
        };
        for one in ["secret", "configMap"].iter().filter_map(|kind| source.given(kind)) {
            one.require(&["name"], errors);
            for item in one.each("items") {
                key_to_path(&item, errors);
                free(one.str("name"), item.str("path"), errors);
            }
        }
        if let Some(one) = source.given("downwardAPI") {
            for file in one.each("items") {
                downward_file(&At::new(file.value, &one.path), errors);
                free(file.str("path"), file.str("path"), errors);
            }
        }
        if let Some(token) = source.given("serviceAccountToken") {
            projected_token(&token, &at.path, errors);
        }
        if let Some(bundle) = source.given("clusterTrustBundle") {
            trust_bundle(&bundle, errors);
            free(bundle.str("path"), bundle.str("path"), errors);
        }
        if let Some(certificate) = source.given("podCertificate") {
            pod_certificate(&certificate, errors);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                free(certificate.str(field), certificate.str(field), errors);
            }
        }
        if source.value.as_object().is_some_and(|kinds| kinds.values().filter(|kind| !kind.is_null()).count() > 1) {
            errors.forbidden(&source.path, "may not specify more than 1 volume type per source");
        }
    }
}

/// Kubernetes names its path as one of the whole volume.
fn projected_token(at: &At<'_>, volume: &Path, errors: &mut Errors) {
    at.number("expirationSeconds", 600..=i64::MAX, "may not specify a duration less than 10 minutes", errors);
    at.number("expirationSeconds", i64::MIN..=1 << 32, "may not specify a duration larger than 2^32 seconds", errors);
    if at.str("path").is_empty() {
        errors.required(&volume.child("path"), "");
    } else {
        free_inner_path(at.str("path"), &volume.child("path"), errors);
    }
    at.id(&["user"], errors);
}

fn trust_bundle(at: &At<'_>, errors: &mut Errors) {
    match (at.given("name"), at.given("signerName")) {
        (Some(_), Some(_)) => errors.invalid(&at.path, at.value.clone(), "only one of name and signerName may be used"),
        (Some(name), None) => {
            let text = name.value.as_str().unwrap_or_default();
            if text.is_empty() {
                errors.required(&name.path, "must be a valid object name");
            }
            let signer = text.rsplit_once(':').map(|(signer, _)| signer.replacen(':', "/", 1)).unwrap_or_default();
            for why in super::access::bundle_name(text, &signer).err().iter().flat_map(names::Faults::iter) {
                errors.invalid(&name.path, text, &format!("not a valid clustertrustbundlename: {why}"));
            }
            if let Some(selector) = at.given("labelSelector") {
                errors.invalid(&selector.path, selector.value.clone(), "labelSelector must be unset if name is specified");
            }
        }
        (None, Some(signer)) => {
            let text = signer.value.as_str().unwrap_or_default();
            if text.is_empty() {
                errors.required(&signer.path, "must be a valid signer name");
            }
            super::access::signer_name(text, &signer.path, errors);
            if let Some(selector) = at.given("labelSelector") {
                label_selector(selector.value, &selector.path, errors);
            }
        }
        (None, None) => errors.required(&at.path, "either name or signerName must be specified"),
    }
    at.require(&["path"], errors);
    at.id(&["user"], errors);
    free_inner_path(at.str("path"), &at.child("path"), errors);
}

fn pod_certificate(at: &At<'_>, errors: &mut Errors) {
    const KEYS: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    super::access::signer_name(at.str("signerName"), &at.child("signerName"), errors);
    super::pod_certificate::user_annotations(at, "userAnnotations", errors);
    at.id(&["user"], errors);
    if !KEYS.contains(&at.str("keyType")) {
        errors.unsupported(&at.child("keyType"), at.str("keyType"), &KEYS);
    }
    let most = super::pod_certificate::seconds_max(at.str("signerName"));
    at.number("maxExpirationSeconds", 3600..=i64::MAX, "if provided, maxExpirationSeconds must be >= 3600", errors);
    at.number("maxExpirationSeconds", i64::MIN..=most, &format!("if provided, maxExpirationSeconds must be <= {most}"), errors);
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for field in paths {
        free_inner_path(at.str(field), &at.child(field), errors);
    }
    if paths.iter().all(|field| at.str(field).is_empty()) {
        errors.required(&at.path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}
