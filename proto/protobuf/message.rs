//! Messages as tables: what stands in the `.proto` files, and what only Go's types know of it (`schema/go.txt`).

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubernetes.bin"));
const GO: &str = include_str!("schema/go.txt");

const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1";

/// How a message looks in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An object of its fields.
    Object,
    /// RFC 3339, in seconds.
    Time,
    /// RFC 3339, in microseconds.
    MicroTime,
    /// Text, in its first field.
    Quantity,
    /// A number or text.
    IntOrString,
    /// Whatever its one field of bytes holds.
    Raw,
    /// The list that is its only field.
    List,
    /// A flag, or a schema, which implies the flag.
    SchemaOrBool,
    /// A schema, or a list of what its second field holds.
    SchemaOrList,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    Message(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cardinality {
    One,
    Many,
    /// By text; `kind` is that of the values.
    Map,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// Its name in JSON.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) cardinality: Cardinality,
    /// Zero is a value: Go has a pointer there, or writes it anyhow.
    pub(crate) keeps_zero: bool,
    /// Its own fields are its parent's in JSON.
    pub(crate) inline: bool,
}

/// Where a field stands in the messages that are inlined into its parent; mostly nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) within: Vec<u32>,
    pub(crate) field: Field,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) form: Form,
    pub(crate) fields: Vec<Field>,
    by_json: HashMap<String, Place>,
}

// === impl Message ===

impl Message {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        messages().by_name.get(name).map(|index| Self::at(*index))
    }

    /// That of a field's kind.
    pub(crate) fn at(index: usize) -> &'static Self {
        &messages().all[index]
    }

    pub(crate) fn place(&self, json: &str) -> Option<&Place> {
        self.by_json.get(json)
    }

    pub(crate) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

struct Messages {
    all: Vec<Message>,
    by_name: HashMap<String, usize>,
}

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors were compiled with this crate");
        let declared: Vec<(String, &DescriptorProto)> =
            set.file.iter().flat_map(|file| file.message_type.iter().map(|m| (format!("{}.{}", file.package(), m.name()), m))).collect();
        let by_name: HashMap<String, usize> = declared.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
        let go: HashMap<(&str, &str), &str> = GO.lines().flat_map(facts).collect();
        let fields: Vec<Vec<Field>> = declared.iter().map(|(name, message)| fields_of(name, message, &by_name, &go)).collect();
        let all = (0..fields.len()).map(|index| Message {
            form: form_of(&declared[index].0),
            fields: fields[index].clone(),
            by_json: places(&fields, index, &[]).into_iter().map(|place| (place.field.name.clone(), place)).collect(),
        });
        Messages { all: all.collect(), by_name }
    })
}

/// `MESSAGE FIELD:FLAGS …`, by message and field.
fn facts(line: &'static str) -> impl Iterator<Item = ((&'static str, &'static str), &'static str)> {
    let (message, fields) = line.split_once(' ').unwrap_or_default();
    fields
        .split(' ')
        .filter(move |_| message != "#")
        .filter_map(move |fact| fact.split_once(':').map(|(field, flags)| ((message, field), flags)))
}

fn form_of(name: &str) -> Form {
    match name.rsplit_once('.').unwrap_or_default() {
        (META, "Time") => Form::Time,
        (META, "MicroTime") => Form::MicroTime,
        ("k8s.io.apimachinery.pkg.api.resource", "Quantity") => Form::Quantity,
        ("k8s.io.apimachinery.pkg.util.intstr", "IntOrString") => Form::IntOrString,
        (META, "FieldsV1") | (_, "RawExtension" | "JSON") => Form::Raw,
        (_, "ExtraValue" | "Verbs") => Form::List,
        (_, "JSONSchemaPropsOrBool") => Form::SchemaOrBool,
        (_, "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray") => Form::SchemaOrList,
        _ => Form::Object,
    }
}

fn fields_of(
    message_name: &str,
    message: &DescriptorProto,
    by_name: &HashMap<String, usize>,
    go: &HashMap<(&str, &str), &str>,
) -> Vec<Field> {
    let entry_of = |type_name: &str| {
        let nested = type_name.rsplit('.').next().unwrap_or_default();
        message.nested_type.iter().find(|entry| entry.name() == nested && entry.options.as_ref().is_some_and(|o| o.map_entry()))
    };
    let kind_of = |field: &prost_types::FieldDescriptorProto| match field.r#type() {
        Type::Bool => Kind::Bool,
        Type::Double | Type::Float => Kind::Double,
        Type::String => Kind::Text,
        Type::Bytes => Kind::Bytes,
        Type::Message => Kind::Message(by_name.get(field.type_name().trim_start_matches('.')).copied().unwrap_or_default()),
        _ => Kind::Int,
    };
    let read = |field: &prost_types::FieldDescriptorProto| {
        let flags: Vec<&str> = go.get(&(message_name, field.name())).map(|flags| flags.split('+').collect()).unwrap_or_default();
        let entry = entry_of(field.type_name());
        let (cardinality, valued) = match (entry, field.label()) {
            (Some(entry), _) => (Cardinality::Map, entry.field.iter().find(|f| f.number() == 2).unwrap_or(field)),
            (None, Label::Repeated) => (Cardinality::Many, field),
            (None, _) => (Cardinality::One, field),
        };
        Field {
            number: u32::try_from(field.number()).unwrap_or_default(),
            name: flags.iter().find_map(|flag| flag.strip_prefix("json=")).unwrap_or(field.name()).to_string(),
            kind: kind_of(valued),
            cardinality,
            keeps_zero: flags.iter().any(|flag| matches!(*flag, "pointer" | "always")),
            inline: flags.contains(&"inline"),
        }
    };
    message.field.iter().map(read).collect()
}

/// All fields that a message's JSON has, those of inlined messages included.
fn places(fields: &[Vec<Field>], message: usize, within: &[u32]) -> Vec<Place> {
    let place = |field: &Field| match (field.inline, field.kind) {
        (true, Kind::Message(inner)) => places(fields, inner, &[within, &[field.number]].concat()),
        _ => vec![Place { within: within.to_vec(), field: field.clone() }],
    };
    fields[message].iter().flat_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_knows_is_of_fields_that_are_there() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
        for ((message, field), _) in GO.lines().flat_map(facts) {
            let all =
                set.file.iter().flat_map(|file| file.message_type.iter().map(move |m| (format!("{}.{}", file.package(), m.name()), m)));
            let found = { all }.find(|(name, _)| name == message);
            assert!(found.is_none_or(|(_, m)| m.field.iter().any(|f| f.name() == field)), "{message} has no field {field}");
        }
    }

    #[test]
    fn inlined_fields_are_their_parents() {
        let volume = Message::named("k8s.io.api.core.v1.Volume").expect("a message");
        assert_eq!(volume.place("hostPath").map(|p| (p.within.clone(), p.field.number)), Some((vec![2], 1)));
        let rules = Message::named("k8s.io.api.admissionregistration.v1.NamedRuleWithOperations").expect("a message");
        assert_eq!(rules.place("apiGroups").map(|p| p.within.clone()), Some(vec![2, 2]));
        assert!(rules.place("ruleWithOperations").is_none());
    }
}
