//! What goes over a trunk: frames with a number, which an answer shares with its request. Pure.
//!
//! A frame is its length (four bytes, of all that follows), its number (eight), its kind (one), and what the
//! kind says. Numbers are big-endian; a text has its length (four bytes) before it. The name of a header is its
//! place among those that are known (one byte, from 1), or 0 and a text.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// The names that requests and answers usually have. Their order is part of what goes over a trunk.
static KNOWN_NAMES: [HeaderName; 12] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("zombi-offset"),
    HeaderName::from_static("zombi-partition"),
    HeaderName::from_static("zombi-owner"),
    HeaderName::from_static("zombi-hop"),
    header::HOST,
    header::CONTENT_LENGTH,
    HeaderName::from_static("zombi-request-id"),
    HeaderName::from_static("zombi-principal"),
    HeaderName::from_static("zombi-records"),
    header::ACCEPT,
    header::USER_AGENT,
];

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const BROKEN: u8 = 3;
const LEAVING: u8 = 4;

/// One frame of a trunk.
#[derive(Debug)]
pub(crate) enum TrunkFrame {
    /// A request, whole.
    Request(u64, Request<Bytes>),
    /// The answer to one, whole.
    Answer(u64, Response<Bytes>),
    /// There is no whole answer to one.
    Broken(u64),
    /// Whoever answers takes no more requests than have been sent already.
    Leaving,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came over the trunk is no frame: {0}")]
pub(crate) struct NoFrame(&'static str);

impl TrunkFrame {
    /// Writes it behind what is there.
    pub(crate) fn encode(&self, to: &mut BytesMut) {
        let from = to.len();
        to.put_u32(0);
        match self {
            Self::Request(number, request) => {
                head(to, *number, REQUEST);
                text(to, request.method().as_str().as_bytes());
                text(to, request.uri().path_and_query().map_or("/", |path| path.as_str()).as_bytes());
                headers(to, request.headers());
                to.put_slice(request.body());
            }
            Self::Answer(number, answer) => {
                head(to, *number, ANSWER);
                to.put_u16(answer.status().as_u16());
                headers(to, answer.headers());
                to.put_slice(answer.body());
            }
            Self::Broken(number) => head(to, *number, BROKEN),
            Self::Leaving => head(to, 0, LEAVING),
        }
        let length = u32::try_from(to.len() - from - LENGTH_BYTES).unwrap_or(u32::MAX);
        to[from..from + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    /// Takes the next frame of what has come, which has `most` bytes at most; `None` if it is not whole yet.
    ///
    /// # Errors
    /// [`NoFrame`].
    pub(crate) fn take(from: &mut BytesMut, most: usize) -> Result<Option<Self>, NoFrame> {
        let Some(length) = from.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > most {
            return Err(NoFrame("it is too long"));
        }
        if from.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        from.advance(LENGTH_BYTES);
        Self::read(from.split_to(length).freeze()).map(Some)
    }

    fn read(mut rest: Bytes) -> Result<Self, NoFrame> {
        let number = rest.try_get_u64().map_err(|_| CUT)?;
        Ok(match rest.try_get_u8().map_err(|_| CUT)? {
            REQUEST => {
                let (method, path) = (take_text(&mut rest)?, take_text(&mut rest)?);
                let mut request = Request::default();
                *request.method_mut() = Method::from_bytes(&method).map_err(|_| NoFrame("a method"))?;
                *request.uri_mut() = Uri::from_maybe_shared(path).map_err(|_| NoFrame("a path"))?;
                // As requests that share a connection are: none of them may end it.
                *request.version_mut() = Version::HTTP_2;
                *request.headers_mut() = take_headers(&mut rest)?;
                *request.body_mut() = rest;
                Self::Request(number, request)
            }
            ANSWER => {
                let status = rest.try_get_u16().map_err(|_| CUT)?;
                let mut answer = Response::default();
                *answer.status_mut() = StatusCode::from_u16(status).map_err(|_| NoFrame("a status"))?;
                *answer.headers_mut() = take_headers(&mut rest)?;
                *answer.body_mut() = rest;
                Self::Answer(number, answer)
            }
            BROKEN => Self::Broken(number),
            LEAVING => Self::Leaving,
            _ => return Err(NoFrame("its kind is not known")),
        })
    }
}

const CUT: NoFrame = NoFrame("it is cut off");

fn head(to: &mut BytesMut, number: u64, kind: u8) {
    to.put_u64(number);
    to.put_u8(kind);
}

fn text(to: &mut BytesMut, text: &[u8]) {
    to.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    to.put_slice(text);
}

fn headers(to: &mut BytesMut, headers: &HeaderMap) {
    to.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
    for (name, value) in headers {
        match (1..).zip(&KNOWN_NAMES).find(|(_, known)| *known == name) {
            Some((place, _)) => to.put_u8(place),
            None => {
                to.put_u8(0);
                text(to, name.as_str().as_bytes());
            }
        }
        text(to, value.as_bytes());
    }
}

fn take_text(from: &mut Bytes) -> Result<Bytes, NoFrame> {
    let length = from.try_get_u32().map_err(|_| CUT)? as usize;
    if length > from.len() { Err(CUT) } else { Ok(from.split_to(length)) }
}

fn take_name(from: &mut Bytes) -> Result<HeaderName, NoFrame> {
    let no_name = NoFrame("the name of a header");
    match from.try_get_u8().map_err(|_| CUT)? {
        0 => HeaderName::from_bytes(&take_text(from)?).map_err(|_| no_name),
        place => KNOWN_NAMES.get(usize::from(place) - 1).cloned().ok_or(no_name),
    }
}

fn take_headers(from: &mut Bytes) -> Result<HeaderMap, NoFrame> {
    let count = from.try_get_u32().map_err(|_| CUT)?;
    // With room for the usual number at once; how many there are is the sender's word.
    let mut headers = HeaderMap::with_capacity(count.min(16) as usize);
    for _ in 0..count {
        let name = take_name(from)?;
        let value = HeaderValue::from_maybe_shared(take_text(from)?).map_err(|_| NoFrame("a header"))?;
        headers.try_append(name, value).map_err(|_| NoFrame("it has too many headers"))?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The most that a frame of these tests may have, in bytes.
    const MOST: usize = 1 << 20;

    fn request(path: &str, value: &[u8], body: &[u8]) -> Request<Bytes> {
        let mut request =
            Request::post(path).version(Version::HTTP_2).body(Bytes::copy_from_slice(body)).unwrap();
        for name in ["content-type", "zombi-hop", "zombi-hop", "x-other"] {
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    }

    fn answer(value: &[u8], body: &[u8]) -> Response<Bytes> {
        let mut answer = Response::new(Bytes::copy_from_slice(body));
        *answer.status_mut() = StatusCode::CREATED;
        answer.headers_mut().append("zombi-owner", HeaderValue::from_bytes(value).unwrap());
        answer
    }

    fn all(frames: &mut BytesMut) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some(frame) = TrunkFrame::take(frames, MOST).unwrap() {
            shown.push(format!("{frame:?}"));
        }
        shown
    }

    proptest! {
        #[test]
        fn what_is_sent_comes_however_it_is_cut(
            value in "[!-~]{0,40}",
            body in vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let frames = [
                TrunkFrame::Request(7, request("/tables/t?x=%20", value.as_bytes(), &body)),
                TrunkFrame::Answer(u64::MAX, answer(value.as_bytes(), &body)),
                TrunkFrame::Broken(3),
                TrunkFrame::Leaving,
            ];
            let mut sent = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(&mut sent));
            let sent = sent.freeze();
            let cut = cut.index(sent.len());
            let mut come = BytesMut::from(&sent[..cut]);
            let mut seen = all(&mut come);
            come.extend_from_slice(&sent[cut..]);
            seen.extend(all(&mut come));
            prop_assert!(come.is_empty());
            prop_assert_eq!(seen, frames.iter().map(|frame| format!("{frame:?}")).collect::<Vec<_>>());
        }

        #[test]
        fn whatever_comes_is_read_or_refused(
            number: u64,
            kind in 0_u8..6,
            lengths in vec(0_u32..20, 0..6),
            bytes in vec(any::<u8>(), 0..200),
        ) {
            let mut come = BytesMut::new();
            let lengths: Vec<u8> = lengths.into_iter().flat_map(u32::to_be_bytes).collect();
            come.put_u32((9 + lengths.len() + bytes.len()) as u32);
            head(&mut come, number, kind);
            come.extend_from_slice(&lengths);
            come.extend_from_slice(&bytes);
            prop_assert!(!matches!(TrunkFrame::take(&mut come, MOST), Ok(None)), "it is whole");
            prop_assert!(come.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_waited_for() {
        let long = [0, 1, 0, 1];
        assert!(TrunkFrame::take(&mut BytesMut::from(&long[..]), 1 << 16).is_err());
        assert!(TrunkFrame::take(&mut BytesMut::from(&long[..]), MOST).unwrap().is_none());
        let strange = [0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 99];
        assert!(TrunkFrame::take(&mut BytesMut::from(&strange[..]), MOST).is_err());
        let cut = [0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, ANSWER, 0];
        assert_eq!(TrunkFrame::take(&mut BytesMut::from(&cut[..]), MOST).unwrap_err(), CUT);
    }
}
