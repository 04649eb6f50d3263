//! JSON in which an object is an object: serde takes an array, too, for the fields of a struct in their order.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use occ_proto::error::Position;
use occ_proto::wording::in_words;

/// What is wrong with a body.
#[derive(Debug)]
pub(super) struct Unfit {
    /// What was expected and where, in words of JSON.
    pub(super) text: String,
    /// Where.
    pub(super) position: Position,
}

impl Unfit {
    fn at(position: Position, text: &str) -> Self {
        let Position { line, column } = position;
        Self { text: format!("{text} at line {line} column {column}"), position }
    }
}

/// Reads a body, which is an object, also of a type that serde takes from an array through a buffer of its own.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unfit> {
    let content = bytes.trim_ascii_start();
    let begin = || end_of(bytes.strip_suffix(content).unwrap_or_default());
    if content.first() == Some(&b'[') {
        return Err(Unfit::at(begin(), "it is an array, not an object,"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Strict(&mut json)).and_then(|value| json.end().map(|()| value));
    value.map_err(|error| {
        let text = in_words(&error.to_string());
        match (u64::try_from(error.line()), u64::try_from(error.column())) {
            // serde_json's errors name line and column.
            (Ok(line @ 1..), Ok(column)) => Unfit { text, position: Position { line, column } },
            // It is about the object as a whole.
            _ => Unfit::at(begin(), &text),
        }
    })
}

/// Returns the place of what comes next after that much of a text, as serde_json counts: bytes, from 1.
fn end_of(text: &[u8]) -> Position {
    let lines = text.split(|byte| *byte == b'\n');
    let column = lines.clone().next_back().map_or(1, |last| last.len() + 1);
    Position { line: lines.count() as u64, column: column as u64 }
}

/// Something to read from, and what is in it.
struct Strict<T>(T);

/// A visitor that looks into it in the same way.
struct Looks<V> {
    visitor: V,
    /// It is to be an object.
    object: bool,
}

fn any<V>(visitor: V) -> Looks<V> {
    Looks { visitor, object: false }
}

macro_rules! same {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(any(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    same! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, any(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, any(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, any(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, any(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Looks { visitor, object: true })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, any(visitor))
    }
}

macro_rules! plain {
    ($($method:ident: $kind:ty),*) => {
        $(fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Looks<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object { f.write_str("an object") } else { self.visitor.expecting(f) }
    }

    plain! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str,
        visit_borrowed_str: &'de str, visit_string: String
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, all: A) -> Result<V::Value, A::Error> {
        if self.object {
            return Err(A::Error::invalid_type(Unexpected::Other("an array"), &self));
        }
        self.visitor.visit_seq(Strict(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, all: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Strict(all))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, one: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Strict(one))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(Strict(seed))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Strict(seed)).map(|(value, variant)| (value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Looks { visitor, object: true })
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::exec::ExecRequest;
    use occ_proto::files::FileAction;
    use occ_proto::host::AddHost;
    use occ_proto::prompt::{AnswerPrompt, Unlock};

    use super::*;

    fn add(json: &str) -> String {
        from_slice::<AddHost>(json.as_bytes()).unwrap_err().text
    }

    #[test]
    fn what_is_expected_is_said_in_words_of_json() {
        for (json, said) in [
            ("3", "invalid type: integer, expected an object at line 1 column 1"),
            (r#"{"name":"a","config":"x"}"#, "expected an object at line 1 column 24"),
            (
                r#"{"name":"a","config":["h"]}"#,
                "invalid type: an array, expected an object at line 1",
            ),
            (r#"["a",["h"]]"#, "it is an array, not an object, at line 1 column 1"),
            (r#"{"name":"a","config":{"hostname":"h","port":"x"}}"#, "number"),
            (r#"{"name":"a","config":{"hostname":"h"},"verify":1}"#, "expected true or false at"),
            (r#"{"name":"a","config":{"hostname":"h"}} x"#, "trailing characters at line 1"),
        ] {
            let error = add(json);
            assert!(error.contains(said), "{json}: {error}");
            assert!(!error.contains("AddHost") && !error.contains("HostConfig"), "{error}");
        }
        for json in [
            r#"{"argv":3}"#,
            r#"{"argv":[{}]}"#,
            r#"{"argv":["a"],"tty":[1,2]}"#,
            r#"{"argv":["a"],"tty":1}"#,
        ] {
            let error = from_slice::<ExecRequest>(json.as_bytes()).unwrap_err().text;
            assert!(!error.contains("variant"), "{error}");
            assert!(
                !["struct", "enum", "Tty", "Arg"].iter().any(|name| error.contains(name)),
                "{error}"
            );
        }
    }

    #[test]
    fn where_a_body_is_wrong_is_said_for_programs_too() {
        for (json, line, column) in [
            ("{\"name\":\"a\",\n \"config\":{,}}", 2, 12),
            ("{", 1, 1),
            ("", 1, 0),
            ("\n\n  [1]", 3, 3),
        ] {
            let unfit = from_slice::<AddHost>(json.as_bytes()).unwrap_err();
            assert_eq!(unfit.position, Position { line, column }, "{json}: {}", unfit.text);
            assert!(unfit.text.ends_with(&format!("at line {line} column {column}")), "{unfit:?}");
        }
    }

    #[test]
    fn a_value_is_not_repeated() {
        for json in [r#"{"answer":482913}"#, r#"{"answer":482913.5}"#, r#""482913, expected x""#] {
            let said = from_slice::<AnswerPrompt>(json.as_bytes()).unwrap_err().text;
            assert!(!said.contains("482913") && said.contains(", expected "), "{json}: {said}");
        }
    }

    #[test]
    fn what_is_about_the_whole_body_is_told_where_it_begins() {
        for (json, line, column, said) in [
            (r#"{"action":"chmod","mode":"x"}"#, 1, 28, "expected a number from 0 to 4294967295"),
            (" \n {\"action\":\"rename\"}", 2, 2, "rename needs `to` at line 2 column 2"),
        ] {
            let unfit = from_slice::<FileAction>(json.as_bytes()).unwrap_err();
            assert_eq!(unfit.position, Position { line, column }, "{json}: {}", unfit.text);
            assert!(unfit.text.contains(said), "{unfit:?}");
        }
        for json in ["{}", r#"{"host":"h","identity_file":"/x"}"#] {
            let unfit = from_slice::<Unlock>(json.as_bytes()).unwrap_err();
            let said = "it has either `host` or `identity_file` at line 1 column 1";
            assert_eq!(unfit.text, said);
        }
    }

    #[test]
    fn what_is_valid_is_read_as_it_was() {
        let json =
            r#"{"name":"a","config":{"hostname":"h","port":22,"groups":["x"]},"force":true}"#;
        let host: AddHost = from_slice(json.as_bytes()).unwrap();
        assert_eq!((host.name.as_str(), host.config.port, host.force), ("a", Some(22), true));
    }
}
