//! MetalConfig: the JSON a boot server answers on `/certs`, with everything the agent must know.

use serde::{Deserialize, Serialize};

use super::null_as_default;

/// Unknown keys are ignored. Holds secrets (`key`, `hmac`, `http_proxy`), so [`std::fmt::Debug`] leaves them out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetalConfig {
    #[serde(default)]
    pub debug: bool,
    /// gRPC target of the API, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Base of REST calls; may hold a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metal_api_url: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub pixie_api_url: String,
    /// PEM. The only trust root for gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
    /// PEM. Client certificate for gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// PEM. Key of `cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Key of `Metal-View`; the bytes of the string are the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac: Option<String>,
    /// Absent and empty are different upstream; to us both mean "none here".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ntp_servers: Option<Vec<String>>,
    /// Ours; absent upstream. Name servers for the agent itself, address literals. They go before those of the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub dns_servers: Vec<String>,
    /// Partition id for Register.
    #[serde(default, deserialize_with = "null_as_default")]
    pub partition: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Ours, as all below; absent upstream. Servers that have the images, too ([`super::image_places::Mirror`]); asked
    /// in this order, and before the image's own URL.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub image_mirrors: Vec<String>,
    /// Public keys of minisign ([`super::image_key::ImageKey`]). When there is any, an image must be signed with one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub image_keys: Vec<String>,
    /// `required` (also when absent) or `optional`: whether an image needs a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Proxy for images, and for nothing else ([`super::image_places::HttpProxy`]). Secret: may hold a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// Hosts, domains and networks in CIDR form that are reached without `http_proxy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub no_proxy: Vec<String>,
    /// Public keys, as lines of `authorized_keys`, of those who may log in to the agent. None: it listens nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ssh_keys: Vec<String>,
}

/// Remote logging.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Loki push URL, used verbatim.
    #[serde(default, deserialize_with = "null_as_default")]
    pub endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_auth: Option<CertificateAuth>,
    /// `loki` is the only value.
    #[serde(default, deserialize_with = "null_as_default")]
    pub log_type: String,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicAuth {
    #[serde(default, deserialize_with = "null_as_default")]
    pub user: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub password: String,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAuth {
    #[serde(default, deserialize_with = "null_as_default")]
    pub cert: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub key: String,
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

impl std::fmt::Debug for MetalConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetalConfig")
            .field("address", &self.address)
            .field("metal_api_url", &self.metal_api_url)
            .field("ntp_servers", &self.ntp_servers)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let config = MetalConfig { key: Some("PRIVATE".into()), hmac: Some("VIEWKEY".into()), ..Default::default() };
        let text = format!("{config:?}");
        assert!(!text.contains("PRIVATE") && !text.contains("VIEWKEY"), "{text}");
    }

    #[test]
    fn unknown_keys_and_nulls_are_ignored() {
        let config: MetalConfig =
            serde_json::from_str(r#"{"debug":true,"future":1,"address":null,"ntp_servers":[],"partition":"lab"}"#)
                .unwrap();
        assert_eq!((config.address, config.ntp_servers, config.partition.as_str()), (None, Some(vec![]), "lab"));
    }
}
