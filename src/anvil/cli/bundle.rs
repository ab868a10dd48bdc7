//! `anvil bundle`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use ipnet::Ipv4Net;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connection::Connection;
use super::documents::{read_list, read_sizes};
use super::{Format, print_json, table};
use crate::anvil::bundle::archive::{self, Bundle, Trust};
use crate::anvil::bundle::contents::{Offer, Wanted, WantedImage, gather, read_offer};
use crate::anvil::bundle::first_config::Site;
use crate::anvil::bundle::import::{ConfigFile, Import, Imported, import};
use crate::anvil::bundle::pack::pack;
use crate::anvil::images;
use crate::anvil::netboot::config::DhcpMode;
use crate::api::image_key::ImageKey;
use crate::api::rest::Image;
use crate::image::command::read_key;
use crate::sys::units::Bytes;

#[derive(Subcommand)]
pub(super) enum BundleCommand {
    /// Pack all that a site needs into one file
    Create(Box<Create>),
    /// Check a bundle and show what is in it
    Show {
        file: PathBuf,
        /// minisign's public key, or the file with it; without one the signature is not checked
        #[arg(long = "public-key", value_name = "KEY|FILE", value_parser = read_key)]
        keys: Vec<ImageKey>,
    },
    /// Take a bundle in, at a new site or one that runs; the data directory is --data
    Import(ImportArgs),
}

#[derive(Args)]
pub(super) struct Create {
    /// The bundle's file, such as site.tar.zst; replaced when it is there
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// An image: its file, or the id of one in the data directory; without any all that lie there
    #[arg(long = "image", value_name = "ID[=FILE]")]
    images: Vec<String>,
    /// Layouts, YAML or JSON, beside those of the data directory
    #[arg(long = "layout", value_name = "FILE")]
    layouts: Vec<PathBuf>,
    /// Sizes, YAML or JSON, beside those of the data directory
    #[arg(long = "size", value_name = "FILE")]
    sizes: Vec<PathBuf>,
    /// minisign's secret key; without it the bundle is not signed, and no site takes it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Directory with what scripts/build makes: anvil, drophammer, vmlinuz, initramfs.img [default: this program's own]
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// Kernel, when it is not DIST/vmlinuz
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs, when it is not DIST/initramfs.img
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Directory with iPXE's loaders
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/ipxe")]
    ipxe: PathBuf,
    /// Names of PCI devices; left out when it is not there
    #[arg(long, value_name = "FILE", default_value = "/usr/share/misc/pci.ids")]
    pci_ids: PathBuf,
    /// When it was made, RFC 3339: a site takes no older one than it has [env: SOURCE_DATE_EPOCH] [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    date: Option<OffsetDateTime>,
}

#[derive(Args)]
pub(super) struct ImportArgs {
    file: PathBuf,
    /// minisign's public key, or the file with it: whose bundles this site takes
    #[arg(long = "public-key", value_name = "KEY|FILE", value_parser = read_key, required = true)]
    keys: Vec<ImageKey>,
    /// Also one that is older than what is here
    #[arg(long)]
    older: bool,
    /// Configuration, made when it is not there and --listen is given [default: DATA/anvil.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This host's address on the machines' network, with the prefix: 10.77.0.1/24
    #[arg(long, value_name = "ADDRESS/BITS", requires = "interface")]
    listen: Option<Ipv4Net>,
    /// Interface that the machines are on
    #[arg(long, value_name = "NAME", requires = "listen")]
    interface: Option<String>,
    /// Who gives addresses to machines: server is this anvil, proxy is beside another DHCP server
    #[arg(long, value_name = "server|proxy|off", default_value = "off", value_parser = parse_dhcp, requires = "listen")]
    dhcp: DhcpMode,
    /// Domain of anvil and the machines
    #[arg(long, value_name = "NAME", default_value = "rack.internal")]
    domain: String,
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("expected a time such as 2026-01-02T03:00:00Z: {error}"))
}

fn parse_dhcp(text: &str) -> Result<DhcpMode, String> {
    match text {
        "server" => Ok(DhcpMode::Server),
        "proxy" => Ok(DhcpMode::Proxy),
        "off" => Ok(DhcpMode::Off),
        other => Err(format!("expected server, proxy or off, found {other:?}")),
    }
}

pub(super) fn run(command: BundleCommand, connection: &Connection, format: Format) -> Result<()> {
    match command {
        BundleCommand::Create(create) => run_create(*create, connection, format),
        BundleCommand::Show { file, keys } => {
            let trust = if keys.is_empty() { Trust::Unchecked } else { Trust::Keys(&keys) };
            let bundle = with_bar("reading", |bar| archive::check(&file, trust, bar))?;
            print_bundle(&bundle, format)
        }
        BundleCommand::Import(args) => run_import(&args, connection, format),
    }
}

fn run_create(create: Create, connection: &Connection, format: Format) -> Result<()> {
    let output = create.output.clone();
    let key = create.key.clone();
    let wanted = wanted(create, &connection.data_or_default())?;
    let contents = with_bar("reading", |bar| gather(wanted, bar))?;
    let bundle = with_bar("packing", |bar| pack(&contents, &output, key.as_deref(), bar))?;
    if key.is_none() {
        eprintln!("anvil: {} is not signed, and no site will take it: give --key", output.display());
    }
    print_bundle(&bundle, format)
}

fn wanted(create: Create, data: &Path) -> Result<Wanted> {
    let mut ids = Vec::new();
    let mut images = Vec::new();
    for image in &create.images {
        match image.split_once('=') {
            Some((id, file)) => images.push(file_image(id, Path::new(file))?),
            None => ids.push(image.clone()),
        }
    }
    // Files alone need no anvil that has run here.
    let needs_data = !ids.is_empty() || images.is_empty();
    let Offer { images: kept, mut layouts, mut sizes, elsewhere } =
        if needs_data { read_offer(data, &ids)? } else { Offer::default() };
    images.extend(kept);
    for id in elsewhere {
        eprintln!("anvil: image {id:?} is left out, as it does not lie in {}", data.display());
    }
    for file in &create.layouts {
        layouts.extend(read_list(file)?);
    }
    for file in &create.sizes {
        sizes.extend(read_sizes(file)?);
    }
    let dist = match create.dist {
        Some(dist) => dist,
        None => std::env::current_exe().context("finding this program")?.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    Ok(Wanted {
        anvil: dist.join("anvil"),
        agent: dist.join("drophammer"),
        kernel: create.kernel.unwrap_or_else(|| dist.join("vmlinuz")),
        initrd: create.initrd.unwrap_or_else(|| dist.join("initramfs.img")),
        ipxe: create.ipxe,
        pci_ids: Some(create.pci_ids).filter(|file| file.is_file()),
        images,
        layouts,
        sizes,
        created: create.date.map_or_else(creation_time, Ok)?,
    })
}

fn file_image(id: &str, file: &Path) -> Result<WantedImage> {
    // The URL is the site's business; only that there is one is checked here.
    let image = Image { id: id.to_owned(), url: "http://127.0.0.1".to_owned(), ..Image::default() };
    Ok(WantedImage { image: images::complete(image)?, file: file.to_owned() })
}

/// `SOURCE_DATE_EPOCH`, or now; whole seconds.
fn creation_time() -> Result<OffsetDateTime> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH: expected seconds, found {text:?}"))?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs(),
    };
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds)?).context("SOURCE_DATE_EPOCH")
}

fn run_import(args: &ImportArgs, connection: &Connection, format: Format) -> Result<()> {
    let data = connection.data_or_default();
    let config = args.config.clone().unwrap_or_else(|| data.join("anvil.yaml"));
    let site = match (args.listen, &args.interface) {
        (Some(listen), Some(interface)) => {
            ensure!(
                listen.prefix_len() < 32,
                "--listen: expected an address with its network's length, such as 10.77.0.1/24"
            );
            Some(Site { listen, interface: interface.clone(), domain: args.domain.clone(), dhcp: args.dhcp })
        }
        _ => None,
    };
    let request = Import {
        file: &args.file,
        keys: &args.keys,
        data: &data,
        older_is_wanted: args.older,
        config: &config,
        site: site.as_ref(),
    };
    let imported = with_bar("importing", |bar| import(&request, bar))?;
    print_import(&imported, &data, &config, format)
}

/// A bar on a terminal, and nothing elsewhere.
fn with_bar<T>(verb: &'static str, work: impl FnOnce(&dyn Fn(u64, u64)) -> Result<T>) -> Result<T> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    bar.set_message(verb);
    let shown = Cell::new(0);
    let result = work(&|done, total| {
        // Reads are small, and drawing is not free.
        if done.abs_diff(shown.get()) >= 1 << 20 || done == total {
            shown.set(done);
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    bar.finish_and_clear();
    result
}

fn print_bundle(bundle: &Bundle, format: Format) -> Result<()> {
    let signer = bundle.signer.as_ref().map(|signer| signer.key.clone());
    let manifest = &bundle.manifest;
    if format == Format::Json {
        let mut value = serde_json::to_value(manifest).context("writing the manifest")?;
        value["sha256"] = bundle.digest().into();
        value["signed_by"] = signer.into();
        return print_json(&value);
    }
    let signature = match (&signer, bundle.signature_text.is_empty()) {
        (Some(key), _) => format!("by {key}, holds"),
        (None, true) => "none".to_owned(),
        (None, false) => "there, not checked".to_owned(),
    };
    let versions = manifest.versions.clone();
    let ids = |all: Vec<&str>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    table::print_pairs(&[
        ("bundle", bundle.path.display().to_string()),
        ("made", manifest.created.format(&Rfc3339).unwrap_or_default()),
        ("signature", signature),
        ("manifest", format!("sha256:{}", bundle.digest())),
        ("anvil", versions.anvil),
        ("drophammer", versions.drophammer.unwrap_or_default()),
        ("kernel", versions.kernel.unwrap_or_default()),
        ("pci.ids", versions.pci_ids.unwrap_or_default()),
        ("images", ids(manifest.images.iter().map(|image| image.id.as_str()).collect())),
        ("layouts", ids(manifest.layouts.iter().map(|layout| layout.id.as_str()).collect())),
        ("sizes", ids(manifest.sizes.iter().map(|size| size.id.as_str()).collect())),
    ])?;
    super::print("")?;
    let rows: Vec<Vec<String>> = manifest
        .files
        .iter()
        .map(|file| vec![file.path.clone(), Bytes(file.bytes).to_string(), file.sha256.clone()])
        .collect();
    table::print(&["FILE", "SIZE", "SHA-256"], &rows)
}

fn print_import(imported: &Imported, data: &Path, config: &Path, format: Format) -> Result<()> {
    let offer = &imported.plan.offer;
    let images: Vec<&str> = offer.images.iter().map(|image| image.id.as_str()).collect();
    let layouts: Vec<&str> = offer.layouts.iter().map(|layout| layout.id.as_str()).collect();
    let sizes: Vec<&str> = offer.sizes.iter().map(|size| size.id.as_str()).collect();
    let config_path = Some(config.display().to_string()).filter(|_| imported.config != ConfigFile::Missing);
    if format == Format::Json {
        return print_json(&serde_json::json!({
            "changed": !imported.plan.is_empty(),
            "files": imported.plan.places_files,
            "images": images,
            "layouts": layouts,
            "sizes": sizes,
            "kept": offer.kept,
            "config": config_path,
        }));
    }
    let signer = imported.bundle.signer.as_ref().map(|signer| format!("by {}, holds", signer.key)).unwrap_or_default();
    let files = if imported.plan.places_files { "new" } else { "here already" };
    table::print_pairs(&[
        ("signature", signer),
        ("made", imported.bundle.manifest.created.format(&Rfc3339).unwrap_or_default()),
        ("programs, boot files", files.to_owned()),
        ("new images", images.join(", ")),
        ("new layouts", layouts.join(", ")),
        ("new sizes", sizes.join(", ")),
        ("kept as they are here", offer.kept.join(", ")),
        ("configuration", config_path.clone().unwrap_or_else(|| "none: give --listen and --interface".to_owned())),
    ])?;
    if imported.plan.is_empty() {
        super::print("nothing is new")?;
    }
    let Some(config_path) = config_path else { return Ok(()) };
    let program = std::path::absolute(data).unwrap_or_else(|_| data.to_owned()).join("bundle/current/anvil");
    super::print(&format!("start or restart: {} serve --config {config_path}", program.display()))
}
