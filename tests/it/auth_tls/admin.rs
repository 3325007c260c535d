//! The admin port, which is plain, beside a main port that is not.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use reqwest::{Client, StatusCode};

use super::Site;
use crate::auth::secured::{binding, entry, policy, start_with_files, token, tokens_file};
use testing::server::{PATIENCE, answer};

/// An address of this machine that others would reach it by; `None` where it has no network. Nothing is sent.
fn address_for_others() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nobody has it: the system only says by which way it would go there.
    socket.connect((Ipv4Addr::new(192, 0, 2, 254), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn a_token_from_another_address_is_refused_at_the_plain_port_where_the_main_port_has_tls() {
    let Some(site) = Site::new().await else { return };
    let Some(elsewhere) = address_for_others() else {
        eprintln!("SKIPPED: this machine has loopback alone");
        return;
    };
    let (cert, key) = (site.server.cert.display().to_string(), site.server.key.display().to_string());
    let client = Client::builder().tls_certs_only([]).timeout(PATIENCE).no_proxy().build().unwrap();
    let policy = policy(&[binding("boss", "operator", &["*"], &["*"])]);
    let tokens = tokens_file(&[entry("boss", &token("boss"))]);
    // Whoever asks an address of this machine from this machine comes from that address.
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (address, has_tls, due) in
        [(elsewhere, true, 403), (elsewhere, false, 200), (here, true, 200), (here, false, 200)]
    {
        let (start, _files) = start_with_files(&policy, &tokens);
        let start = start.set("admin_host", &address.to_string());
        let start = if has_tls { start.set("tls.cert_file", &cert).set("tls.key_file", &key) } else { start };
        let process = start.ready().await;
        let what = format!("from {address}, TLS on the main port: {has_tls}");
        let asked = client.get(format!("http://{}/log/level", process.admin())).bearer_auth(token("boss"));
        let (status, body) = answer(asked.send().await.unwrap()).await;
        assert_eq!(status.as_u16(), due, "{what}: {body}");
        assert!(due == 200 || body["detail"].as_str().unwrap().contains("main port"), "{what}: {body}");
        // Whoever shows nothing has lost nothing.
        let (status, body) = process.get(process.admin(), "/log/level").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}: {body}");
        assert_eq!(process.get(process.admin(), "/readyz").await.0, StatusCode::OK, "{what}");
        assert_eq!(process.terminate().await, Some(0), "{what}");
    }
}
