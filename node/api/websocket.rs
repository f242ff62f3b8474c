//! Logs and watches as messages of a websocket (RFC 6455), for clients that ask for them so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skein_object::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{Body, respond};

/// A client that wants to read what it is answered from a websocket.
pub(crate) struct Websocket {
    client: OnUpgrade,
    accept: String,
    protocol: Option<String>,
    framing: Framing,
}

/// What one message is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    /// Bytes as they come.
    Binary,
    /// The same, for clients that take text alone.
    Base64,
    /// An event of a watch in JSON, which ends with a line.
    Line,
    /// One in protobuf, which begins with its length.
    Length,
}

// === impl Websocket ===

impl Websocket {
    /// What a request asks for, if it does.
    pub(crate) fn asked(request: &mut Request<Bytes>, is_watch: bool) -> Result<Option<Self>, Status> {
        let headers = request.headers();
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_asked(headers)) else { return Ok(None) };
        let (protocol, framing) =
            chosen(&offers(headers), is_watch).ok_or_else(|| Status::bad_request("missing or bad WebSocket-Protocol"))?;
        let accept = derive_accept_key(key.as_bytes());
        Ok(Some(Self { accept, protocol, framing, client: hyper::upgrade::on(request) }))
    }

    /// Answers that it will be so, and sends the response's body message by message.
    pub(crate) fn carry(self, response: Response<Body>) -> Response<Body> {
        let is_protobuf = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == skein_protobuf::WATCH_CONTENT_TYPE);
        let framing = if is_protobuf { Framing::Length } else { self.framing };
        let mut switched = Response::new(respond::full(""));
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        handshake(&self.accept, self.protocol.as_deref(), switched.headers_mut());
        tokio::spawn(async move {
            if let Ok(client) = self.client.await {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
                send(socket, response.into_body(), framing).await;
            }
        });
        switched
    }
}

/// Whether a client asks for a websocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The subprotocols that a client offers.
pub(crate) fn offers(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

pub(crate) fn handshake(accept: &str, protocol: Option<&str>, headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(protocol) = protocol.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

/// A watch takes the one subprotocol that there is, whatever it is called; bytes have names for how they are sent.
fn chosen(offers: &[&str], is_watch: bool) -> Option<(Option<String>, Framing)> {
    if is_watch {
        return (offers.len() < 2).then(|| (offers.first().map(ToString::to_string), Framing::Line));
    }
    if offers.is_empty() {
        return Some((None, Framing::Binary));
    }
    offers.iter().find_map(|offer| match *offer {
        "binary.k8s.io" => Some((Some(offer.to_string()), Framing::Binary)),
        "base64.binary.k8s.io" => Some((Some(offer.to_string()), Framing::Base64)),
        _ => None,
    })
}

/// Until the body ends or the client goes; it has nothing to say.
async fn send<C: AsyncRead + AsyncWrite + Unpin>(client: WebSocketStream<C>, mut body: Body, framing: Framing) {
    let (mut sink, mut source) = client.split();
    let gone = async { while source.next().await.is_some_and(|message| message.is_ok_and(|message| !message.is_close())) {} };
    let sent = async {
        // Bytes begin with a message that is empty, as Kubernetes' do.
        let begin = matches!(framing, Framing::Binary | Framing::Base64).then(|| message(framing, b""));
        if let Some(begin) = begin
            && sink.send(begin).await.is_err()
        {
            return;
        }
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else { continue };
            for message in messages(framing, &bytes) {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        }
        let _ = sink.close().await;
    };
    tokio::select! {
        () = gone => {}
        () = sent => {}
    }
}

fn messages(framing: Framing, bytes: &[u8]) -> Vec<Message> {
    match framing {
        Framing::Binary | Framing::Base64 => vec![message(framing, bytes)],
        Framing::Line => bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| message(framing, line)).collect(),
        Framing::Length => {
            let mut rest = bytes;
            std::iter::from_fn(|| {
                let (length, after) = rest.split_first_chunk::<4>()?;
                let (event, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
                rest = after;
                Some(message(framing, event))
            })
            .collect()
        }
    }
}

fn message(framing: Framing, bytes: &[u8]) -> Message {
    match framing {
        Framing::Binary | Framing::Length => Message::binary(Bytes::copy_from_slice(bytes)),
        Framing::Base64 => Message::text(STANDARD.encode(bytes)),
        Framing::Line => Message::text(String::from_utf8_lossy(bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_sent_by_a_known_protocol_and_watches_by_any() {
        let check = |offers: &[&str], is_watch: bool, expected: Option<(Option<&str>, Framing)>| {
            let found = chosen(offers, is_watch);
            let found = found.as_ref().map(|(protocol, framing)| (protocol.as_deref(), *framing));
            assert_eq!(found, expected, "{offers:?}");
        };
        check(&[], false, Some((None, Framing::Binary)));
        check(&["v9", "binary.k8s.io"], false, Some((Some("binary.k8s.io"), Framing::Binary)));
        check(&["base64.binary.k8s.io", "binary.k8s.io"], false, Some((Some("base64.binary.k8s.io"), Framing::Base64)));
        check(&["v9"], false, None);
        check(&[], true, Some((None, Framing::Line)));
        check(&["any"], true, Some((Some("any"), Framing::Line)));
        check(&["one", "two"], true, None);
    }

    #[test]
    fn an_event_is_a_message() {
        assert_eq!(messages(Framing::Line, b"{1}\n{2}\n"), [Message::text("{1}"), Message::text("{2}")]);
        let binary = |bytes: &[u8]| Message::binary(bytes.to_vec());
        assert_eq!(messages(Framing::Length, b"\0\0\0\x01a\0\0\0\x02\nc"), [binary(b"a"), binary(b"\nc")]);
        assert_eq!(messages(Framing::Length, b"\0\0\0\x09a"), [], "a piece is none");
        assert_eq!(messages(Framing::Base64, b"a\nb"), [Message::text("YQpi")]);
        assert_eq!(messages(Framing::Binary, b"a\nb"), [Message::binary(b"a\nb".to_vec())]);
    }
}
