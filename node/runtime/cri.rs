//! The CRI server: each call is one function here or in its own file; the shapes of answers are in `view.rs`.

mod exec_sync;
mod image_service;
mod runtime_service;
mod stats;
mod view;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use skein_cri::image_service_server::ImageServiceServer;
use skein_cri::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Status};

use crate::pods::Pods;
use crate::stream::Streams;
use crate::{Error, Options, images, io};

/// A container's whole configuration may come in one message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves until the process is told to end.
pub(crate) async fn serve(options: &Options, pods: Arc<Pods>, images: Arc<images::Store>, streams: Streams) -> Result<(), Error> {
    let path = &options.endpoint;
    let _ = std::fs::remove_file(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io(format!("cannot make {}", parent.display())))?;
    }
    let listener = UnixListener::bind(path).map_err(io(format!("cannot listen on {}", path.display())))?;
    // Whoever may connect may start anything: root, and nobody else.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(io(format!("cannot protect {}", path.display())))?;
    let runtime = runtime_service::Service { pods: Arc::clone(&pods), streams };
    let image = image_service::Service { pods, images, insecure: options.insecure_registries.clone() };
    let mut terminate = signal(SignalKind::terminate()).map_err(io("cannot receive signals"))?;
    tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(runtime).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ImageServiceServer::new(image).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            terminate.recv().await;
        })
        .await?;
    Ok(())
}

// === impl Status ===

impl From<Error> for Status {
    fn from(why: Error) -> Self {
        let code = match &why {
            Error::NotFound { .. } => Code::NotFound,
            Error::Image(images::Error::Reference { .. }) => Code::InvalidArgument,
            Error::NotRunning(_) => Code::FailedPrecondition,
            _ => Code::Unknown,
        };
        Self::new(code, why.to_string())
    }
}
