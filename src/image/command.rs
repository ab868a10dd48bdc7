//! `drophammer unpack` and `drophammer write`: the engine alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use reqwest::Client;

use super::console::Console;
use super::digest::Digest;
use super::engine::{DigestRule, Options, unpack, write_raw};
use super::memory::MemoryLimit;
use super::report::Report;
use super::source::Source;
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
    /// The most that this program may take; decides how large a window the source may be compressed with
    #[arg(long, value_name = "MIB", default_value = "64")]
    memory: MemoryLimit,
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
    /// The most that this program may take; decides how large a window the source may be compressed with
    #[arg(long, value_name = "MIB", default_value = "64")]
    memory: MemoryLimit,
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

impl DigestArgs {
    fn rule(&self) -> DigestRule {
        match &self.digest {
            Some(digest) => DigestRule::Given(digest.clone()),
            None if self.no_digest => DigestRule::AllowMissing,
            None => DigestRule::Sidecar,
        }
    }
}

/// `http` fetches the image when its source is a URL.
pub async fn run_unpack(args: &UnpackArgs, http: Client) -> Result<ExitCode> {
    let options = Options { http: Some(http), memory: args.memory, ..Options::new(args.digest.rule()) };
    let console = Console::new();
    let done = unpack(&args.source, &args.dir, &options, &console).await;
    console.clear();
    let report = done.with_context(|| format!("unpacking {} into {}", args.source, args.dir.display()))?;
    print(&report, args.format)
}

/// As [`run_unpack`], for a raw image.
pub async fn run_write(args: &WriteArgs, http: Client) -> Result<ExitCode> {
    let options = Options { http: Some(http), memory: args.memory, ..Options::new(args.digest.rule()) };
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
    let digest =
        report.digest.as_ref().map_or("no digest".to_owned(), |digest| format!("{} holds", digest.algorithm()));
    format!(
        "{} ({}) → {}{files} in {:.1} s; {digest}; busy: fetch {}, digest {}, decompress {}, write {}",
        Bytes(report.bytes_in),
        report.compression,
        Bytes(report.bytes_out),
        report.seconds,
        percent(report.busy.fetch),
        percent(report.busy.digest),
        percent(report.busy.decompress),
        percent(report.busy.write),
    )
}
