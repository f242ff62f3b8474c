//! The gRPC health checking protocol, `grpc.health.v1`, as a probe asks it. The words are those of `pkg/probe/grpc`.

use http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

const CHECK: &str = "/grpc.health.v1.Health/Check";

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answered {
    #[prost(enumeration = "State", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum State {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks one service, or with an empty name the server as a whole. The caller bounds the time.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let address = format!("{host}:{port}");
    let unreachable = |why: tonic::transport::Error| format!("error: failed to connect service at {address:?}: {why}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent("kube-probe/1.37")).map_err(unreachable)?;
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.map_err(unreachable)?);
    client.ready().await.map_err(unreachable)?;
    let asked = Request::new(Asked { service: service.into() });
    match client.unary(asked, PathAndQuery::from_static(CHECK), ProstCodec::<Asked, Answered>::default()).await {
        Ok(answered) => match answered.get_ref().status() {
            State::Serving => Ok(()),
            other => Err(format!("service unhealthy (responded with {:?})", name(other))),
        },
        Err(status) if status.code() == Code::Unimplemented => {
            Err(format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}", status.message()))
        }
        Err(status) => Err(format!("error: health rpc failed: {}", status.message())),
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Unknown => "UNKNOWN",
        State::Serving => "SERVING",
        State::NotServing => "NOT_SERVING",
        State::ServiceUnknown => "SERVICE_UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use tonic::Status;
    use tonic::body::Body;
    use tonic::server::{Grpc, NamedService, UnaryService};

    use super::*;

    /// A server whose services are well by their name.
    #[derive(Clone)]
    struct Health;

    impl NamedService for Health {
        const NAME: &'static str = "grpc.health.v1.Health";
    }

    impl UnaryService<Asked> for Health {
        type Response = Answered;
        type Future = std::future::Ready<Result<tonic::Response<Answered>, Status>>;

        fn call(&mut self, request: Request<Asked>) -> Self::Future {
            let status = match request.get_ref().service.as_str() {
                "" | "well" => State::Serving,
                "ill" => State::NotServing,
                other => return std::future::ready(Err(Status::not_found(format!("unknown service {other}")))),
            };
            std::future::ready(Ok(tonic::Response::new(Answered { status: status.into() })))
        }
    }

    impl tower::Service<http::Request<Body>> for Health {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            Box::pin(async { Ok(Grpc::new(ProstCodec::<Answered, Asked>::default()).unary(Self, request).await) })
        }
    }

    #[tokio::test]
    async fn asks_a_service_how_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(Health).serve_with_incoming(incoming));
        assert_eq!(check("127.0.0.1", port, "").await, Ok(()));
        assert_eq!(check("127.0.0.1", port, "well").await, Ok(()));
        assert_eq!(check("127.0.0.1", port, "ill").await, Err("service unhealthy (responded with \"NOT_SERVING\")".into()));
        assert_eq!(check("127.0.0.1", port, "other").await, Err("error: health rpc failed: unknown service other".into()));
        let nobody = check("127.0.0.1", 1, "").await.unwrap_err();
        assert!(nobody.starts_with("error: failed to connect service at \"127.0.0.1:1\""), "{nobody}");
    }
}
