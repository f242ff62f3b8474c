//! ClusterTrustBundles as files of a projected volume (KEP-3257).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use serde_json::Value;
use skein_object::selector::{Labels, Selector};
use skein_state::State;

use crate::Error;

/// The certificates of one bundle, or of all that a signer's labels select, each once.
pub(crate) fn content(state: &State, wanted: &ClusterTrustBundleProjection) -> Result<Vec<u8>, Error> {
    let bundles = state.show_all("clustertrustbundles.certificates.k8s.io");
    let name = |bundle: &Value| bundle["metadata"]["name"].as_str().unwrap_or_default().to_string();
    let chosen: Vec<&Value> = match (&wanted.name, &wanted.signer_name) {
        (Some(stated), _) => bundles.iter().filter(|bundle| name(bundle) == *stated).collect(),
        (None, signer) => bundles.iter().filter(|bundle| selected(wanted, signer.as_deref().unwrap_or_default(), bundle)).collect(),
    };
    if chosen.is_empty() && wanted.optional != Some(true) {
        return Err(Error::Config(match &wanted.name {
            Some(stated) => format!("clustertrustbundle.certificates.k8s.io {stated:?} not found"),
            None => "combination of signerName and labelSelector matched zero ClusterTrustBundles".into(),
        }));
    }
    let blocks: BTreeSet<String> =
        chosen.iter().flat_map(|bundle| blocks(bundle["spec"]["trustBundle"].as_str().unwrap_or_default())).collect();
    Ok(blocks.into_iter().collect::<String>().into_bytes())
}

fn selected(wanted: &ClusterTrustBundleProjection, signer: &str, bundle: &Value) -> bool {
    // No selector selects nothing, an empty one everything.
    let Some(selector) = &wanted.label_selector else { return false };
    let labels: Labels = serde_json::from_value(bundle["metadata"]["labels"].clone()).unwrap_or_default();
    bundle["spec"]["signerName"].as_str() == Some(signer) && Selector::from_label_selector(selector).matches(&labels)
}

/// The PEM blocks of a text, without what stands between them.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            current = Some(String::new());
        }
        if let Some(block) = &mut current {
            block.push_str(line);
            block.push('\n');
        }
        if line.starts_with("-----END ") {
            found.extend(current.take());
        }
    }
    found
}
