//! drophammer: the agent as PID 1, or one part of it as a subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Inventory(args) => inventory::command::run(args),
        Command::Plan(args) => disk::command::run_plan(args),
        Command::Unpack(args) => image::command::run_unpack(args),
        Command::Write(args) => image::command::run_write(args),
        Command::Erase(args) => disk::command::run_erase(args),
        Command::Lldp(args) => net::command::run_lldp(args),
        Command::Dhcp(args) => net::command::run_dhcp(args),
        Command::Ntp(args) => net::command::run_ntp(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("drophammer: {error:#}");
        ExitCode::FAILURE
    })
}
