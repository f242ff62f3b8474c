//! One driver's node service behind its socket.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use skein_csi as csi;
use skein_csi::node_client::NodeClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::summary::Disk;
use crate::{Error, socket};

pub(crate) use csi::node_service_capability::rpc::Type as Capability;

/// Kubelet's `csiTimeout`.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    node: NodeClient<Channel>,
    /// What the driver calls this node, and what it says of it.
    pub(crate) info: csi::NodeGetInfoResponse,
    capabilities: BTreeSet<i32>,
}

/// A volume as drivers are told of it, with what is said in every call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) handle: String,
    pub(crate) capability: csi::VolumeCapability,
    pub(crate) attributes: HashMap<String, String>,
    /// What attaching has answered.
    pub(crate) publish_context: HashMap<String, String>,
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// As Go's gRPC client words an error; events have shown it so for years.
fn failed(status: tonic::Status) -> Error {
    Error::Runtime(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

// === impl Driver ===

impl Driver {
    /// Asks the driver behind a socket about this node.
    pub(crate) async fn connect(endpoint: &Path) -> Result<Self, Error> {
        let mut node = NodeClient::new(socket::channel(endpoint));
        let info = node.node_get_info(bounded(csi::NodeGetInfoRequest {})).await.map_err(failed)?.into_inner();
        let answer = node.node_get_capabilities(bounded(csi::NodeGetCapabilitiesRequest {})).await.map_err(failed)?.into_inner();
        let said = answer.capabilities.into_iter().filter_map(|capability| capability.r#type);
        let capabilities = said.map(|csi::node_service_capability::Type::Rpc(rpc)| rpc.r#type).collect();
        Ok(Self { node, info, capabilities })
    }

    pub(crate) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&(capability as i32))
    }

    pub(crate) async fn stage(&self, call: &Call, staging: &Path, secrets: HashMap<String, String>) -> Result<(), Error> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: call.handle.clone(),
            publish_context: call.publish_context.clone(),
            staging_target_path: text(staging),
            volume_capability: Some(call.capability.clone()),
            secrets,
            volume_context: call.attributes.clone(),
        };
        self.node.clone().node_stage_volume(bounded(request)).await.map(drop).map_err(failed)
    }

    pub(crate) async fn unstage(&self, handle: &str, staging: &Path) -> Result<(), Error> {
        let request = csi::NodeUnstageVolumeRequest { volume_id: handle.into(), staging_target_path: text(staging) };
        self.node.clone().node_unstage_volume(bounded(request)).await.map(drop).map_err(failed)
    }

    pub(crate) async fn publish(
        &self,
        call: &Call,
        (staging, target, readonly): (Option<&Path>, &Path, bool),
        secrets: HashMap<String, String>,
    ) -> Result<(), Error> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: call.handle.clone(),
            publish_context: call.publish_context.clone(),
            staging_target_path: staging.map(text).unwrap_or_default(),
            target_path: text(target),
            volume_capability: Some(call.capability.clone()),
            readonly,
            secrets,
            volume_context: call.attributes.clone(),
        };
        self.node.clone().node_publish_volume(bounded(request)).await.map(drop).map_err(failed)
    }

    pub(crate) async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), Error> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: handle.into(), target_path: text(target) };
        self.node.clone().node_unpublish_volume(bounded(request)).await.map(drop).map_err(failed)
    }

    /// How full a volume is; nothing where the driver cannot tell.
    pub(crate) async fn volume_stats(&self, handle: &str, path: &Path) -> Option<Disk> {
        if !self.can(Capability::GetVolumeStats) {
            return None;
        }
        let request =
            csi::NodeGetVolumeStatsRequest { volume_id: handle.into(), volume_path: text(path), staging_target_path: String::new() };
        let told = self.node.clone().node_get_volume_stats(bounded(request)).await.ok()?.into_inner();
        let mut disk = Disk::default();
        for usage in told.usage {
            let count = |value: i64| u64::try_from(value).unwrap_or(0);
            match usage.unit() {
                csi::volume_usage::Unit::Bytes => {
                    (disk.available_bytes, disk.capacity_bytes) = (count(usage.available), count(usage.total))
                }
                csi::volume_usage::Unit::Inodes => (disk.inodes_free, disk.inodes) = (count(usage.available), count(usage.total)),
                csi::volume_usage::Unit::Unknown => {}
            }
        }
        Some(disk)
    }

    /// Makes what is on a volume as large as the volume now is.
    pub(crate) async fn expand(
        &self,
        call: &Call,
        (staging, target): (Option<&Path>, &Path),
        bytes: i64,
        secrets: HashMap<String, String>,
    ) -> Result<(), Error> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: call.handle.clone(),
            volume_path: text(target),
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path: staging.map(text).unwrap_or_default(),
            volume_capability: Some(call.capability.clone()),
            secrets,
        };
        self.node.clone().node_expand_volume(bounded(request)).await.map(drop).map_err(failed)
    }
}
