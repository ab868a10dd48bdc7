//! `drophammer unpack` and `drophammer write`: the engine alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use reqwest::{Client, Url};

use super::console::Console;
use super::digest::Digest;
use super::engine::{DigestRule, Options, Verify, unpack, write_raw};
use super::memory::MemoryLimit;
use super::report::Report;
use super::source::Source;
use crate::api::image_key::ImageKey;
use crate::api::image_places::{HttpProxy, ProxyRule};
use crate::sys::units::Bytes;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Unpack an archive into a directory.
#[derive(Clone, Debug, Args)]
pub struct UnpackArgs {
    /// File or http(s) URL of a tar archive, compressed with lz4, zstd, gzip, xz or not at all; or an OCI image:
    /// oci://HOST/NAME:TAG@DIGEST in a registry (oci+http:// without TLS), oci:DIR[:TAG], oci-archive:FILE[:TAG]
    source: Source,
    /// Existing directory; files in the way are replaced
    dir: PathBuf,
    #[command(flatten)]
    digest: DigestArgs,
    #[command(flatten)]
    places: PlaceArgs,
    /// The most that this program may take; decides how large a window the source may be compressed with
    #[arg(long, value_name = "MIB", default_value = "64")]
    memory: MemoryLimit,
    /// How many of the files are read back from the disk and compared
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Write a raw disk image to a device.
#[derive(Clone, Debug, Args)]
pub struct WriteArgs {
    /// File or http(s) URL of a raw image, compressed with lz4, zstd, gzip, xz or not at all
    source: Source,
    /// Existing block device that is not in use, or existing file; all that is on it is lost
    device: PathBuf,
    #[command(flatten)]
    digest: DigestArgs,
    #[command(flatten)]
    places: PlaceArgs,
    /// The most that this program may take; decides how large a window the source may be compressed with
    #[arg(long, value_name = "MIB", default_value = "64")]
    memory: MemoryLimit,
    /// Make a GPT, its last partition and the ext4, XFS or Btrfs in there as large as the disk
    #[arg(long)]
    grow: bool,
    /// All that is written is read back and compared, with either
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Debug, Args)]
struct DigestArgs {
    /// md5:, sha256: or sha512: and hexadecimal digits, of an OCI image those of its manifest; default: that of the
    /// checksum file beside the source, or in the reference
    #[arg(long, value_name = "ALG:HEX", conflicts_with = "no_digest")]
    digest: Option<Digest>,
    /// Take the image even if there is no digest for it
    #[arg(long)]
    no_digest: bool,
}

/// Where else the source is, and who must have signed it.
#[derive(Clone, Debug, Args)]
struct PlaceArgs {
    /// Another http(s) URL of the same source, asked when those before failed; may be repeated
    #[arg(long = "mirror", value_name = "URL", value_parser = parse_mirror)]
    mirrors: Vec<Url>,
    /// Proxy for http and https; the environment's is never used
    #[arg(long, value_name = "URL", value_parser = parse_proxy)]
    proxy: Option<HttpProxy>,
    /// Hosts, domains and networks (CIDR) that are reached without the proxy
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', requires = "proxy")]
    no_proxy: Vec<String>,
    /// Public key of minisign, or its file: the source must be signed with one of these keys; may be repeated
    #[arg(long = "image-key", value_name = "KEY|FILE", value_parser = read_key)]
    image_keys: Vec<ImageKey>,
}

impl PlaceArgs {
    fn proxy(&self) -> Option<ProxyRule> {
        self.proxy.clone().map(|proxy| ProxyRule { proxy, except: self.no_proxy.clone() })
    }
}

impl UnpackArgs {
    /// The way to the source.
    pub fn proxy(&self) -> Option<ProxyRule> {
        self.places.proxy()
    }
}

impl WriteArgs {
    /// The way to the source.
    pub fn proxy(&self) -> Option<ProxyRule> {
        self.places.proxy()
    }
}

fn parse_mirror(text: &str) -> Result<Url, String> {
    match text.parse() {
        Ok(Source::Url(url)) => Ok(url),
        Ok(_) => Err("expected an http or https URL".to_owned()),
        Err(err) => Err(err.to_string()),
    }
}

fn parse_proxy(text: &str) -> Result<HttpProxy, String> {
    HttpProxy::parse(text).map_err(|err| err.to_string())
}

/// A key itself, or else a file with one.
pub(crate) fn read_key(text: &str) -> Result<ImageKey, String> {
    let no_key = match text.parse::<ImageKey>() {
        Ok(key) => return Ok(key),
        Err(err) => err,
    };
    match std::fs::read_to_string(text) {
        Ok(file) => file.parse::<ImageKey>().map_err(|err| err.to_string()),
        Err(err) => Err(format!("{no_key}; and as a file it can't be read: {err}")),
    }
}

impl DigestArgs {
    fn rule(&self) -> DigestRule {
        match &self.digest {
            Some(digest) => DigestRule::Given(digest.clone()),
            None if self.no_digest => DigestRule::AllowMissing,
            None => DigestRule::Sidecar,
        }
    }
}

fn options(digest: &DigestArgs, places: &PlaceArgs, memory: MemoryLimit, http: Client) -> Options {
    Options {
        keys: places.image_keys.clone(),
        mirrors: places.mirrors.clone(),
        http: Some(http),
        memory,
        ..Options::new(digest.rule())
    }
}

/// `http` fetches the image when its source is a URL.
pub async fn run_unpack(args: &UnpackArgs, http: Client) -> Result<ExitCode> {
    let options = Options { verify: args.verify, ..options(&args.digest, &args.places, args.memory, http) };
    let console = Console::new();
    let done = unpack(&args.source, &args.dir, &options, &console).await;
    console.clear();
    let report = done.with_context(|| format!("unpacking {} into {}", args.source, args.dir.display()))?;
    print(&report, args.format)
}

/// As [`run_unpack`], for a raw image.
pub async fn run_write(args: &WriteArgs, http: Client) -> Result<ExitCode> {
    let options =
        Options { verify: args.verify, grow: args.grow, ..options(&args.digest, &args.places, args.memory, http) };
    let console = Console::new();
    let done = write_raw(&args.source, &args.device, &options, &console).await;
    console.clear();
    let report = done.with_context(|| format!("writing {} to {}", args.source, args.device.display()))?;
    print(&report, args.format)
}

fn print(report: &Report, format: Format) -> Result<ExitCode> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(report).context("printing the report")?),
        Format::Text => println!("{}", summary(report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(report: &Report) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let files = if report.files > 0 { format!(", {} files", report.files) } else { String::new() };
    let zeros = match report.bytes_zeroed {
        0 => String::new(),
        bytes => format!(" ({} of them zeros, not sent)", Bytes(bytes)),
    };
    let grown = report.grown.as_ref().map(|grown| {
        let with = grown.filesystem.as_ref().map(|kind| format!(" with its {kind}")).unwrap_or_default();
        format!("; partition {} grown from {} to {}{with}", grown.partition, grown.from, grown.to)
    });
    let digest =
        report.digest.as_ref().map_or("no digest".to_owned(), |digest| format!("{} holds", digest.algorithm()));
    let signed =
        report.signature.as_ref().map(|signature| format!(", signed by {}", signature.key)).unwrap_or_default();
    format!(
        "{} ({}) → {}{zeros}{files} in {:.1} s; {digest}{signed}{}; busy: fetch {}, digest {}, decompress {}, write {}",
        Bytes(report.bytes_in),
        report.compression,
        Bytes(report.bytes_out),
        report.seconds,
        grown.unwrap_or_default(),
        percent(report.busy.fetch),
        percent(report.busy.digest),
        percent(report.busy.decompress),
        percent(report.busy.write),
    )
}
