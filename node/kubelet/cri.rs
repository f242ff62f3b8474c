//! The runtime behind its socket: the calls that the kubelet makes, with Kubernetes' labels on everything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skein_cri as v1;
use skein_cri::image_service_client::ImageServiceClient;
use skein_cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;

use crate::{Error, socket};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// A cheap clone.
#[derive(Clone)]
pub(crate) struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

// === impl Runtime ===

impl Runtime {
    /// Connects when first used, and again when the runtime has restarted.
    pub(crate) fn new(socket: &Path) -> Self {
        let channel = socket::channel(socket);
        Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) }
    }

    /// Name and version, for the Node's status.
    pub(crate) async fn version(&self) -> Result<String, Error> {
        let answer = self.runtime.clone().version(v1::VersionRequest { version: "v1".into() }).await?.into_inner();
        Ok(format!("{}://{}", answer.runtime_name, answer.runtime_version))
    }

    pub(crate) async fn status(&self) -> Result<v1::StatusResponse, Error> {
        Ok(self.runtime.clone().status(v1::StatusRequest { verbose: false }).await?.into_inner())
    }

    /// All images that are there.
    pub(crate) async fn images(&self) -> Result<Vec<v1::Image>, Error> {
        Ok(self.images.clone().list_images(v1::ListImagesRequest { filter: None }).await?.into_inner().images)
    }

    pub(crate) async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, Error> {
        let filter = v1::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() };
        Ok(self.runtime.clone().list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?.into_inner().items)
    }

    pub(crate) async fn containers(&self, uid: Option<&str>) -> Result<Vec<v1::Container>, Error> {
        let filter = v1::ContainerFilter { label_selector: by_uid(uid), ..Default::default() };
        Ok(self.runtime.clone().list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?.into_inner().containers)
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default())
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.runtime.clone().container_status(request).await?.into_inner().status.unwrap_or_default())
    }

    pub(crate) async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, Error> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.runtime.clone().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.runtime.clone().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }

    pub(crate) async fn start_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let create =
            v1::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: Some(sandbox_config) };
        let id = self.runtime.clone().create_container(create).await?.into_inner().container_id;
        self.runtime.clone().start_container(v1::StartContainerRequest { container_id: id.clone() }).await?;
        Ok(id)
    }

    pub(crate) async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), Error> {
        self.runtime.clone().stop_container(v1::StopContainerRequest { container_id: id.into(), timeout: grace_seconds }).await?;
        Ok(())
    }

    pub(crate) async fn update_resources(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<(), Error> {
        let request = v1::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(resources), ..Default::default() };
        self.runtime.clone().update_container_resources(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.runtime.clone().remove_container(v1::RemoveContainerRequest { container_id: id.into() }).await?;
        Ok(())
    }

    /// Exit code and output of a command in a container.
    pub(crate) async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<(i32, String), Error> {
        let seconds = i64::try_from(timeout.as_secs().max(1)).unwrap_or(1);
        let request = v1::ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout: seconds };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        let output = [answer.stdout, answer.stderr].concat();
        Ok((answer.exit_code, String::from_utf8_lossy(&output).into_owned()))
    }

    /// What a container holds of memory now, in bytes.
    pub(crate) async fn memory_usage(&self, id: &str) -> Result<u64, Error> {
        let filter = v1::ContainerStatsFilter { id: id.into(), ..Default::default() };
        let stats =
            self.runtime.clone().list_container_stats(v1::ListContainerStatsRequest { filter: Some(filter) }).await?.into_inner().stats;
        Ok({ stats }.pop().and_then(|s| s.memory?.working_set_bytes).map_or(0, |bytes| bytes.value))
    }

    /// CPU time and memory of every container.
    pub(crate) async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, Error> {
        Ok(self.runtime.clone().list_container_stats(v1::ListContainerStatsRequest { filter: None }).await?.into_inner().stats)
    }

    pub(crate) async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, Error> {
        Ok(self.runtime.clone().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None }).await?.into_inner().stats)
    }

    /// What happens to containers, as it happens. Not every runtime tells.
    pub(crate) async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>, Error> {
        Ok(self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await?.into_inner())
    }

    /// After the container's log was renamed away.
    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.runtime.clone().reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.into() }).await?;
        Ok(())
    }

    /// Where the runtime streams a process of a container: a URL on this node.
    pub(crate) async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, Error> {
        Ok(self.runtime.clone().exec(request).await?.into_inner().url)
    }

    pub(crate) async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, Error> {
        Ok(self.runtime.clone().attach(request).await?.into_inner().url)
    }

    pub(crate) async fn port_forward_url(&self, sandbox: &str, port: Vec<i32>) -> Result<String, Error> {
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.into(), port };
        Ok(self.runtime.clone().port_forward(request).await?.into_inner().url)
    }

    pub(crate) async fn image(&self, name: &str) -> Result<Option<v1::Image>, Error> {
        let spec = v1::ImageSpec { image: name.into(), ..Default::default() };
        Ok(self.images.clone().image_status(v1::ImageStatusRequest { image: Some(spec), verbose: false }).await?.into_inner().image)
    }

    /// Where the runtime keeps images, as far as it says.
    pub(crate) async fn image_directory(&self) -> Option<PathBuf> {
        let found = self.images.clone().image_fs_info(v1::ImageFsInfoRequest {}).await.ok()?.into_inner();
        let place = found.image_filesystems.into_iter().next()?.fs_id?.mountpoint;
        Some(PathBuf::from(place)).filter(|place| place.exists())
    }

    pub(crate) async fn remove_image(&self, id: &str) -> Result<(), Error> {
        let spec = v1::ImageSpec { image: id.into(), ..Default::default() };
        self.images.clone().remove_image(v1::RemoveImageRequest { image: Some(spec) }).await?;
        Ok(())
    }

    pub(crate) async fn pull(&self, name: &str, auth: Option<v1::AuthConfig>, sandbox: v1::PodSandboxConfig) -> Result<String, Error> {
        let spec = v1::ImageSpec { image: name.into(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox) };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }
}

fn by_uid(uid: Option<&str>) -> HashMap<String, String> {
    uid.map(|uid| (POD_UID.to_string(), uid.to_string())).into_iter().collect()
}

/// The labels by which everything of a Pod is found again.
pub(crate) fn labels(pod: &Pod) -> HashMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    HashMap::from([
        (POD_NAME.into(), text(&pod.metadata.name)),
        (POD_NAMESPACE.into(), text(&pod.metadata.namespace)),
        (POD_UID.into(), text(&pod.metadata.uid)),
    ])
}

/// A count that the runtime may leave out.
pub(crate) fn value(value: Option<&v1::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}
