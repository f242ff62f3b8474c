//! Controllers: one file each, `reconcile(&Snapshot, Key, &mut Mint) -> Vec<Transaction>`.
//!
//! They are level-triggered: a controller looks at what is and at what should be, never at what changed. It may run
//! twice, late, or on a leader that is none any more; every write carries the revision that it read, and `lead` adds
//! the epoch. A new leader reconciles everything, so failover and the happy case are one path.
//!
//! ```text
//!   Event ──▶ interested(event) ──▶ (controller, key) ──▶ reconcile ──▶ transactions ──▶ lead proposes
//! ```

mod adapters;
mod api_service;
mod attachment;
mod attributes_class;
mod autoscaler;
mod backends;
mod bootstrap_token;
mod claim;
mod claim_waits;
mod cluster_role;
mod cron_job;
mod custom_resource;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_mirror;
mod endpoint_slice;
mod endpoints;
mod ephemeral_volume;
mod event_ttl;
mod flow_schema;
mod front_proxy;
mod garbage;
mod job;
mod load_balancer;
mod mint;
mod namespace;
mod node_lifecycle;
mod node_range;
mod node_services;
mod pods_of;
mod preemption;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod revision;
mod root_ca;
mod scheduler_profiles;
mod service_account;
mod service_claim;
mod signing_request;
mod snapshot;
mod stateful_set;
mod taint_eviction;
mod usage;
mod volume_binding;
mod volume_limits;
mod write;

use skein_command::Transaction;
use skein_object::Key;
use skein_object::claim::{CLUSTER_IPS, NODE_PORTS};
use skein_object::custom::DEFINITIONS;
use skein_object::quota::QUOTAS;
use skein_state::Event;

pub use adapters::{Adapters, Answer, Group, Question, values_of};
pub use mint::{Memory, Mint};
pub use node_lifecycle::{LOST_AFTER_MS, Liveness};
pub use pods_of::{is_finished, refused};
pub use preemption::{budgets, is_gated, preempted};
pub use scheduler_profiles::{concerns_profiles, profiles};
pub use snapshot::{Snapshot, Stored, labels_of};
pub use usage::Usage;
pub use volume_binding::{Claims, placed, volumes};
pub use volume_limits::{attached, drivers, held};
pub use write::{Note, bind, event, nominate, unschedulable};

/// Every controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    ApiService,
    Attachment,
    AttributesClass,
    Autoscaler,
    BootstrapToken,
    ClusterRole,
    CronJob,
    CustomResource,
    DaemonSet,
    Deployment,
    Disruption,
    EndpointMirror,
    EndpointSlice,
    Endpoints,
    EphemeralVolume,
    EventTtl,
    ReplicaSet,
    ReplicationController,
    FlowSchema,
    FrontProxy,
    Garbage,
    Job,
    LoadBalancer,
    Namespace,
    NodeLifecycle,
    NodeRange,
    NodeServices,
    ResourceQuota,
    RootCa,
    SchedulerProfiles,
    ServiceAccount,
    ServiceClaim,
    SigningRequest,
    StatefulSet,
    TaintEviction,
    VolumeClaim,
    Volume,
}

// === impl Controller ===

impl Controller {
    /// Whom Kubernetes' controller of this name acts as.
    pub fn account(self) -> &'static str {
        match self {
            Self::CronJob => "system:serviceaccount:kube-system:cronjob-controller",
            Self::DaemonSet => "system:serviceaccount:kube-system:daemon-set-controller",
            Self::Deployment => "system:serviceaccount:kube-system:deployment-controller",
            Self::EndpointMirror => "system:serviceaccount:kube-system:endpointslicemirroring-controller",
            Self::EndpointSlice => "system:serviceaccount:kube-system:endpointslice-controller",
            Self::Endpoints => "system:serviceaccount:kube-system:endpoint-controller",
            Self::EphemeralVolume => "system:serviceaccount:kube-system:ephemeral-volume-controller",
            Self::ReplicaSet => "system:serviceaccount:kube-system:replicaset-controller",
            Self::ReplicationController => "system:serviceaccount:kube-system:replication-controller",
            Self::Job => "system:serviceaccount:kube-system:job-controller",
            Self::StatefulSet => "system:serviceaccount:kube-system:statefulset-controller",
            _ => "system:kube-controller-manager",
        }
    }
}

/// What a controller answers.
#[derive(Default)]
pub struct Outcome {
    pub transactions: Vec<Transaction>,
    /// Look again after this long, though nothing changes: a deadline is near.
    pub again_ms: Option<u64>,
}

impl From<Vec<Transaction>> for Outcome {
    fn from(transactions: Vec<Transaction>) -> Self {
        Self { transactions, again_ms: None }
    }
}

/// Runs one controller on one object.
pub fn reconcile(controller: Controller, snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    match controller {
        Controller::EndpointMirror => endpoint_mirror::reconcile(snapshot, key, mint).into(),
        Controller::EndpointSlice => endpoint_slice::reconcile(snapshot, key, mint).into(),
        Controller::Endpoints => endpoints::reconcile(snapshot, key, mint).into(),
        Controller::Autoscaler => autoscaler::reconcile(snapshot, key, mint),
        Controller::ApiService => api_service::reconcile(snapshot, key, mint).into(),
        Controller::BootstrapToken => bootstrap_token::reconcile(snapshot, key, mint),
        Controller::ClusterRole => cluster_role::reconcile(snapshot, key).into(),
        Controller::RootCa => root_ca::reconcile(snapshot, key, mint).into(),
        Controller::CustomResource => custom_resource::reconcile(snapshot, key, mint).into(),
        Controller::CronJob => cron_job::reconcile(snapshot, key, mint),
        Controller::DaemonSet => daemon_set::reconcile(snapshot, key, mint),
        Controller::Job => job::reconcile(snapshot, key, mint),
        Controller::Disruption => disruption::reconcile(snapshot, key, mint).into(),
        Controller::Deployment => deployment::reconcile(snapshot, key, mint),
        Controller::EventTtl => event_ttl::reconcile(snapshot, key, mint),
        Controller::ReplicaSet => replica_set::reconcile(snapshot, key, mint),
        Controller::ReplicationController => replication_controller::reconcile(snapshot, key, mint),
        Controller::FlowSchema => flow_schema::reconcile(snapshot, key, mint).into(),
        Controller::FrontProxy => front_proxy::reconcile(snapshot, mint).into(),
        Controller::Garbage => garbage::reconcile(snapshot, key, mint).into(),
        Controller::LoadBalancer => load_balancer::reconcile(snapshot, key, mint).into(),
        Controller::Namespace => namespace::reconcile(snapshot, key, mint).into(),
        Controller::NodeLifecycle => node_lifecycle::reconcile(snapshot, key, mint),
        Controller::NodeRange => node_range::reconcile(snapshot, key).into(),
        Controller::ResourceQuota => resource_quota::reconcile(snapshot, key).into(),
        Controller::NodeServices => node_services::reconcile(snapshot, key, mint).into(),
        Controller::AttributesClass => attributes_class::reconcile(snapshot, key).into(),
        Controller::Attachment => attachment::reconcile(snapshot, key, mint),
        Controller::EphemeralVolume => ephemeral_volume::reconcile(snapshot, key, mint).into(),
        Controller::TaintEviction => taint_eviction::reconcile(snapshot, key, mint),
        Controller::StatefulSet => stateful_set::reconcile(snapshot, key, mint),
        Controller::VolumeClaim => claim::reconcile_claim(snapshot, key, mint).into(),
        Controller::Volume => claim::reconcile_volume(snapshot, key, mint).into(),
        Controller::SchedulerProfiles => scheduler_profiles::reconcile(snapshot, key, mint).into(),
        Controller::ServiceAccount => service_account::reconcile(snapshot, key, mint).into(),
        Controller::ServiceClaim => Vec::from_iter(service_claim::reconcile(snapshot, key)).into(),
        Controller::SigningRequest => signing_request::reconcile(snapshot, key, mint),
    }
}

/// Whether an event is more than a controller's own writing of the status.
fn has_new_spec(event: &Event) -> bool {
    let spec = |entry: &Option<skein_state::Entry>| entry.as_ref().and_then(|entry| entry.record.segment("spec").cloned());
    event.before.is_none() || spec(&event.before) != spec(&event.after)
}

/// Which controllers must look at which objects because of an event; all of them, when a leader begins.
pub fn interested(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let key = event.key.clone();
    let mut work = match key.resource() {
        "deployments.apps" => vec![(Controller::Deployment, key.clone())],
        "replicasets.apps" => vec![(Controller::ReplicaSet, key.clone())],
        "replicationcontrollers" => vec![(Controller::ReplicationController, key.clone())],
        "daemonsets.apps" => vec![(Controller::DaemonSet, key.clone())],
        "jobs.batch" => vec![(Controller::Job, key.clone())],
        disruption::BUDGETS => vec![(Controller::Disruption, key.clone())],
        "statefulsets.apps" => vec![(Controller::StatefulSet, key.clone())],
        claim::CLAIMS | claim::VOLUMES => {
            let classes = attributes_class::ending(snapshot).into_iter().map(|class| (Controller::AttributesClass, class));
            claim::interested(snapshot, event).into_iter().chain(classes).collect()
        }
        attributes_class::CLASSES => vec![(Controller::AttributesClass, key.clone())],
        "cronjobs.batch" => vec![(Controller::CronJob, key.clone())],
        // Names that become free may be another's.
        DEFINITIONS => {
            let definitions = snapshot.definitions().into_iter().map(|definition| (Controller::CustomResource, definition));
            definitions.chain(api_service::of_definition(event).into_iter().map(|service| (Controller::ApiService, service))).collect()
        }
        api_service::SERVICES => vec![(Controller::ApiService, key.clone())],
        "namespaces" => {
            let own = [Controller::Namespace, Controller::ServiceAccount, Controller::RootCa].map(|controller| (controller, key.clone()));
            // Every cluster has this one.
            let services = api_service::built_in().filter(|_| key.name() == root_ca::HOME);
            own.into_iter().chain(services.map(|service| (Controller::ApiService, service))).collect()
        }
        cluster_role::CLUSTER_ROLES => cluster_role::aggregated(snapshot).into_iter().map(|role| (Controller::ClusterRole, role)).collect(),
        "configmaps" if key.name() == root_ca::NAME => {
            let all = snapshot.state.range("namespaces/", None).map(|(namespace, _)| namespace.clone());
            let own = Key::new("namespaces", "", key.namespace());
            let homes = all.filter(|namespace| key.namespace() == root_ca::HOME || *namespace == own);
            homes.map(|namespace| (Controller::RootCa, namespace)).collect()
        }
        autoscaler::AUTOSCALERS if has_new_spec(event) => vec![(Controller::Autoscaler, key.clone())],
        flow_schema::SCHEMAS => vec![(Controller::FlowSchema, key.clone())],
        flow_schema::LEVELS => flow_schema::all(snapshot).into_iter().map(|schema| (Controller::FlowSchema, schema)).collect(),
        signing_request::REQUESTS => vec![(Controller::SigningRequest, key.clone())],
        "secrets" => bootstrap_token::of_secret(event).into_iter().collect(),
        QUOTAS => vec![(Controller::ResourceQuota, key.clone())],
        "serviceaccounts" => vec![(Controller::ServiceAccount, Key::new("namespaces", "", key.namespace()))],
        "events" => return vec![(Controller::EventTtl, key)],
        "nodes" => {
            let own = [(Controller::NodeRange, key.clone()), (Controller::NodeLifecycle, key.clone())];
            let services = node_services::keys().map(|service| (Controller::NodeServices, service));
            let daemons = snapshot.daemon_sets.keys().map(|set| (Controller::DaemonSet, set.clone()));
            let proxies = [(Controller::FrontProxy, front_proxy::key())];
            own.into_iter().chain(proxies).chain(services).chain(daemons).collect()
        }
        "services" if node_services::keys().any(|service| service == key) => vec![(Controller::NodeServices, key.clone())],
        "services" => {
            let claims = service_claim::of_service(event).into_iter().map(|claim| (Controller::ServiceClaim, claim));
            backends::of_service(&key).into_iter().chain(claims).collect()
        }
        CLUSTER_IPS | NODE_PORTS => vec![(Controller::ServiceClaim, key.clone())],
        "endpointslices.discovery.k8s.io" | "endpoints" => backends::of_endpoints(snapshot, event),
        "pods" => pods_of::controllers(snapshot, event),
        _ => Vec::new(),
    };
    if key.resource() == "pods" {
        work.extend(backends::controllers(snapshot, event));
        work.extend(disruption::of_pod(snapshot, event));
        work.extend(claim::of_pod(event).into_iter().map(|claim| (Controller::VolumeClaim, claim)));
        work.extend(ephemeral_volume::of_pod(event).map(|pod| (Controller::EphemeralVolume, pod)));
    }
    work.extend(attachment::interested(snapshot, event));
    work.extend(taint_eviction::interested(snapshot, event));
    if concerns_profiles(event) {
        work.push((Controller::SchedulerProfiles, key.clone()));
    }
    work.extend(load_balancer::interested(snapshot, event).into_iter().map(|service| (Controller::LoadBalancer, service)));
    if !key.namespace().is_empty() {
        work.extend(resource_quota::of_object(snapshot, event));
    }
    if key.resource() == "jobs.batch" {
        work.extend(snapshot::owners(event).into_iter().map(|owner| (Controller::CronJob, owner)));
    }
    if key.resource() == "replicasets.apps" {
        work.extend(snapshot::owners(event).into_iter().map(|owner| (Controller::Deployment, owner)));
    }
    if snapshot.is_custom(&key) && event.after.is_none() {
        work.push((Controller::CustomResource, Key::new(DEFINITIONS, "", key.resource())));
    }
    // A namespace that goes waits for its content; garbage is found where an owner went or a finalizer waits.
    if !key.namespace().is_empty() && event.after.is_none() {
        work.push((Controller::Namespace, Key::new("namespaces", "", key.namespace())));
    }
    work.push((Controller::Garbage, key));
    work.extend(snapshot.waiting_owners(event).into_iter().map(|owner| (Controller::Garbage, owner)));
    work
}
