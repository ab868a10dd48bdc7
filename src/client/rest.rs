//! `GET /v1/machine/{id}` with HMAC.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tracing::warn;

use crate::api::hmac::{self, DATE_HEADER, Role, SALT_HEADER};
use crate::api::rest::{ErrorBody, Machine};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The REST side of the control plane.
#[derive(Clone)]
pub struct RestClient {
    http: reqwest::Client,
    base_url: String,
    key: String,
}

impl RestClient {
    /// `base_url` is MetalConfig's `metal_api_url`, `key` its `hmac`.
    pub fn new(http: reqwest::Client, base_url: &str, key: &str) -> Self {
        Self { http, base_url: base_url.trim_end_matches('/').to_owned(), key: key.to_owned() }
    }

    /// The machine as the API knows it.
    ///
    /// A 403 may mean that this machine's clock is behind by more than the server's window: the offset is taken from
    /// the answer's Date header, and the call is made once more.
    pub async fn machine(&self, id: &str) -> Result<Machine> {
        let url = format!("{}/v1/machine/{id}", self.base_url);
        let mut answer = self.get(&url, OffsetDateTime::now_utc()).await?;
        if answer.status() == reqwest::StatusCode::FORBIDDEN
            && let Some(server_time) = date_of(&answer)
        {
            warn!(%server_time, "the API refused the call; trying once more with its time");
            answer = self.get(&url, server_time).await?;
        }
        let status = answer.status();
        let body = answer.bytes().await.with_context(|| format!("reading the answer of {url}"))?;
        if !status.is_success() {
            let message = serde_json::from_slice::<ErrorBody>(&body).map(|body| body.message).unwrap_or_default();
            bail!("GET {url}: the API answered {status}, expected 200: {message}");
        }
        serde_json::from_slice(&body).with_context(|| format!("the answer of {url} is not a machine"))
    }

    async fn get(&self, url: &str, now: OffsetDateTime) -> Result<reqwest::Response> {
        let signature = hmac::sign(self.key.as_bytes(), Role::View, "GET", now, &hmac::random_salt());
        self.http
            .get(url)
            .timeout(TIMEOUT)
            .header("accept", "application/json")
            .header("authorization", signature.authorization)
            .header(DATE_HEADER, signature.date)
            .header(SALT_HEADER, signature.salt)
            .send()
            .await
            .with_context(|| format!("GET {url}"))
    }
}

fn date_of(answer: &reqwest::Response) -> Option<OffsetDateTime> {
    let text = answer.headers().get("date")?.to_str().ok()?;
    // RFC 2822 wants a numeric zone where HTTP says GMT (RFC 9110, section 5.6.7).
    OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()
}
