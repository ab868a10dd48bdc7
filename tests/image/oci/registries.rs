//! Images in registries: Docker's own, and one that asks, sends elsewhere and breaks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drophammer::image::{DigestRule, ImageError, OciError, Options, Report, Source, Unobserved, unpack};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::made::{Layout, MANIFEST, digest, layers};
use super::tools::{made, skopeo, target};
use crate::support::{assert_same, block_on, facts, options, text};

/// `docker-registry` on a port of its own.
struct Registry {
    child: Child,
    address: SocketAddr,
}

/// bcrypt of `s3cret/x`, at its least cost.
const PASSWORDS: &str = "robot:$2b$04$I0ytKh5zRtBgF/qx0.gCG.GclPQ/CrPNhX6IsF9dRPn61r484nUCq\n";

impl Registry {
    fn start(dir: &Path, more: &str) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {address}\n{more}",
            text(&dir.join("storage"))
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", text(&dir.join("config.yml"))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, address };
        let start = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn install(source: &str, target: &Path, options: &Options) -> Result<Report, ImageError> {
    let source: Source = source.parse()?;
    block_on(unpack(&source, target, options, &Unobserved))
}

#[test]
fn a_registry_by_plain_http_gives_the_same_tree() {
    let temp = tempfile::tempdir().unwrap();
    let registry = Registry::start(temp.path(), "");
    let name = format!("{}/os/debian", registry.address);
    let push = |tag: &str, more: &[&str]| {
        let to = format!("docker://{name}:{tag}");
        skopeo(&[&["copy", "-q", "--dest-tls-verify=false"], more, &[made().image().as_str(), &to]].concat());
    };
    push("12", &[]);
    push("docker", &["--format", "v2s2"]);
    for reference in [format!("{name}@{}", made().digest), format!("{name}:12"), format!("{name}:docker")] {
        let target = temp.path().join("target");
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir(&target).unwrap();
        let report = install(&format!("oci+http://{reference}"), &target, &options(DigestRule::AllowMissing)).unwrap();
        assert_eq!((report.compression, report.retries), ("gzip", 0));
        assert_same(&made().expected, &facts(&target));
        let said = report.warnings.iter().any(|warning| warning.contains("sha256:"));
        assert_eq!(said, !reference.contains('@'), "{:?}", report.warnings);
    }
    let missing = install(&format!("oci+http://{name}:13"), temp.path(), &options(DigestRule::AllowMissing));
    match missing.unwrap_err() {
        ImageError::Oci { image, source: OciError::Missing { registry: at, what } } => {
            assert_eq!((at, what), (registry.address.to_string(), "os/debian:13".to_owned()));
            assert_eq!(image, name);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_registry_by_https_with_a_password_gives_the_same_tree() {
    let temp = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let [key_path, certificate_path, passwords] = ["key.pem", "ca.crt", "passwords"].map(|name| temp.path().join(name));
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    std::fs::write(&certificate_path, certificate.pem()).unwrap();
    std::fs::write(&passwords, PASSWORDS).unwrap();
    let more = format!(
        "  tls: {{certificate: {}, key: {}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        text(&certificate_path),
        text(&key_path),
        text(&passwords)
    );
    let registry = Registry::start(temp.path(), &more);
    let name = format!("{}/os/debian", registry.address);
    let to = format!("docker://{name}:12");
    skopeo(&["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "robot:s3cret/x", &made().image(), &to]);

    let target = target(temp.path());
    let mut options = options(DigestRule::Given(made().digest.parse().unwrap()));
    let reference = format!("oci://robot:s3cret%2Fx@{name}:12");
    let untrusted = install(&reference, &target, &options).unwrap_err();
    assert!(
        matches!(&untrusted, ImageError::Unreachable { history, .. } if history.contains("certificate")),
        "{untrusted}"
    );

    let authority = reqwest::Certificate::from_pem(certificate.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
    options.http = Some(client.build().unwrap());
    for (login, said) in [("", "asks for a password"), ("robot:wrong@", "answers 401")] {
        let err = install(&format!("oci://{login}{name}:12"), &target, &options).unwrap_err();
        let err = drophammer::causes::with_causes(&err);
        assert!(err.contains(said) && !err.contains("wrong"), "{err}");
    }
    let report = install(&reference, &target, &options).unwrap();
    assert_eq!(report.digest.unwrap().to_string(), made().digest);
    assert_same(&made().expected, &facts(&target));
}

/// What the scripted registry does, and what it saw.
#[derive(Default)]
struct Script {
    /// Anybody may read, without a token.
    open: bool,
    /// A token is good for so many requests.
    token_uses: usize,
    /// Blobs lie on that server.
    elsewhere: Option<SocketAddr>,
    /// The first answers with a layer break off after so many bytes.
    breaks: Vec<usize>,
    tokens: usize,
    uses_left: usize,
    /// Path and `Authorization` of each request.
    seen: Vec<(String, Option<String>)>,
}

struct Server {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Server {
    async fn start(layout: &Layout, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let (path, shared) = (layout.path.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (path, script) = (path.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // the client may leave in the middle
                    let _ = answer(stream, address, &path, &script).await;
                });
            }
        });
        Self { address, script }
    }

    fn seen(&self) -> Vec<(String, Option<String>)> {
        self.script.lock().unwrap().seen.clone()
    }
}

async fn answer(mut stream: TcpStream, own: SocketAddr, layout: &Path, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |wanted: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned()).next()
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let reply = respond(&path, header("authorization"), header("range"), own, layout, &mut script.lock().unwrap());
    stream.write_all(&reply).await
}

fn respond(
    path: &str,
    authorization: Option<String>,
    range: Option<String>,
    own: SocketAddr,
    layout: &Path,
    script: &mut Script,
) -> Vec<u8> {
    let reply = |status: &str, more: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    script.seen.push((path.to_owned(), authorization.clone()));
    if path.starts_with("/token?") {
        script.tokens += 1;
        script.uses_left = script.token_uses;
        return reply("200 OK", "", json!({"token": format!("t{}", script.tokens)}).to_string().as_bytes());
    }
    let has_token = authorization == Some(format!("Bearer t{}", script.tokens)) && script.uses_left > 0;
    if !script.open && !has_token {
        let asks = format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"x\"\r\n");
        return reply("401 Unauthorized", &asks, b"{}");
    }
    script.uses_left = script.uses_left.saturating_sub(1);
    let is_layer = path.contains("/blobs/");
    if is_layer && let Some(elsewhere) = script.elsewhere {
        return reply("307 Temporary Redirect", &format!("Location: http://{elsewhere}{path}\r\n"), b"");
    }
    let name = path.rsplit('/').next().unwrap_or_default().replace(':', "/");
    let Ok(content) = std::fs::read(layout.join("blobs").join(name)) else { return reply("404 Not Found", "", b"") };
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    let total = content.len();
    let (status, more) = match start {
        0 => ("200 OK", String::new()),
        start => ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1)),
    };
    let mut whole = reply(status, &format!("{more}ETag: \"same\"\r\n"), &content[start..]);
    // not the configuration
    if total > 1000 && is_layer && !script.breaks.is_empty() {
        whole.truncate(whole.len() - (total - start) + script.breaks.remove(0));
    }
    whole
}

struct Case {
    temp: tempfile::TempDir,
    layout: Layout,
    /// Of the manifest.
    digest: String,
}

impl Case {
    /// An image of two layers.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::new(temp.path().join("image"));
        let image = layout.add_image(&layers("layer()\nadd('a', 'x' * 900000)\nlayer()\nadd('b', '2')"));
        Self { temp, digest: digest(&image), layout }
    }

    async fn install(&self, server: &Server, login: &str) -> Result<Report, ImageError> {
        let source: Source = format!("oci+http://{login}{}/os/x@{}", server.address, self.digest).parse().unwrap();
        let target = self.temp.path().join("target");
        std::fs::create_dir_all(&target).unwrap();
        unpack(&source, &target, &options(DigestRule::Sidecar), &Unobserved).await
    }

    fn assert_complete(&self) {
        let read = |name: &str| std::fs::read(self.temp.path().join("target").join(name)).unwrap();
        assert_eq!((read("a").len(), read("b")), (900_000, b"2".to_vec()));
    }
}

#[test]
fn a_token_is_fetched_when_asked_for_and_again_when_it_is_out_of_date() {
    let case = Case::new();
    block_on(async {
        let script = Script { token_uses: 2, breaks: vec![300_000, 100_000], ..Script::default() };
        let server = Server::start(&case.layout, script).await;
        let report = case.install(&server, "robot:s3cret@").await.unwrap();
        case.assert_complete();
        assert_eq!(report.retries, 2);
        let seen = server.seen();
        let tokens: Vec<_> = seen.iter().filter(|(path, _)| path.starts_with("/token?")).collect();
        // manifest, configuration; layer, its rest; the rest of that, the other layer
        assert_eq!(tokens.len(), 3, "{seen:?}");
        for (path, authorization) in tokens {
            assert_eq!(path, "/token?service=test&scope=repository%3Aos%2Fx%3Apull");
            assert_eq!(authorization.as_deref(), Some("Basic cm9ib3Q6czNjcmV0"));
        }
        let password_elsewhere = |(path, sent): &(String, Option<String>)| {
            !path.starts_with("/token?") && sent.as_ref().is_some_and(|sent| sent.starts_with("Basic"))
        };
        assert!(!seen.iter().any(password_elsewhere), "{seen:?}");
    });
}

#[test]
fn a_token_is_not_shown_to_the_server_that_blobs_lie_on() {
    let case = Case::new();
    block_on(async {
        let open = Script { open: true, breaks: vec![200_000], ..Script::default() };
        let store = Server::start(&case.layout, open).await;
        let script = Script { token_uses: 100, elsewhere: Some(store.address), ..Script::default() };
        let server = Server::start(&case.layout, script).await;
        case.install(&server, "").await.unwrap();
        case.assert_complete();
        let seen = store.seen();
        assert_eq!(seen.len(), 4, "configuration, two layers, one again: {seen:?}");
        assert!(seen.iter().all(|(_, authorization)| authorization.is_none()), "{seen:?}");
    });
}

#[test]
fn a_token_that_nobody_takes_is_an_error_and_not_asked_for_for_ever() {
    let case = Case::new();
    block_on(async {
        let server = Server::start(&case.layout, Script { token_uses: 0, ..Script::default() }).await;
        let err = case.install(&server, "robot:s3cret@").await.unwrap_err();
        let text = drophammer::causes::with_causes(&err);
        assert!(text.contains("answers 401") && !text.contains("s3cret"), "{text}");
        assert_eq!(server.seen().len(), 3, "{:?}", server.seen());
    });
}

#[test]
fn a_blob_that_is_not_there_names_the_layer() {
    let case = Case::new();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.layout.blob_path(&case.digest)).unwrap()).unwrap();
    let second = digest(&manifest["layers"][1]);
    std::fs::remove_file(case.layout.blob_path(&second)).unwrap();
    block_on(async {
        let server = Server::start(&case.layout, Script { open: true, ..Script::default() }).await;
        match case.install(&server, "").await.unwrap_err() {
            ImageError::Layer { number: 2, count: 2, digest, source } => {
                assert_eq!(digest.to_string(), second);
                assert!(matches!(*source, ImageError::Status { status: 404, .. }), "{source}");
            }
            other => panic!("{other}"),
        }
    });
}

#[test]
fn a_layer_of_another_length_than_the_manifest_says_is_not_read() {
    let case = Case::new();
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.layout.blob_path(&case.digest)).unwrap()).unwrap();
    manifest["layers"][0]["size"] = json!(12);
    let digest = digest(&case.layout.add_json(MANIFEST, &manifest));
    let case = Case { digest, ..case };
    block_on(async {
        let server = Server::start(&case.layout, Script { open: true, ..Script::default() }).await;
        let err = case.install(&server, "").await.unwrap_err();
        let text = drophammer::causes::with_causes(&err);
        assert!(text.starts_with("layer 1 of 2") && text.contains("expected 12"), "{text}");
    });
}

#[test]
fn a_registry_that_lies_about_the_manifest_is_found_out() {
    let case = Case::new();
    let other = Layout::new(case.temp.path().join("other"));
    std::fs::write(other.blob_path(&case.digest), json!({"manifests": []}).to_string()).unwrap();
    block_on(async {
        let server = Server::start(&other, Script { open: true, ..Script::default() }).await;
        let err = case.install(&server, "").await.unwrap_err();
        assert!(matches!(err, ImageError::Oci { source: OciError::WrongContent { .. }, .. }), "{err}");
    });
}
