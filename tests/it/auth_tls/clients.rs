//! Clients that show a certificate, and whom it names.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use reqwest::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use contracts::clock::{Clock, SystemClock};
use zombi::{
    http::scope::OnConnection,
    net::{
        self, ServedPort,
        settings::NetSettings,
        tls::{Tls, certificate::named_by, settings::ClientAuth},
    },
};

use super::{Site, ask};
use testing::{
    certificates::{Authority, Certified},
    tls::TlsClient,
};

/// A name as SPIFFE gives it.
const ONCALL: &str = "spiffe://corp/ns/ops/sa/oncall";

#[tokio::test]
async fn where_clients_must_show_a_certificate_nobody_else_is_let_in() {
    let Some(site) = Site::new().await else { return };
    let others = Authority::new(site.directory.path(), "others");
    let named = format!("subjectAltName = URI:{ONCALL}");
    let good = site.authority.sign("good", &named);
    let expired = site.authority.sign_expired("expired", &named);
    let stranger = others.sign("stranger", &named);
    let showing = |certified: &Certified| TlsClient::showing(certified, &site.authority);
    let authorities = site.authority.own.cert.display().to_string();
    for (client_auth, lets_in_without) in [("required", false), ("optional", true)] {
        let more = [("tls.client_auth", client_auth), ("tls.client_ca_file", authorities.as_str())];
        let z = site.serve(&more).await;
        assert_eq!(ask(&site.client(), z.address()).await.is_ok(), lets_in_without, "{client_auth}");
        let of_old = ask(&TlsClient::of_old(&site.authority), z.address()).await;
        assert_eq!(of_old.is_ok(), lets_in_without, "{client_auth}, TLS 1.2");
        for (what, certified) in [("expired", &expired), ("a stranger's", &stranger)] {
            let asked = ask(&showing(certified), z.address()).await;
            assert!(asked.is_err(), "{client_auth}, {what}: {asked:?}");
        }
        assert_eq!(ask(&showing(&good), z.address()).await.unwrap(), StatusCode::OK, "{client_auth}");
    }
}

/// Says whom the client's certificate names.
async fn who(OnConnection(connection): OnConnection) -> String {
    connection.certificate().map_or("nobody".to_owned(), ToString::to_string)
}

#[tokio::test]
async fn a_connection_knows_whom_the_clients_certificate_names() {
    let Some(site) = Site::new().await else { return };
    let tls = Tls::load(&site.asking(ClientAuth::Optional)).unwrap().map(Arc::new);
    let router = Router::new().route("/who", get(who));
    let routes = Arc::new(zombi::http::Routes::from(router));
    let routes = Arc::new(move || Arc::clone(&routes));
    let listener = net::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let port = ServedPort { routes, settings: NetSettings::default(), tls };
    let serving = tokio::spawn(net::serve(listener, port, stop.clone(), Duration::from_secs(1)));
    let now_ms = SystemClock.now_ms();
    let cases = [
        ("one", format!("subjectAltName = URI:{ONCALL}, DNS:oncall"), ONCALL),
        ("two", format!("subjectAltName = URI:{ONCALL}, URI:spiffe://corp/b"), "nobody"),
        ("same", format!("subjectAltName = URI:{ONCALL}, URI:{ONCALL}"), "nobody"),
        ("dns", "subjectAltName = DNS:oncall".to_owned(), "nobody"),
        ("subject", String::new(), "nobody"),
    ];
    for (name, says, expected) in cases {
        let certified = site.authority.sign(name, &says);
        let client = TlsClient::showing(&certified, &site.authority);
        for protocol in ["http/1.1", "h2"] {
            let mut connection = client.open(address, protocol).await.unwrap();
            assert_eq!(*connection.get("/who").await.unwrap().body(), json!(expected), "{name}");
        }
        let named = named_by(&certified.certificate());
        assert!(named.as_ref().is_none_or(|named| named.ends_ms > now_ms), "{name}: {named:?}");
        assert_eq!(named.map_or("nobody".to_owned(), |named| named.to_string()), expected, "{name}");
    }
    let mut connection = site.client().open(address, "h2").await.unwrap();
    assert_eq!(*connection.get("/who").await.unwrap().body(), json!("nobody"));
    assert_eq!(named_by(b"no certificate"), None);
    stop.cancel();
    serving.await.unwrap();
}
