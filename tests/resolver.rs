//! Names from the configured server, in a network namespace that has nothing else. Needs root.

mod namespace;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drophammer::config::cmdline::Cmdline;
use drophammer::net::{ResolveError, Resolver, connect, http_client};
use namespace::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tower::ServiceExt;

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
    serve_names_at(SERVER, Duration::ZERO, asked).await;
}

/// Answers after `delay`.
async fn serve_names_at(address: IpAddr, delay: Duration, asked: Arc<Mutex<Vec<String>>>) {
    serve_spoilt_names_at(address, delay, asked, |_| {}).await;
}

/// Answers after `delay`, and not before `spoil` has had its way with the answer.
async fn serve_spoilt_names_at(
    address: IpAddr,
    delay: Duration,
    asked: Arc<Mutex<Vec<String>>>,
    spoil: fn(&mut Vec<u8>),
) {
    let socket = Arc::new(UdpSocket::bind((address, 53)).await.unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            asked.lock().unwrap().push(name_of(&buffer[..len]));
            let (socket, mut answer) = (Arc::clone(&socket), answer(&buffer[..len]));
            spoil(&mut answer);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = socket.send_to(&answer, from).await;
            });
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
        assert_eq!(
            missing.to_string(),
            "cannot look up \"nobody.lab.example\": name server 127.0.0.1 says that there is no such name"
        );
    });
    client.join().unwrap();
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|name| name == "api.lab.example"), "{asked:?}");
}

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12));

/// Names that were asked of one server.
type Asked = Arc<Mutex<Vec<String>>>;

/// What becomes of `api.lab.example` with two servers, of which the second is good. `first` starts the other one.
fn with_a_good_second<F: Future<Output = ()>>(
    first: impl FnOnce(Asked) -> F + Send + 'static,
) -> (Result<Vec<IpAddr>, ResolveError>, usize, usize) {
    let namespace = Namespace::new("names");
    let (asked_first, asked_second) = (Asked::default(), Asked::default());
    let logs = (Arc::clone(&asked_first), Arc::clone(&asked_second));
    let work = namespace.run(move || async move {
        first(logs.0).await;
        serve_names_at(SECOND, Duration::ZERO, logs.1).await;
        Resolver::new(&[FIRST, SECOND], &[]).resolve("api.lab.example").await
    });
    let found = work.join().unwrap();
    let asked = (asked_first.lock().unwrap().len(), asked_second.lock().unwrap().len());
    (found, asked.0, asked.1)
}

#[test]
fn the_second_server_is_asked_only_if_the_first_is_of_no_use() {
    let (found, first, second) =
        with_a_good_second(|asked| async { serve_names_at(FIRST, Duration::ZERO, asked).await });
    assert_eq!(found, Ok(vec![SERVER]));
    assert!(first > 0 && second == 0);

    // nobody there
    let (found, _, second) = with_a_good_second(|_| async {});
    assert_eq!(found, Ok(vec![SERVER]));
    assert!(second > 0);

    // listens, and says nothing
    let (found, first, second) = with_a_good_second(|asked| async {
        serve_names_at(FIRST, Duration::from_secs(3600), asked).await;
    });
    assert_eq!(found, Ok(vec![SERVER]));
    assert!(first > 0 && second > 0);
}

#[test]
fn a_server_that_fails_or_lies_about_the_question_is_passed_over() {
    for spoil in [
        // SERVFAIL, REFUSED
        (|packet| packet[3] = 0x82) as fn(&mut Vec<u8>),
        |packet| packet[3] = 0x85,
        // of another question
        |packet| packet[0] ^= 0x55,
        |packet| packet[13] = b'x',
        |packet| packet.truncate(5),
    ] {
        let (found, _, second) = with_a_good_second(move |asked| async move {
            serve_spoilt_names_at(FIRST, Duration::ZERO, asked, spoil).await;
        });
        assert_eq!(found, Ok(vec![SERVER]));
        assert!(second > 0);
    }
}

#[test]
fn a_server_that_knows_that_there_is_no_such_name_is_believed() {
    let namespace = Namespace::new("names");
    let second = Asked::default();
    let log = Arc::clone(&second);
    let work = namespace.run(move || async move {
        serve_names_at(FIRST, Duration::ZERO, Asked::default()).await;
        serve_names_at(SECOND, Duration::ZERO, log).await;
        Resolver::new(&[FIRST, SECOND], &[]).resolve("nobody.lab.example").await
    });
    let error = work.join().unwrap().unwrap_err();
    assert!(matches!(error, ResolveError::Nothing { server: FIRST, .. }), "{error}");
    assert!(second.lock().unwrap().is_empty());
}

#[test]
fn a_slow_server_and_one_that_speaks_only_tcp_are_good_enough() {
    let namespace = Namespace::new("names");
    let work = namespace.run(|| async {
        serve_names_at(FIRST, Duration::from_millis(2500), Asked::default()).await;
        assert_eq!(Resolver::new(&[FIRST], &[]).resolve("api.lab.example").await, Ok(vec![SERVER]), "slow");

        // UDP is silent, as behind a firewall
        let silent = UdpSocket::bind((SECOND, 53)).await.unwrap();
        let listener = TcpListener::bind((SECOND, 53)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).await.is_ok() {
                        let mut question = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut question).await.unwrap();
                        let answer = answer(&question);
                        stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        assert_eq!(Resolver::new(&[SECOND], &[]).resolve("api.lab.example").await, Ok(vec![SERVER]), "TCP");
        drop(silent);
    });
    work.join().unwrap();
}

#[test]
fn when_no_server_is_of_use_each_is_named_with_the_reason() {
    let namespace = Namespace::new("names");
    let work = namespace.run(|| async {
        serve_names_at(FIRST, Duration::from_secs(3600), Asked::default()).await;
        Resolver::new(&[FIRST, SECOND], &[]).resolve("api.lab.example").await.unwrap_err().to_string()
    });
    let error = work.join().unwrap();
    let expected = "cannot look up \"api.lab.example\": name server 127.0.0.11: ";
    assert!(error.starts_with(expected) && error.contains("; name server 127.0.0.12: "), "{error}");
}

#[test]
fn the_command_line_goes_before_the_configuration_and_hosts_before_all() {
    let line = Cmdline::parse("drophammer.dns=127.0.0.11,nonsense drophammer.host=api.lab.example=fd00::5");
    let told = Mutex::new(Vec::new());
    let say = |text: String| told.lock().unwrap().push(text);
    let resolver = Resolver::of_cmdline(&line, &say);
    resolver.set_metal_config(&["127.0.0.12".to_owned()], &say);
    assert_eq!(resolver.servers(), [FIRST]);
    let resolver = Resolver::of_cmdline(&Cmdline::default(), &say);
    resolver.set_metal_config(&["ns.lab".to_owned(), "127.0.0.12".to_owned()], &say);
    assert_eq!(resolver.servers(), [SECOND]);
    assert_eq!(
        *told.lock().unwrap(),
        [
            "drophammer.dns: \"nonsense\" is no IP address; left out",
            "dns_servers of MetalConfig: \"ns.lab\" is no IP address; left out"
        ]
    );

    let namespace = Namespace::new("names");
    let work = namespace.run(move || async move {
        let resolver = Resolver::of_cmdline(&line, &|_| {});
        resolver.resolve("API.lab.example").await
    });
    assert_eq!(work.join().unwrap(), Ok(vec!["fd00::5".parse().unwrap()]), "nobody is asked");
}

#[test]
fn an_address_that_leads_nowhere_holds_up_no_other() {
    let namespace = Namespace::new("names");
    let empty = Namespace::new("empty");
    namespace.plug("d0", &empty, "d1");
    namespace.ip("address add 10.9.9.1/24 dev d0");
    namespace.ip("link set d0 up");
    // nobody has the first; the second has no server
    let line = "drophammer.host=api.lab=10.9.9.9,api.lab=127.0.0.11,api.lab=127.0.0.1,api.lab=10.9.9.10";
    let work = namespace.run(move || async move {
        let listener = TcpListener::bind((SERVER, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let resolver = Resolver::of_cmdline(&Cmdline::parse(line), &|_| {});
        let uri = format!("http://api.lab:{port}").parse().unwrap();
        // the kernel gives up a neighbour after three seconds
        let connected = tokio::time::timeout(Duration::from_millis(2500), connect(resolver).oneshot(uri)).await;
        let stream = connected.expect("in time").unwrap();
        assert_eq!(stream.inner().peer_addr().unwrap().ip(), SERVER);
    });
    work.join().unwrap();
}
