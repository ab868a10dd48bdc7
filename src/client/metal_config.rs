//! Fetching MetalConfig from the boot server.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::api::metal_config::MetalConfig;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any real one by far; a server that sends more is not a boot server.
const SIZE_LIMIT: usize = 1 << 20;

/// One try. The answer is checked for what the agent cannot work without, all faults at once.
pub async fn fetch(http: &reqwest::Client, url: &str) -> Result<MetalConfig> {
    let mut response = http
        .get(url)
        .timeout(TIMEOUT)
        .send()
        .await
        .with_context(|| format!("fetching the configuration from {url}"))?;
    let status = response.status();
    ensure!(status.is_success(), "fetching the configuration from {url}: the server answered {status}, expected 200");
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.with_context(|| format!("reading the configuration from {url}"))? {
        ensure!(
            body.len() + chunk.len() <= SIZE_LIMIT,
            "the configuration from {url} is larger than {SIZE_LIMIT} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    let config: MetalConfig =
        serde_json::from_slice(&body).with_context(|| format!("the configuration from {url} is not MetalConfig"))?;
    check(&config).with_context(|| format!("the configuration from {url} is not complete"))?;
    Ok(config)
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
