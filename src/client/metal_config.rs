//! Fetching MetalConfig from the boot server, saying who asks.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::header::HeaderValue;
use reqwest::{RequestBuilder, StatusCode};

use crate::api::enrolment::{MACHINE_HEADER, MACS_HEADER, MAX_MACS, NotAdmitted, TOKEN_HEADER};
use crate::api::mac::Mac;
use crate::api::metal_config::MetalConfig;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any real one by far; a server that sends more is not a boot server.
const SIZE_LIMIT: usize = 1 << 20;

/// What an answer that never comes may mean. It is the first one that is larger than what went before it.
const VANISHING: &str = " (if large packets vanish on the way, drophammer.mtu=1280 helps)";

/// Who asks, for a server that gives its keys to certain machines only ([`crate::api::enrolment`]). Not `Debug`: it
/// may hold a token.
#[derive(Clone, Default)]
pub struct Introduction {
    /// Empty: not said.
    pub machine_id: String,
    pub macs: Vec<Mac>,
    /// Shown to a server by https, and to no other.
    pub token: Option<String>,
}

impl Introduction {
    fn apply(&self, request: RequestBuilder, url: &str) -> Result<RequestBuilder> {
        if self.machine_id.is_empty() {
            return Ok(request);
        }
        let macs: Vec<String> = self.macs.iter().take(MAX_MACS).map(Mac::to_string).collect();
        let request = request.header(MACHINE_HEADER, &self.machine_id).header(MACS_HEADER, macs.join(","));
        match &self.token {
            Some(token) if url.starts_with("https://") => {
                let mut value = HeaderValue::from_str(token).ok().context("the token is no text for a header")?;
                value.set_sensitive(true);
                Ok(request.header(TOKEN_HEADER, value))
            }
            _ => Ok(request),
        }
    }
}

/// One try. The answer is checked for what the agent cannot work without, all faults at once.
///
/// # Errors
///
/// [`NotAdmitted`] when the server has keys, but not for this machine, or not yet.
pub async fn fetch(http: &reqwest::Client, url: &str, me: &Introduction) -> Result<MetalConfig> {
    let mut response = me.apply(http.get(url), url)?.timeout(TIMEOUT).send().await.map_err(|error| {
        let hint = if error.is_timeout() { VANISHING } else { "" };
        anyhow!(error).context(format!("fetching the configuration from {url}{hint}"))
    })?;
    let status = response.status();
    let body = read(&mut response, url).await?;
    if status == StatusCode::FORBIDDEN
        && let Ok(reason) = serde_json::from_slice::<NotAdmitted>(&body)
    {
        return Err(reason.into());
    }
    ensure!(status.is_success(), "fetching the configuration from {url}: the server answered {status}, expected 200");
    let config: MetalConfig =
        serde_json::from_slice(&body).with_context(|| format!("the configuration from {url} is not MetalConfig"))?;
    check(&config).with_context(|| format!("the configuration from {url} is not complete"))?;
    Ok(config)
}

async fn read(response: &mut reqwest::Response, url: &str) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.with_context(|| format!("reading the configuration from {url}"))? {
        ensure!(
            body.len() + chunk.len() <= SIZE_LIMIT,
            "the configuration from {url} is larger than {SIZE_LIMIT} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn check(config: &MetalConfig) -> Result<()> {
    let needed = [
        ("address", config.address.as_deref()),
        ("metal_api_url", config.metal_api_url.as_deref()),
        ("ca_cert", config.ca_cert.as_deref()),
        ("cert", config.cert.as_deref()),
        ("key", config.key.as_deref()),
        ("hmac", config.hmac.as_deref()),
        ("partition", Some(config.partition.as_str())),
    ];
    let missing: Vec<&str> =
        needed.into_iter().filter(|(_, value)| value.unwrap_or_default().is_empty()).map(|(key, _)| key).collect();
    if !missing.is_empty() {
        bail!("missing or empty: {}", missing.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_key_is_named() {
        let config =
            MetalConfig { address: Some("10.0.0.1:50051".into()), hmac: Some("k".into()), ..Default::default() };
        assert_eq!(
            check(&config).unwrap_err().to_string(),
            "missing or empty: metal_api_url, ca_cert, cert, key, partition"
        );
    }
}
