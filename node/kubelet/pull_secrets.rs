//! A Pod's `imagePullSecrets`: which of their credentials are for an image's registry. Pure.

use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;
use skein_cri::AuthConfig;
use skein_object::cipher::Keyring;
use skein_state::State;
use std::collections::BTreeMap;

use crate::secrets;

/// What `kubectl create secret docker-registry` writes, and Docker's own file.
#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Credentials to try, in the order of the Pod's list. A Secret that is not there is passed over, as by any kubelet:
/// the image may be public, or here already.
pub(crate) fn credentials(state: &State, keyring: &Keyring, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    let secrets = names.filter_map(|reference| secrets::secret(state, keyring, namespace, &reference.name).ok().flatten());
    secrets.flat_map(|secret| of_secret(&secret, registry(image))).collect()
}

fn of_secret(secret: &Secret, registry: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let file = |name: &str| data.and_then(|d| d.get(name)).map(|bytes| bytes.0.as_slice());
    let auths = match (file(".dockerconfigjson"), file(".dockercfg")) {
        (Some(bytes), _) => serde_json::from_slice::<Config>(bytes).map(|c| c.auths),
        (None, Some(bytes)) => serde_json::from_slice(bytes),
        (None, None) => return Vec::new(),
    };
    let matching = auths.unwrap_or_default().into_iter().filter(|(server, _)| host(server) == registry);
    matching
        .map(|(_, entry)| AuthConfig {
            username: entry.username,
            password: entry.password,
            auth: entry.auth,
            // It has been compared; containerd takes only URLs here.
            server_address: String::new(),
            identity_token: entry.identity_token,
            registry_token: entry.registry_token,
        })
        .collect()
}

/// The registry of an image: its first part, if that can be a host's name.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// A server as those files name it, perhaps as a URL with a path.
fn host(server: &str) -> &str {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    if host == "index.docker.io" { "docker.io" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn finds_the_credentials_of_an_images_registry() {
        let check = |file: &str, content: &str, image: &str, expected: &[&str]| {
            let data = BTreeMap::from([(file.to_string(), ByteString(content.as_bytes().to_vec()))]);
            let secret = Secret { data: Some(data), ..Secret::default() };
            let found: Vec<String> = of_secret(&secret, registry(image)).into_iter().map(|a| a.username).collect();
            assert_eq!(found, expected, "{image}");
        };
        let json = r#"{"auths":{"reg.example:5000":{"username":"u","password":"p"},"https://index.docker.io/v1/":{"username":"hub"}}}"#;
        check(".dockerconfigjson", json, "reg.example:5000/team/app:1", &["u"]);
        check(".dockerconfigjson", json, "nginx", &["hub"]);
        check(".dockerconfigjson", json, "team/app", &["hub"]);
        check(".dockerconfigjson", json, "other.example/app", &[]);
        check(".dockercfg", r#"{"reg.example":{"username":"old"}}"#, "reg.example/app", &["old"]);
        check(".dockerconfigjson", "not json", "nginx", &[]);
    }
}
