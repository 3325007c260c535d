//! Query parameters. Each is a type that knows its form, its bounds for the description, and its error. How a
//! query is split into them is in `queries`.
//!
//! A parameter keeps its text until its value is needed: so a request with several mistakes gets the same
//! error whatever the order of its parameters, and a parameter that does not apply is not parsed.

use std::time::Duration;

use serde::Deserialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

pub(super) use super::queries::HEADER_FILTER;
pub use super::queries::{FilteredParams, NoParams, Params};
use super::{accept::Shape, code::Code, error::Problem, extract, limits::Limits, times};
use contracts::{
    clock::TimestampMs,
    name::{PartitionNumber, TableName},
    read::ReadOrder,
    sequence::Offset,
};
use tiering::{ReadQuery, cursor};

/// Declares a parameter: its text, and how it is described.
macro_rules! parameter {
    ($(#[$doc:meta])* $name:ident, $schema:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {}
    };
}

parameter! {
    /// How many records or tables a page has at most.
    LimitParam, whole_number().minimum(Some(1)).maximum(Some(Limits::DEFAULT.page_records))
}
parameter! {
    /// The number of a partition.
    PartitionParam, whole_number().minimum(Some(0)).maximum(Some(Limits::DEFAULT.partitions_per_table - 1))
}
parameter! {
    /// A place in a partition.
    OffsetParam, whole_number().minimum(Some(0))
}
parameter! {
    /// A point in time: milliseconds since 1970, or RFC 3339.
    TimeParam, text()
}
parameter! {
    /// A length of time: `30s`, `500ms`, `1m`; seconds if there is no unit.
    WaitParam, text()
}
parameter! {
    /// The place where an earlier page ended.
    CursorParam, text()
}
parameter! {
    /// What a key or a header must be: a text, or with `*` at its end how it must begin.
    FilterParam, text()
}
parameter! {
    /// Which end a read begins at: `oldest` or `newest`.
    OrderParam, text().enum_values(Some(["oldest", "newest"]))
}
parameter! {
    /// How many of the last events are read.
    LastParam, whole_number().minimum(Some(0)).maximum(Some(Limits::DEFAULT.page_records))
}
parameter! {
    /// The shape of the answer, whatever `Accept` says: `json`, `ndjson` or `cloudevents`.
    FormatParam, text().enum_values(Some(["json", "ndjson", "cloudevents"]))
}
parameter! {
    /// Where an earlier page of a list ended.
    AfterParam, text()
}
parameter! {
    /// The name of a table.
    TableParam, text()
}
parameter! {
    /// Whether something is wanted: `true` or `false`.
    SwitchParam, text().enum_values(Some(["true", "false"]))
}
parameter! {
    /// What the answer to a write waits for.
    WaitForParam, text()
}
parameter! {
    /// What becomes of a stream at a bad line.
    OnErrorParam, text()
}
parameter! {
    /// How a body is split into events.
    SplitParam, text()
}

impl LimitParam {
    /// The number, if it is from 1 to `most`.
    ///
    /// # Errors
    /// 400.
    pub fn up_to(&self, most: usize) -> Result<usize, Problem> {
        let Self(text) = self;
        let limit = usize::try_from(number("limit", text)?).ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| {
            Problem::new(Code::BadLimit, format!("limit={text} is not from 1 to {most}")).with("limit", most)
        })
    }
}

impl PartitionParam {
    /// The number.
    ///
    /// # Errors
    /// 400 if it is none; 422 if it is not below `limits.partitions_per_table`.
    pub fn number(&self, limits: &Limits) -> Result<PartitionNumber, Problem> {
        extract::partition_number(number("partition", &self.0)?.into(), limits)
    }
}

impl LastParam {
    /// The number, if it is at most `most`.
    ///
    /// # Errors
    /// 400.
    pub fn up_to(&self, most: usize) -> Result<usize, Problem> {
        let Self(text) = self;
        let last = usize::try_from(number("last", text)?).ok().filter(|last| *last <= most);
        last.ok_or_else(|| {
            Problem::new(Code::BadLimit, format!("last={text} is not from 0 to {most}")).with("limit", most)
        })
    }
}

impl OrderParam {
    /// The order.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn order(&self) -> Result<ReadOrder, Problem> {
        match self.0.as_str() {
            "oldest" => Ok(ReadOrder::Oldest),
            "newest" => Ok(ReadOrder::Newest),
            other => {
                let detail = format!("order={other:?} is not known: it is oldest or newest");
                Err(Problem::new(Code::BadQuery, detail))
            }
        }
    }
}

impl SwitchParam {
    /// Whether it is wanted.
    ///
    /// # Errors
    /// 400 if it is neither `true` nor `false`.
    pub fn is_on(&self) -> Result<bool, Problem> {
        self.0
            .parse()
            .map_err(|_| Problem::new(Code::BadQuery, format!("{:?} is neither true nor false", self.0)))
    }
}

impl FormatParam {
    /// The shape.
    ///
    /// # Errors
    /// 400 if it is not known.
    pub(super) fn shape(&self) -> Result<Shape, Problem> {
        match self.0.as_str() {
            "json" => Ok(Shape::Json),
            "ndjson" => Ok(Shape::Ndjson),
            "cloudevents" => Ok(Shape::CloudEvents),
            other => {
                let detail = format!("format={other:?} is not known: it is json, ndjson or cloudevents");
                Err(Problem::new(Code::BadQuery, detail))
            }
        }
    }
}

impl AfterParam {
    /// The partition and the offset from which a list of segments goes on.
    ///
    /// # Errors
    /// 400 unless a page of such a list gave it.
    pub fn place(&self) -> Result<(PartitionNumber, Offset), Problem> {
        let place = self
            .0
            .split_once('-')
            .and_then(|(partition, offset)| Some((partition.parse().ok()?, number("after", offset).ok()?)));
        let detail = || format!("after={:?} is not the `next` of a page of segments", self.0);
        place.ok_or_else(|| Problem::new(Code::BadQuery, detail()))
    }
}

impl OffsetParam {
    /// The offset; `name` is the parameter's.
    ///
    /// # Errors
    /// 400 if it is not a whole number.
    pub fn offset(&self, name: &str) -> Result<Offset, Problem> {
        number(name, &self.0)
    }
}

impl TimeParam {
    /// The point in time; `name` is the parameter's.
    ///
    /// # Errors
    /// 400.
    pub fn bound(&self, name: &str) -> Result<TimestampMs, Problem> {
        times::bound(name, &self.0)
    }
}

impl WaitParam {
    /// The length of time, or `most` if it is longer.
    ///
    /// # Errors
    /// 400.
    pub fn up_to(&self, most: Duration) -> Result<Duration, Problem> {
        Ok(times::length("wait", &self.0)?.min(most))
    }
}

impl CursorParam {
    /// The read that it continues.
    ///
    /// # Errors
    /// 400 unless a read of this table gave it.
    pub fn query(&self, table: &TableName) -> Result<ReadQuery, Problem> {
        cursor::decode(table, &self.0).map_err(|error| Problem::new(Code::BadCursor, error))
    }
}

impl TableParam {
    /// The name.
    ///
    /// # Errors
    /// 400 with the rule.
    pub fn name(&self) -> Result<TableName, Problem> {
        extract::table_name(&self.0)
    }
}

impl WaitForParam {
    /// Checks that it asks to wait for S3, which is all that it may ask for.
    ///
    /// # Errors
    /// 400 for anything else; 422 if there is no bucket.
    pub fn check(&self, has_bucket: bool) -> Result<(), Problem> {
        only("wait_for", &self.0, "cold")?;
        if has_bucket {
            return Ok(());
        }
        Err(Problem::new(Code::NoColdTier, "wait_for=cold needs a bucket, and s3.bucket is not set"))
    }
}

impl OnErrorParam {
    /// Checks that it asks to skip the line, which is all that it may ask for.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn check(&self) -> Result<(), Problem> {
        only("on_error", &self.0, "skip")
    }
}

impl SplitParam {
    /// Checks that it asks to split an array, which is all that it may ask for.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn check(&self) -> Result<(), Problem> {
        only("split", &self.0, "array")
    }
}

/// Checks that a parameter has the only value that it may have.
fn only(name: &str, text: &str, value: &str) -> Result<(), Problem> {
    if text == value {
        return Ok(());
    }
    let detail = format!("{name}={text:?} is not known: leave it out, or ask for {value}");
    Err(Problem::new(Code::BadQuery, detail))
}

/// The whole number that a text is. One with more digits than a number here can have is still one, and out of
/// range wherever there is a range: it is the greatest.
fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().unwrap_or(u64::MAX));
    number.ok_or_else(|| {
        Problem::new(Code::BadQuery, format!("{name}={text:?} is not a whole number from 0 to {}", u64::MAX))
    })
}

fn whole_number() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::FromRequestParts, http::Request};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Query {
        limit: Option<LimitParam>,
        table: TableParam,
    }

    async fn params(query: &str) -> Result<Query, String> {
        let (mut parts, _) = Request::get(format!("/?{query}")).body(Body::empty()).unwrap().into_parts();
        let params = Params::<Query>::from_request_parts(&mut parts, &()).await;
        params
            .map(|Params(params)| params)
            .map_err(|problem| format!("{} {}", problem.code().name(), problem.detail()))
    }

    #[tokio::test]
    async fn a_query_is_read_whole_before_any_of_its_values() {
        let wrong = params("limit=x&table=a%20b").await.unwrap();
        let problem = wrong.limit.as_ref().unwrap().up_to(10).unwrap_err();
        assert_eq!(
            (problem.code(), problem.detail()),
            (Code::BadQuery, r#"limit="x" is not a whole number from 0 to 18446744073709551615"#)
        );
        assert_eq!(wrong.table.name().unwrap_err().code(), Code::BadTableName);
        for (query, detail) in [
            ("table=t&colour=red", "unknown field `colour`, expected `limit` or `table`"),
            ("table=t&limit=1&limit=2", "duplicate field `limit`"),
            ("limit=1", "missing field `table`"),
        ] {
            let problem = params(query).await.unwrap_err();
            assert!(problem.starts_with("bad_query ") && problem.ends_with(detail), "{query}: {problem}");
        }
    }

    #[tokio::test]
    async fn a_limit_that_is_empty_or_out_of_range_is_named_as_it_was_sent() {
        for (text, code, detail) in [
            ("", Code::BadQuery, r#"limit="" is not a whole number from 0 to 18446744073709551615"#),
            ("00", Code::BadLimit, "limit=00 is not from 1 to 10"),
            ("11", Code::BadLimit, "limit=11 is not from 1 to 10"),
        ] {
            let query = params(&format!("table=t&limit={text}")).await.unwrap();
            let problem = query.limit.unwrap().up_to(10).unwrap_err();
            assert_eq!((problem.code(), problem.detail()), (code, detail));
        }
        let query = params("table=t&limit=10").await.unwrap();
        assert_eq!(query.limit.unwrap().up_to(10).unwrap(), 10);
        assert!(params("table=t").await.unwrap().limit.is_none());
    }

    fn filtered(query: &str) -> Result<FilteredParams<Query>, String> {
        FilteredParams::parse(query).map_err(|problem| problem.to_string())
    }

    #[test]
    fn filters_by_header_stand_apart_whatever_their_names_and_places() {
        let read = filtered("header.a=1&table=t&%68eader.b%20c=x%26y&limit=5&header.=&header.d").unwrap();
        let pairs: Vec<_> = read.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [("header.a", "1"), ("header.b c", "x&y"), ("header.", ""), ("header.d", "")];
        assert_eq!(pairs, expected);
        assert_eq!((read.params.table.0.as_str(), read.params.limit.unwrap().0.as_str()), ("t", "5"));
        for (query, detail) in [
            ("table=t&header=1", "unknown field `header`"),
            ("table=t&headers.a=1", "unknown field `headers.a`"),
            ("header.a=1", "missing field `table`"),
        ] {
            let problem = filtered(query).map(drop).unwrap_err();
            assert!(problem.contains(detail), "{query}: {problem}");
        }
        assert!(filtered("table=t&").unwrap().headers.is_empty());
    }

    #[test]
    fn the_place_of_a_list_of_segments_is_a_partition_and_an_offset() {
        assert_eq!(AfterParam("3-1024".to_owned()).place().unwrap(), (3, 1024));
        for wrong in ["", "3", "3-", "-5", "a-1", "3-x", "3-+1", "99999999999-1", "3-1-1"] {
            assert!(AfterParam(wrong.to_owned()).place().is_err(), "{wrong}");
        }
    }
}
