//! YAML that is no settings: reads small files, the policy and the tokens of `auth`, and writes what the
//! command line shows. JSON is YAML, too.

use std::{cell::Cell, collections::HashSet, fmt};

use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The longest text that is read.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;
/// How deep lists and mappings may be nested, as each level takes stack.
const MAX_DEPTH: usize = 16;
/// What a text may grow to when its aliases are followed: a byte for each value, and each byte of a text.
const MAX_EXPANDED_BYTES: usize = 4 << 20;

/// One step on the way from the top of a document to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum YamlStep {
    /// To the value of this field of a mapping.
    Field(String),
    /// To this item of a list, counted from 0.
    Item(usize),
}

/// Reads one document of at most a mebibyte, nested at most 16 deep.
///
/// # Errors
/// One line, with the field and its line where they are known: the text is no YAML, a name stands twice in a
/// mapping, or `T` is something else.
pub(crate) fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("{} bytes are too many; the limit is {MAX_TEXT_BYTES}", text.len()));
    }
    let left = Cell::new(MAX_EXPANDED_BYTES);
    let strict = Strict { left: &left, depth: 0 };
    strict.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| error.to_string())?;
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}

/// Writes a value as one document.
///
/// # Errors
/// Why it has no YAML form.
pub(crate) fn write_yaml(value: &impl Serialize) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

/// The line, counted from 1, of the value to which `steps` lead. If it is not there, the line of what should
/// hold it.
pub(crate) fn line_of(text: &str, steps: &[YamlStep]) -> Option<usize> {
    // serde_yaml tells a place only in an error, so every search ends with one, in the right place.
    let error = Search(steps).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|place| place.line())
}

/// Checks what `T` may let pass: a name that stands twice, and what would take too much memory or stack.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Strict<'_> {
    /// Charges for one value of so many bytes.
    fn charge<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes + 1);
        self.left.set(left.ok_or_else(|| E::custom("too large once its aliases are expanded"))?);
        Ok(())
    }

    /// What checks the values inside this one.
    fn inside<E: Error>(self) -> Result<Self, E> {
        self.charge::<E>(0)?;
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, a list or a mapping")
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_i64<E: Error>(self, _value: i64) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_u64<E: Error>(self, _value: u64) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.charge(value.len())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.charge(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inside = self.inside::<A::Error>()?;
        while items.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let inside = self.inside::<A::Error>()?;
        let mut names = HashSet::new();
        while fields.next_key_seed(NewName { names: &mut names, reading: inside })?.is_some() {
            fields.next_value_seed(inside)?;
        }
        Ok(())
    }
}

/// Takes a name that its mapping does not have yet.
struct NewName<'a> {
    names: &'a mut HashSet<String>,
    reading: Strict<'a>,
}

impl<'de> DeserializeSeed<'de> for NewName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NewName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        self.reading.charge::<E>(name.len())?;
        if self.names.insert(name.to_owned()) {
            Ok(())
        } else {
            Err(E::custom(format_args!("duplicate field {name:?}")))
        }
    }
}

/// Looks for the value to which the steps lead. It never succeeds: its error stands where the value does.
struct Search<'a>(&'a [YamlStep]);

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing: the search ends here")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((YamlStep::Item(wanted), rest)) = self.0.split_first() {
            for _ in 0..*wanted {
                if items.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
            }
            items.next_element_seed(Search(rest))?;
        }
        Err(A::Error::custom("here"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        if let Some((YamlStep::Field(wanted), rest)) = self.0.split_first() {
            while let Some(is_wanted) = fields.next_key_seed(NameIs { wanted, is_last: rest.is_empty() })? {
                if is_wanted {
                    return fields.next_value_seed(Search(rest));
                }
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom("here"))
    }
}

/// Whether a name is the wanted one. If that is the last step, it ends the search.
struct NameIs<'a> {
    wanted: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        let is_wanted = name == self.wanted;
        if is_wanted && self.is_last { Err(E::custom("here")) } else { Ok(is_wanted) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        parse_yaml(text)
    }

    #[test]
    fn yaml_and_json_are_read() {
        let expected = json!({"a": ["x", 1, true, null], "b": {"c": -1.5}});
        let texts = [
            "a: [x, 1, true, ~]\nb:\n  c: -1.5\n",
            r#"{"a": ["x", 1, true, null], "b": {"c": -1.5}}"#,
            "a: &list [x, 1, true, ~]\nb: {c: -1.5}\nagain: *list\n",
        ];
        assert_eq!(parse(texts[0]).unwrap(), expected);
        assert_eq!(parse(texts[1]).unwrap(), expected);
        assert_eq!(parse(texts[2]).unwrap()["again"], expected["a"]);
        assert_eq!(parse("").unwrap(), Value::Null);
        assert_eq!(parse("# nothing\n").unwrap(), Value::Null);
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: 2\na: 3\n", "line 3"),
            ("b:\n  - c: 1\n    d: 2\n    c: 3\n", "line 4"),
            ("b: {x: 1,\n \"x\": 2}\n", "line 2"),
            ("1: 1\n\"1\": 2\n", "line 2"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains("duplicate field") && why.contains(line), "{text:?}: {why}");
        }
    }

    #[test]
    fn what_is_no_single_small_document_is_refused() {
        let laughs = (1..9).map(|level| {
            let before = format!("*a{},", level - 1).repeat(10);
            format!("a{level}: &a{level} [{before}]\n")
        });
        let bomb = format!("a0: &a0 [ha]\n{}", laughs.collect::<String>());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(100_000));
        for (text, word) in [
            ("a: [1", "line"),
            ("a: 1\n---\nb: 2\n", "more than one document"),
            ("a: !tag 1\n", "invalid type"),
            ("? [1]\n: 2\n", "name"),
            ("a: *b\n", "anchor"),
            ("a: &a [*a]\n", ""),
            (bomb.as_str(), "repetition"),
            (long.as_str(), "too large"),
            ("[".repeat(17).as_str(), ""),
            (format!("{}{}", "[".repeat(17), "]".repeat(17)).as_str(), "deeper"),
            ("[".repeat(100_000).as_str(), ""),
            (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_str(), "deeper"),
            ("- ".repeat(100_000).as_str(), "deeper"),
            ("x".repeat(MAX_TEXT_BYTES + 1).as_str(), "too many"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(word), "{}: {why}", text.chars().take(60).collect::<String>());
        }
        assert!(parse(&format!("{}{}", "[".repeat(16), "]".repeat(16))).is_ok());
    }

    #[test]
    fn a_value_is_found_by_the_steps_to_it() {
        let text =
            "version: 1\nbindings:\n  - role: a\n    tables: [x,\n      y]\n  -\n    role: b\nlast: {z: 1}\n";
        let field = |name: &str| YamlStep::Field(name.to_owned());
        let item = YamlStep::Item;
        for (steps, line) in [
            (vec![], 1),
            (vec![field("version")], 1),
            (vec![field("bindings")], 2),
            (vec![field("bindings"), item(0)], 3),
            (vec![field("bindings"), item(0), field("tables")], 4),
            (vec![field("bindings"), item(0), field("tables"), item(0)], 4),
            (vec![field("bindings"), item(0), field("tables"), item(1)], 5),
            (vec![field("bindings"), item(1), field("role")], 7),
            (vec![field("bindings"), item(1), field("subjects")], 7),
            (vec![field("bindings"), item(0), field("role"), field("of a text")], 3),
            (vec![field("bindings"), item(9)], 3),
            (vec![field("last"), field("z")], 8),
            (vec![field("last"), item(0)], 8),
            (vec![field("missing")], 1),
        ] {
            assert_eq!(line_of(text, &steps), Some(line), "{steps:?}");
        }
    }
}
