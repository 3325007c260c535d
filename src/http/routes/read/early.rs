//! Streams whose answer begins before there is anything to say: what a filter wants, or the last events, may
//! take longer to find than proxies wait for a byte.

use std::time::Duration;

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, future::BoxFuture};
use tokio::time::timeout;

use super::head;
use crate::http::{accept::Shape, error::Problem};

/// An answer that is being found.
pub(super) type Answering = BoxFuture<'static, Result<Response, Problem>>;

/// What says nothing in a stream of lines: readers of NDJSON pass over an empty line, ours too.
pub(super) const EMPTY_LINE: &[u8] = b"\n";
/// The same in a stream of events.
const COMMENT: &[u8] = b": looking\n\n";

/// The answer, if it is found within `patience`: an error is a status then. Otherwise the head of a stream,
/// which says nothing every so often until the answer is found, and then goes on with it; an error breaks it
/// off.
///
/// # Errors
/// Those of the answer.
pub(super) async fn answer(
    shape: Shape,
    patience: Duration,
    mut answering: Answering,
) -> Result<Response, Problem> {
    if let Ok(answered) = timeout(patience, &mut answering).await {
        return answered;
    }
    let nothing = if shape == Shape::Events { COMMENT } else { EMPTY_LINE };
    let mut response = head(shape);
    *response.body_mut() = Body::from_stream(pieces(nothing, patience, answering));
    Ok(response)
}

fn pieces(
    nothing: &'static [u8],
    patience: Duration,
    mut answering: Answering,
) -> impl Stream<Item = Result<Bytes, BoxError>> {
    async_stream::try_stream! {
        let answered = loop {
            yield Bytes::from_static(nothing);
            if let Ok(answered) = timeout(patience, &mut answering).await {
                break answered;
            }
        };
        let mut rest = answered?.into_body().into_data_stream();
        while let Some(piece) = rest.try_next().await? {
            yield piece;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;
    use crate::http::code::Code;

    const PATIENCE: Duration = Duration::from_secs(15);

    async fn after(secs: u64, found: Result<&'static str, Code>) -> Result<Response, Problem> {
        let answering: Answering = Box::pin(async move {
            sleep(Duration::from_secs(secs)).await;
            found.map(|text| text.into_response()).map_err(|code| Problem::new(code, ""))
        });
        answer(Shape::Ndjson, PATIENCE, answering).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_begins_early_and_an_error_soon_is_still_a_status() {
        for (secs, text) in [(1, "{}\n"), (40, "\n\n{}\n")] {
            let response = after(secs, Ok("{}\n")).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text, "{secs}");
        }
        assert_eq!(after(1, Err(Code::Corrupt)).await.unwrap_err().code(), Code::Corrupt);
        let broken = after(40, Err(Code::Corrupt)).await.unwrap();
        assert!(broken.into_body().collect().await.is_err());
    }
}
