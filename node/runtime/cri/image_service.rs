//! CRI's images.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skein_cri as v1;
use skein_cri::image_service_server::ImageService;
use tonic::{Request, Response, Status};

use super::{Streamed, stats, view};
use crate::images::{self, Credentials};
use crate::pods::Pods;
use crate::{Error, images::Store};

pub(super) struct Service {
    pub(super) pods: Arc<Pods>,
    pub(super) images: Arc<Store>,
    pub(super) insecure: Vec<String>,
}

// === impl Service ===

impl Service {
    fn list(&self, filter: Option<v1::ImageFilter>) -> Vec<v1::Image> {
        let name = filter.and_then(|f| f.image).map(|i| i.image).filter(|n| !n.is_empty());
        match name {
            Some(name) => self.images.find(&name).iter().map(view::image).collect(),
            None => self.images.list().iter().map(view::image).collect(),
        }
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    type StreamImagesStream = Streamed<v1::StreamImagesResponse>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.list(request.into_inner().filter) }))
    }

    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.list(request.into_inner().filter);
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(v1::StreamImagesResponse { images })]))))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        Ok(Response::new(v1::ImageStatusResponse { image: self.images.find(&name).as_ref().map(view::image), ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let credentials = credentials(request.auth.unwrap_or_default())?;
        let image = images::pull(&self.images, &name, credentials, &self.insecure).await.map_err(Error::from)?;
        Ok(Response::new(v1::PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let in_use: BTreeSet<String> = self.pods.containers().iter().flat_map(|c| c.record.spec.layers.clone()).collect();
        self.images.remove(&name, &in_use).map_err(Error::from)?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        let (images, containers) = (self.images.directory().to_path_buf(), self.pods.options.directory.join("containers"));
        let measured = tokio::task::spawn_blocking(move || (stats::filesystem(&images), stats::filesystem(&containers))).await;
        let (images, containers) = measured.map_err(|why| Status::internal(why.to_string()))?;
        Ok(Response::new(v1::ImageFsInfoResponse { image_filesystems: vec![images], container_filesystems: vec![containers] }))
    }
}

/// From any of the forms that a pull secret takes.
fn credentials(auth: v1::AuthConfig) -> Result<Credentials, Error> {
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::Token(auth.registry_token));
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic { user: auth.username, password: auth.password });
    }
    if auth.auth.is_empty() {
        return Ok(Credentials::Anonymous);
    }
    let malformed = || Error::Invalid("the pull secret's auth is not base64 of user:password".into());
    let text = String::from_utf8(STANDARD.decode(auth.auth.trim()).map_err(|_| malformed())?).map_err(|_| malformed())?;
    let (user, password) = text.split_once(':').ok_or_else(malformed)?;
    Ok(Credentials::Basic { user: user.into(), password: password.trim_end_matches('\0').into() })
}
