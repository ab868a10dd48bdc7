//! The HTTP client of the agent: our name servers, our certificates, and a proxy only where one was given. The
//! environment's proxy is never used.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, NoProxy, Proxy};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::pinned_ca::pinned_tls;
use super::resolver::{Resolver, read_desk_name_servers};
use crate::api::ca_pin::CaPin;
use crate::api::image_places::ProxyRule;

/// Certificates that come with the initramfs or the installed system.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const MOST_REDIRECTS: usize = 5;
/// A server that vanished without a word is noticed after about a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A client that trusts `extra_ca_pem` and the system's roots when there are any, and nothing else. It has a limit
/// for connecting and none for the whole request, so that an image may take its time.
pub fn http_client(resolver: Resolver, extra_ca_pem: Option<&str>) -> Result<Client> {
    image_http_client(resolver, extra_ca_pem, None)
}

/// As [`http_client`], for images: these may come by a proxy. Its name is resolved as others are, those of the servers
/// behind it by the proxy.
pub fn image_http_client(resolver: Resolver, extra_ca_pem: Option<&str>, proxy: Option<&ProxyRule>) -> Result<Client> {
    let builder = trusting_builder(resolver, extra_ca_pem)?;
    let builder = match proxy {
        Some(rule) => builder.proxy(parse_proxy(rule)?),
        None => builder,
    };
    builder.build().context("building the HTTP client")
}

/// What a client shows to a server. Not `Debug`: the key is a secret.
#[derive(Clone)]
pub struct ClientIdentity {
    pub cert_pem: String,
    pub key_pem: String,
    /// The server's certificate is not looked at.
    pub trusts_anybody: bool,
}

/// As [`http_client`], for a server that may want a certificate of its clients.
pub fn log_http_client(
    resolver: Resolver,
    extra_ca_pem: Option<&str>,
    identity: Option<&ClientIdentity>,
) -> Result<Client> {
    let mut builder = trusting_builder(resolver, extra_ca_pem)?;
    if let Some(ClientIdentity { cert_pem, key_pem, trusts_anybody }) = identity {
        let pem = format!("{cert_pem}\n{key_pem}\n");
        let identity = Identity::from_pem(pem.as_bytes()).context("reading the client's certificate and key")?;
        builder = builder.identity(identity).tls_danger_accept_invalid_certs(*trusts_anybody);
    }
    builder.build().context("building the HTTP client")
}

fn trusting_builder(resolver: Resolver, extra_ca_pem: Option<&str>) -> Result<ClientBuilder> {
    // An error only says that another provider is installed already; that one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots: Vec<Certificate> = trusted_roots(extra_ca_pem)?
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect::<Result<_, _>>()
        .context("using trusted certificates")?;
    Ok(client_builder(resolver).tls_certs_only(roots))
}

/// Certificates of the authorities that are trusted: the given ones and the system's, when there are any.
pub(super) fn trusted_roots(extra_ca_pem: Option<&str>) -> Result<Vec<CertificateDer<'static>>> {
    let mut roots = match extra_ca_pem {
        Some(pem) => parse_given_roots(pem)?,
        None => Vec::new(),
    };
    roots.extend(read_system_roots(Path::new(SYSTEM_ROOTS))?);
    Ok(roots)
}

/// A client that trusts servers that show a certificate of one of these digests, and nothing else.
pub fn pinned_http_client(resolver: Resolver, pins: &[CaPin]) -> Result<Client> {
    let tls = pinned_tls(pins).context("setting TLS up")?;
    client_builder(resolver).tls_backend_preconfigured(tls).build().context("building the HTTP client")
}

fn client_builder(resolver: Resolver) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("drophammer/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(resolver)
        .no_proxy()
        .referer(false)
        .redirect(redirects())
        .connect_timeout(CONNECT_LIMIT)
        .tcp_keepalive(KEEPALIVE)
}

fn parse_proxy(ProxyRule { proxy, except }: &ProxyRule) -> Result<Proxy> {
    let parsed = Proxy::all(proxy.secret_url().clone()).with_context(|| format!("using the proxy {proxy}"))?;
    Ok(parsed.no_proxy(NoProxy::from_string(&except.join(","))))
}

/// A few, and never from https to http: what was asked for under TLS must not come without.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let was_https = attempt.previous().last().is_some_and(|before| before.scheme() == "https");
        if was_https && attempt.url().scheme() != "https" {
            return attempt.error("redirected from https to http, which is not followed");
        }
        if attempt.previous().len() > MOST_REDIRECTS {
            return attempt.error(format!("redirected more than {MOST_REDIRECTS} times"));
        }
        attempt.follow()
    })
}

/// A client for a subcommand at a desk: with the name servers of this host's resolv.conf(5).
pub fn desk_http_client(proxy: Option<&ProxyRule>) -> Result<Client> {
    image_http_client(Resolver::new(&read_desk_name_servers(), &[]), None, proxy)
}

/// Certificates the operator gave: one that can't be used is an error, since the rest would hardly do.
fn parse_given_roots(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("reading the CA certificate")?;
    if certificates.is_empty() {
        bail!("the CA certificate has no PEM block CERTIFICATE");
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).context("using the CA certificate")?;
    }
    Ok(certificates)
}

/// The system's bundle without what can't be used: bundles are known to hold odd certificates. No file, no roots.
fn read_system_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = match fs::read(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut store = RootCertStore::empty();
    let usable = |certificate: &CertificateDer<'static>| store.add(certificate.clone()).is_ok();
    Ok(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).filter(usable).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn self_signed() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["api.lab.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_client_is_built_with_and_without_certificates() {
        http_client(Resolver::new(&[], &[]), None).unwrap();
        http_client(Resolver::new(&[], &[]), Some(&self_signed())).unwrap();
    }

    #[test]
    fn an_unusable_certificate_is_refused() {
        let error = http_client(Resolver::new(&[], &[]), Some("no pem at all")).unwrap_err();
        assert_eq!(error.to_string(), "the CA certificate has no PEM block CERTIFICATE");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = http_client(Resolver::new(&[], &[]), Some(broken)).unwrap_err();
        assert_eq!(error.to_string(), "using the CA certificate");
    }

    #[test]
    fn a_bad_certificate_in_the_systems_bundle_does_not_spoil_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle.crt");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&bundle, format!("{}{broken}{}", self_signed(), self_signed())).unwrap();
        assert_eq!(read_system_roots(&bundle).unwrap().len(), 2);
        assert!(read_system_roots(&dir.path().join("absent")).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_name_is_not_looked_up_anywhere_else() {
        let client = http_client(Resolver::new(&[], &[]), None).unwrap();
        let error = client.get("http://localhost:1/").send().await.unwrap_err();
        let told = crate::causes::with_causes(&error);
        assert!(told.ends_with("cannot look up \"localhost\": no name server is configured"), "{told}");
    }

    #[tokio::test]
    async fn what_was_asked_for_under_tls_is_not_fetched_without() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls)).accept(stream).await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/layer\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let client = image_http_client(Resolver::new(&[], &[]), Some(&certificate.pem()), None).unwrap();
        let error = client.get(format!("https://{address}/layer")).send().await.unwrap_err();
        assert!(error.is_redirect(), "{error:?}");
        let told = crate::causes::with_causes(&error);
        assert!(told.contains("redirected from https to http, which is not followed"), "{told}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_circle_of_redirects_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut answered = 0u32;
            while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                answered += 1;
                if answered > 5 {
                    break;
                }
            }
            answered
        });
        let client = http_client(Resolver::new(&[], &[]), None).unwrap();
        let error = client.get(format!("http://{address}/")).send().await.unwrap_err();
        assert!(error.is_redirect(), "{error:?}");
        assert_eq!(server.await.unwrap(), 6);
    }
}
