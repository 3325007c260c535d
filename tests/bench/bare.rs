//! The floors of a request's cost, for `make cost`: the same work as an append's without a store, on hyper
//! alone, on axum, and on axum with what Zombi needs around it. Prints its address.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::post,
    serve::ListenerExt,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{StatusCode, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How much stands around the handler.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum BareFloor {
    /// hyper's HTTP/1 connection and a function.
    Hyper,
    /// `axum::serve` and one route.
    Axum,
    /// axum behind the builder for both versions of HTTP, with timers, one layer and a way to stop.
    Around,
}

/// An event as a client sends it.
#[derive(Deserialize)]
struct BareEvent<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Parses an event and makes the answer of an append.
fn answer(body: &[u8]) -> (StatusCode, String) {
    match serde_json::from_slice::<BareEvent>(body) {
        Ok(sent) => {
            let text = format!("{{\"partition\":0,\"offset\":{}}}", sent.payload.get().len());
            (StatusCode::CREATED, text)
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn on_hyper(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let (status, text) = answer(&body);
    let mut response = hyper::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

async fn on_axum(Path(_table): Path<String>, body: Bytes) -> (StatusCode, String) {
    answer(&body)
}

async fn layer(State(()): State<()>, request: Request, next: Next) -> Response {
    next.run(request).await
}

/// Serves until it is killed.
pub(crate) async fn serve(floor: BareFloor) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/tables/{table}", post(on_axum));
    match floor {
        BareFloor::Axum => {
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            axum::serve(listener, routes).await.unwrap();
        }
        BareFloor::Hyper => loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                drop(connection.serve_connection(TokioIo::new(stream), service_fn(on_hyper)).await);
            });
        },
        BareFloor::Around => around(listener, routes.layer(middleware::from_fn_with_state((), layer))).await,
    }
}

async fn around(listener: TcpListener, routes: Router) {
    let stop = CancellationToken::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (routes, stop) = (routes.clone(), stop.clone());
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            let service = TowerToHyperService::new(routes);
            tokio::select! {
                done = builder.serve_connection(TokioIo::new(stream), service) => drop(done),
                () = stop.cancelled() => {}
            }
        });
    }
}
