//! anvil's configuration file (YAML). Unknown keys are errors; every block has defaults.
//!
//! Without a file anvil serves its API on loopback only. A network service starts when its block stands in the file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::dns::DnsSettings;
use super::netboot::config::{DhcpMode, DhcpSettings, TftpSettings};
use super::ntp::NtpSettings;
use super::sizes::Matching;
use crate::api::image_key::ImageKey;
use crate::api::image_places::{HttpProxy, Mirror};
use crate::api::metal_config::{BasicAuth, Logging};
use crate::api::rest::{DnsServer, NtpServer};
use crate::api::ssh_key;

/// Most DNS servers of a partition or machine.
pub const MAX_DNS_SERVERS: usize = 3;
/// Most NTP servers of a partition or machine.
pub const MAX_NTP_SERVERS: usize = 5;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Database, certificates, keys, images.
    pub data: PathBuf,
    /// Address on the rack's interface: DHCP server id, TFTP, HTTP, gRPC.
    pub listen: IpAddr,
    /// The rack's interface; DHCP is bound to it.
    pub interface: Option<String>,
    pub http_port: u16,
    /// The same by TLS, for agents: MetalConfig has keys in it.
    pub https_port: u16,
    pub grpc_port: u16,
    /// Keys go only to machines that an operator admitted ([`super::enrolment`]), each has its own, and plain HTTP has none.
    pub require_enrolment: bool,
    pub partition: PartitionConfig,
    pub sizes: SizesConfig,
    pub dhcp: DhcpSettings,
    /// Absent, like the two below: not served.
    pub tftp: Option<TftpSettings>,
    pub dns: Option<DnsSettings>,
    pub ntp: Option<NtpSettings>,
}

/// The partition that this anvil serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionConfig {
    pub id: String,
    /// Copied into allocations that bring none of their own. At most 3.
    pub dns_servers: Vec<DnsServer>,
    /// Copied into allocations that bring none of their own, and handed to agents. At most 5.
    pub ntp_servers: Vec<NtpServer>,
    /// How disks are erased. Absent: as agents do when nobody tells them, which is `clear`.
    pub erase: Option<EraseLevel>,
    /// Disks that are never erased, in the forms of [`check_disk_names`].
    pub erase_exclude: Vec<String>,
    /// Handed to agents, as those below: servers that have the images, too. Asked before the image's own URL.
    pub image_mirrors: Vec<Mirror>,
    /// Public keys of minisign. When there is any, agents install only images that are signed with one.
    pub image_keys: Vec<ImageKey>,
    /// Absent: required.
    pub image_digest: Option<ImageDigest>,
    /// Proxy for images, and for nothing else.
    pub http_proxy: Option<HttpProxy>,
    /// Hosts, domains and networks (CIDR) that are reached without it.
    pub no_proxy: Vec<String>,
    /// Where agents send their log besides their console.
    pub logging: Option<LoggingConfig>,
    /// Who may log in to agents by SSH: public keys. None: agents listen nowhere.
    pub ssh_keys: Vec<String>,
    pub bootconfig: BootConfig,
}

/// A server that takes Loki's push.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggingConfig {
    /// The whole URL, with its path.
    pub endpoint: String,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
}

/// Without what is secret, and without the URL, which may have a password in it.
impl std::fmt::Debug for LoggingConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoggingConfig").field("user", &self.user).finish_non_exhaustive()
    }
}

impl LoggingConfig {
    /// As agents are handed it.
    pub fn to_logging(&self) -> Logging {
        let basic_auth = self
            .user
            .as_ref()
            .map(|user| BasicAuth { user: user.clone(), password: self.password.clone().unwrap_or_default() });
        Logging { endpoint: self.endpoint.clone(), basic_auth, certificate_auth: None, log_type: "loki".to_owned() }
    }
}

/// Whether an image needs a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageDigest {
    Required,
    Optional,
}

impl ImageDigest {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}

/// A value of the agents' `drophammer.erase=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EraseLevel {
    Quick,
    Clear,
    Purge,
}

impl EraseLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Clear => "clear",
            Self::Purge => "purge",
        }
    }
}

const ERASE_KEY: &str = "drophammer.erase=";
const EXCLUDE_KEY: &str = "drophammer.erase_exclude=";
/// Kernels of x86 cut a command line off at 2048 bytes, without a word. The boot script adds its own to ours.
const MAX_COMMANDLINE: usize = 1600;

impl PartitionConfig {
    /// The agents' kernel command line: the operator's words, and what the keys of the partition make of it.
    pub fn commandline(&self) -> String {
        let mut words = vec![self.bootconfig.commandline.clone()];
        words.extend(self.erase.map(|level| format!("{ERASE_KEY}{}", level.as_str())));
        if !self.erase_exclude.is_empty() {
            let names: Vec<String> = self.erase_exclude.iter().map(|name| escape(name)).collect();
            words.push(format!("{EXCLUDE_KEY}{}", names.join(",")));
        }
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

/// A command line has no quotes: blanks and commas of a name are written as in URLs, `%20` and `%2C`.
fn escape(name: &str) -> String {
    let escape = |b: u8| {
        let plain = b.is_ascii_graphic() && !matches!(b, b',' | b'%' | b'"' | b'$' | b'\\');
        if plain { char::from(b).to_string() } else { format!("%{b:02X}") }
    };
    name.bytes().map(escape).collect()
}

/// What machines boot over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootConfig {
    /// Local file, served by anvil.
    pub kernel: Option<PathBuf>,
    /// Local file, served by anvil.
    pub initrd: Option<PathBuf>,
    pub commandline: String,
}

/// How machines get their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SizesConfig {
    /// Match GPUs by metal-api's rules alone, without marketing names.
    pub strict: bool,
}

impl SizesConfig {
    pub fn matching(self) -> Matching {
        if self.strict { Matching::Strict } else { Matching::WithMarketingNames }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("/var/lib/anvil"),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            interface: None,
            http_port: 4242,
            https_port: 4243,
            grpc_port: 50051,
            require_enrolment: false,
            partition: PartitionConfig::default(),
            sizes: SizesConfig::default(),
            dhcp: DhcpSettings::default(),
            tftp: None,
            dns: None,
            ntp: None,
        }
    }
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            id: "lab".to_owned(),
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            erase: None,
            erase_exclude: Vec::new(),
            image_mirrors: Vec::new(),
            image_keys: Vec::new(),
            image_digest: None,
            http_proxy: None,
            no_proxy: Vec::new(),
            logging: None,
            ssh_keys: Vec::new(),
            bootconfig: BootConfig::default(),
        }
    }
}

/// Reads and checks the file.
pub fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse_config(&text).with_context(|| format!("in {}", path.display()))
}

/// Parses and checks the file's text.
pub fn parse_config(text: &str) -> Result<Config> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    let value = parse_yaml(text)?;
    // By way of a value, so that errors can name the key by its whole path.
    let config: Config = serde_path_to_error::deserialize(value)?;
    check_config(&config)?;
    Ok(config)
}

/// Parses YAML (or JSON, which is YAML) into a value.
pub fn parse_yaml(text: &str) -> Result<serde_json::Value> {
    // Booleans of YAML 1.2, so that "off" stays a word.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        // The first line has the place and the reason; a picture of the text follows it.
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        anyhow::anyhow!("{}", first.strip_prefix("error: ").unwrap_or(first))
    })
}

fn check_config(config: &Config) -> Result<()> {
    ensure!(
        !config.listen.is_unspecified(),
        "listen: expected the address of one interface, which machines can reach; found {}",
        config.listen
    );
    ensure!(!config.partition.id.is_empty(), "partition.id: expected a name, found an empty text");
    check_dns_servers(&config.partition.dns_servers).map_err(|fault| anyhow::anyhow!("partition.{fault}"))?;
    check_ntp_servers(&config.partition.ntp_servers).map_err(|fault| anyhow::anyhow!("partition.{fault}"))?;
    check_erase(&config.partition)?;
    check_images(&config.partition)?;
    check_access(&config.partition)?;
    check_dhcp(config)
}

fn check_erase(partition: &PartitionConfig) -> Result<()> {
    check_disk_names(&partition.erase_exclude).map_err(|fault| anyhow::anyhow!("partition.{fault}"))?;
    let words = || partition.bootconfig.commandline.split_whitespace();
    // The last of two words counts, so one of them would be lost.
    for (key, word, is_set) in [
        ("erase", ERASE_KEY, partition.erase.is_some()),
        ("erase_exclude", EXCLUDE_KEY, !partition.erase_exclude.is_empty()),
    ] {
        ensure!(
            !is_set || !words().any(|found| found.starts_with(word)),
            "partition.{key}: expected in one place, found {word} in partition.bootconfig.commandline, too"
        );
    }
    for value in words().filter_map(|word| word.strip_prefix(ERASE_KEY)) {
        let level = value.strip_suffix(",format-unit").unwrap_or(value);
        ensure!(
            ["quick", "clear", "purge", "format-unit"].contains(&level),
            "partition.bootconfig.commandline: {ERASE_KEY} expected quick, clear or purge, and format-unit behind a \
             comma, found {value:?}"
        );
    }
    let length = partition.commandline().len();
    ensure!(
        length <= MAX_COMMANDLINE,
        "partition: expected at most {MAX_COMMANDLINE} bytes for the kernel's command line, with what erase and \
         erase_exclude add to it, found {length}"
    );
    Ok(())
}

/// A word of the command line replaces what agents are handed, which would be lost.
fn check_images(partition: &PartitionConfig) -> Result<()> {
    for (key, word, is_set) in [
        ("image_mirrors", "drophammer.mirrors=", !partition.image_mirrors.is_empty()),
        ("image_keys", "drophammer.image_key=", !partition.image_keys.is_empty()),
        ("image_digest", "drophammer.image_digest=", partition.image_digest.is_some()),
        ("http_proxy", "drophammer.proxy=", partition.http_proxy.is_some()),
        ("no_proxy", "drophammer.no_proxy=", !partition.no_proxy.is_empty()),
    ] {
        let found = partition.bootconfig.commandline.split_whitespace().any(|found| found.starts_with(word));
        ensure!(
            !is_set || !found,
            "partition.{key}: expected in one place, found {word} in partition.bootconfig.commandline, too"
        );
    }
    Ok(())
}

fn check_access(partition: &PartitionConfig) -> Result<()> {
    for (index, key) in partition.ssh_keys.iter().enumerate() {
        // Without the text: somebody may have pasted a private key.
        ssh_key::check(key).map_err(|fault| anyhow::anyhow!("partition.ssh_keys[{index}]: {fault}"))?;
    }
    if let Some(logging) = &partition.logging {
        // Not shown when it is wrong, since it may have a password in it.
        let is_url = ["http://", "https://"].iter().any(|scheme| logging.endpoint.starts_with(scheme));
        ensure!(is_url, "partition.logging.endpoint: expected http://… or https://…");
        ensure!(
            logging.password.is_none() || logging.user.is_some(),
            "partition.logging.user: expected a name, since there is a password"
        );
    }
    Ok(())
}

/// Names of single disks: `/dev/…`, `by-id:…`, `by-path:…`, `serial:…`, `wwn:…`. Says which entry is wrong.
pub fn check_disk_names(names: &[String]) -> Result<(), String> {
    for (index, name) in names.iter().enumerate() {
        let value = ["/dev/", "by-id:", "by-path:", "serial:", "wwn:"].iter().find_map(|form| name.strip_prefix(form));
        if value.is_none_or(|value| value.trim().is_empty()) {
            return Err(format!(
                "erase_exclude[{index}]: expected /dev/…, by-id:…, by-path:…, serial:… or wwn:…, found {name:?}"
            ));
        }
    }
    Ok(())
}

fn check_dhcp(config: &Config) -> Result<()> {
    if config.dhcp.mode == DhcpMode::Off {
        return Ok(());
    }
    let IpAddr::V4(listen) = config.listen else {
        bail!("listen: DHCP needs an IPv4 address, found {}", config.listen);
    };
    ensure!(config.interface.is_some(), "interface: expected the name of the rack's interface, since dhcp is on");
    if config.dhcp.mode == DhcpMode::Server {
        config.dhcp.server_parts(listen)?;
    }
    Ok(())
}

/// At most 3 literals. Says which entry is wrong.
pub fn check_dns_servers(servers: &[DnsServer]) -> Result<(), String> {
    if servers.len() > MAX_DNS_SERVERS {
        return Err(format!("dns_servers: expected at most {MAX_DNS_SERVERS}, found {}", servers.len()));
    }
    for (index, server) in servers.iter().enumerate() {
        // A zone such as `%eth0` passes.
        let address = server.ip.split_once('%').map_or(server.ip.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            return Err(format!("dns_servers[{index}].ip: expected an IP address, found {:?}", server.ip));
        }
    }
    Ok(())
}

/// At most 5 literals or names. Says which entry is wrong.
pub fn check_ntp_servers(servers: &[NtpServer]) -> Result<(), String> {
    if servers.len() > MAX_NTP_SERVERS {
        return Err(format!("ntp_servers: expected at most {MAX_NTP_SERVERS}, found {}", servers.len()));
    }
    for (index, server) in servers.iter().enumerate() {
        if server.address.parse::<IpAddr>().is_err() && !is_dns_name(&server.address) {
            return Err(format!(
                "ntp_servers[{index}].address: expected an IP address or a DNS name, found {:?}",
                server.address
            ));
        }
    }
    Ok(())
}

/// Labels of letters, digits, `_`, `-`, each up to 63 and not beginning with `-`; one trailing dot or underscore.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix(['.', '_']).unwrap_or(name);
    let length_without_dots = name.chars().filter(|c| *c != '.').count();
    (1..=255).contains(&length_without_dots)
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
data: /srv/anvil
listen: 10.77.0.1
interface: br0
http_port: 4242
https_port: 4243
grpc_port: 50051
partition:
  id: lab
  dns_servers: [{ip: 10.77.0.1}]
  ntp_servers: [{address: 10.77.0.1}, {address: ntp.lab.test}]
  bootconfig:
    kernel: /srv/vmlinuz
    initrd: /srv/initramfs.img
    commandline: "console=ttyS0,115200n8"
dhcp:
  mode: server
  range: [10.77.0.100, 10.77.0.199]
  prefix: 24
  router: null
  lease_seconds: 600
  domain: lab.test
  dns_servers: [10.77.0.1]
  ntp_servers: [10.77.0.1]
  router_advertisement: true
tftp: {enabled: true, dir: /usr/lib/ipxe}
dns: {enabled: true, domain: lab.test, hosts: {anvil.lab.test: 10.77.0.1}, forward: []}
ntp: {enabled: true}
"#;

    #[test]
    fn reads_a_full_file() {
        let config = parse_config(FULL).unwrap();
        assert_eq!(config.dhcp.range, Some([[10, 77, 0, 100].into(), [10, 77, 0, 199].into()]));
        assert_eq!(config.dhcp.router, None);
        assert!(config.dns.unwrap().hosts.contains_key("anvil.lab.test"));
        assert_eq!(config.partition.bootconfig.kernel.as_deref(), Some(Path::new("/srv/vmlinuz")));
        assert!(config.tftp.unwrap().enabled && config.ntp.unwrap().enabled);
    }

    #[test]
    fn an_empty_file_serves_the_api_on_loopback_only() {
        for text in ["", "# nothing\n\n"] {
            let config = parse_config(text).unwrap();
            assert!(config.listen.is_loopback());
            assert_eq!(config.dhcp.mode, DhcpMode::Off);
            assert!(config.tftp.is_none() && config.dns.is_none() && config.ntp.is_none());
        }
    }

    #[test]
    fn errors_name_the_key_and_what_is_expected() {
        let cases = [
            ("partitions: {}", "unknown field `partitions`, expected one of `data`"),
            ("http_port: many", "http_port: invalid type: string \"many\", expected u16"),
            ("partition: {bootconfig: {kernal: x}}", "partition.bootconfig.kernal: unknown field"),
            ("partition: {dns_servers: [{ip: 5}]}", "partition.dns_servers[0].ip: invalid type"),
            ("dhcp: {mode: yes}", "dhcp.mode: unknown variant `yes`, expected one of `server`"),
            ("a: [", "line 1"),
            (
                "partition: {dns_servers: [{ip: 10.0.0.1}, {ip: dns.lab.test}]}",
                "partition.dns_servers[1].ip: expected an IP",
            ),
            (
                "partition: {dns_servers: [{ip: 10.0.0.1}, {ip: 10.0.0.1}, {ip: 10.0.0.1}, {ip: 10.0.0.1}]}",
                "partition.dns_servers: expected at most 3, found 4",
            ),
            ("partition: {ntp_servers: [{address: '-x'}]}", "partition.ntp_servers[0].address: expected"),
            ("partition: {erase: fast}", "partition.erase: unknown variant `fast`, expected one of `quick`, `clear`"),
            ("partition: {erase_exclude: [/dev/sda, sdb]}", "partition.erase_exclude[1]: expected /dev/…"),
            ("partition: {erase_exclude: ['serial: ']}", "partition.erase_exclude[0]: expected /dev/…"),
            ("partition: {erase_exclude: [smallest nvme]}", "partition.erase_exclude[0]: expected /dev/…"),
            (
                "partition: {erase: quick, bootconfig: {commandline: a=1 drophammer.erase=purge}}",
                "partition.erase: expected in one place",
            ),
            (
                "partition: {bootconfig: {commandline: drophammer.erase=fast}}",
                "partition.bootconfig.commandline: drophammer.erase= expected quick, clear or purge, and \
                 format-unit behind a comma, found \"fast\"",
            ),
            ("partition: {image_mirrors: [10.0.0.5]}", "partition.image_mirrors[0]: expected http://HOST"),
            ("partition: {image_keys: [RWx]}", "partition.image_keys[0]: \"RWx\" is no public key of minisign"),
            ("partition: {image_digest: no}", "partition.image_digest: unknown variant `no`, expected `required`"),
            ("partition: {http_proxy: 'socks5://a:b@c'}", "partition.http_proxy: expected http://HOST"),
            (
                "partition: {image_keys: [RWS7czYRT8p5jUqJcRL+Z+BHnjeXhuD5nllelSrbEqUggTSMeiO70FS7], \
                 bootconfig: {commandline: drophammer.image_key=x}}",
                "partition.image_keys: expected in one place",
            ),
            (
                "partition: {ssh_keys: ['-----BEGIN OPENSSH PRIVATE KEY-----']}",
                "partition.ssh_keys[0]: is a private key",
            ),
            ("partition: {logging: {endpoint: 10.0.0.4}}", "partition.logging.endpoint: expected http://"),
            ("partition: {logging: {endpoint: http://a, password: x}}", "partition.logging.user: expected a name"),
            ("listen: 0.0.0.0", "listen: expected the address of one interface"),
            ("{listen: 10.0.0.1, dhcp: {mode: server}}", "interface: expected"),
            ("{listen: 10.0.0.1, interface: br0, dhcp: {mode: server}}", "dhcp.range is missing"),
            (
                "{listen: 10.0.0.1, interface: br0, dhcp: {mode: server, range: [10.0.1.5, 10.0.1.9]}}",
                "10.0.1.5 is not in 10.0.0.0/24",
            ),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse_config(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_know_marketing_names_unless_they_are_strict() {
        assert_eq!(parse_config("http_port: 1").unwrap().sizes.matching(), Matching::WithMarketingNames);
        assert_eq!(parse_config("sizes: {strict: true}").unwrap().sizes.matching(), Matching::Strict);
        assert!(parse_config("sizes: {strickt: true}").is_err());
    }

    #[test]
    fn how_to_erase_reaches_the_command_line() {
        let commandline = |text: &str| parse_config(&format!("partition: {{{text}}}")).unwrap().partition.commandline();
        assert_eq!(commandline("id: lab"), "");
        assert_eq!(commandline("bootconfig: {commandline: a=1}, erase: purge"), "a=1 drophammer.erase=purge");
        for line in ["drophammer.erase=clear,format-unit", "drophammer.erase=format-unit"] {
            assert_eq!(commandline(&format!("bootconfig: {{commandline: '{line}'}}")), line);
        }
        assert_eq!(
            commandline("erase_exclude: ['serial:A B,1%', /dev/sda, 'by-id:nvme-X_1']"),
            "drophammer.erase_exclude=serial:A%20B%2C1%25,/dev/sda,by-id:nvme-X_1"
        );
        let many: Vec<String> = (0..200).map(|n| format!("serial:{n:08}")).collect();
        let error = parse_config(&format!("partition: {{erase_exclude: [{}]}}", many.join(", "))).unwrap_err();
        assert!(error.to_string().contains("expected at most 1600 bytes"), "{error}");
    }

    #[test]
    fn passwords_are_not_shown() {
        let text = "partition: {http_proxy: 'http://user:secret@10.0.0.3:3128', no_proxy: [10.0.0.0/8], \
                    logging: {endpoint: 'http://a:secret@10.0.0.4/push', user: agents, password: secret}}";
        let config = parse_config(text).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!(config.partition.http_proxy.unwrap().secret_url().as_str(), "http://user:secret@10.0.0.3:3128/");
    }

    #[test]
    fn off_is_a_word_and_no_boolean() {
        assert_eq!(parse_config("dhcp: {mode: off}").unwrap().dhcp.mode, DhcpMode::Off);
        assert!(parse_config("ntp: {enabled: off}").is_err());
    }

    #[test]
    fn ntp_names_follow_the_rule() {
        for good in ["ntp.lab.test", "a", "a_b.c-d.", "10.0.0.1", "fd00::1"] {
            assert_eq!(check_ntp_servers(&[NtpServer { address: good.into() }]), Ok(()), "{good}");
        }
        for bad in ["", ".", "-a", "a..b", "a b", &"x".repeat(64)] {
            assert!(check_ntp_servers(&[NtpServer { address: bad.into() }]).is_err(), "{bad}");
        }
    }
}
