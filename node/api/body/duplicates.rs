//! Fields that a document names twice: serde keeps the last and says nothing of the others.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Each as `duplicate field "spec.replicas"`; nothing for what is not JSON.
pub(super) fn of(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let _ = Walk { path: &Path::Root, found: &mut found }.deserialize(&mut deserializer);
    found
}

/// The first one of a YAML document, as `line 9: key "foo" already set in map`.
pub(super) fn in_yaml(bytes: &[u8]) -> Option<String> {
    let why = Once.deserialize(serde_yaml_ng::Deserializer::from_slice(bytes)).err()?;
    let (line, text) = (why.location()?.line(), why.to_string());
    let key = text.split_once(TWICE)?.1.split_once(END_OF_KEY)?.0;
    Some(format!("line {line}: key {key:?} already set in map"))
}

/// Around the key, in the error that ends a walk; the reader adds where that was.
const TWICE: &str = "twice\u{1}";
const END_OF_KEY: &str = "\u{2}";

/// Walks until a map has a key again.
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while map.next_key_seed(NewKey(&mut seen))?.is_some() {
            map.next_value_seed(Self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key that its map has not had.
struct NewKey<'a>(&'a mut HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NewKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        if self.0.insert(key.into()) { Ok(()) } else { Err(E::custom(format!("{TWICE}{key}{END_OF_KEY}"))) }
    }
}

/// Where the walk is, written out only when it must be told.
enum Path<'a> {
    Root,
    Field(&'a Self, &'a str),
    Element(&'a Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Walk<'a> {
    path: &'a Path<'a>,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<Cow<'de, str>> = Vec::new();
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let path = Path::Field(self.path, &name);
            if seen.contains(&name) {
                self.found.push(format!("duplicate field \"{path}\""));
            }
            map.next_value_seed(Walk { path: &path, found: self.found })?;
            // Where there are very many, it is a map of names rather than an object with fields.
            if seen.len() < FIELDS_MAX {
                seen.push(name);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while list.next_element_seed(Walk { path: &Path::Element(self.path, index), found: self.found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Names looked back at, so that a body of names alone does not take quadratic time.
const FIELDS_MAX: usize = 256;

/// A name as it stands in the document, where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.into())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_field_that_is_there_again() {
        let check = |text: &str, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
            assert_eq!(of(text.as_bytes()), expected, "{text}");
        };
        check(r#"{"a": 1, "b": {"c": [null, true, 1.5, "x"]}}"#, &[]);
        check(r#"{"spec": {"replicas": 2, "replicas": 3}, "spec": {}}"#, &["spec.replicas", "spec"]);
        check(r#"{"a": [{"b": 1}, {"b": 1, "b": 2}]}"#, &["a[1].b"]);
        check("nonsense", &[]);
    }

    #[test]
    fn names_the_line_of_a_yaml_key_that_is_there_again() {
        let again = "\nkind: X\nmetadata:\n  name: a\nspec:\n- foo: 1\n- foo: 2\n  bar: {}\n  foo: 3\n";
        assert_eq!(in_yaml(again.as_bytes()).as_deref(), Some("line 9: key \"foo\" already set in map"));
        assert_eq!(in_yaml(b"{\"a\": 1, \"b\": {\"a\": [1.5, true, null]}}"), None);
        assert_eq!(in_yaml(b": : not yaml"), None);
    }
}
