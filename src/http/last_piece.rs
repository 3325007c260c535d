//! Spares connections a poll for the last piece of each body.
//!
//! hyper wakes a connection's task whenever a piece of a request's body is taken, so that it reads the next
//! (its `body/chan.rs`, 1.12). In HTTP/1 it is that task which takes the piece, and most bodies have one:
//! without this, the scheduler has each append polled once more, for nothing.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    sync::Arc,
    task::{Context, Wake, Waker},
};

/// Whom a piece that is being taken has woken.
#[derive(Default)]
enum Woken {
    /// No piece is being taken.
    #[default]
    NotTaking,
    /// Nobody so far.
    Nobody,
    /// A connection's task, which is woken once the piece is taken.
    Task(Waker),
}

thread_local! {
    /// By thread: what other threads wake meanwhile is woken at once.
    static WOKEN: Cell<Woken> = const { Cell::new(Woken::NotTaking) };
}

/// The waker of a connection's task, but for what [`Taking`] holds back.
struct ConnectionTask(Waker);

impl Wake for ConnectionTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_held_back = WOKEN.try_with(|woken| match woken.take() {
            Woken::NotTaking => false,
            Woken::Nobody => {
                woken.set(Woken::Task(self.0.clone()));
                true
            }
            Woken::Task(first) => {
                woken.set(Woken::Task(first));
                false
            }
        });
        if !is_held_back.unwrap_or(false) {
            self.0.wake_by_ref();
        }
    }
}

/// A connection's future, polled with a waker that is held back behind the last piece of a body.
pub fn without_last_wakes<F: Future>(connection: F) -> impl Future<Output = F::Output> {
    let mut connection = Box::pin(connection);
    let mut known: Option<(Waker, Waker)> = None;
    poll_fn(move |context| {
        let (task, own) = match known.take() {
            Some(known) if known.0.will_wake(context.waker()) => known,
            _ => {
                let task = context.waker().clone();
                (task.clone(), Arc::new(ConnectionTask(task)).into())
            }
        };
        let polled = connection.as_mut().poll(&mut Context::from_waker(&own));
        known = Some((task, own));
        polled
    })
}

/// A piece of a body is being taken, and not within another. Until this is dropped, the wake of a
/// connection's task is held back, on this thread.
pub(super) struct Taking(());

impl Taking {
    pub(super) fn begin() -> Self {
        WOKEN.set(Woken::Nobody);
        Self(())
    }

    /// It was the last piece: nobody needs to be woken.
    pub(super) fn was_last(self) {
        WOKEN.set(Woken::Nobody);
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if let Woken::Task(task) = WOKEN.take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        time::Duration,
    };

    use axum::http::{Request, Response, Version};
    use http_body_util::{BodyExt, Full};
    use hyper::{
        body::{Bytes, Incoming},
        server::conn::http1,
        service::service_fn,
    };
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        sync::oneshot,
        task::yield_now,
        time::timeout,
    };

    use super::*;
    use crate::http::shared_body::SentBody;

    /// How often a request is polled whose body comes in these pieces, and what was read of it.
    async fn posted(pieces: &[&str]) -> (usize, String) {
        let (mut client, server) = duplex(1 << 10);
        let polls = Arc::<AtomicUsize>::default();
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let may_go_on = Mutex::new(Some(may_go_on));
        let counted = Arc::clone(&polls);
        let service = service_fn(move |request: Request<Incoming>| {
            let may_go_on = may_go_on.lock().unwrap().take().unwrap();
            let body = SentBody::of_client(request.into_body(), Version::HTTP_11);
            let mut answering = Box::pin(async move {
                let body = body.collect().await.unwrap().to_bytes();
                may_go_on.await.unwrap();
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::new(body)))
            });
            let polls = Arc::clone(&counted);
            poll_fn(move |context| {
                polls.fetch_add(1, Relaxed);
                answering.as_mut().poll(context)
            })
        });
        let serving = tokio::spawn(without_last_wakes(
            http1::Builder::new().serve_connection(TokioIo::new(server), service),
        ));
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let head =
            format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        let first = pieces.first().copied().unwrap_or_default();
        client.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
        for piece in pieces.iter().skip(1) {
            settle().await;
            client.write_all(piece.as_bytes()).await.unwrap();
        }
        settle().await;
        go_on.send(()).unwrap();
        let mut told = String::new();
        timeout(Duration::from_secs(60), client.read_to_string(&mut told)).await.expect("an answer").unwrap();
        serving.await.unwrap().unwrap();
        let body = told.split_once("\r\n\r\n").unwrap().1;
        (polls.load(Relaxed), body.to_owned())
    }

    /// Lets the connection do what it can.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_request_is_polled_when_it_arrives_and_when_its_answer_is_ready() {
        assert_eq!(posted(&["all of it"]).await, (2, "all of it".to_owned()));
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_read_to_its_end() {
        let (_, body) = posted(&["", "all", " of", " it"]).await;
        assert_eq!(body, "all of it");
    }

    #[test]
    fn what_a_piece_that_is_not_the_last_wakes_is_woken_behind_it() {
        struct WakeCount(AtomicUsize);
        impl Wake for WakeCount {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let woken = Arc::new(WakeCount(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::new(ConnectionTask(Arc::clone(&woken).into())));
        let count = || woken.0.load(Relaxed);
        let taking = Taking::begin();
        waker.wake_by_ref();
        assert_eq!(count(), 0);
        drop(taking);
        assert_eq!(count(), 1);
        let taking = Taking::begin();
        waker.wake_by_ref();
        taking.was_last();
        assert_eq!(count(), 1, "nobody reads on");
        waker.wake_by_ref();
        assert_eq!(count(), 2);
    }
}
