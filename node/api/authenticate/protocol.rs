//! A bearer token among the protocols of a websocket: browsers can set no other header there.
//!
//! Source: Kubernetes' `apiserver/pkg/authentication/request/websocket/protocol.go`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};

use crate::websocket::{is_asked, offers};

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token, which is a protocol no more; `Err` says what is wrong with it.
pub(super) fn take_bearer(headers: &mut HeaderMap) -> Result<Option<String>, String> {
    if !is_asked(headers) {
        return Ok(None);
    }
    let (tokens, others): (Vec<&str>, Vec<&str>) = offers(headers).into_iter().partition(|name| name.starts_with(PREFIX));
    let encoded = match tokens.as_slice() {
        [] => return Ok(None),
        [one] => one.strip_prefix(PREFIX).unwrap_or_default(),
        _ => return Err("multiple base64.bearer.authorization tokens specified".into()),
    };
    let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(decoded).map_err(|_| "invalid base64.bearer.authorization token")?;
    if token.is_empty() {
        return Ok(None);
    }
    // One must be left for the answer to name.
    let left = Some(others.join(",")).filter(|left| !left.is_empty()).ok_or("missing additional subprotocol")?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(left).map_err(|why| why.to_string())?);
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use http::header::UPGRADE;

    use super::*;

    #[test]
    fn a_token_is_taken_out_of_the_protocols() {
        let check = |offered: &[&'static str], upgrade: &'static str, expected: Result<Option<&str>, &str>, left: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            for value in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
            }
            let found = take_bearer(&mut headers);
            assert_eq!(found, expected.map(|token| token.map(String::from)).map_err(String::from), "{offered:?}");
            let values: Vec<_> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok()).collect();
            assert_eq!(values.join(";"), left);
        };
        let token = "base64url.bearer.authorization.k8s.io.dG9rZW4";
        check(&["a", "base64url.bearer.authorization.k8s.io.dG9rZW4, b"], "websocket", Ok(Some("token")), "a,b");
        check(&["a, b"], "websocket", Ok(None), "a, b");
        check(&[token, "a"], "SPDY/3.1", Ok(None), &format!("{token};a"));
        check(&[token], "websocket", Err("missing additional subprotocol"), token);
        check(
            &[token, token, "a"],
            "websocket",
            Err("multiple base64.bearer.authorization tokens specified"),
            &format!("{token};{token};a"),
        );
        let wrong = "base64url.bearer.authorization.k8s.io.dG9rZW4=";
        check(&[wrong, "a"], "websocket", Err("invalid base64.bearer.authorization token encoding"), &format!("{wrong};a"));
    }
}
