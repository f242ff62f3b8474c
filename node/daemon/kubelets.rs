//! The API's way to kubelets, over QUIC; a node asks its own in the same way.

use std::io;

use async_trait::async_trait;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use skein_api::{Body, Kubelets};
use skein_peer::Channel;
use skein_quic::Endpoint;
use skein_store::Handle;

pub(crate) struct Reach {
    pub(crate) store: Handle,
    pub(crate) endpoint: Endpoint,
}

#[async_trait]
impl Kubelets for Reach {
    async fn send(&self, node: &str, mut request: Request<Body>) -> io::Result<Response<Body>> {
        let members = self.store.members();
        let member = members.into_iter().find(|m| m.member.name == node);
        let member = member.ok_or_else(|| io::Error::other(format!("no daemon runs node {node}")))?.member;
        let stream = self.endpoint.open(&member.name, &member.address, Channel::Kubelet).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("kubelet"));
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok(response.map(|body| body.map_err(io::Error::other).boxed()))
    }
}
