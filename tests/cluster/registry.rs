//! A small image registry (OCI distribution-spec, pulling only), as tests need it: one image, three ways to get in.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use skein_lab::image::{Image, configuration, digest, layer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Anonymous,
    Basic,
    Token,
}

pub const USER: &str = "reader";
pub const PASSWORD: &str = "sesame";
const TOKEN: &str = "a-token-of-this-test";

/// Serves until the process ends.
pub struct Registry {
    /// `host:port`
    pub address: String,
}

struct Content {
    manifest: Vec<u8>,
    blobs: Vec<(String, Vec<u8>)>,
    access: Access,
    address: String,
}

// === impl Registry ===

impl Registry {
    /// Listens on an address of this machine that the nodes reach.
    pub fn serve(address: &str, access: Access, image: &Image<'_>) -> Self {
        let layer = layer(image).expect("a layer");
        let config = configuration(image, &digest(&layer));
        let layer_digest = format!("sha256:{}", digest(&layer));
        let config_digest = format!("sha256:{}", digest(config.as_bytes()));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
        });
        let listener = TcpListener::bind(address).expect("the address is this machine's");
        let content = Arc::new(Content {
            manifest: manifest.to_string().into_bytes(),
            blobs: vec![(layer_digest, layer), (config_digest, config.into_bytes())],
            access,
            address: address.into(),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = Arc::clone(&content);
                std::thread::spawn(move || while content.answer(&stream).is_ok_and(|again| again) {});
            }
        });
        Self { address: address.into() }
    }
}

// === impl Content ===

impl Content {
    /// One request and its answer; whether another may follow.
    fn answer(&self, stream: &TcpStream) -> std::io::Result<bool> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        let head = line.starts_with("HEAD");
        let mut authorization = String::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = value.trim().to_string();
            }
        }
        let (status, headers, body) = self.respond(&path, &authorization);
        let mut out = stream;
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
        if !head {
            out.write_all(&body)?;
        }
        Ok(true)
    }

    fn respond(&self, path: &str, authorization: &str) -> (&'static str, String, Vec<u8>) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if path.starts_with("/token") {
            return if authorization == basic {
                ("200 OK", "Content-Type: application/json\r\n".into(), json!({"token": TOKEN, "expires_in": 300}).to_string().into_bytes())
            } else {
                ("401 Unauthorized", String::new(), Vec::new())
            };
        }
        let allowed = match self.access {
            Access::Anonymous => true,
            Access::Basic => authorization == basic,
            Access::Token => authorization == format!("Bearer {TOKEN}"),
        };
        if !allowed {
            let challenge = match self.access {
                Access::Token => {
                    format!("Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:team/app:pull\"", self.address)
                }
                _ => "Basic realm=\"test\"".into(),
            };
            let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).to_string();
            return ("401 Unauthorized", format!("WWW-Authenticate: {challenge}\r\nContent-Type: application/json\r\n"), body.into_bytes());
        }
        if path == "/v2/" {
            return ("200 OK", String::new(), b"{}".to_vec());
        }
        if path.contains("/manifests/") {
            let digest = digest(&self.manifest);
            let headers = format!("Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: sha256:{digest}\r\n");
            return ("200 OK", headers, self.manifest.clone());
        }
        let blob = self.blobs.iter().find(|(digest, _)| path.ends_with(digest.as_str()));
        match blob {
            Some((_, bytes)) => ("200 OK", "Content-Type: application/octet-stream\r\n".into(), bytes.clone()),
            None => ("404 Not Found", String::new(), b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}".to_vec()),
        }
    }
}
