//! CRI's Pods and containers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skein_cri as v1;
use skein_cri::runtime_service_server::RuntimeService;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{Streamed, exec_sync, stats, view};
use crate::network::Network;
use crate::pods::{Pods, now_ns};
use crate::spec;
use crate::stream::{Streams, Wanted};

/// What `kubectl get node -o wide` shows as the container runtime.
const NAME: &str = "skein";

pub(super) struct Service {
    pub(super) pods: Arc<Pods>,
    pub(super) streams: Streams,
}

// === impl Service ===

impl Service {
    fn sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let all = self.pods.sandboxes().into_iter().map(|s| view::sandbox(&s));
        all.filter(|s| {
            view::names(&filter.id, &s.id)
                && filter.state.as_ref().is_none_or(|state| state.state == s.state)
                && view::selects(&filter.label_selector, &s.labels)
        })
        .collect()
    }

    fn containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let filter = filter.unwrap_or_default();
        let all = self.pods.containers().into_iter().map(|c| view::container(&c));
        all.filter(|c| {
            view::names(&filter.id, &c.id)
                && view::names(&filter.pod_sandbox_id, &c.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state == c.state)
                && view::selects(&filter.label_selector, &c.labels)
        })
        .collect()
    }

    async fn container_stats_of(&self, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<v1::ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.pods.containers().into_iter().filter(|c| c.runs());
        let chosen: Vec<_> = all
            .filter(|c| {
                view::names(&filter.id, &c.id)
                    && view::names(&filter.pod_sandbox_id, &c.record.sandbox)
                    && view::selects(&filter.label_selector, &c.config.labels)
            })
            .collect();
        self.measure(move |pods| chosen.iter().map(|c| stats::container(pods, c)).collect()).await
    }

    async fn sandbox_stats_of(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.pods.sandboxes().into_iter();
        let chosen: Vec<_> =
            all.filter(|s| view::names(&filter.id, &s.id) && view::selects(&filter.label_selector, &s.config.labels)).collect();
        self.measure(move |pods| chosen.iter().map(|s| stats::sandbox(pods, s)).collect()).await
    }

    /// Measuring looks at every file of a container's layer: no other call waits for that.
    async fn measure<T: Send + 'static>(&self, measure: impl FnOnce(&Pods) -> T + Send + 'static) -> Result<T, Status> {
        let pods = Arc::clone(&self.pods);
        tokio::task::spawn_blocking(move || measure(&pods)).await.map_err(|why| Status::internal(why.to_string()))
    }

    /// What an event tells: the Pod and all of its containers as they are now.
    fn event(&self, kind: v1::ContainerEventType, id: &str) -> v1::ContainerEventResponse {
        let container = self.pods.container(id).ok();
        let sandbox_id = container.as_ref().map_or(id, |c| c.record.sandbox.as_str());
        let sandbox = self.pods.sandbox(sandbox_id).ok();
        v1::ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind.into(),
            created_at: now_ns(),
            pod_sandbox_status: sandbox.map(|s| view::sandbox_status(&s)),
            containers_statuses: self.pods.containers_of(sandbox_id).iter().map(|c| view::container_status(c)).collect(),
        }
    }
}

/// A list as a stream of one part.
fn once<T: Send + 'static>(part: T) -> Response<Streamed<T>> {
    Response::new(Box::pin(futures::stream::iter([Ok(part)])))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let network = Network::find(&self.pods.options);
        let (reason, message) =
            network.as_ref().map_or_else(|why| ("NetworkPluginNotReady".to_string(), why.to_string()), |_| Default::default());
        let conditions = vec![
            v1::RuntimeCondition { r#type: "RuntimeReady".into(), status: true, ..Default::default() },
            v1::RuntimeCondition { r#type: "NetworkReady".into(), status: network.is_ok(), reason, message },
        ];
        let handlers = vec![v1::RuntimeHandler {
            name: String::new(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true }),
        }];
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            runtime_handlers: handlers,
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
            ..Default::default()
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        let pod_sandbox_id = self.pods.run_sandbox(request.config.unwrap_or_default(), request.runtime_handler).await?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        if self.pods.sandbox(&id).is_ok() {
            self.pods.stop_sandbox(&id).await?;
        }
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        self.pods.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        let sandbox = self.pods.sandbox(&request.into_inner().pod_sandbox_id)?;
        let containers_statuses = self.pods.containers_of(&sandbox.id).iter().map(|c| view::container_status(c)).collect();
        let status = Some(view::sandbox_status(&sandbox));
        Ok(Response::new(v1::PodSandboxStatusResponse { status, containers_statuses, timestamp: now_ns(), ..Default::default() }))
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        Ok(Response::new(v1::ListPodSandboxResponse { items: self.sandboxes(request.into_inner().filter) }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        Ok(once(v1::StreamPodSandboxesResponse { pod_sandboxes: self.sandboxes(request.into_inner().filter) }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let container_id = self.pods.create_container(&request.pod_sandbox_id, request.config.unwrap_or_default())?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Result<Response<v1::StartContainerResponse>, Status> {
        self.pods.start_container(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Result<Response<v1::StopContainerResponse>, Status> {
        let request = request.into_inner();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        if self.pods.container(&request.container_id).is_ok() {
            self.pods.stop_container(&request.container_id, grace).await?;
        }
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        self.pods.remove_container(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Result<Response<v1::ListContainersResponse>, Status> {
        Ok(Response::new(v1::ListContainersResponse { containers: self.containers(request.into_inner().filter) }))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        Ok(once(v1::StreamContainersResponse { containers: self.containers(request.into_inner().filter) }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        let container = self.pods.container(&request.into_inner().container_id)?;
        Ok(Response::new(v1::ContainerStatusResponse { status: Some(view::container_status(&container)), ..Default::default() }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        let request = request.into_inner();
        let container = self.pods.container(&request.container_id)?;
        let resources = spec::resources(&request.linux.unwrap_or_default());
        let limited = self.pods.hierarchies.limit(&container.record.spec.cgroup, &resources);
        limited.map_err(crate::io("cannot change limits"))?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        let request = request.into_inner();
        let sandbox = self.pods.sandbox(&request.pod_sandbox_id)?;
        let resources = spec::resources(&request.resources.unwrap_or_default());
        self.pods.hierarchies.limit(&sandbox.cgroup(), &resources).map_err(crate::io("cannot change limits"))?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        self.pods.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Result<Response<v1::ExecSyncResponse>, Status> {
        exec_sync::exec_sync(&self.pods, request.into_inner()).await.map(Response::new)
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        let container = self.pods.container(&request.into_inner().container_id)?;
        let stats = self.measure(move |pods| stats::container(pods, &container)).await?;
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        Ok(Response::new(v1::ListContainerStatsResponse { stats: self.container_stats_of(request.into_inner().filter).await? }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let container_stats = self.container_stats_of(request.into_inner().filter).await?;
        Ok(once(v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        let sandbox = self.pods.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = self.measure(move |pods| stats::sandbox(pods, &sandbox)).await?;
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats: self.sandbox_stats_of(request.into_inner().filter).await? }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let pod_sandbox_stats = self.sandbox_stats_of(request.into_inner().filter).await?;
        Ok(once(v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        // The Pod network's range comes to the plugins by their configuration.
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let service = Self { pods: Arc::clone(&self.pods), streams: self.streams.clone() };
        let events = BroadcastStream::new(self.pods.events.subscribe()).map(move |event| match event {
            Ok((kind, id)) => Ok(service.event(kind, &id)),
            Err(_) => Err(Status::data_loss("events were missed: list again")),
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        Err(Status::unimplemented("CheckpointContainer is not implemented by this runtime"))
    }

    async fn checkpoint_pod(&self, _: Request<v1::CheckpointPodRequest>) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        Err(Status::unimplemented("CheckpointPod is not implemented by this runtime"))
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> Result<Response<v1::RestorePodResponse>, Status> {
        Err(Status::unimplemented("RestorePod is not implemented by this runtime"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        Err(Status::unimplemented("ListMetricDescriptors is not implemented by this runtime"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        Err(Status::unimplemented("ListPodSandboxMetrics is not implemented by this runtime"))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        let request = request.into_inner();
        self.pods.container(&request.container_id)?;
        Ok(Response::new(v1::ExecResponse { url: self.streams.expect("exec", Wanted::Exec(request)) }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        let request = request.into_inner();
        self.pods.container(&request.container_id)?;
        Ok(Response::new(v1::AttachResponse { url: self.streams.expect("attach", Wanted::Attach(request)) }))
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Result<Response<v1::PortForwardResponse>, Status> {
        let request = request.into_inner();
        self.pods.sandbox(&request.pod_sandbox_id)?;
        Ok(Response::new(v1::PortForwardResponse { url: self.streams.expect("portforward", Wanted::PortForward(request)) }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        Err(Status::unimplemented("StreamPodSandboxMetrics is not implemented by this runtime"))
    }
}
