//! The `anvil` command: `serve`, and the operator's side of the REST API.
//!
//! Exit status: 0 done; 1 refused or failed, with one sentence on standard error; 2 the call was wrong.

mod bundle;
mod connection;
mod documents;
mod enrolment;
mod erasures;
mod image;
mod layout;
mod machine;
mod serve;
mod size;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use connection::Connection;

/// Control plane for bare-metal machines: network boot, API, images, allocations.
#[derive(Parser)]
#[command(name = "anvil", version = crate::VERSION, arg_required_else_help = true)]
struct Args {
    #[command(flatten)]
    connection: Connection,
    /// What is printed: tables for people, one JSON document for programs
    #[arg(long, global = true, value_enum, default_value = "table")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane
    Serve(serve::Serve),
    /// Machines: look at them, allocate and free them
    #[command(subcommand)]
    Machine(machine::Machine),
    /// Operating system images
    #[command(subcommand)]
    Image(image::Image),
    /// File system layouts
    #[command(subcommand)]
    Layout(layout::Layout),
    /// All that a site behind an air gap needs, in one signed file
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Sizes of machines
    #[command(subcommand)]
    Size(size::Size),
}

/// The whole program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no errors. A closed pipe is nobody's loss.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("anvil: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        // Somebody who pipes us into "head" has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("anvil: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let format = args.format;
    match args.command {
        Command::Serve(command) => serve::run(command, &args.connection).await,
        Command::Machine(command) => machine::run(command, &args.connection, format).await,
        Command::Image(command) => image::run(command, &args.connection, format).await,
        Command::Layout(command) => layout::run(command, &args.connection, format).await,
        Command::Bundle(command) => bundle::run(command, &args.connection, format),
        Command::Size(command) => size::run(command, &args.connection, format).await,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes lines to standard output. Unlike `println!`, a reader who left is an error and no panic.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

/// One JSON document on standard output.
fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value).context("writing JSON")?)
}
