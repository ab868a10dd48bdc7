//! The subcommands `dhcp`, `ntp` and `lldp`: one part of the network phase, at the console.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::dhcp::{DhcpOptions, Lease, OfferSeen, find_offer};
use super::links::{EthernetLink, Netlink};
use super::lldp::{Identity, Lldp, Neighbour, Neighbours, OtherTlv};
use super::ntp::{Asked, NtpClient, Protection, choose_answer, set_clock};
use super::resolver::{Resolver, read_desk_name_servers};
use crate::causes::with_causes;
use crate::sys::roots::Roots;

/// How the result is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Show what a DHCP server offers on a link. Takes no lease; sets the link up and changes nothing else of it.
#[derive(Args, Clone, Debug)]
pub struct DhcpArgs {
    /// The link to ask on
    pub iface: String,
    /// The machine's UUID, sent as options 61 and 97
    #[arg(long)]
    pub uuid: Option<Uuid>,
    /// How long to ask
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Ask time servers how far the clock is off.
#[derive(Args, Clone, Debug)]
pub struct NtpArgs {
    /// Names or addresses, with `:port` when it is not 123. `nts:NAME` demands NTS, a plain name tries it
    #[arg(required = true)]
    pub servers: Vec<String>,
    /// Certificate authority of NTS servers (PEM), beside the system's
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Set the system clock and the hardware clock
    #[arg(long)]
    pub set: bool,
    /// Name server to ask for names; else those of /etc/resolv.conf
    #[arg(long)]
    pub dns: Vec<IpAddr>,
    /// How long to wait for answers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Show which switch ports the cables lead to, as they are heard.
#[derive(Args, Clone, Debug)]
pub struct LldpArgs {
    /// Links to listen on; all Ethernet links when none is given
    pub ifaces: Vec<String>,
    /// The UUID to announce as system name
    #[arg(long)]
    pub uuid: Option<Uuid>,
    /// Stop after so long; without it at Ctrl-C. JSON is printed at the end
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Also print what of the frames is not interpreted. JSON always has it
    #[arg(long)]
    pub debug: bool,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `drophammer dhcp IFACE`. Exit status 1 when nobody offers anything.
pub async fn run_dhcp(args: DhcpArgs) -> Result<ExitCode> {
    let netlink = Netlink::open().context("opening rtnetlink")?;
    let links = netlink.read_addressable_links().await?;
    find_link(&links, &args.iface)?;
    let options = DhcpOptions { uuid: args.uuid, ..DhcpOptions::default() };
    let offer = find_offer(&netlink, &args.iface, &options, Duration::from_secs(args.seconds)).await?;
    let Some(offer) = offer else { bail!("no DHCP offer on {} within {} s", args.iface, args.seconds) };
    match args.format {
        Format::Text => print(&offer_as_text(&offer))?,
        Format::Json => print_json(&offer_as_json(&offer))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `drophammer ntp SERVER…`. Exit status 1 when no time can be chosen.
pub async fn run_ntp(args: NtpArgs) -> Result<ExitCode> {
    let dns = if args.dns.is_empty() { read_desk_name_servers() } else { args.dns };
    let read_ca = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let ca = args.ca.as_ref().map(read_ca).transpose()?;
    let client = NtpClient::with_trust(Resolver::new(&dns, &[]), ca.as_deref())?;
    let limit = Duration::from_secs(args.seconds);
    if args.set {
        let set = set_clock(&Roots::system(), &args.servers, &client, limit).await?;
        match args.format {
            Format::Text => print(&format!("clock set by {}: {}\n", set.server, seconds_text(set.offset_ns)))?,
            Format::Json => print_json(
                &json!({ "server": set.server, "offset_s": seconds(set.offset_ns), "hardware_clock": set.hardware_clock }),
            )?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let asked = client.ask_all(&args.servers, limit).await;
    match args.format {
        Format::Text => print(&asked_as_text(&asked))?,
        Format::Json => print_json(&asked_as_json(&asked))?,
    }
    let answers: Vec<_> = asked.into_iter().filter_map(|asked| asked.result.ok()).collect();
    choose_answer(&answers)?;
    Ok(ExitCode::SUCCESS)
}

/// `drophammer lldp [IFACE…]`. Exit status 1 when nobody was heard.
pub async fn run_lldp(args: LldpArgs) -> Result<ExitCode> {
    let netlink = Netlink::open().context("opening rtnetlink")?;
    let all = netlink.read_ethernet_links().await?;
    let mut links = Vec::new();
    for name in &args.ifaces {
        links.push(find_link(&all, name)?.clone());
    }
    let links = if args.ifaces.is_empty() { all } else { links };
    for link in &links {
        netlink.apply_up(link.index).await.with_context(|| format!("setting {} up", link.name))?;
    }
    let identity =
        Identity { uuid: args.uuid, ip: None, version: crate::VERSION.to_owned(), started: OffsetDateTime::now_utc() };
    let lldp = Lldp::start(&links, identity);
    let ends = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let stop = async {
        match ends {
            Some(ends) => tokio::time::sleep_until(ends).await,
            // An error means that Ctrl-C can't be waited for: then listen until killed.
            None => match tokio::signal::ctrl_c().await {
                Ok(()) => {}
                Err(_) => std::future::pending().await,
            },
        }
    };
    tokio::select! {
        shown = show_neighbours(&lldp, &args) => shown?,
        () = stop => {}
    }
    let neighbours = lldp.neighbours();
    if args.format == Format::Json {
        print_json(&neighbours_as_json(&neighbours))?;
    }
    Ok(if neighbours.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints every neighbour once, for ever.
async fn show_neighbours(lldp: &Lldp, args: &LldpArgs) -> Result<()> {
    let mut shown: Vec<(String, String, String)> = Vec::new();
    loop {
        // Several may arrive at once; looking again after a second catches all.
        let _ = timeout_at(Instant::now() + Duration::from_secs(1), lldp.changed()).await;
        if args.format == Format::Json {
            continue;
        }
        for (link, neighbours) in lldp.neighbours() {
            for neighbour in neighbours {
                let key = (link.clone(), neighbour.chassis_id.clone(), neighbour.port_id.clone());
                if !shown.contains(&key) {
                    print(&neighbour_as_text(&link, &neighbour, args.debug))?;
                    shown.push(key);
                }
            }
        }
    }
}

fn find_link<'a>(links: &'a [EthernetLink], name: &str) -> Result<&'a EthernetLink> {
    let known = || links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
    links
        .iter()
        .find(|link| link.name == name)
        .with_context(|| format!("there is no Ethernet link {name}; there are: {}", known()))
}

fn offer_as_text(offer: &OfferSeen) -> String {
    let Lease { address, server, routes, dns, domain, search, ntp, mtu_bytes, times } = &offer.lease;
    let mut lines = vec![
        format!("interface: {}", offer.link.name),
        format!("mac: {}", offer.link.mac),
        format!("server: {server}"),
        format!("address: {address}"),
    ];
    lines.extend(routes.iter().map(|route| format!("route: {route}")));
    lines.extend(dns.iter().map(|server| format!("dns: {server}")));
    lines.extend(domain.iter().map(|domain| format!("domain: {domain}")));
    lines.extend(search.iter().map(|domain| format!("search: {domain}")));
    lines.extend(ntp.iter().map(|server| format!("ntp: {server}")));
    lines.extend(mtu_bytes.iter().map(|mtu| format!("mtu: {mtu}")));
    match times {
        Some(times) => {
            lines.push(format!("lease: {} s", times.expire.as_secs()));
            lines.push(format!("renew: {} s", times.renew.as_secs()));
            lines.push(format!("rebind: {} s", times.rebind.as_secs()));
        }
        None => lines.push("lease: for ever".to_owned()),
    }
    lines.extend(offer.faults.iter().map(|fault| format!("ignored: {fault}")));
    lines.join("\n") + "\n"
}

fn offer_as_json(offer: &OfferSeen) -> Value {
    let lease = &offer.lease;
    json!({
        "interface": offer.link.name,
        "mac": offer.link.mac,
        "server": lease.server,
        "address": lease.address,
        "routes": lease.routes,
        "dns": lease.dns,
        "domain": lease.domain,
        "search": lease.search,
        "ntp": lease.ntp,
        "mtu_bytes": lease.mtu_bytes,
        "lease_s": lease.times.map(|times| times.expire.as_secs()),
        "renew_s": lease.times.map(|times| times.renew.as_secs()),
        "rebind_s": lease.times.map(|times| times.rebind.as_secs()),
        "ignored": offer.faults,
    })
}

fn seconds(offset_ns: i128) -> f64 {
    offset_ns as f64 / 1e9
}

fn seconds_text(offset_ns: i128) -> String {
    format!("{:+.6} s", seconds(offset_ns))
}

fn asked_as_text(asked: &[Asked]) -> String {
    let line = |asked: &Asked| match &asked.result {
        Ok(answer) => format!(
            "{}: {}, stratum {}, delay {:.6} s, uncertain by {:.6} s{}\n",
            asked.server,
            seconds_text(answer.sample.offset_ns),
            answer.sample.stratum,
            answer.sample.delay.as_secs_f64(),
            answer.sample.root_distance.as_secs_f64(),
            protection_text(&answer.protection)
        ),
        Err(error) => format!("{}: {}\n", asked.server, with_causes(error)),
    };
    asked.iter().map(line).collect()
}

fn protection_text(protection: &Protection) -> String {
    match protection {
        Protection::Nts => ", proven by NTS".to_owned(),
        Protection::Plain { why: None } => String::new(),
        Protection::Plain { why: Some(why) } => format!(", without NTS ({why})"),
    }
}

fn asked_as_json(asked: &[Asked]) -> Value {
    let entry = |asked: &Asked| match &asked.result {
        Ok(answer) => json!({
            "server": asked.server,
            "address": answer.address,
            "offset_s": seconds(answer.sample.offset_ns),
            "stratum": answer.sample.stratum,
            "delay_s": answer.sample.delay.as_secs_f64(),
            "root_distance_s": answer.sample.root_distance.as_secs_f64(),
            "nts": answer.protection == Protection::Nts,
        }),
        Err(error) => json!({ "server": asked.server, "error": with_causes(error) }),
    };
    asked.iter().map(entry).collect()
}

fn neighbour_as_text(link: &str, neighbour: &Neighbour, debug: bool) -> String {
    let mut text = format!("{link}: chassis {}, port {}", neighbour.chassis_id, neighbour.port_id);
    for (name, value) in [("port description", &neighbour.port_description), ("system", &neighbour.system_name)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    if debug {
        text.extend(neighbour.others.iter().map(|tlv| format!("\n  {tlv}")));
    }
    text + "\n"
}

fn neighbours_as_json(neighbours: &Neighbours) -> Value {
    let mut all = Vec::new();
    for (link, heard) in neighbours {
        all.extend(heard.iter().map(|neighbour| {
            json!({
                "interface": link,
                "chassis_id": neighbour.chassis_id,
                "chassis_is_mac": neighbour.chassis_is_mac,
                "port_id": neighbour.port_id,
                "port_kind": neighbour.port_kind,
                "port_description": neighbour.port_description,
                "system_name": neighbour.system_name,
                "system_description": neighbour.system_description,
                "time_to_live_s": neighbour.time_to_live.as_secs(),
                "others": neighbour.others.iter().map(other_as_json).collect::<Value>(),
            })
        }));
    }
    Value::Array(all)
}

fn other_as_json(tlv: &OtherTlv) -> Value {
    json!({
        "type": tlv.kind,
        "organisation": tlv.organisation.map(|(organisation, _)| hex::encode(organisation)),
        "subtype": tlv.organisation.map(|(_, subtype)| subtype),
        "value": hex::encode(&tlv.value),
    })
}

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("rendering JSON")?;
    print(&(text + "\n"))
}

/// To standard output, with an error where `print!` would panic (a closed pipe).
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}
