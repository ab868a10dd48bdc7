//! drophammer: the agent as PID 1, or one part of it as a subcommand.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use drophammer::{agent, disk, image, inventory, net};

/// Bare-metal discovery and provisioning.
///
/// As PID 1 of a machine booted over the network this is the agent. On a desk each subcommand is one part of its work;
/// without one nothing happens.
#[derive(Parser)]
#[command(name = "drophammer", version = drophammer::VERSION, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what is in this machine
    Inventory(inventory::command::InventoryArgs),
    /// Show what a layout would do to which disk; changes nothing
    Plan(disk::command::PlanArgs),
    /// Unpack an image into a directory
    Unpack(image::command::UnpackArgs),
    /// Write a raw image to a device
    Write(image::command::WriteArgs),
    /// Erase disks; refuses without their serial numbers
    Erase(disk::command::EraseArgs),
    /// Show LLDP neighbours
    Lldp(net::command::LldpArgs),
    /// Ask for an address on an interface and show the lease
    Dhcp(net::command::DhcpArgs),
    /// Ask NTP servers for the time
    Ntp(net::command::NtpArgs),
}

fn main() -> ExitCode {
    // The kernel hands words of its command line that it does not know to PID 1 as arguments: they are not ours.
    if std::process::id() == 1 {
        agent::run();
    }
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("drophammer: {error:#}");
        ExitCode::FAILURE
    })
}

/// Images may take minutes to come, or not to come: what goes wrong meanwhile is told at once, on standard error.
fn tell_warnings() {
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(std::io::stderr);
    lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).without_time().init();
}

fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    match command {
        Command::Inventory(args) => inventory::command::run(&args),
        Command::Plan(args) => disk::command::run_plan(&args),
        Command::Erase(args) => disk::command::run_erase(&args),
        Command::Unpack(args) => {
            tell_warnings();
            let http = net::desk_http_client(args.proxy().as_ref())?;
            runtime.block_on(image::command::run_unpack(&args, http))
        }
        Command::Write(args) => {
            tell_warnings();
            let http = net::desk_http_client(args.proxy().as_ref())?;
            runtime.block_on(image::command::run_write(&args, http))
        }
        Command::Lldp(args) => runtime.block_on(net::command::run_lldp(args)),
        Command::Dhcp(args) => runtime.block_on(net::command::run_dhcp(args)),
        Command::Ntp(args) => runtime.block_on(net::command::run_ntp(args)),
    }
}
