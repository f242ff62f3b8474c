//! From protobuf's wire format to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::DecodeError;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Number, Value, json};

use crate::message::{Cardinality, Field, Form, Kind, Message};

/// How deep messages may be nested; prost's own limit.
const DEPTH_MAX: usize = 100;

/// A value as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// A message as JSON.
pub(crate) fn message(message: &'static Message, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(error("recursion limit reached"));
    }
    let fields = fields(message, bytes, depth)?;
    let get = |index: usize| message.fields.get(index).and_then(|field| fields.get(&field.name));
    let number = |index: usize| get(index).and_then(Value::as_i64).unwrap_or_default();
    Ok(match message.form {
        Form::Object => Value::Object(fields),
        Form::Time | Form::MicroTime => time(message.form, number(0), number(1)),
        Form::Quantity => get(0).cloned().unwrap_or_else(|| "0".into()),
        Form::IntOrString if number(0) == 0 => number(1).into(),
        Form::IntOrString => get(2).cloned().unwrap_or_else(|| "".into()),
        Form::Raw => get(0).cloned().unwrap_or_default(),
        Form::List => get(0).cloned().unwrap_or_else(|| json!([])),
        Form::SchemaOrBool => get(1).cloned().unwrap_or_else(|| get(0).is_some_and(|flag| *flag == true).into()),
        Form::SchemaOrList => get(0).or(get(1)).cloned().unwrap_or_default(),
    })
}

fn fields(message: &'static Message, mut bytes: &[u8], depth: usize) -> Result<Map<String, Value>, DecodeError> {
    let mut found = Map::new();
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        let Some(field) = message.field(number) else {
            skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
            continue;
        };
        let wire = wire(wire_type, &mut bytes)?;
        match field.cardinality {
            Cardinality::One => {
                let value = match (message.form, &wire) {
                    (Form::Raw, Wire::Bytes(raw)) => serde_json::from_slice(raw).unwrap_or_default(),
                    _ => value(field, &wire, depth)?,
                };
                put(&mut found, field, value);
            }
            Cardinality::Many => {
                let value = value(field, &wire, depth)?;
                if let Value::Array(list) = found.entry(&field.name).or_insert_with(|| json!([])) {
                    list.push(value);
                }
            }
            Cardinality::Map => {
                let (key, value) = entry(field, &wire, depth)?;
                if let Value::Object(map) = found.entry(&field.name).or_insert_with(|| json!({})) {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(found)
}

/// Go writes zero values of fields that are not pointers; in JSON most of them are left out.
fn put(found: &mut Map<String, Value>, field: &Field, value: Value) {
    let is_zero = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !field.keeps_zero,
        Value::Number(number) => number.as_f64() == Some(0.0) && !field.keeps_zero && !matches!(field.kind, Kind::Message(_)),
        Value::Bool(flag) => !flag && !field.keeps_zero && !matches!(field.kind, Kind::Message(_)),
        Value::Array(_) | Value::Object(_) => false,
    };
    match value {
        Value::Object(inner) if field.inline => found.extend(inner),
        value if !is_zero => drop(found.insert(field.name.clone(), value)),
        _ => {}
    }
}

fn value(field: &Field, wire: &Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (field.kind, wire) {
        (Kind::Bool, Wire::Number(number)) => (*number != 0).into(),
        (Kind::Int, Wire::Number(number)) => number.cast_signed().into(),
        (Kind::Double, Wire::Double(number)) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        (Kind::Text, Wire::Bytes(bytes)) => std::str::from_utf8(bytes).map_err(|_| error("text is not UTF-8"))?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Message(inner), Wire::Bytes(bytes)) => message(Message::at(inner), bytes, depth + 1)?,
        _ => return Err(error(&format!("field {} has the wrong wire type", field.name))),
    })
}

/// A map's entry is a message of key and value.
fn entry(field: &Field, wire: &Wire<'_>, depth: usize) -> Result<(String, Value), DecodeError> {
    let Wire::Bytes(mut bytes) = *wire else { return Err(error(&format!("field {} has the wrong wire type", field.name))) };
    let (mut key, mut found) = (String::new(), None);
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        let part = self::wire(wire_type, &mut bytes)?;
        match (number, &part) {
            (1, Wire::Bytes(text)) => key = std::str::from_utf8(text).map_err(|_| error("text is not UTF-8"))?.to_string(),
            (2, _) => found = Some(value(field, &part, depth)?),
            _ => {}
        }
    }
    let empty = || value(field, &Wire::Bytes(&[]), depth).unwrap_or_default();
    Ok((key, found.unwrap_or_else(empty)))
}

fn wire<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Result<Wire<'a>, DecodeError> {
    match wire_type {
        WireType::Varint => Ok(Wire::Number(decode_varint(bytes)?)),
        WireType::SixtyFourBit if bytes.len() >= 8 => Ok(Wire::Double(bytes.get_f64_le())),
        WireType::ThirtyTwoBit if bytes.len() >= 4 => Ok(Wire::Double(f64::from(bytes.get_f32_le()))),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(bytes)?).unwrap_or(usize::MAX);
            let (content, rest) = bytes.split_at_checked(length).ok_or_else(|| error("buffer underflow"))?;
            *bytes = rest;
            Ok(Wire::Bytes(content))
        }
        _ => Err(error("buffer underflow")),
    }
}

fn time(form: Form, seconds: i64, nanos: i64) -> Value {
    let at = Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).ok().filter(|_| seconds != 0);
    let format = if form == Form::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    at.map_or(Value::Null, |at| at.strftime(format).to_string().into())
}

fn error(why: &str) -> DecodeError {
    #[allow(deprecated, reason = "prost has no other way to make one")]
    DecodeError::new(why.to_string())
}
