//! MetalConfig by TLS from a real anvil, whose authority the agent knows by the digest of its certificate.

mod anvil_support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use anvil_support::Server;
use drophammer::api::ca_pin::CaPin;
use drophammer::api::metal_config::MetalConfig;
use drophammer::client::metal_config::{self, Introduction};
use drophammer::config::cmdline::Cmdline;
use drophammer::net::{Resolver, pinned_http_client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

async fn fetch(url: &str, pin: CaPin) -> anyhow::Result<MetalConfig> {
    let resolver = Resolver::of_cmdline(&Cmdline::parse("drophammer.host=other.lab=127.0.0.1"), &|_| {});
    metal_config::fetch(&pinned_http_client(resolver, &[pin])?, url, &Introduction::default()).await
}

fn told(result: anyhow::Result<MetalConfig>) -> String {
    format!("{:#}", result.map(|_| "a configuration").unwrap_err())
}

#[tokio::test]
async fn the_server_with_the_known_authority_is_believed_and_no_other() {
    let server = Server::start().await;
    let pin = server.anvil.pki.ca_pin().unwrap();
    let url = format!("{}/v1/health", server.anvil.endpoints.https_url());
    // there is no boot server in this rack, but the answer comes by the TLS that is meant
    let answer = told(fetch(&url, pin).await);
    assert!(answer.contains("is not MetalConfig") || answer.contains("is not complete"), "{answer}");

    let other = CaPin::of(b"another certificate");
    let refused = told(fetch(&url, other).await);
    assert!(refused.contains("none of the server's certificates is the one of drophammer.ca="), "{refused}");
    assert!(refused.contains(&pin.to_string()), "it tells which it shows: {refused}");

    let port = server.anvil.endpoints.https.port();
    let refused = told(fetch(&format!("https://other.lab:{port}/certs"), pin).await);
    assert!(refused.contains("not valid for name"), "{refused}");
    server.stop().await;
}

/// Anybody can show the authority's certificate; it is no secret.
#[tokio::test]
async fn who_only_shows_the_authoritys_certificate_is_not_believed() {
    let server = Server::start().await;
    let authority = CertificateDer::from_pem_slice(server.anvil.pki.ca_cert.as_bytes()).unwrap();
    let own = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&own).unwrap();
    let chain = vec![certificate.der().clone(), authority.clone()];
    let address = liar(chain, PrivatePkcs8KeyDer::from(own.serialize_der()).into());
    let refused = told(fetch(&format!("https://{address}/certs"), CaPin::of(&authority)).await);
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    server.stop().await;
}

/// Answers everybody with what the agent would take.
fn liar(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> SocketAddr {
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            if tls.read(&mut [0; 1024]).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            }
        }
    });
    address
}
