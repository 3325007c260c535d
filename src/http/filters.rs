//! Filters of a read as clients write them: what keys and headers must be.

use super::{code::Code, error::Problem, limits::Limits, params::HEADER_FILTER};
use contracts::filter::{EventCondition, EventField, TextPattern};

/// The conditions that parameters make, all of which an event must meet. Each is a parameter's name with its
/// text: `key`, `type`, `subject` or `header.NAME`. The second and the third are other names of `header.type`
/// and `header.subject`.
///
/// # Errors
/// 400 for a parameter without a header's name, for one that is given twice, for an empty key, and for more
/// than the limits allow.
pub fn conditions<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    limits: &Limits,
) -> Result<Vec<EventCondition>, Problem> {
    let wrong = |detail: String| Problem::new(Code::BadQuery, detail);
    let (mut conditions, mut bytes): (Vec<EventCondition>, usize) = (Vec::new(), 0);
    let mut seen: Vec<&str> = Vec::new();
    for (parameter, text) in parameters {
        let field = match parameter.strip_prefix(HEADER_FILTER) {
            Some("") => return Err(wrong("a filter by header is header.NAME=VALUE".to_owned())),
            Some(name) => EventField::Header(name.to_owned()),
            None if parameter == "key" => EventField::Key,
            None => EventField::Header(parameter.to_owned()),
        };
        if field == EventField::Key && text.is_empty() {
            return Err(wrong("key is empty, and no event has an empty key".to_owned()));
        }
        if seen.contains(&parameter) {
            return Err(wrong(format!("{parameter} is filtered by twice")));
        }
        seen.push(parameter);
        bytes += text.len();
        if let EventField::Header(name) = &field {
            bytes += name.len();
        }
        conditions.push(EventCondition { field, pattern: TextPattern::parse(text) });
        if conditions.len() > limits.filters {
            return Err(wrong(format!("there are more filters than limits.filters of {}", limits.filters)));
        }
    }
    if bytes > limits.filter_bytes {
        let most = limits.filter_bytes;
        return Err(wrong(format!("the filters have {bytes} bytes, and limits.filter_bytes is {most}")));
    }
    Ok(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::{
        filter::{ReadFilter, TimeFilter},
        name::TableName,
        read::ReadOrder,
    };
    use tiering::{Positions, ReadQuery, cursor};

    fn of(parameters: &[(&str, &str)], limits: &Limits) -> Result<Vec<(String, TextPattern)>, String> {
        let conditions = conditions(parameters.iter().copied(), limits);
        let shown = |EventCondition { field, pattern }| match field {
            EventField::Key => ("a key".to_owned(), pattern),
            EventField::Header(name) => (name, pattern),
        };
        conditions
            .map(|conditions| conditions.into_iter().map(shown).collect())
            .map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn each_parameter_is_one_condition() {
        let exact = |text: &str| TextPattern::Exact(text.to_owned());
        let prefix = |text: &str| TextPattern::Prefix(text.to_owned());
        let found = of(
            &[("key", "a*b"), ("type", "order.*"), ("subject", ""), ("header.Key", "*"), ("header.*", "x")],
            &Limits::DEFAULT,
        );
        let expected = [
            ("a key", exact("a*b")),
            ("type", prefix("order.")),
            ("subject", exact("")),
            ("Key", prefix("")),
            ("*", exact("x")),
        ];
        assert_eq!(found.unwrap(), expected.map(|(name, pattern)| (name.to_owned(), pattern)));
        assert!(of(&[], &Limits::DEFAULT).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let limits = Limits { filters: 2, filter_bytes: 10, ..Limits::DEFAULT };
        for (parameters, detail) in [
            (vec![("header.", "x")], "header.NAME"),
            (vec![("key", "")], "key is empty"),
            (vec![("header.a", "1"), ("header.a", "2")], "header.a is filtered by twice"),
            (vec![("key", "1"), ("type", "1"), ("subject", "1")], "limits.filters of 2"),
            (vec![("header.12345", "123456")], "11 bytes"),
        ] {
            let problem = of(&parameters, &limits).unwrap_err();
            assert!(problem.contains(detail), "{parameters:?}: {problem}");
        }
        assert!(of(&[("header.1234", "123456")], &limits).is_ok());
        // Both names of a header are two conditions, which an event must meet both of.
        let both = of(&[("type", "a*"), ("header.type", "ab")], &Limits::DEFAULT).unwrap();
        let expected = [TextPattern::Prefix("a".to_owned()), TextPattern::Exact("ab".to_owned())];
        assert_eq!(both, expected.map(|pattern| ("type".to_owned(), pattern)));
    }

    #[test]
    fn with_the_longest_filters_the_cursor_of_a_thousand_partitions_has_4_kib() {
        let names: Vec<String> = (0..16).map(|number| format!("header.{number:x}")).collect();
        let text = "x".repeat(13);
        let parameters = names.iter().map(|name| (name.as_str(), text.as_str()));
        let conditions = conditions(parameters, &Limits::DEFAULT).unwrap();
        let time = TimeFilter { since: Some(-62_135_596_800_000), until: Some(253_402_300_800_000) };
        let query = ReadQuery {
            table: TableName::parse("t").unwrap(),
            partition: None,
            filter: ReadFilter { time, conditions: conditions.into() },
            order: ReadOrder::Oldest,
            from: Positions::new(),
        };
        let most = |spread: u64| -> Positions {
            (0..1000).map(|number| (number, if number == 7 { spread } else { 0 })).collect()
        };
        for (spread, most_bytes) in [((1 << 22) - 1, 4096), ((1 << 40) - 1, 9216)] {
            let length = cursor::encode(&query, &most(spread)).len();
            assert!(length <= most_bytes, "{length} bytes for {spread}");
        }
    }
}
