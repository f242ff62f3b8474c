//! Pulls from registries (OCI distribution-spec): anonymous, with a password, or with a token.

use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::unpack::{hex, unpack};
use super::{Configuration, Error, Image, Store, chain, layer_directory, parse};

/// How many layers of an image come in at a time.
const DOWNLOADS: usize = 3;
/// A registry that cannot be reached is given up after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A download that stands still for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) enum Credentials {
    Anonymous,
    Basic { user: String, password: String },
    Token(String),
}

/// Brings an image here. What is here already is not asked for again.
pub(crate) async fn pull(store: &Store, name: &str, credentials: Credentials, insecure: &[String]) -> Result<Image, Error> {
    let reference = parse(name)?;
    let failed = |why: String| Error::Pull { image: name.into(), why };
    let client = client(&reference, insecure);
    let auth = match credentials {
        Credentials::Anonymous => RegistryAuth::Anonymous,
        Credentials::Basic { user, password } => RegistryAuth::Basic(user, password),
        Credentials::Token(token) => RegistryAuth::Bearer(token),
    };
    let resolved = client.pull_manifest_and_config(&reference, &auth).await;
    let (manifest, digest, config_text) =
        resolved.map_err(|why| failed(format!("failed to resolve reference {:?}: {}", reference.whole(), chain(&why))))?;
    let id = format!("sha256:{}", hex(&Sha256::digest(config_text.as_bytes())));
    if id != manifest.config.digest {
        return Err(failed(format!("its configuration has digest {id}, the manifest says {}", manifest.config.digest)));
    }
    let config: Configuration =
        serde_json::from_str(&config_text).map_err(|why| failed(format!("its configuration cannot be read: {why}")))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(failed(format!(
            "it has {} layers, but its configuration names {}",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    let incoming = store.incoming()?;
    let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
    let downloads: Vec<_> = pairs.map(|(layer, diff_id)| fetch(store, &client, &reference, layer, diff_id)).collect();
    let layers: Vec<String> =
        futures::stream::iter(downloads).buffered(DOWNLOADS).try_collect().await.map_err(|why: Error| failed(why.to_string()))?;
    drop(incoming);
    let whole = reference.whole();
    let tags = if reference.digest().is_none() { vec![whole] } else { Vec::new() };
    let digests = vec![format!("{}/{}@{digest}", reference.registry(), reference.repository())];
    let size = manifest.layers.iter().map(|l| u64::try_from(l.size).unwrap_or(0)).sum();
    store.enter(Image { id, tags, digests, size, layers, config })
}

/// One layer: downloaded, unpacked and checked in one pass.
async fn fetch(store: &Store, client: &Client, reference: &Reference, layer: &OciDescriptor, diff_id: &str) -> Result<String, Error> {
    let directory = layer_directory(diff_id);
    if store.layers_directory().join(&directory).exists() {
        return Ok(directory);
    }
    let wrong = |why: String| Error::Layer { digest: layer.digest.clone(), why };
    let blob = client.pull_blob_stream(reference, layer).await.map_err(|why| wrong(chain(&why)))?;
    let reader = SyncIoBridge::new(StreamReader::new(blob.stream));
    let store = store.clone();
    let (digest, diff_id) = (layer.digest.clone(), diff_id.to_string());
    let unpacked = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(&store, reader)?;
        if unpacked.digest != digest || unpacked.diff_id != diff_id {
            let found = unpacked.digest.clone();
            unpacked.discard();
            return Err(Error::Layer { digest, why: format!("what came has digest {found}") });
        }
        unpacked.keep(&store)
    });
    unpacked.await.map_err(|why| wrong(why.to_string()))?
}

fn client(reference: &Reference, insecure: &[String]) -> Client {
    let registry = reference.resolve_registry().to_string();
    let host = registry.rsplit_once(':').map_or(registry.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let protocol = if loopback || insecure.contains(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("skein/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}
