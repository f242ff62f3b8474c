//! What rests and travels sealed: the content of Secrets, in the log, in the state, on the disk and in backups of it.
//!
//! ```text
//!   {metadata, type, data} ──seal──▶ {metadata, type, sealed: "1.KEY.BASE64"} ──open──▶ {metadata, type, data}
//! ```
//!
//! Format 1 of `sealed`: KEY names the key (the first four bytes of its SHA-256, in hexadecimal), BASE64 is a nonce of 12
//! bytes and the field's JSON under ChaCha20-Poly1305 (RFC 8439). The object's key in the state is authenticated with
//! it, so what was sealed for one object opens in no other's place.

use std::sync::{Arc, PoisonError, RwLock};

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

/// The keys to what is sealed: the first one seals, all open. They show themselves to nobody.
#[derive(Clone, Debug)]
pub struct Cipher {
    keys: Vec<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    name: String,
    key: LessSafeKey,
}

/// The cipher that a node has by now, if it has one. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<RwLock<Option<Arc<Cipher>>>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} was sealed with another key, or by a newer version")]
    Foreign(Key),
    #[error("{0} is not what was sealed: the stored bytes are damaged")]
    Damaged(Key),
}

// === impl Cipher ===

impl Cipher {
    /// Seals with the first of these keys; `None` where there is none.
    pub fn new(keys: &[[u8; 32]]) -> Option<Self> {
        let keys: Vec<Named> = keys.iter().map(Named::new).collect();
        if keys.is_empty() { None } else { Some(Self { keys }) }
    }

    /// How what is sealed names its keys; that which seals comes first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|named| named.name.as_str())
    }

    /// Whether the record is sealed with the key that seals now, as far as it is sealed.
    pub fn is_current(&self, record: &Record) -> bool {
        let text = record.segment(SEALED).map(|sealed| serde_json::from_slice::<String>(sealed).unwrap_or_default());
        text.is_none_or(|text| self.keys[0].encoded(&text).is_some())
    }

    /// The record with `field` sealed. What has not changed since `old` stays as it was, so that nothing is written, unless
    /// another key seals by now.
    #[must_use]
    pub fn seal(&self, key: &Key, field: &str, record: Record, old: Option<&Record>, nonce: [u8; NONCE_LEN]) -> Record {
        let Some(plain) = record.segment(field).cloned() else { return record };
        let old = old.filter(|old| self.is_current(old));
        let known = old.and_then(|old| Some((self.opened(key, old)?.ok()?, old.segment(SEALED)?)));
        let sealed = match known {
            Some((before, sealed)) if before == plain => sealed.clone(),
            _ => Value::from(self.keys[0].text(key, &plain, nonce)).to_string().into(),
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

    /// What the record holds sealed; `None` where nothing is.
    fn opened(&self, key: &Key, record: &Record) -> Option<Result<Vec<u8>, Error>> {
        let text = serde_json::from_slice::<String>(record.segment(SEALED)?).unwrap_or_default();
        let found = self.keys.iter().find_map(|named| Some((named, named.encoded(&text)?)));
        let Some((named, encoded)) = found else { return Some(Err(Error::Foreign(key.clone()))) };
        Some(named.open(key, encoded).ok_or_else(|| Error::Damaged(key.clone())))
    }
}

// === impl Named ===

impl Named {
    fn new(key: &[u8; 32]) -> Self {
        let name = name_of(key);
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
        Self { name, key: LessSafeKey::new(key) }
    }

    fn text(&self, key: &Key, plain: &[u8], nonce: [u8; NONCE_LEN]) -> String {
        let mut sealed = plain.to_vec();
        let of = Aad::from(key.as_str().as_bytes());
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), of, &mut sealed).expect("an object is shorter than 256 GiB");
        format!("{FORMAT}.{}.{}", self.name, STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// What this key has sealed, of a text; `None` where it was another.
    fn encoded<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(FORMAT)?.strip_prefix('.')?.strip_prefix(&self.name)?.strip_prefix('.')
    }

    fn open(&self, key: &Key, encoded: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(encoded).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let of = Aad::from(key.as_str().as_bytes());
        let length = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), of, &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

// === impl Keyring ===

impl Keyring {
    pub fn get(&self) -> Option<Arc<Cipher>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, cipher: Cipher) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(cipher));
    }
}

/// How what is sealed names this key.
pub fn name_of(key: &[u8; 32]) -> String {
    digest(&SHA256, key).as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
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

    fn of(keys: &[[u8; 32]]) -> Cipher {
        Cipher::new(keys).expect("there is a key")
    }

    fn secret(data: &Value) -> Record {
        Record::from_value(&json!({"metadata": {"name": "a"}, "type": "Opaque", "data": data}))
    }

    #[test]
    fn opens_only_as_the_object_that_was_sealed() {
        let cipher = of(&[[7; 32]]);
        let plain = secret(&json!({"password": "aHVudGVyMg=="}));
        let sealed = cipher.seal(&key("a"), DATA, plain.clone(), None, [1; NONCE_LEN]);
        assert!(is_sealed(&sealed) && sealed.segment(DATA).is_none());
        let bytes = sealed.to_json("v1", "Secret", 1);
        assert!(!String::from_utf8_lossy(&bytes).contains("aHVudGVyMg"));
        assert_eq!(cipher.open(&key("a"), DATA, &sealed).map(|r| r.to_value("v1", "Secret", 1)), Ok(plain.to_value("v1", "Secret", 1)));
        assert_eq!(cipher.open(&key("b"), DATA, &sealed), Err(Error::Damaged(key("b"))));
        assert_eq!(of(&[[8; 32]]).open(&key("a"), DATA, &sealed), Err(Error::Foreign(key("a"))));
        let mut damaged = sealed.clone();
        let place = damaged.segments.iter_mut().find(|segment| segment.field == SEALED).expect("it is sealed");
        place.json = String::from_utf8_lossy(&place.json).replace("\"1.", "\"1.x").into();
        assert_eq!(cipher.open(&key("a"), DATA, &damaged), Err(Error::Foreign(key("a"))));
        assert_eq!(cipher.open(&key("a"), DATA, &plain), Ok(plain));
    }

    #[test]
    fn what_has_not_changed_is_not_written_anew() {
        let cipher = of(&[[7; 32]]);
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
        let cipher = of(&[[7; 32]]);
        let data = json!({"expiration": "MQ==", "token-secret": "Mg=="});
        let token = Record::from_value(&json!({"metadata": {"name": "a"}, "type": TOKEN, "data": data}));
        let sealed = cipher.seal(&key("a"), DATA, token, None, [1; NONCE_LEN]);
        assert_eq!(sealed.field(DATA), Some(json!({"expiration": "MQ=="})));
        assert_eq!(cipher.seal(&key("a"), DATA, secret(&data), None, [1; NONCE_LEN]).field(DATA), None);
        let opened = cipher.open(&key("a"), DATA, &sealed).expect("it opens");
        assert_eq!(opened.field(DATA), Some(json!({"expiration": "MQ==", "token-secret": "Mg=="})));
    }

    #[test]
    fn a_new_key_opens_what_the_former_one_sealed_and_seals_it_anew() {
        let (former, both) = (of(&[[7; 32]]), of(&[[8; 32], [7; 32]]));
        let plain = secret(&json!({"a": "MQ=="}));
        let old = former.seal(&key("a"), DATA, plain.clone(), None, [1; NONCE_LEN]);
        assert!(former.is_current(&old) && !both.is_current(&old) && both.is_current(&plain));
        assert_eq!(both.open(&key("a"), DATA, &old).as_ref(), Ok(&plain));
        let new = both.seal(&key("a"), DATA, plain.clone(), Some(&old), [2; NONCE_LEN]);
        assert!(both.is_current(&new));
        assert_eq!(of(&[[8; 32]]).open(&key("a"), DATA, &new), Ok(plain));
        assert_eq!(former.open(&key("a"), DATA, &new), Err(Error::Foreign(key("a"))));
    }
}
