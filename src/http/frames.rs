//! The data bytes of a body frame, for counters.

use axum::body::Bytes;
use hyper::body::Frame;

/// The bytes in what a body has come to; none in trailers, in an error and at the end.
pub(super) fn data_of<E>(polled: Option<&Result<Frame<Bytes>, E>>) -> Option<&Bytes> {
    polled?.as_ref().ok()?.data_ref()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    #[test]
    fn only_a_frame_of_data_has_bytes() {
        let data = Ok::<_, ()>(Frame::data(Bytes::from_static(b"abc")));
        assert_eq!(data_of(Some(&data)).map(Bytes::len), Some(3));
        for other in [Some(Ok(Frame::trailers(HeaderMap::new()))), Some(Err(())), None] {
            assert_eq!(data_of(other.as_ref()), None);
        }
    }
}
