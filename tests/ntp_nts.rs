//! NTS against a server of the test's own on loopback: keys over TLS, then sealed answers, good and bad ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drophammer::config::cmdline::Cmdline;
use drophammer::net::ntp::nts::{self, Keys, Record, parse_records, read_fields, render_field, render_records};
use drophammer::net::ntp::{AskError, Protection, ServerAnswer};
use drophammer::net::{NtpClient, Resolver};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const NAME: &str = "ntp.lab.example";
const LIMIT: Duration = Duration::from_secs(4);
const UNIQUE_ID: u16 = 0x0104;
const COOKIE: u16 = 0x0204;
const AUTHENTICATOR: u16 = 0x0404;

/// An authority, and servers' certificates of it.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn tls(&self, name: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![nts::PROTOCOL.to_vec()];
        config
    }
}

/// What the time server does with a question.
#[derive(Clone, Copy)]
enum Manner {
    Honest,
    /// Answers with what it sent first, again and again.
    Replays,
    /// Changes the time behind the seal.
    Tampers,
    /// Has lost its keys.
    Forgot,
}

/// Starts key exchange and time server; the address of the key exchange.
fn serve(tls: ServerConfig, listener: TcpListener, manner: Manner) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind((address.ip(), 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let keys: Arc<Mutex<Option<Keys>>> = Arc::default();
    let (shared, tls) = (Arc::clone(&keys), Arc::new(tls));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let _ = exchange_keys(&mut StreamOwned::new(connection, stream), port, &shared);
        }
    });
    thread::spawn(move || {
        let mut first = None;
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let Some(keys) = keys.lock().unwrap().clone() else { continue };
            let reply = answer(&buffer[..len], &keys, manner);
            let first = first.get_or_insert_with(|| reply.clone());
            let reply = if matches!(manner, Manner::Replays) { first.as_slice() } else { &reply };
            let _ = socket.send_to(reply, from);
        }
    });
    address
}

fn exchange_keys(
    tls: &mut StreamOwned<ServerConnection, std::net::TcpStream>,
    port: u16,
    shared: &Mutex<Option<Keys>>,
) -> std::io::Result<()> {
    let mut question = Vec::new();
    while parse_records(&question).is_none() {
        let mut buffer = [0; 512];
        let len = tls.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        question.extend_from_slice(&buffer[..len]);
    }
    let export = |to_client| {
        let context = nts::export_context(to_client);
        tls.conn.export_keying_material([0; 32], nts::EXPORT_LABEL, Some(context.as_slice())).unwrap()
    };
    *shared.lock().unwrap() = Some(Keys { to_server: export(false), to_client: export(true) });
    let cookie = |number: u8| Record::new(false, 5, [number; 100]);
    let mut records = vec![Record::new(true, 1, [0, 0]), Record::new(true, 4, [0, 15])];
    records.extend((0..8).map(cookie));
    records.push(Record::new(true, 7, port.to_be_bytes()));
    records.push(Record::new(true, 0, Vec::new()));
    tls.write_all(&render_records(&records))?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// A stratum 2 server with our own time, an hour ahead so that it is told from the others.
fn answer(question: &[u8], keys: &Keys, manner: Manner) -> Vec<u8> {
    let fields = read_fields(question);
    let body = |wanted: u16| fields.iter().find(|(_, kind, _)| *kind == wanted).expect("a field that must be there");
    let (at, _, proof) = body(AUTHENTICATOR);
    let opened = nts::open(&keys.to_server, &[&question[..*at], &proof[4..20]], &proof[20..36]);
    assert_eq!(opened, Some(Vec::new()), "the question is not sealed with the exchanged key");
    assert_eq!(body(COOKIE).2.len(), 100, "one of our cookies");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    let ntp = ((now.as_secs() + 2_208_988_800) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
    let mut packet = vec![0; 48];
    (packet[0], packet[1]) = (0x24, 2);
    packet[24..32].copy_from_slice(&question[40..48]);
    packet[32..40].copy_from_slice(&ntp.to_be_bytes());
    packet[40..48].copy_from_slice(&ntp.to_be_bytes());
    packet.extend(render_field(UNIQUE_ID, body(UNIQUE_ID).2));
    match manner {
        Manner::Forgot => {
            packet[1] = 0;
            packet[12..16].copy_from_slice(b"NTSN");
        }
        Manner::Honest | Manner::Replays | Manner::Tampers => {
            nts::seal_fields(&mut packet, &keys.to_client, &[9; 16], &render_field(COOKIE, &[7; 100])).unwrap();
        }
    }
    if matches!(manner, Manner::Tampers) {
        packet[33] ^= 1;
        packet[41] ^= 1;
    }
    packet
}

fn on_loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn client(authority: &Authority) -> NtpClient {
    let cmdline = Cmdline::parse("drophammer.host=ntp.lab.example=127.0.0.1,other.lab.example=127.0.0.1");
    NtpClient::with_trust(Resolver::of_cmdline(&cmdline, &|_| {}), Some(&authority.pem)).unwrap()
}

async fn ask(client: &NtpClient, server: &str) -> Result<ServerAnswer, AskError> {
    client.ask_all(&[server.to_owned()], LIMIT).await.remove(0).result
}

fn told(result: Result<ServerAnswer, AskError>) -> String {
    drophammer::causes::with_causes(&result.unwrap_err())
}

#[tokio::test]
async fn a_server_with_the_right_certificate_proves_its_answer() {
    let authority = Authority::new();
    let address = serve(authority.tls(NAME), on_loopback(), Manner::Honest);
    let client = client(&authority);
    for _ in 0..2 {
        let answer = ask(&client, &format!("nts:{NAME}:{}", address.port())).await.unwrap();
        assert_eq!(answer.protection, Protection::Nts);
        let offset_s = answer.sample.offset_ns as f64 / 1e9;
        assert!((offset_s - 3600.0).abs() < 1.0, "{offset_s}");
    }
}

#[tokio::test]
async fn a_wrong_certificate_is_not_believed() {
    let authority = Authority::new();
    let stranger = serve(Authority::new().tls(NAME), on_loopback(), Manner::Honest);
    let text = told(ask(&client(&authority), &format!("nts:{NAME}:{}", stranger.port())).await);
    assert!(text.starts_with("NTS: key exchange: invalid peer certificate: "), "{text}");

    let other_name = serve(authority.tls("elsewhere.lab.example"), on_loopback(), Manner::Honest);
    let text = told(ask(&client(&authority), &format!("nts:{NAME}:{}", other_name.port())).await);
    assert!(text.contains("not valid for name"), "{text}");
}

#[tokio::test]
async fn a_replayed_answer_is_not_believed() {
    let authority = Authority::new();
    let address = serve(authority.tls(NAME), on_loopback(), Manner::Replays);
    let (client, server) = (client(&authority), format!("nts:{NAME}:{}", address.port()));
    assert!(ask(&client, &server).await.is_ok(), "the first answer is new");
    assert_eq!(told(ask(&client, &server).await), "answer is to another question");
}

#[tokio::test]
async fn a_changed_answer_is_not_believed() {
    let authority = Authority::new();
    let address = serve(authority.tls(NAME), on_loopback(), Manner::Tampers);
    let text = told(ask(&client(&authority), &format!("nts:{NAME}:{}", address.port())).await);
    assert_eq!(text, "answer was not made with the server's key");
}

#[tokio::test]
async fn a_server_that_lost_its_keys_is_told() {
    let authority = Authority::new();
    let address = serve(authority.tls(NAME), on_loopback(), Manner::Forgot);
    let text = told(ask(&client(&authority), &format!("nts:{NAME}:{}", address.port())).await);
    assert_eq!(text, "answer refuses us: kiss-o'-death code \"NTSN\"");
}

#[tokio::test]
async fn what_demands_nts_is_never_asked_without() {
    let authority = Authority::new();
    // Nobody listens there any more.
    let port = on_loopback().local_addr().unwrap().port();
    let text = told(ask(&client(&authority), &format!("nts:{NAME}:{port}")).await);
    assert!(text.starts_with("NTS: connecting for the key exchange: 127.0.0.1:"), "{text}");
    let without_trust = NtpClient::new(Resolver::new(&[], &[]));
    assert_eq!(told(ask(&without_trust, "nts:ntp.lab.example").await), "NTS: no certificate authority is trusted");
}

/// The protocol's own ports, on a loopback address that nobody else uses. Needs root for port 123.
#[tokio::test]
async fn a_plain_name_is_asked_by_nts_where_it_can_and_says_what_it_used() {
    let authority = Authority::new();
    let plain = UdpSocket::bind("127.77.0.2:123").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = plain.recv_from(&mut buffer) {
            assert_eq!(len, 48, "a question without NTS");
            let mut packet = vec![0; 48];
            (packet[0], packet[1]) = (0x24, 2);
            packet[24..32].copy_from_slice(&buffer[40..48]);
            packet[32] = 0xef;
            packet[40] = 0xef;
            let _ = plain.send_to(&packet, from);
        }
    });
    let cmdline = Cmdline::parse("drophammer.host=proven.lab.example=127.77.0.1,plain.lab.example=127.77.0.2");
    let resolver = Resolver::of_cmdline(&cmdline, &|_| {});
    let client = NtpClient::with_trust(resolver, Some(&authority.pem)).unwrap();
    serve(authority.tls("proven.lab.example"), TcpListener::bind("127.77.0.1:4460").unwrap(), Manner::Honest);

    assert_eq!(ask(&client, "proven.lab.example").await.unwrap().protection, Protection::Nts);
    let Protection::Plain { why: Some(why) } = ask(&client, "plain.lab.example").await.unwrap().protection else {
        panic!("nobody speaks NTS there");
    };
    assert!(why.starts_with("NTS: connecting for the key exchange: 127.77.0.2:4460: "), "{why}");
    let literal = ask(&client, "127.77.0.2").await.unwrap();
    assert_eq!(literal.protection, Protection::Plain { why: None }, "an address has no name to prove");
}
