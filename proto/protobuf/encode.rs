//! From JSON to protobuf's wire format, in one pass over the text: nothing is built in between.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::message::{Cardinality, Field, Form, Kind, Message, Place};

/// Writes the fields of a JSON object as those of a message. What the message does not have is left out.
pub(crate) struct Fields<'o> {
    pub(crate) message: &'static Message,
    pub(crate) out: &'o mut Vec<u8>,
}

/// Writes one value of a field, with its key.
struct Element<'a> {
    field: &'a Field,
    /// A list is the field's values.
    is_many: bool,
    out: &'a mut Vec<u8>,
}

/// Finds the field that a JSON key names.
struct Named(&'static Message);

/// Writes a map's entries.
struct Entries<'a> {
    field: &'a Field,
    out: &'a mut Vec<u8>,
}

/// Writes what precedes some bytes: a key and their length.
pub(crate) fn delimited<E>(number: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    encode_key(number, WireType::LengthDelimited, out);
    let begin = out.len();
    content(out)?;
    let mut length = Vec::with_capacity(5);
    encode_varint((out.len() - begin) as u64, &mut length);
    out.splice(begin..begin, length);
    Ok(())
}

pub(crate) fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn varint(number: u32, value: i64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value.cast_unsigned(), out);
}

// === impl Fields ===

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { message, out } = self;
        // What belongs into inlined messages is gathered, so that each is written once.
        let mut inlined: Vec<(&'static [u32], Vec<u8>)> = Vec::new();
        while let Some(found) = map.next_key_seed(Named(message))? {
            let Some(Place { within, field }) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let out = match within.as_slice() {
                [] => &mut *out,
                within => buffer(&mut inlined, within),
            };
            match field.cardinality {
                Cardinality::Map => map.next_value_seed(Entries { field, out })?,
                cardinality => map.next_value_seed(Element { field, is_many: cardinality == Cardinality::Many, out })?,
            }
        }
        // The inner ones become part of the outer ones.
        inlined.sort_by_key(|(within, _)| within.len());
        while let Some((within, content)) = inlined.pop() {
            match within {
                [outer @ .., number] if !outer.is_empty() => bytes(*number, &content, buffer(&mut inlined, outer)),
                [.., number] => bytes(*number, &content, out),
                [] => {}
            }
        }
        Ok(())
    }
}

fn buffer<'b>(inlined: &'b mut Vec<(&'static [u32], Vec<u8>)>, within: &'static [u32]) -> &'b mut Vec<u8> {
    let at = inlined.iter().position(|(known, _)| *known == within).unwrap_or_else(|| {
        // Before all longer ones, which are taken first.
        inlined.insert(0, (within, Vec::new()));
        0
    });
    &mut inlined[at].1
}

// === impl Named ===

impl<'de> DeserializeSeed<'de> for Named {
    type Value = Option<&'static Place>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Named {
    type Value = Option<&'static Place>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.place(name))
    }
}

// === impl Entries ===

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let value = Field { number: 2, cardinality: Cardinality::One, ..self.field.clone() };
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            delimited(self.field.number, self.out, |out| {
                bytes(1, key.as_bytes(), out);
                map.next_value_seed(Element { field: &value, is_many: false, out })
            })?;
        }
        Ok(())
    }
}

// === impl Element ===

impl Element<'_> {
    fn form(&self) -> Option<Form> {
        match self.field.kind {
            Kind::Message(inner) => Some(Message::at(inner).form),
            _ => None,
        }
    }

    fn misfit<E: Error>(&self, what: &str) -> E {
        E::custom(format!("field {} cannot be {what}", self.field.name))
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.form() != Some(Form::Raw) || self.is_many {
            return deserializer.deserialize_any(self);
        }
        let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
        if raw != "null" {
            delimited(self.field.number, self.out, |out| {
                bytes(1, raw.as_bytes(), out);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of field {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        match self.form() {
            None if self.field.kind == Kind::Bool => varint(self.field.number, flag.into(), self.out),
            Some(Form::SchemaOrBool) => delimited(self.field.number, self.out, |out| {
                varint(1, flag.into(), out);
                Ok(())
            })?,
            _ => return Err(self.misfit("a flag")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        let Self { field, .. } = self;
        match (field.kind, self.form()) {
            (Kind::Int, _) => varint(field.number, value, self.out),
            #[allow(clippy::cast_precision_loss, reason = "JSON does not tell 1 from 1.0")]
            (Kind::Double, _) => return self.visit_f64(value as f64),
            (_, Some(Form::Quantity)) => return self.visit_str(&value.to_string()),
            (_, Some(Form::IntOrString)) => delimited(field.number, self.out, |out| {
                varint(1, 0, out);
                varint(2, value, out);
                Ok(())
            })?,
            _ => return Err(self.misfit("a number")),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_err(|_| self.misfit("as large"))?;
        self.visit_i64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => {
                encode_key(self.field.number, WireType::SixtyFourBit, self.out);
                self.out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
            #[allow(clippy::cast_possible_truncation, reason = "it is a whole number, however it was written")]
            Kind::Int if value.fract() == 0.0 => self.visit_i64(value as i64),
            Kind::Message(_) if self.form() == Some(Form::Quantity) => self.visit_str(&value.to_string()),
            _ => Err(self.misfit("a fraction")),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let number = self.field.number;
        match (self.field.kind, self.form()) {
            (Kind::Text, _) => bytes(number, text.as_bytes(), self.out),
            (Kind::Bytes, _) => bytes(number, &STANDARD.decode(text).map_err(E::custom)?, self.out),
            (_, Some(Form::Time | Form::MicroTime)) => {
                let at: Timestamp = text.parse().map_err(E::custom)?;
                delimited(number, self.out, |out| {
                    varint(1, at.as_second(), out);
                    varint(2, at.subsec_nanosecond().into(), out);
                    Ok(())
                })?;
            }
            (_, Some(Form::Quantity)) => delimited(number, self.out, |out| {
                bytes(1, text.as_bytes(), out);
                Ok(())
            })?,
            (_, Some(Form::IntOrString)) => delimited(number, self.out, |out| {
                varint(1, 1, out);
                bytes(3, text.as_bytes(), out);
                Ok(())
            })?,
            _ => return Err(self.misfit("text")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { field, is_many, out } = self;
        if is_many {
            while seq.next_element_seed(Element { field, is_many: false, out })?.is_some() {}
            return Ok(());
        }
        let Kind::Message(inner) = field.kind else { return Err(A::Error::custom(format!("field {} cannot be a list", field.name))) };
        let message = Message::at(inner);
        let items = match message.form {
            Form::List => message.fields.first(),
            Form::SchemaOrList => message.fields.get(1),
            _ => None,
        };
        let items = items.ok_or_else(|| A::Error::custom(format!("field {} cannot be a list", field.name)))?;
        delimited(field.number, out, |out| {
            while seq.next_element_seed(Element { field: items, is_many: false, out })?.is_some() {}
            Ok(())
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { field, out, .. } = self;
        let Kind::Message(inner) = field.kind else { return Err(A::Error::custom(format!("field {} cannot be an object", field.name))) };
        let message = Message::at(inner);
        delimited(field.number, out, |out| {
            // A schema stands in a field of its own, of the messages that can also be something else.
            let schema = match message.form {
                Form::SchemaOrBool => {
                    varint(1, 1, out);
                    message.fields.get(1)
                }
                Form::SchemaOrList => message.fields.first(),
                _ => None,
            };
            match schema {
                Some(Field { kind: Kind::Message(inner), number, .. }) => {
                    delimited(*number, out, |out| Fields { message: Message::at(*inner), out }.visit_map(map))
                }
                _ => Fields { message, out }.visit_map(map),
            }
        })
    }
}
