//! The listener: TLS, HTTP/1.1 and HTTP/2, one task per connection.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, Method};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use skein_object::Status;
use skein_object::cipher::Keyring;
use skein_quic::{Identity, Subject};
use skein_store::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::authenticate::certificate::{self, Shown};
use crate::authenticate::{User, oidc};
use crate::request_info::RequestInfo;
use crate::resources::service::Range;
use crate::{Admitter, Body, Cluster, Context, Kubelets, aggregate, audit, body, kubelet_port, migrate, respond, route};

/// A client that has not finished its handshake by then is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Options {
    pub bind: SocketAddr,
    /// Where this node's kubelet is asked, if it has a port of its own.
    pub kubelet: Option<KubeletPort>,
    /// What the node shows, and whom it believes; it renews itself.
    pub identity: watch::Receiver<Identity>,
    pub store: Handle,
    pub kubelets: Arc<dyn Kubelets>,
    pub cluster: Arc<dyn Cluster>,
    /// Signs the tokens of ServiceAccounts.
    /// Opens and seals Secrets, as soon as this node has the key.
    pub keyring: Keyring,
    /// Where ClusterIPs come from, as in `10.96.0.0/16`.
    pub cluster_ip_range: String,
    /// Where it is written down who asked what.
    pub audit: Option<audit::Options>,
    /// Whose tokens are believed besides the cluster's own.
    pub openid: Option<oidc::Options>,
}

pub struct KubeletPort {
    pub bind: SocketAddr,
    /// This node's name.
    pub node: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}/tcp: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Identity(#[from] skein_quic::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    OpenId(#[from] oidc::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error("{0:?} is not an IPv4 range like 10.96.0.0/16")]
    Range(String),
}

pub struct Service {
    listener: TcpListener,
    kubelet: Option<(TcpListener, Arc<str>)>,
    identity: watch::Receiver<Identity>,
    acceptor: TlsAcceptor,
    audit: Option<audit::Log>,
    context: Context,
}

// === impl Service ===

impl Service {
    /// Admission for what does not come through this API.
    pub fn admitter(&self) -> Admitter {
        Admitter::new(self.context.clone())
    }

    /// Other servers, for what does not come through this API.
    pub fn servers(&self) -> aggregate::Servers {
        aggregate::Servers::new(self.context.clone())
    }

    pub async fn bind(mut options: Options) -> Result<Self, Error> {
        let range = Range::parse(&options.cluster_ip_range).ok_or(Error::Range(options.cluster_ip_range))?;
        let listener = listen(options.bind).await?;
        let kubelet = match options.kubelet {
            Some(KubeletPort { bind, node }) => Some((listen(bind).await?, node.into())),
            None => None,
        };
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(&options.identity.borrow_and_update())?));
        let context = Context {
            store: options.store,
            catalog: Arc::default(),
            metrics: Arc::default(),
            aggregated: Arc::default(),
            identity: options.identity.clone(),
            encoded: Arc::default(),
            fairness: Arc::default(),
            grants: Arc::default(),
            keyring: options.keyring,
            openid: options.openid.as_ref().map(oidc::Provider::new).transpose()?.map(Arc::new),
            kubelets: options.kubelets,
            cluster: options.cluster,
            cluster_ip_range: range,
        };
        let audit = options.audit.as_ref().map(audit::Log::open).transpose()?;
        Ok(Self { listener, kubelet, identity: options.identity, acceptor, audit, context })
    }

    pub async fn run(mut self) {
        tokio::spawn(aggregate::watch_availability(self.context.clone()));
        tokio::spawn(migrate::run(self.context.clone()));
        loop {
            let (accepted, door) = tokio::select! {
                accepted = self.listener.accept() => (accepted, Door::Api),
                (accepted, node) = accept_for_kubelet(self.kubelet.as_ref()) => (accepted, Door::Kubelet(node)),
            };
            match accepted {
                Ok((stream, from)) => {
                    self.follow_identity();
                    let client = Client { from: from.ip(), door, audit: self.audit.clone(), context: self.context.clone() };
                    tokio::spawn(serve(stream, self.acceptor.clone(), client));
                }
                // Out of file descriptors: connections that end give some back.
                Err(why) => {
                    debug!(%why, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Shows the certificate that holds now.
    fn follow_identity(&mut self) {
        if self.identity.has_changed().unwrap_or(false) {
            match tls_config(&self.identity.borrow_and_update()) {
                Ok(config) => self.acceptor = TlsAcceptor::from(Arc::new(config)),
                Err(why) => warn!(%why, "the renewed certificate cannot be shown"),
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// Never, where the kubelet has no port.
async fn accept_for_kubelet(kubelet: Option<&(TcpListener, Arc<str>)>) -> (std::io::Result<(TcpStream, SocketAddr)>, Arc<str>) {
    match kubelet {
        Some((listener, node)) => (listener.accept().await, Arc::clone(node)),
        None => std::future::pending().await,
    }
}

fn tls_config(identity: &Identity) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let verifier = certificate::any(identity, Arc::clone(&provider))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain()?, identity.key()?)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Which port a connection has come to.
#[derive(Clone)]
enum Door {
    Api,
    /// That of the kubelet of this node.
    Kubelet(Arc<str>),
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Where a connection comes from, and what its requests need. A cheap clone.
#[derive(Clone)]
struct Client {
    from: IpAddr,
    door: Door,
    audit: Option<audit::Log>,
    context: Context,
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, client: Client) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let shown = Mutex::new(Shown::of(tls.get_ref().1, client.context.identity.clone()));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let subject = shown.lock().unwrap_or_else(PoisonError::into_inner).subject();
        let client = client.clone();
        async move {
            let answered = answer(client, subject, request).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|status| respond::status(&status)))
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(tls), service).await;
}

/// Reads the body before anything is decided: an answer that comes while a client still sends may never be read by it.
async fn answer(
    client: Client,
    subject: Result<Option<Subject>, String>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Status> {
    let Client { from, door, audit, context } = client;
    let (mut head, incoming) = request.into_parts();
    head.extensions.insert(Peer(from));
    let asker = User::of_request(&context, subject, &mut head.headers).await;
    let is_known = asker.as_ref().is_ok_and(|user| user.is_in("system:authenticated"));
    let content = body::read(incoming, if is_known { body::BODY_BYTES_MAX } else { body::ANONYMOUS_BYTES_MAX }).await?;
    if let Door::Kubelet(node) = door {
        return kubelet_port::answer(&context, &node, &asker?, http::Request::from_parts(head, content)).await;
    }
    let user = asker.clone().and_then(|asker| asker.acting_for(&context, &head.headers));
    let takes_gzip = head.method == Method::GET && takes_gzip(&head.headers);
    let info = RequestInfo::of(&head.method, &head.uri);
    let pending =
        audit.and_then(|audit| audit.received(audit::Asked { asker: &asker, user: &user, from, head: &head, info, body: &content }));
    let seated = match user {
        Ok(user) => context.fairness.admit(&context.store, &user, &info).await.map(|seat| (user, seat)),
        Err(status) => Err(status),
    };
    let answered = match seated {
        Ok((user, seat)) => {
            let answered = route::dispatch(context, user, http::Request::from_parts(head, content)).await;
            Ok(respond::sorted(answered.unwrap_or_else(|status| respond::status(&status)), &seat.sorted))
        }
        Err(status) => Err(status),
    };
    let response = match pending {
        Some(pending) => pending.answered(answered).await?,
        None => answered?,
    };
    if takes_gzip { respond::gzipped(response).await } else { Ok(response) }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    { accepted }.any(|coding| coding.split(';').next().unwrap_or_default().trim() == "gzip")
}
