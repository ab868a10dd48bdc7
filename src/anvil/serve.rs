//! The running server: everything that is outside comes in as a parameter, so that tests start the real one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::Config;
use super::grpc;
use super::keys;
use super::machines;
use super::netboot::http::ByTls;
use super::rest;
use super::state::{Anvil, Endpoints};
use super::tls::TlsListener;
use crate::api::hmac::Role;

/// Open calls get this long to end when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The sockets of the API.
pub struct Listeners {
    pub http: TcpListener,
    pub https: TcpListener,
    pub grpc: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the configuration. Port 0 takes any free one.
    pub async fn bind(config: &Config) -> Result<Self> {
        let bind = async |name: &str, port: u16| {
            let address = SocketAddr::new(config.listen, port);
            TcpListener::bind(address).await.with_context(|| format!("listening for {name} on {address}"))
        };
        Ok(Self {
            http: bind("HTTP", config.http_port).await?,
            https: bind("HTTPS", config.https_port).await?,
            grpc: bind("gRPC", config.grpc_port).await?,
        })
    }

    pub fn endpoints(&self) -> Result<Endpoints> {
        Ok(Endpoints {
            http: self.http.local_addr().context("reading the HTTP listener's address")?,
            https: self.https.local_addr().context("reading the HTTPS listener's address")?,
            grpc: self.grpc.local_addr().context("reading the gRPC listener's address")?,
        })
    }
}

/// How the `anvil` command on this host finds the server: `DATA/client.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFile {
    pub url: String,
    pub key_file: std::path::PathBuf,
}

/// Opens the data directory and tells clients on this host where the server is.
pub fn open(config: Config, endpoints: Endpoints) -> Result<Anvil> {
    let anvil = Anvil::open(config, endpoints)?;
    let data = std::path::absolute(&anvil.config.data).context("making the data directory's path absolute")?;
    let client = ClientFile { url: endpoints.http_url(), key_file: keys::key_file(&data.join("hmac"), Role::Admin) };
    keys::write_secret(&data.join("client.json"), &serde_json::to_string_pretty(&client)?)?;
    Ok(anvil)
}

/// Serves REST with `routes` beside it, gRPC, and the periodic jobs, until `shutdown` or the first failure.
pub async fn run(anvil: Anvil, listeners: Listeners, routes: Router, shutdown: impl Future<Output = ()>) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        // The sender lives as long as this function, so the wait ends only by its word.
        async move { drop(stopped.wait_for(|stop| *stop).await) }
    };
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let app = rest::router(anvil.clone()).merge(routes);
    let tls = TlsListener::new(listeners.https, &anvil.pki).context("setting TLS up")?;
    let secure_app = app.clone().into_make_service_with_connect_info::<ByTls>();
    let https = axum::serve(tls, secure_app).with_graceful_shutdown(until_stopped());
    tasks.spawn(async move { https.await.context("serving HTTPS") });
    let http = axum::serve(listeners.http, app).with_graceful_shutdown(until_stopped());
    tasks.spawn(async move { http.await.context("serving HTTP") });
    tasks.spawn(grpc::serve(anvil.clone(), listeners.grpc, until_stopped()));
    tasks.spawn(judge_liveliness(anvil.clone(), until_stopped()));

    let result = tokio::select! {
        () = shutdown => Ok(()),
        Some(ended) = tasks.join_next() => ended.context("running a part of anvil").and_then(|result| result),
    };
    // All receivers gone means that all parts ended already.
    let _ = stop.send(true);
    anvil.waiters.close();
    let drained = tokio::time::timeout(DRAIN_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some calls did not end within {} s and are cut off", DRAIN_LIMIT.as_secs());
    }
    result
}

async fn judge_liveliness(anvil: Anvil, stopped: impl Future<Output = ()>) -> Result<()> {
    let mut ticks = tokio::time::interval(machines::LIVELINESS_PERIOD);
    let rounds = async {
        loop {
            ticks.tick().await;
            if let Err(error) = anvil.store.run(|tx| machines::judge_liveliness(tx, OffsetDateTime::now_utc())).await {
                tracing::warn!(%error, "judging the liveliness of machines failed, will try again");
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stopped => {}
    }
    Ok(())
}
