//! REST client of the `anvil` command: signs every call, resolves names without the C library.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::keys::Key;
use crate::api::hmac;
use crate::api::rest::ErrorBody;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A server and the key to it.
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    key: Key,
}

impl Client {
    pub fn new(url: &str, key: Key) -> Result<Self> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .dns_resolver(Arc::new(HostsFile))
            .build()
            .context("building the HTTP client")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Sends a file as the body of a `PUT`, once the server has said that it would take it. The path has a query.
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, file: &Path) -> Result<T> {
        let opening = || format!("opening {}", file.display());
        let file = tokio::fs::File::open(file).await.with_context(opening)?;
        let _: T = self.send(self.request(Method::PUT, &format!("{path}&dry_run=true"))).await?;
        let length = file.metadata().await.with_context(opening)?.len();
        let request = self.request(Method::PUT, path).header("content-length", length).body(file);
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let secret = self.key.secret.as_bytes();
        let salt = hmac::random_salt();
        let signature = hmac::sign(secret, self.key.role, method.as_str(), OffsetDateTime::now_utc(), &salt);
        self.http
            .request(method, format!("{}{path}", self.url))
            .header("accept", "application/json")
            .header(hmac::DATE_HEADER, signature.date)
            .header(hmac::SALT_HEADER, signature.salt)
            .header("authorization", signature.authorization)
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = request.send().await.with_context(|| format!("calling anvil at {}", self.url))?;
        if !response.status().is_success() {
            return refused(response).await;
        }
        let bytes = response.bytes().await.with_context(|| format!("reading the answer of {}", self.url))?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading the answer of {}", self.url))
    }
}

/// The server's own sentence, where it sent one.
async fn refused<T>(response: Response) -> Result<T> {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    match serde_json::from_str::<ErrorBody>(&text) {
        Ok(body) if !body.message.is_empty() => bail!("{}", body.message),
        _ => bail!("the server answered {status}: {}", text.chars().take(200).collect::<String>()),
    }
}

/// Names of `/etc/hosts` and nothing else. Literal addresses never come here.
struct HostsFile;

impl Resolve for HostsFile {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let text = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
            let addresses = parse_hosts(&text, name.as_str());
            if addresses.is_empty() {
                return Err(format!("{} is neither an address nor in /etc/hosts", name.as_str()).into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

fn parse_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_hosts_file() {
        let text = "127.0.0.1 localhost\n# 10.0.0.9 anvil\n10.0.0.1\tanvil.lab anvil # rack\nfd00::1 anvil\nx anvil\n";
        let found = |name| parse_hosts(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("ANVIL"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(found("localhost"), ["127.0.0.1"]);
        assert!(found("rack").is_empty());
    }
}
