//! The Kubernetes API over HTTPS, the same on every node.
//!
//! ```text
//!   TLS ─▶ authenticate ─▶ fairness ─▶ route ─▶ authorize ─▶ verb ─▶ admit ─▶ store.propose ─▶ respond
//!                                        │                    │
//!                                        │                    └▶ get, list, watch: the local replica, made current where asked
//!                                        └▶ discovery, OpenAPI, health, version, the cluster's own endpoints
//! ```
//!
//! There is one path for all resources; what differs between them is in `proto/object`'s registry and in `resources/`,
//! where a few kinds have behaviour of their own. [`status`] is the only place where errors become HTTP.

mod admit;
mod aggregate;
mod audit;
mod authenticate;
mod authorize;
mod body;
mod call;
mod catalog;
mod convert;
mod derived;
mod discovery;
mod fairness;
mod kubelet_port;
mod metrics;
mod migrate;
mod negotiate;
mod openapi;
mod request_info;
mod resources;
mod respond;
mod route;
mod server;
mod status;
mod verbs;
mod websocket;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use serde_json::Value;
use skein_object::Status;
use skein_object::cipher::Keyring;
use skein_quic::Identity;
use skein_store::Handle;
use tokio::sync::watch;

pub use admit::Admitter;
pub use aggregate::Servers;
pub use audit::{Error as AuditError, Options as AuditOptions};
pub use authenticate::oidc::{Error as OpenIdError, Options as OpenIdOptions};
pub use authenticate::{Audience, Bound, LegacyClaims, OF_CLUSTER, TOKEN_KEYS, TokenClaims, TokenError, TokenKey};
pub use server::{Error, KubeletPort, Options, Service};

/// A response's body: whole or streamed.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// The API requests that one node's kubelet answers for another: logs of its containers, processes in them.
#[async_trait]
pub trait Kubelets: Send + Sync + 'static {
    async fn send(&self, node: &str, request: http::Request<Body>) -> std::io::Result<http::Response<Body>>;
}

/// What the cluster itself answers beside Kubernetes' API, under `/skein/v1`.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Takes a join request; needs no credentials but the token inside.
    async fn join(&self, request: Value) -> Result<Value, Status>;
    /// Takes a node's request for a new certificate; needs no credentials but the key inside.
    async fn renew(&self, request: Value) -> Result<Value, Status>;
    async fn status(&self) -> Value;
    /// The frames of a backup, one after the other; only voters have all that belongs into one.
    async fn backup(&self) -> Result<Box<dyn Iterator<Item = Vec<u8>> + Send>, Status>;
    async fn create_token(&self, request: Value) -> Result<Value, Status>;
    /// What becomes of the cluster's CA: `{"step": "show" | "rotate" | "retire"}`.
    async fn authority(&self, wish: Value) -> Result<Value, Status>;
    /// Signs a ServiceAccount's token with the cluster's key, which voters have.
    async fn sign(&self, claims: &TokenClaims) -> Result<String, Status>;
}

/// What every request needs. A cheap clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Handle,
    pub(crate) catalog: Arc<catalog::Catalog>,
    pub(crate) metrics: Arc<metrics::Metrics>,
    pub(crate) aggregated: Arc<aggregate::Known>,
    /// What this node shows to the servers that it asks on behalf of others.
    pub(crate) identity: watch::Receiver<Identity>,
    /// What watchers were told last.
    pub(crate) encoded: Arc<verbs::Encoded>,
    pub(crate) fairness: Arc<fairness::Fairness>,
    pub(crate) grants: Arc<authorize::rbac::Grants>,
    pub(crate) keyring: Keyring,
    /// Whose users are known besides.
    pub(crate) openid: Option<Arc<authenticate::oidc::Provider>>,
    pub(crate) kubelets: Arc<dyn Kubelets>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) cluster_ip_range: resources::service::Range,
}
