//! What a Pod or a Service says of its own places, as it reads for who came through the proxy: links in its pages, and
//! where it redirects to. A path that begins at its root begins at the proxy's for him.
//!
//! Source: Kubernetes' `apimachinery/pkg/util/proxy/transport.go`; the attributes are those of HTML 4 and 5 that hold
//! URLs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder};
use futures::channel::mpsc;
use futures::{SinkExt, TryStreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{MemorySettings, element};

use crate::Body;

/// Chunks of a page that may wait for a slow reader.
const CHUNKS_MAX: usize = 4;

/// A tag is kept until its end is seen; after a longer one, the page passes as it is.
const TAG_BYTES_MAX: usize = 1 << 20;

/// Which attributes of which elements hold a URL.
const PLACES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// How a page stands to who reads it through the proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Through {
    /// The proxy's path, without that of what was asked for there.
    pub(crate) prefix: String,
    /// As the client calls this server.
    pub(crate) host: String,
    /// As this server calls the one that answers.
    pub(crate) address: String,
}

// === impl Through ===

impl Through {
    /// An answer as it reads from the other side of the proxy.
    pub(crate) fn answer(self, mut answer: Response<Body>) -> Response<Body> {
        let text = |name: http::HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(moved) = self.url(text(LOCATION)).and_then(|url| HeaderValue::from_str(&url).ok()) {
            answer.headers_mut().insert(LOCATION, moved);
            return answer;
        }
        let is_page = text(CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"));
        let codec = Codec::of(text(CONTENT_ENCODING));
        let (true, Some(codec)) = (is_page && answer.headers().get(LOCATION).is_none(), codec) else { return answer };
        answer.headers_mut().remove(CONTENT_LENGTH);
        answer.map(|body| self.page(body, codec))
    }

    /// A URL as it reads from the other side; `None` where it is the same.
    fn url(&self, url: &str) -> Option<String> {
        let (origin, host, rest) = split(url);
        let is_elsewhere = !host.is_empty() && ![&self.address, &self.host].iter().any(|own| own.eq_ignore_ascii_case(host));
        if is_elsewhere || !rest.starts_with('/') {
            return None;
        }
        // What names this server by the client's name for it goes on doing so.
        let origin = if host.eq_ignore_ascii_case(&self.host) { origin } else { "" };
        if rest.starts_with(&self.prefix) {
            return (origin.len() + rest.len() != url.len()).then(|| format!("{origin}{rest}"));
        }
        let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        Some(format!("{origin}{}{query}", clean(&format!("{}/{path}", self.prefix))))
    }

    fn page(self, mut body: Body, codec: Codec) -> Body {
        let (mut sender, receiver) = mpsc::channel(CHUNKS_MAX);
        // A task of its own, for what rewrites is not to be shared between threads.
        tokio::spawn(async move {
            let mut rewriter = Rewriter::new(self, codec);
            loop {
                let (written, is_last) = match body.frame().await {
                    Some(Ok(frame)) => (frame.into_data().map_or(Ok(Bytes::new()), |data| rewriter.write(&data)), false),
                    Some(Err(why)) => (Err(why), true),
                    None => (rewriter.finish(), true),
                };
                let is_last = is_last || written.is_err();
                if sender.send(written).await.is_err() || is_last {
                    return;
                }
            }
        });
        StreamBody::new(receiver.map_ok(Frame::data)).boxed()
    }
}

/// `scheme://host` with its two slashes, the host alone, and the rest. An opaque URL (`mailto:`) is all rest.
fn split(url: &str) -> (&str, &str, &str) {
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let after_scheme = url.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).map_or(url, |(_, rest)| rest);
    let Some(authority) = after_scheme.strip_prefix("//") else {
        return ("", "", if after_scheme.len() == url.len() { url } else { "" });
    };
    let length = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    let (origin, rest) = url.split_at(url.len() - authority.len() + length);
    (origin, &authority[..length], rest)
}

/// A path without empty, `.` and `..` elements; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut elements: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => drop(elements.pop()),
            other => elements.push(other),
        }
    }
    let end = if path.ends_with('/') && !elements.is_empty() { "/" } else { "" };
    format!("/{}{end}", elements.join("/"))
}

type Unzip = MultiGzDecoder<Vec<u8>>;
type Zip = GzEncoder<Vec<u8>>;
type Inflate = DeflateDecoder<Vec<u8>>;
type Deflate = DeflateEncoder<Vec<u8>>;
type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// How a page is compressed; what is compressed otherwise is left as it is.
enum Codec {
    Plain,
    Gzip(Box<(Unzip, Zip)>),
    Deflate(Box<(Inflate, Deflate)>),
}

/// A page on its way: decompressed, rewritten, compressed again, chunk by chunk.
struct Rewriter {
    codec: Codec,
    html: Option<HtmlRewriter<'static, Sink>>,
    rewritten: Arc<Mutex<Vec<u8>>>,
}

// === impl Codec ===

impl Codec {
    fn of(encoding: &str) -> Option<Self> {
        let level = Compression::default();
        Some(match encoding {
            "" | "identity" => Self::Plain,
            "gzip" => Self::Gzip(Box::new((MultiGzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), level)))),
            "deflate" => Self::Deflate(Box::new((DeflateDecoder::new(Vec::new()), DeflateEncoder::new(Vec::new(), level)))),
            _ => return None,
        })
    }

    fn decode(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(chunk.to_vec()),
            Self::Gzip(codec) => pass(&mut codec.0, chunk, Unzip::get_mut),
            Self::Deflate(codec) => pass(&mut codec.0, chunk, Inflate::get_mut),
        }
    }

    fn encode(&mut self, chunk: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(chunk),
            _ if chunk.is_empty() => Ok(chunk),
            Self::Gzip(codec) => pass(&mut codec.1, &chunk, Zip::get_mut),
            Self::Deflate(codec) => pass(&mut codec.1, &chunk, Deflate::get_mut),
        }
    }

    fn finish(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(Vec::new()),
            Self::Gzip(codec) => codec.1.try_finish().map(|()| std::mem::take(codec.1.get_mut())),
            Self::Deflate(codec) => codec.1.try_finish().map(|()| std::mem::take(codec.1.get_mut())),
        }
    }
}

/// What a chunk becomes: nobody waits for the next to read this one.
fn pass<W: Write>(stage: &mut W, chunk: &[u8], written: impl Fn(&mut W) -> &mut Vec<u8>) -> io::Result<Vec<u8>> {
    stage.write_all(chunk)?;
    stage.flush()?;
    Ok(std::mem::take(written(stage)))
}

// === impl Rewriter ===

impl Rewriter {
    fn new(through: Through, codec: Codec) -> Self {
        let rewritten = Arc::new(Mutex::new(Vec::new()));
        let output = Arc::clone(&rewritten);
        let sink = move |chunk: &[u8]| output.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(chunk);
        let links = element!("*", move |element| {
            let name = element.tag_name();
            let attributes = PLACES.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, attributes)| attributes);
            for attribute in attributes {
                if let Some(url) = element.get_attribute(attribute).and_then(|url| through.url(&url)) {
                    element.set_attribute(attribute, &url)?;
                }
            }
            Ok(())
        });
        let memory =
            MemorySettings::new().with_max_allowed_memory_usage(TAG_BYTES_MAX).with_graceful_bail_out_on_memory_limit_exceeded(true);
        // What no browser understands either passes as it is.
        let settings = Settings::new_send().append_element_content_handler(links).with_memory_settings(memory).with_strict(false);
        Self { codec, html: Some(HtmlRewriter::new(settings, Box::new(sink))), rewritten }
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        let plain = self.codec.decode(chunk)?;
        if let Some(html) = &mut self.html {
            html.write(&plain).map_err(io::Error::other)?;
        }
        self.encoded()
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        if let Some(html) = self.html.take() {
            html.end().map_err(io::Error::other)?;
        }
        let mut last = self.encoded()?.to_vec();
        last.extend(self.codec.finish()?);
        Ok(last.into())
    }

    fn encoded(&mut self) -> io::Result<Bytes> {
        let rewritten = std::mem::take(&mut *self.rewritten.lock().unwrap_or_else(PoisonError::into_inner));
        self.codec.encode(rewritten).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::respond;

    fn through() -> Through {
        let prefix = "/api/v1/namespaces/a/pods/b/proxy";
        Through { prefix: prefix.into(), host: "api.example:6443".into(), address: "10.1.0.7:80".into() }
    }

    #[test]
    fn urls_of_this_server_lead_through_the_proxy() {
        let check = |url: &str, expected: Option<&str>| assert_eq!(through().url(url).as_deref(), expected, "{url}");
        let prefix = "/api/v1/namespaces/a/pods/b/proxy";
        check("/", Some(&format!("{prefix}/")));
        check("/a/../b/?q=/x#y", Some(&format!("{prefix}/b/?q=/x#y")));
        check("//10.1.0.7:80/a", Some(&format!("{prefix}/a")));
        check("http://10.1.0.7:80/a", Some(&format!("{prefix}/a")));
        check("https://api.example:6443/a", Some(&format!("https://api.example:6443{prefix}/a")));
        check("https://API.example:6443/a", Some(&format!("https://API.example:6443{prefix}/a")));
        check(&format!("{prefix}/a"), None);
        check(&format!("http://10.1.0.7:80{prefix}/a"), Some(&format!("{prefix}/a")));
        for same in ["", "a/b", "../a", "?q", "#y", "mailto:a@b", "http://elsewhere/a", "//elsewhere/a", "http://10.1.0.7:80", "data:,/"] {
            check(same, None);
        }
    }

    /// What comes out of a page that comes in pieces of this size.
    async fn rewritten(page: &[u8], encoding: &'static str, piece: usize) -> Vec<u8> {
        let pieces: Vec<_> = page.chunks(piece).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let body = StreamBody::new(futures::stream::iter(pieces)).boxed();
        let answer = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8").header(CONTENT_ENCODING, encoding);
        let answer = through().answer(answer.header(CONTENT_LENGTH, page.len()).body(body).expect("headers are valid"));
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
        answer.into_body().collect().await.expect("the page is whole").to_bytes().to_vec()
    }

    const PAGE: &str = "<!doctype html><A HREF='/one'>/two</a><img src=/three usemap=\"#four\" alt=/five><!-- <a href=/six> --><script>\"<a href='/seven'>\"</script><a href=\"http://elsewhere/\">ü</a>";
    const REWRITTEN: &str = "<!doctype html><A HREF=\"/api/v1/namespaces/a/pods/b/proxy/one\">/two</a><img src=\"/api/v1/namespaces/a/pods/b/proxy/three\" usemap=\"#four\" alt=/five><!-- <a href=/six> --><script>\"<a href='/seven'>\"</script><a href=\"http://elsewhere/\">ü</a>";

    #[tokio::test]
    async fn pages_are_rewritten_in_pieces_and_compressed_as_they_were() {
        for piece in [1, 7, 4096] {
            assert_eq!(String::from_utf8_lossy(&rewritten(PAGE.as_bytes(), "", piece).await), REWRITTEN);
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(PAGE.as_bytes()).expect("memory");
            let zipped = rewritten(&gzip.finish().expect("memory"), "gzip", piece).await;
            let mut text = String::new();
            flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut text).expect("it is compressed again");
            assert_eq!(text, REWRITTEN);
        }
    }

    #[tokio::test]
    async fn redirections_are_rewritten_and_what_is_no_page_is_left_alone() {
        let answer = |name: &'static str, value: &'static str| {
            let built = Response::builder().header(name, value).body(respond::full(Bytes::from_static(b"<a href=/x>")));
            through().answer(built.expect("headers are valid"))
        };
        let moved = answer("location", "/there/");
        assert_eq!(moved.headers()[LOCATION], "/api/v1/namespaces/a/pods/b/proxy/there/");
        for same in [answer("location", "http://elsewhere/"), answer("content-type", "text/plain"), answer("x", "y")] {
            assert_eq!(same.into_body().collect().await.expect("whole").to_bytes(), "<a href=/x>");
        }
    }
}
