//! Join tokens: what a new node needs to know, in one word.
//!
//! `skein1.` and, in base64, the token's id and secret, the CA's hash, where the cluster is, until when. The cluster
//! keeps the hash of the secret only. A token binds to the first key that uses it, which may retry.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

const PREFIX: &str = "skein1.";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    pub id: String,
    pub secret: String,
    /// SHA-256 of the CA's certificate, in hex.
    pub ca: String,
    /// `IP:PORT` of APIs that may be asked.
    pub addresses: Vec<String>,
    pub expires: Timestamp,
}

// === impl Token ===

impl Token {
    pub(crate) fn draw(ca: String, addresses: Vec<String>, expires: Timestamp) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (id, secret): ([u8; 4], [u8; 24]) = (rand::random(), rand::random());
        Self { id: hex(&id), secret: hex(&secret), ca, addresses, expires }
    }

    pub(crate) fn secret_hash(secret: &str) -> String {
        Sha256::digest(secret.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let json = serde_json::to_vec(self).expect("a token is plain data");
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

impl std::str::FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Token(format!("this is not a join token: it does not read as {PREFIX}… (was it copied whole?)"));
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(malformed)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed())?;
        serde_json::from_slice(&json).map_err(|_| malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_text_form() {
        let token = Token::draw("ca".into(), vec!["198.18.0.1:6443".into()], Timestamp::UNIX_EPOCH);
        assert_eq!(token.to_string().parse::<Token>().ok(), Some(token.clone()));
        assert!("skein1.nonsense".parse::<Token>().is_err());
        assert!(token.to_string()[..20].parse::<Token>().is_err());
    }
}
