//! Names from the configured server, in a network namespace that has nothing else. Needs root.

mod namespace;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use drophammer::net::{ResolveError, Resolver, http_client};
use namespace::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The name asked for, as text.
fn name_of(question: &[u8]) -> String {
    let mut name = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let len = usize::from(question[at]);
        name.push(String::from_utf8_lossy(&question[at + 1..=at + len]).into_owned());
        at += len + 1;
    }
    name.join(".")
}

/// An answer with one A record for `api.lab.example`, with nothing for its other types, and NXDOMAIN for the rest.
fn answer(question: &[u8]) -> Vec<u8> {
    let known = name_of(question) == "api.lab.example";
    let end = 12 + name_of(question).len() + 2 + 4;
    let wants_a = question[end - 4..end - 2] == [0, 1];
    let mut packet = question[..end].to_vec();
    packet[2] = 0x85;
    packet[3] = if known { 0x80 } else { 0x83 };
    packet[6..12].copy_from_slice(&[0, u8::from(known && wants_a), 0, 0, 0, 0]);
    if known && wants_a {
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    packet
}

async fn serve_names(asked: Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind((SERVER, 53)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            asked.lock().unwrap().push(name_of(&buffer[..len]));
            let _ = socket.send_to(&answer(&buffer[..len]), from).await;
        }
    });
}

#[test]
fn names_come_from_the_configured_server_and_reach_the_http_client() {
    let namespace = Namespace::new("names");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let client = namespace.run(move || async move {
        serve_names(log).await;
        let resolver = Resolver::new(&[SERVER], &["lab.example".to_owned()]);
        assert_eq!(resolver.resolve("api.lab.example").await, Ok(vec![SERVER]));
        assert_eq!(resolver.resolve("api").await, Ok(vec![SERVER]), "the search list completes it");

        let listener = TcpListener::bind((SERVER, 0)).await.unwrap();
        let url = format!("http://api.lab.example:{}/", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        });
        let client = http_client(resolver.clone(), None).unwrap();
        assert_eq!(client.get(url).send().await.unwrap().text().await.unwrap(), "hi");

        let missing = resolver.resolve("nobody.lab.example").await.unwrap_err();
        let ResolveError::Failed { servers, .. } = &missing else { panic!("{missing}") };
        assert_eq!(servers, &[SERVER]);
        assert!(missing.to_string().starts_with("cannot look up \"nobody.lab.example\" at 127.0.0.1: "), "{missing}");
    });
    client.join().unwrap();
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|name| name == "api.lab.example"), "{asked:?}");
}
