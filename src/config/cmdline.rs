//! The kernel command line.
//!
//! Source: `/proc/cmdline`. Words are split at white space; only those with `=` count, split at the first one; a
//! repeated key keeps its last value, but for keys that may stand more than once. No quoting (metal-stack's rules).

use std::fmt;
use std::fs;

use anyhow::{Context, Result};

use crate::api::masked::masked;
use crate::sys::roots::Roots;

/// The keys of one command line. `Debug` leaves out what is secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// Keys and values as they stand.
    words: Vec<(String, String)>,
    masked: String,
}

impl fmt::Debug for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cmdline").field(&self.masked).finish()
    }
}

impl Cmdline {
    pub fn read(roots: &Roots) -> Result<Self> {
        let path = roots.proc.join("cmdline");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    pub fn parse(text: &str) -> Self {
        let words = text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { words, masked: masked(text) }
    }

    /// All of it on one line, to be shown: without what is secret.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// `drophammer.token=`: what admits this machine to a control plane that asks for it. Secret until it is used.
    pub fn token(&self) -> Option<&str> {
        self.get("drophammer.token").filter(|token| !token.is_empty())
    }

    /// `drophammer.ssh_keys=URL`: where the public keys are of those who may log in to the agent.
    pub fn ssh_keys_url(&self) -> Option<&str> {
        self.get("drophammer.ssh_keys").filter(|url| !url.is_empty())
    }

    /// The last value of `key`, as it stands.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).last()
    }

    /// All values of `key`, in the order in which they stand.
    pub fn all<'a>(&'a self, key: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.words.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The comma-separated parts of `key`; empty when the key is absent.
    pub fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).map(|value| value.split(',').filter(|part| !part.is_empty()).collect()).unwrap_or_default()
    }

    /// `1`, `true`, `yes` or `on`, in any case.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| ["1", "true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes)))
    }

    /// Where MetalConfig is: `drophammer.config`, or upstream's `PIXIE_API_URL`.
    pub fn config_url(&self) -> Option<&str> {
        self.get("drophammer.config").or_else(|| self.get("PIXIE_API_URL"))
    }

    /// The digests of `drophammer.ca=sha256:…,…`, as they stand: who the server of MetalConfig may be. `Some` of an empty
    /// list when the key is there without a value.
    pub fn ca_pins(&self) -> Option<Vec<String>> {
        self.owned_list("drophammer.ca")
    }

    /// `DEBUG=1` as upstream, or `drophammer.debug=1`.
    pub fn debug(&self) -> bool {
        self.flag("DEBUG") || self.flag("drophammer.debug")
    }

    /// `drophammer.gpus=all`: GPUs of all makers are registered, not only NVIDIA's.
    pub fn all_gpus(&self) -> bool {
        self.get("drophammer.gpus") == Some("all")
    }

    /// `drophammer.erase=quick|clear|purge[,format-unit]`, as it stands.
    pub fn erase_words(&self) -> Option<&str> {
        self.get("drophammer.erase")
    }

    /// The names of `drophammer.erase_exclude=`: disks that are never erased. Parted by commas; a blank or comma of a
    /// name is written as in URLs, `%20` and `%2C`.
    pub fn erase_exclude(&self) -> Vec<String> {
        self.list("drophammer.erase_exclude").into_iter().map(unescape).collect()
    }

    /// `drophammer.memory=MIB`, as it stands: the most that the agent may take.
    pub fn memory(&self) -> Option<&str> {
        self.get("drophammer.memory")
    }

    /// `drophammer.mirrors=BASE,…`: servers that have the images, too.
    pub fn mirrors(&self) -> Option<Vec<String>> {
        self.owned_list("drophammer.mirrors")
    }

    /// `drophammer.image_key=RW…,…`: public keys that images must be signed with. `Some` of an empty list when the
    /// key is there without a value.
    pub fn image_keys(&self) -> Option<Vec<String>> {
        self.owned_list("drophammer.image_key")
    }

    /// `drophammer.image_digest=required|optional`, as it stands.
    pub fn image_digest(&self) -> Option<&str> {
        self.get("drophammer.image_digest")
    }

    /// `drophammer.image_verify=sample|full`, as it stands: how much of an image is read back from the disk.
    pub fn image_verify(&self) -> Option<&str> {
        self.get("drophammer.image_verify")
    }

    /// `drophammer.proxy=URL`, as it stands: the proxy for images. May hold a password.
    pub fn proxy(&self) -> Option<&str> {
        self.get("drophammer.proxy")
    }

    /// `drophammer.no_proxy=HOST,…`: what is reached without the proxy.
    pub fn no_proxy(&self) -> Option<Vec<String>> {
        self.owned_list("drophammer.no_proxy")
    }

    fn owned_list(&self, key: &str) -> Option<Vec<String>> {
        self.get(key).map(|_| self.list(key).into_iter().map(str::to_owned).collect())
    }

    /// The last `console=`, as it stands, e.g. `ttyS0,115200n8`.
    pub fn console(&self) -> Option<&str> {
        self.get("console")
    }
}

/// `%20` is a blank; a `%` that no two hexadecimal digits follow is itself.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        match digits.as_deref() {
            Some([byte]) => {
                bytes.push(*byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_value_of_a_key_wins_and_bare_words_are_dropped() {
        let line = Cmdline::parse(
            "console=ttyS1,115200n8 quiet ip=dhcp console=ttyS0,115200n8 PIXIE_API_URL=http://a/certs?x=1 DEBUG=True\n",
        );
        assert_eq!(line.console(), Some("ttyS0,115200n8"));
        assert_eq!(line.config_url(), Some("http://a/certs?x=1"));
        assert_eq!(line.get("quiet"), None);
        assert!(line.debug());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let line = Cmdline::parse("quiet drophammer.token=SECRET\n");
        assert_eq!((line.token(), line.masked()), (Some("SECRET"), "quiet drophammer.token=***"));
        assert!(!format!("{line:?}").contains("SECRET"));
    }

    #[test]
    fn our_key_for_the_configuration_goes_before_upstreams() {
        let line = Cmdline::parse("drophammer.config=http://b PIXIE_API_URL=http://a");
        assert_eq!(line.config_url(), Some("http://b"));
    }

    #[test]
    fn lists_are_split_at_commas() {
        let line = Cmdline::parse("drophammer.ntp=10.0.0.1,,ntp.lab empty=");
        assert_eq!(line.list("drophammer.ntp"), ["10.0.0.1", "ntp.lab"]);
        assert!(line.list("empty").is_empty() && line.list("absent").is_empty());
    }

    #[test]
    fn a_key_may_come_several_times() {
        let line = Cmdline::parse("vlan=vlan5:eth0 quiet vlan=vlan6:eth0");
        assert_eq!(line.all("vlan").collect::<Vec<_>>(), ["vlan5:eth0", "vlan6:eth0"]);
        assert_eq!(line.all("bond").count(), 0);
    }

    #[test]
    fn names_of_disks_may_have_blanks_and_commas() {
        let line = Cmdline::parse("drophammer.erase_exclude=serial:A%20B%2c1,/dev/sda,serial:50%,by-id:100%25");
        assert_eq!(line.erase_exclude(), ["serial:A B,1", "/dev/sda", "serial:50%", "by-id:100%"]);
        assert!(Cmdline::parse("a=1").erase_exclude().is_empty());
    }
}
