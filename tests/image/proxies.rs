//! A proxy is used when it was given, and never otherwise.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drophammer::api::image_places::{HttpProxy, ProxyRule};
use drophammer::image::{DigestRule, ImageError, Options, Report, Source, Unobserved, unpack};
use drophammer::net::{Resolver, image_http_client};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Server, file, read_head, sha256_file, status};
use crate::support::{block_on, options, run, text};

/// `user:secret`.
const AUTHORIZATION: &str = "proxy-authorization: basic dxnlcjpzzwnyzxq=";

fn image() -> Arc<Vec<u8>> {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("file"), "content").unwrap();
    Arc::new(run("tar", &["-C", text(temp.path()), "-cf", "-", "file"]))
}

async fn image_server() -> Server {
    let image = image();
    Server::start(move |request| match request.path.as_str() {
        "/img.tar" => file(&image, request),
        "/img.tar.sha256" => file(&sha256_file(&image), request),
        _ => status(404),
    })
    .await
}

/// A proxy for plain HTTP (absolute URIs) and CONNECT. Notes the heads of what it was asked.
async fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                // either side may leave
                let _ = pass_on(stream, &seen).await;
            });
        }
    });
    (address, heads)
}

async fn pass_on(mut client: TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let head = read_head(&mut client).await?;
    seen.lock().unwrap().push(head.clone());
    let target = head.split(' ').nth(1).unwrap_or_default();
    if head.starts_with("connect ") {
        let mut server = TcpStream::connect(target).await?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        return copy_bidirectional(&mut client, &mut server).await.map(|_| ());
    }
    let (host, path) = target.trim_start_matches("http://").split_once('/').unwrap_or_default();
    let mut server = TcpStream::connect(host).await?;
    server.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

/// Unpacks the image of that URL by way of the proxy, but for what is excepted.
async fn install(url: &str, proxy: &str, except: &[&str], ca: Option<&str>) -> Result<Report, ImageError> {
    let except = except.iter().map(|text| (*text).to_owned()).collect();
    let rule = ProxyRule { proxy: HttpProxy::parse(proxy).unwrap(), except };
    let http = image_http_client(Resolver::new(&[], &[]), ca, Some(&rule)).unwrap();
    let target = tempfile::tempdir().unwrap();
    let options = Options { http: Some(http), ..options(DigestRule::Sidecar) };
    let source: Source = url.parse().unwrap();
    unpack(&source, target.path(), &options, &Unobserved).await
}

#[test]
fn an_image_by_http_comes_through_the_proxy_which_resolves_its_name() {
    block_on(async {
        let server = image_server().await;
        let (address, heads) = proxy().await;
        // no name server is configured here: only the proxy can know this name
        let url = format!("http://localhost:{}/img.tar", server.address.port());
        install(&url, &format!("http://user:secret@{address}"), &[], None).await.unwrap();
        let heads = heads.lock().unwrap().clone();
        assert!(heads.iter().any(|head| head.starts_with(&format!("get {url} http/1.1"))), "{heads:?}");
        assert!(heads.iter().all(|head| head.contains(AUTHORIZATION)), "{heads:?}");
        // what is for the proxy stays there
        assert!(server.heads().iter().all(|head| !head.contains("proxy-authorization")));
    });
}

#[test]
fn the_proxys_own_name_is_looked_up_by_the_configured_name_servers_only() {
    block_on(async {
        let error = install("http://127.0.0.1:1/img.tar", "http://localhost:1", &[], None).await.unwrap_err();
        let told = "cannot look up \"localhost\": no name server is configured";
        assert!(error.to_string().contains(told), "{error}");
    });
}

#[test]
fn what_is_excepted_is_reached_without_the_proxy() {
    block_on(async {
        let server = image_server().await;
        let (address, heads) = proxy().await;
        let proxy = format!("http://{address}");
        let url = server.url("/img.tar").to_string();
        for except in ["127.0.0.1", "127.0.0.0/8"] {
            install(&url, &proxy, &["lab.example", except], None).await.unwrap();
        }
        assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
        install(&url, &proxy, &["lab.example", "10.0.0.0/8"], None).await.unwrap();
        assert!(!heads.lock().unwrap().is_empty());
    });
}

/// A TLS server with a certificate for `localhost`. Returns its address and the certificate.
fn tls_server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (SocketAddr, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let _ = tls.write_all(&answer(head.split(' ').nth(1).unwrap_or_default()));
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    (address, certificate.pem())
}

fn whole(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn an_image_by_https_comes_through_a_tunnel_of_the_proxy() {
    let image = image();
    let (server, ca) = tls_server(move |path| match path {
        "/img.tar" => whole(&image),
        "/img.tar.sha256" => whole(&sha256_file(&image)),
        _ => status(404),
    });
    block_on(async {
        let (address, heads) = proxy().await;
        let proxy = format!("http://user:secret@{address}");
        let url = format!("https://localhost:{}/img.tar", server.port());
        install(&url, &proxy, &[], Some(&ca)).await.unwrap();
        let heads = heads.lock().unwrap().clone();
        let connect = format!("connect localhost:{} ", server.port());
        assert!(!heads.is_empty() && heads.iter().all(|head| head.starts_with(&connect)), "{heads:?}");
        assert!(heads.iter().all(|head| head.contains(AUTHORIZATION)), "{heads:?}");
        // the proxy can't pass itself off as the server
        let error = install(&url, &proxy, &[], None).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    });
}

#[test]
fn from_https_to_http_is_no_way() {
    block_on(async {
        let plain = image_server().await;
        let to = plain.url("/img.tar");
        let (server, ca) = tls_server(move |path| match path {
            "/img.tar" => format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into(),
            _ => status(404),
        });
        let (address, _) = proxy().await;
        let url = format!("https://localhost:{}/img.tar", server.port());
        let http = ProxyRule { proxy: HttpProxy::parse(&format!("http://{address}")).unwrap(), except: vec![] };
        let http = image_http_client(Resolver::new(&[], &[]), Some(&ca), Some(&http)).unwrap();
        let target = tempfile::tempdir().unwrap();
        let options = Options { http: Some(http), ..options(DigestRule::AllowMissing) };
        let error = unpack(&url.parse().unwrap(), target.path(), &options, &Unobserved).await.unwrap_err();
        assert!(
            matches!(&error, ImageError::Answer { reason, .. } if reason.contains("from https to http")),
            "{error}"
        );
        assert_eq!(plain.heads(), Vec::<String>::new());
    });
}

#[test]
fn a_proxy_that_refuses_us_is_told_without_its_password() {
    block_on(async {
        let refusing = Server::start(|_| status(407)).await;
        let proxy = format!("http://user:secret@{}", refusing.address);
        let error = install("http://images.example/img.tar", &proxy, &[], None).await.unwrap_err();
        assert!(matches!(error, ImageError::Status { status: 407, .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        let error = install("https://images.example/img.tar", &proxy, &[], None).await.unwrap_err();
        assert!(error.to_string().contains("proxy"), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    });
}

/// Runs `drophammer unpack` with these variables in the environment. Returns whether it worked, and what it said.
fn run_unpack(url: &str, more: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let target = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_drophammer"));
    command.args(["unpack", url, text(target.path())]).args(more).envs(environment.iter().copied());
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_environments_proxy_is_ignored_and_the_options_is_used() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, (address, heads)) = runtime.block_on(async { (image_server().await, proxy().await) });
    let (url, proxy) = (server.url("/img.tar").to_string(), format!("http://{address}"));
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let environment = names.map(|name| (name, proxy.as_str()));
    let (done, said) = run_unpack(&url, &[], &environment);
    assert!(done && heads.lock().unwrap().is_empty(), "{said}");
    let (done, said) = run_unpack(&url, &["--proxy", &proxy], &[("no_proxy", "*")]);
    assert!(done && !heads.lock().unwrap().is_empty(), "{said}");
    let (done, said) = run_unpack(&url, &["--proxy", "socks5://user:secret@127.0.0.1:1"], &[]);
    assert!(!done && said.contains("expected http://"), "{said}");
}

struct Tinyproxy {
    child: Child,
    log: PathBuf,
    _temp: tempfile::TempDir,
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's tinyproxy on a free port, with a user.
fn tinyproxy() -> (Tinyproxy, u16) {
    let temp = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (log, config) = (temp.path().join("log"), temp.path().join("tinyproxy.conf"));
    let text_of = format!(
        "Port {port}\nListen 127.0.0.1\nLogLevel Connect\nLogFile \"{}\"\nBasicAuth user secret\n",
        log.display()
    );
    std::fs::write(&config, text_of).unwrap();
    let child = Command::new("tinyproxy").args(["-d", "-c", text(&config)]).spawn().unwrap();
    let proxy = Tinyproxy { child, log, _temp: temp };
    for _ in 0..600 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return (proxy, port);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("tinyproxy does not listen");
}

#[test]
fn a_real_proxy_lets_us_through_both_ways() {
    let image = image();
    let served = Arc::clone(&image);
    let (tls, ca) = tls_server(move |path| match path {
        "/img.tar" => whole(&served),
        "/img.tar.sha256" => whole(&sha256_file(&served)),
        _ => status(404),
    });
    let (tinyproxy, port) = tinyproxy();
    block_on(async {
        let server = image_server().await;
        let plain = format!("http://localhost:{}/img.tar", server.address.port());
        let proxy = format!("http://user:secret@127.0.0.1:{port}");
        install(&plain, &proxy, &[], None).await.unwrap();
        install(&format!("https://localhost:{}/img.tar", tls.port()), &proxy, &[], Some(&ca)).await.unwrap();
        let error = install(&plain, &format!("http://127.0.0.1:{port}"), &[], None).await.unwrap_err();
        assert!(matches!(error, ImageError::Status { .. }), "{error}");
    });
    let log = std::fs::read_to_string(&tinyproxy.log).unwrap();
    assert!(log.contains("/img.tar") && log.contains(&format!("CONNECT localhost:{}", tls.port())), "{log}");
}
