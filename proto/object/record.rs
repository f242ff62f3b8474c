//! How an object rests: a version header and one segment of JSON for each top-level field.
//!
//! A write carries only the segments that it changes, and a read is a copy of bytes. `apiVersion` and `kind` are not
//! stored, since the registry knows them; `metadata.resourceVersion` is not stored either, because it is the revision
//! that the write receives when it is applied.

use bytes::Bytes;
use serde_json::Value;

/// The format of a record's segments: JSON in the resource's storage version.
pub const FORMAT: u32 = 1;

/// The segment that says in which version a record is; no reader sees it.
const VERSION: &str = "apiVersion";

/// One object at rest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Sorted in the order of writing: `metadata` first.
    #[prost(message, repeated, tag = "2")]
    pub segments: Vec<Segment>,
}

/// One top-level field and its JSON.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Segment {
    #[prost(string, tag = "1")]
    pub field: String,
    /// Empty in an update that removes the field.
    #[prost(bytes = "bytes", tag = "2")]
    pub json: Bytes,
}

impl Record {
    /// Takes an object apart. The value must be a JSON object; `apiVersion`, `kind` and the resourceVersion are left out.
    pub fn from_value(value: &Value) -> Self {
        let mut segments = Vec::new();
        for (field, content) in value.as_object().into_iter().flatten() {
            if field == "apiVersion" || field == "kind" {
                continue;
            }
            let json = if field == "metadata" { metadata_json(content) } else { content.to_string().into() };
            let segment = Segment { field: field.clone(), json };
            if field == "metadata" { segments.insert(0, segment) } else { segments.push(segment) }
        }
        Self { format: FORMAT, segments }
    }

    /// The same, marked as being of this version: where a resource's versions are not all alike.
    #[must_use]
    pub fn in_version(mut self, api_version: &str) -> Self {
        self.segments.retain(|segment| segment.field != VERSION);
        self.segments.push(Segment { field: VERSION.into(), json: Value::from(api_version).to_string().into() });
        self
    }

    /// The same, marked as another record is.
    #[must_use]
    pub fn marked_like(self, other: &Self) -> Self {
        match other.version() {
            Some(version) => self.in_version(&version),
            None => self,
        }
    }

    /// The version that the record is marked as.
    pub fn version(&self) -> Option<String> {
        self.field(VERSION)?.as_str().map(String::from)
    }

    pub fn segment(&self, field: &str) -> Option<&Bytes> {
        self.segments.iter().find(|s| s.field == field).map(|s| &s.json)
    }

    /// One top-level field, decoded.
    pub fn field(&self, field: &str) -> Option<Value> {
        self.segment(field).and_then(|json| serde_json::from_slice(json).ok())
    }

    /// The whole object as a client reads it.
    pub fn to_json(&self, api_version: &str, kind: &str, revision: u64) -> Vec<u8> {
        let mut out = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#).into_bytes();
        self.write_fields(revision, &mut out);
        out
    }

    /// The object as an item of a list, which says kind and version once for all.
    pub fn write_item(&self, revision: u64, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_fields(revision, out);
    }

    fn write_fields(&self, revision: u64, out: &mut Vec<u8>) {
        out.reserve(64 + self.segments.iter().map(|s| s.json.len() + s.field.len() + 4).sum::<usize>());
        let shown = self.segments.iter().filter(|segment| segment.field != VERSION);
        for (index, segment) in shown.enumerate() {
            let quote = if index == 0 { "\"" } else { ",\"" };
            out.extend_from_slice(quote.as_bytes());
            out.extend_from_slice(segment.field.as_bytes());
            out.extend_from_slice(b"\":");
            if segment.field == "metadata" {
                out.extend_from_slice(format!(r#"{{"resourceVersion":"{revision}""#).as_bytes());
                let rest = segment.json.get(1..).unwrap_or(b"}");
                if rest != b"}" {
                    out.push(b',');
                }
                out.extend_from_slice(rest);
            } else {
                out.extend_from_slice(&segment.json);
            }
        }
        out.push(b'}');
    }

    /// The whole object as a tree, for those who must look inside.
    pub fn to_value(&self, api_version: &str, kind: &str, revision: u64) -> Value {
        serde_json::from_slice(&self.to_json(api_version, kind, revision)).unwrap_or(Value::Null)
    }

    /// Decodes into a typed object; `None` when the record is not of that type.
    pub fn typed<T>(&self, revision: u64) -> Option<T>
    where
        T: k8s_openapi::Resource + serde::de::DeserializeOwned,
    {
        serde_json::from_slice(&self.to_json(T::API_VERSION, T::KIND, revision)).ok()
    }

    /// The segments of `self` that differ from `old`, fields that are gone with empty JSON.
    pub fn changes_from(&self, old: &Self) -> Vec<Segment> {
        let changed = self.segments.iter().filter(|s| old.segment(&s.field) != Some(&s.json)).cloned();
        let gone = old.segments.iter().filter(|s| self.segment(&s.field).is_none());
        changed.chain(gone.map(|s| Segment { field: s.field.clone(), json: Bytes::new() })).collect()
    }

    /// The record after `changes`: the inverse of [`Record::changes_from`].
    pub fn with_changes(&self, changes: &[Segment]) -> Self {
        let mut segments = self.segments.clone();
        for change in changes {
            match segments.iter().position(|s| s.field == change.field) {
                Some(at) if change.json.is_empty() => drop(segments.remove(at)),
                Some(at) => segments[at].json = change.json.clone(),
                None if change.json.is_empty() => {}
                None => segments.push(change.clone()),
            }
        }
        Self { format: self.format, segments }
    }

    /// Bytes that the record occupies, for budgets.
    pub fn size(&self) -> usize {
        self.segments.iter().map(|s| s.field.len() + s.json.len() + 48).sum()
    }
}

fn metadata_json(metadata: &Value) -> Bytes {
    match metadata.as_object() {
        Some(map) if map.contains_key("resourceVersion") => {
            let mut map = map.clone();
            map.shift_remove("resourceVersion");
            Value::Object(map).to_string().into()
        }
        _ => metadata.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_back_what_was_written_with_its_revision() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"a": 1}, "metadata": {"name": "x", "resourceVersion": "3"}});
        let read = Record::from_value(&pod).to_value("v1", "Pod", 7);
        assert_eq!(read, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "name": "x"}, "spec": {"a": 1}}));
    }

    #[test]
    fn changes_lead_from_one_record_to_the_other() {
        let old = Record::from_value(&json!({"metadata": {"name": "x"}, "spec": {"a": 1}, "data": {}}));
        let new = Record::from_value(&json!({"metadata": {"name": "x"}, "spec": {"a": 2}, "status": {"b": 1}}));
        let changes = new.changes_from(&old);
        assert_eq!(changes.iter().map(|s| s.field.as_str()).collect::<Vec<_>>(), ["spec", "status", "data"]);
        assert_eq!(old.with_changes(&changes), new);
    }
}
