//! `anvil serve`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::connection::Connection;
use crate::anvil::config::{Config, read_config};
use crate::anvil::rack;
use crate::anvil::serve::{self, Listeners};
use crate::anvil::state::Anvil;

#[derive(Args)]
pub(super) struct Serve {
    /// Configuration file, YAML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Give keys only to machines that were admitted: "anvil machine pending", "admit", "token". As the key
    /// require_enrolment of the configuration
    #[arg(long)]
    require_enrolment: bool,
}

pub(super) async fn run(command: Serve, connection: &Connection) -> Result<()> {
    start_log()?;
    let mut config = match &command.config {
        Some(path) => read_config(path)?,
        None => Config::default(),
    };
    if let Some(data) = connection.data() {
        config.data = data;
    }
    config.require_enrolment |= command.require_enrolment;
    let listeners = Listeners::bind(&config).await?;
    let anvil = serve::open(config, listeners.endpoints()?)?;
    announce(&anvil);

    let routes = rack::routes(&anvil)?;
    let mut services = rack::start(&anvil).await?;
    tokio::select! {
        ended = serve::run(anvil, listeners, routes, terminated()?) => ended?,
        error = services.failed() => return Err(error),
    }
    tracing::info!("stopped");
    Ok(())
}

/// What listens where. A server does not end because nobody reads this.
fn announce(anvil: &Anvil) {
    let lines = [
        format!("anvil {}, data in {}", crate::VERSION, anvil.config.data.display()),
        format!("REST and images: {} and {}", anvil.endpoints.http_url(), anvil.endpoints.https_url()),
        format!("gRPC (mTLS):     {}", anvil.endpoints.grpc),
        format!("partition:       {}", anvil.config.partition.id),
    ];
    let _ = super::print(&lines.join("\n"));
}

/// SIGTERM or SIGINT.
fn terminated() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    })
}

fn start_log() -> Result<()> {
    // The libraries below are of interest only when they complain.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("drophammer", LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("starting the log")
}
