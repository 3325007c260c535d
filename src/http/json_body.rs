//! JSON from outside: objects that are exactly what they should be, and lists that are counted before they
//! take memory.

use std::{cell::Cell, collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{de::StrRead, value::RawValue};

use super::{code::Code, error::Problem};
use contracts::sequence::Offset;

/// A JSON object. By itself a structure would also be read from an array, field by field in their order.
#[derive(Debug)]
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = T;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OfObject(PhantomData)).map(Self)
    }
}

/// Reads an object of texts, if there is one. By itself a map would keep the last of members that are given
/// twice.
pub(super) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct TextMembers(BTreeMap<String, String>);

    struct TextMembersVisitor;

    impl<'de> Visitor<'de> for TextMembersVisitor {
        type Value = TextMembers;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextMembers, A::Error> {
            let mut texts = BTreeMap::new();
            while let Some((name, text)) = map.next_entry::<String, String>()? {
                if texts.contains_key(&name) {
                    return Err(de::Error::custom(format_args!("duplicate member {name:?}")));
                }
                texts.insert(name, text);
            }
            Ok(TextMembers(texts))
        }
    }

    impl<'de> Deserialize<'de> for TextMembers {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(TextMembersVisitor)
        }
    }

    Ok(Option::<TextMembers>::deserialize(deserializer)?.map(|TextMembers(texts)| texts))
}

/// A whole number of any size, so that one out of range gets an error that says so: beyond what an `i128` can
/// be it is the nearest. serde's own way would refuse those, and allocate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WholeNumber(pub i128);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let (digits, furthest) = match text.strip_prefix('-') {
            Some(digits) => (digits, i128::MIN),
            None => (text, i128::MAX),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(de::Error::custom(no_whole_number(text)));
        }
        Ok(Self(text.parse().unwrap_or(furthest)))
    }
}

/// How a value that should be a whole number is refused: of a long one its beginning.
pub(super) fn no_whole_number(value: &str) -> String {
    format!("{value:.40} is not a whole number")
}

impl WholeNumber {
    /// The offset that it is. Beyond what an offset can be it is the last: whoever knows the end of a
    /// partition refuses that.
    ///
    /// # Errors
    /// 400 if it is negative.
    pub(super) fn offset(self) -> Result<Offset, Problem> {
        let Self(number) = self;
        if number < 0 {
            return Err(bad_json(format_args!("offset {number} is negative")));
        }
        Ok(Offset::try_from(number).unwrap_or(Offset::MAX))
    }
}

/// Reads a body that is one JSON object.
///
/// # Errors
/// 400 with the place and the reason.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let text = without_mark(body)?;
    let Object(value) = serde_json::from_slice(text).map_err(bad_json)?;
    Ok(value)
}

/// A text without its byte order mark, if that says UTF-8.
///
/// # Errors
/// 400 for UTF-16 and UTF-32.
pub(super) fn without_mark(text: &[u8]) -> Result<&[u8], Problem> {
    match text {
        [0xEF, 0xBB, 0xBF, rest @ ..] => Ok(rest),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [_, 0, ..] | [0, _, ..] => {
            Err(Problem::new(Code::BadJson, "the text is UTF-16 or UTF-32: JSON is UTF-8"))
        }
        text => Ok(text),
    }
}

/// 400 for text that is not the JSON that it should be.
pub(super) fn bad_json(error: impl ToString) -> Problem {
    let text = error.to_string();
    // serde_json speaks of the escape that it misses behind a half.
    if text.contains("hex escape") {
        let detail = format!("half of a surrogate pair stands alone, or a \\u escape is cut off: {text}");
        return Problem::new(Code::BadJson, detail);
    }
    Problem::new(Code::BadJson, text)
}

/// 413 for a list with more than `most` members.
pub(super) fn too_many(most: usize) -> Problem {
    Problem::new(Code::TooManyRecords, format!("there are more members than limits.bulk_records of {most}"))
        .at_index(most)
}

/// Keeps the problem for which a visitor stops reading: serde's errors are texts, and would lose it.
pub(super) struct Stopped(Cell<Option<Problem>>);

impl Stopped {
    /// The error to stop with.
    pub(super) fn by<E: de::Error>(&self, problem: Problem) -> E {
        self.0.set(Some(problem));
        E::custom("stopped")
    }
}

/// Reads a part of a JSON text that was passed over at first.
///
/// # Errors
/// What `visit` stopped with, or 400.
pub(super) fn part<'a, T>(
    text: &'a RawValue,
    visit: impl FnOnce(&mut serde_json::Deserializer<StrRead<'a>>, &Stopped) -> Result<T, serde_json::Error>,
) -> Result<T, Problem> {
    let stopped = Stopped(Cell::new(None));
    let read = visit(&mut serde_json::Deserializer::from_str(text.get()), &stopped);
    read.map_err(|error| stopped.0.take().unwrap_or_else(|| bad_json(error)))
}

/// Reads a list of at most `most` members, which are counted before they take memory. `expected` says what it
/// should be.
///
/// # Errors
/// 400; what `too_many` makes of `most` if there are more.
pub(super) fn list<'a, T: Deserialize<'a>>(
    text: &'a RawValue,
    expected: &'static str,
    most: usize,
    too_many: fn(usize) -> Problem,
) -> Result<Vec<T>, Problem> {
    part(text, |from, stopped| {
        from.deserialize_seq(ListVisitor { expected, most, too_many, stopped, of: PhantomData })
    })
}

struct ListVisitor<'a, T> {
    expected: &'static str,
    most: usize,
    too_many: fn(usize) -> Problem,
    stopped: &'a Stopped,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut taken = Vec::new();
        while let Some(one) = list.next_element()? {
            if taken.len() == self.most {
                return Err(self.stopped.by((self.too_many)(self.most)));
            }
            taken.push(one);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_have_any_size() {
        let huge = "9".repeat(400);
        let least = format!("-{huge}");
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            (" 42 ", 42),
            ("-9223372036854775809", -9_223_372_036_854_775_809),
            (huge.as_str(), i128::MAX),
            (least.as_str(), i128::MIN),
        ] {
            assert_eq!(serde_json::from_str::<WholeNumber>(text).unwrap(), WholeNumber(number), "{text}");
        }
        for text in ["1.0", "1e2", "-", "\"1\"", "true", "null", "[1]", "{\"1\":1}"] {
            assert!(serde_json::from_str::<WholeNumber>(text).is_err(), "{text}");
        }
        let long = format!("\"{}\"", "x".repeat(1000));
        let error = serde_json::from_str::<WholeNumber>(&long).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn an_offset_that_cannot_be_is_behind_every_end_or_refused() {
        let offset = |number| WholeNumber(number).offset().map_err(|problem| problem.code());
        assert_eq!(offset(7), Ok(7));
        assert_eq!(offset(i128::from(Offset::MAX) + 1), Ok(Offset::MAX));
        assert_eq!(offset(-1), Err(Code::BadJson));
    }
}
