//! What rests and travels sealed: the content of Secrets, in the log, in the state, on the disk and in backups of it.
//!
//! ```text
//!   {metadata, type, data} ──seal──▶ {metadata, type, sealed: "1.KEY.BASE64"} ──open──▶ {metadata, type, data}
//! ```
//!
//! Format 1 of `sealed`: KEY names the key (the first four bytes of its SHA-256, in hexadecimal), BASE64 is a nonce of 12
//! bytes and the field's JSON under ChaCha20-Poly1305 (RFC 8439). The object's key in the state is authenticated with
//! it, so what was sealed for one object opens in no other's place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::record::Segment;
use crate::{Key, Record};

/// The field that stands for the one that is sealed.
const SEALED: &str = "sealed";

const FORMAT: &str = "1";

/// When a bootstrap token ends is no secret: the leader's controllers, which have no key, delete it then.
const TOKEN: &str = "bootstrap.kubernetes.io/token";
const READABLE: &str = "expiration";

/// The key to what is sealed. It shows itself to nobody.
#[derive(Clone, Debug)]
pub struct Cipher {
    name: String,
    key: LessSafeKey,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} was sealed with another key, or by a newer version")]
    Foreign(Key),
    #[error("{0} is not what was sealed: the stored bytes are damaged")]
    Damaged(Key),
}

// === impl Cipher ===

impl Cipher {
    pub fn new(key: &[u8; 32]) -> Self {
        let name: String = digest(&SHA256, key).as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
        Self { name, key: LessSafeKey::new(key) }
    }

    /// The record with `field` sealed. What has not changed since `old` stays as it was, so that nothing is written.
    #[must_use]
    pub fn seal(&self, key: &Key, field: &str, record: Record, old: Option<&Record>, nonce: [u8; NONCE_LEN]) -> Record {
        let Some(plain) = record.segment(field).cloned() else { return record };
        let known = old.and_then(|old| Some((self.opened(key, old)?.ok()?, old.segment(SEALED)?)));
        let sealed = match known {
            Some((before, sealed)) if before == plain => sealed.clone(),
            _ => Value::from(self.text(key, &plain, nonce)).to_string().into(),
        };
        let is_token = record.field("type").is_some_and(|kind| kind == TOKEN);
        let data = record.field(field).filter(|_| is_token);
        let readable =
            data.and_then(|data| Some(serde_json::json!({READABLE: data.get(READABLE)?}).to_string().into())).unwrap_or_default();
        let change = |field: &str, json| Segment { field: field.into(), json };
        record.with_changes(&[change(field, readable), change(SEALED, sealed)])
    }

    /// The record as it was before it was sealed; one that is not sealed stays as it is.
    pub fn open(&self, key: &Key, field: &str, record: &Record) -> Result<Record, Error> {
        let Some(plain) = self.opened(key, record) else { return Ok(record.clone()) };
        let change = |field: &str, json| Segment { field: field.into(), json };
        Ok(record.with_changes(&[change(field, plain?.into()), change(SEALED, bytes::Bytes::new())]))
    }

    fn text(&self, key: &Key, plain: &[u8], nonce: [u8; NONCE_LEN]) -> String {
        let mut sealed = plain.to_vec();
        let of = Aad::from(key.as_str().as_bytes());
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), of, &mut sealed).expect("an object is shorter than 256 GiB");
        format!("{FORMAT}.{}.{}", self.name, STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// What the record holds sealed; `None` where nothing is.
    fn opened(&self, key: &Key, record: &Record) -> Option<Result<Vec<u8>, Error>> {
        let sealed = record.segment(SEALED)?;
        let text = serde_json::from_slice::<String>(sealed).unwrap_or_default();
        let Some(encoded) = text.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix('.')?.strip_prefix(&self.name)?.strip_prefix('.'))
        else {
            return Some(Err(Error::Foreign(key.clone())));
        };
        let open = || {
            let bytes = STANDARD.decode(encoded).ok()?;
            let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
            let mut plain = sealed.to_vec();
            let of = Aad::from(key.as_str().as_bytes());
            let length = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), of, &mut plain).ok()?.len();
            plain.truncate(length);
            Some(plain)
        };
        Some(open().ok_or_else(|| Error::Damaged(key.clone())))
    }
}

/// Whether nothing of the record can be shown without its key.
pub fn is_sealed(record: &Record) -> bool {
    record.segment(SEALED).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DATA: &str = "data";

    fn key(name: &str) -> Key {
        Key::new("secrets", "n", name)
    }

    fn secret(data: &Value) -> Record {
        Record::from_value(&json!({"metadata": {"name": "a"}, "type": "Opaque", "data": data}))
    }

    #[test]
    fn opens_only_as_the_object_that_was_sealed() {
        let cipher = Cipher::new(&[7; 32]);
        let plain = secret(&json!({"password": "aHVudGVyMg=="}));
        let sealed = cipher.seal(&key("a"), DATA, plain.clone(), None, [1; NONCE_LEN]);
        assert!(is_sealed(&sealed) && sealed.segment(DATA).is_none());
        let bytes = sealed.to_json("v1", "Secret", 1);
        assert!(!String::from_utf8_lossy(&bytes).contains("aHVudGVyMg"));
        assert_eq!(cipher.open(&key("a"), DATA, &sealed).map(|r| r.to_value("v1", "Secret", 1)), Ok(plain.to_value("v1", "Secret", 1)));
        assert_eq!(cipher.open(&key("b"), DATA, &sealed), Err(Error::Damaged(key("b"))));
        assert_eq!(Cipher::new(&[8; 32]).open(&key("a"), DATA, &sealed), Err(Error::Foreign(key("a"))));
        let mut damaged = sealed.clone();
        let place = damaged.segments.iter_mut().find(|segment| segment.field == SEALED).expect("it is sealed");
        place.json = String::from_utf8_lossy(&place.json).replace("\"1.", "\"1.x").into();
        assert_eq!(cipher.open(&key("a"), DATA, &damaged), Err(Error::Foreign(key("a"))));
        assert_eq!(cipher.open(&key("a"), DATA, &plain), Ok(plain));
    }

    #[test]
    fn what_has_not_changed_is_not_written_anew() {
        let cipher = Cipher::new(&[7; 32]);
        let old = cipher.seal(&key("a"), DATA, secret(&json!({"a": "MQ=="})), None, [1; NONCE_LEN]);
        let same = cipher.seal(&key("a"), DATA, secret(&json!({"a": "MQ=="})), Some(&old), [2; NONCE_LEN]);
        assert_eq!(same.changes_from(&old), []);
        let other = cipher.seal(&key("a"), DATA, secret(&json!({"a": "Mg=="})), Some(&old), [2; NONCE_LEN]);
        assert_eq!(other.changes_from(&old).len(), 1);
        // One that an older version wrote is sealed when it is written again.
        let plain = secret(&json!({"a": "MQ=="}));
        assert_eq!(cipher.seal(&key("a"), DATA, plain.clone(), Some(&plain), [2; NONCE_LEN]).changes_from(&plain).len(), 2);
    }

    #[test]
    fn the_end_of_a_bootstrap_token_stays_readable() {
        let cipher = Cipher::new(&[7; 32]);
        let data = json!({"expiration": "MQ==", "token-secret": "Mg=="});
        let token = Record::from_value(&json!({"metadata": {"name": "a"}, "type": TOKEN, "data": data}));
        let sealed = cipher.seal(&key("a"), DATA, token, None, [1; NONCE_LEN]);
        assert_eq!(sealed.field(DATA), Some(json!({"expiration": "MQ=="})));
        assert_eq!(cipher.seal(&key("a"), DATA, secret(&data), None, [1; NONCE_LEN]).field(DATA), None);
        let opened = cipher.open(&key("a"), DATA, &sealed).expect("it opens");
        assert_eq!(opened.field(DATA), Some(json!({"expiration": "MQ==", "token-secret": "Mg=="})));
    }
}
