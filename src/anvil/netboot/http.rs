//! What booting machines ask for by HTTP: the script, kernel and initrd, and the agent's configuration.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::extract::{ConnectInfo, Path as UrlPath, Query, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use tracing::{info, warn};
use uuid::Uuid;

use super::file_id::FileIds;
use super::file_response::respond;
use super::pxe::{Firmware, HTTP_LOADER};
use super::script::{AgentScript, LOCAL_DISK_SCRIPT, SecureConfig, join_cmdline, with_boot_port};
use super::{Asking, BootAuthority, BootDecision, ConfigAnswer};
use crate::api::enrolment::{MACHINE_HEADER, MACS_HEADER, MAX_MACS, TOKEN_HEADER};
use crate::api::mac::Mac;

/// Everything that the routes need.
pub struct BootHttp {
    pub authority: Arc<dyn BootAuthority>,
    /// Where clients reach these routes, for those that send no usable Host header.
    pub address: SocketAddrV4,
    /// Local files, read anew for each boot.
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Complete URL of the agent's configuration, `http://…/certs`.
    pub pixie_api_url: String,
    /// The same by TLS, and who answers there: for agents that know it, ours.
    pub secure_config: SecureConfig,
    /// Adds `DEBUG=1` to the kernel command line.
    pub debug: bool,
    /// Where the loader for UEFI's HTTP boot is; the same directory as TFTP's.
    pub loader_dir: PathBuf,
    pub ids: FileIds,
}

type Params = Query<HashMap<String, String>>;

/// The routes `/_/ipxe`, `/_/file`, `/_/booting`, `/_/loader/<file>` and `/certs`.
pub fn router(state: Arc<BootHttp>) -> Router {
    Router::new()
        .route("/_/ipxe", get(script))
        .route("/_/file", get(file))
        .route("/_/booting", get(booting))
        .route("/_/loader/{name}", get(loader))
        .route("/certs", get(metal_config))
        .with_state(state)
}

async fn script(State(boot): State<Arc<BootHttp>>, headers: HeaderMap, Query(params): Params) -> Response {
    // Both architectures get the same script; the parameter is checked because the protocol says so.
    if !matches!(params.get("arch").map(String::as_str), Some("0" | "1")) {
        return refuse("arch must be 0 or 1");
    }
    let mac = match mac_of(&params) {
        Ok(mac) => mac,
        Err(reason) => return refuse(&reason),
    };
    let decision = match boot.authority.boot(&mac.to_string()).await {
        Ok(decision) => decision,
        Err(error) => return fail(&error.context(format!("asking what {mac} boots"))),
    };
    match decision {
        BootDecision::Agent { cmdline } => match agent_script(&boot, &headers, mac, &cmdline) {
            Ok(text) => {
                info!(%mac, "boots the agent");
                plain(text)
            }
            Err(error) => fail(&error),
        },
        BootDecision::LocalDisk => {
            info!(%mac, "boots from its disk");
            plain(LOCAL_DISK_SCRIPT.to_owned())
        }
    }
}

fn agent_script(boot: &BootHttp, headers: &HeaderMap, mac: Mac, cmdline: &str) -> Result<String> {
    let (kernel_id, initrd_id) = (boot.ids.seal(&boot.kernel)?, boot.ids.seal(&boot.initrd)?);
    let cmdline = with_boot_port(join_cmdline(cmdline, &boot.pixie_api_url, &boot.secure_config, boot.debug), mac);
    let host = usable_host(headers).map_or_else(|| boot.address.to_string(), str::to_owned);
    Ok(AgentScript { host: &host, mac, kernel_id: &kernel_id, initrd_id: &initrd_id, cmdline: &cmdline }.text())
}

/// The Host header goes into the script as it is, so it must be nothing but a host and a port.
fn usable_host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (is_plain && !host.is_empty()).then_some(host)
}

async fn file(
    State(boot): State<Arc<BootHttp>>,
    method: Method,
    headers: HeaderMap,
    Query(params): Params,
) -> Response {
    let Some(id) = params.get("name").filter(|id| !id.is_empty()) else { return refuse("name is missing") };
    let Some(path) = boot.ids.open(id) else { return refuse("name is not an id that this server gave out") };
    let mac = params.get("mac").map_or("", String::as_str);
    match send_file(&path, &method, &headers, "application/octet-stream") {
        Ok(response) => {
            info!(mac, file = %path.display(), "boot file requested");
            response
        }
        Err(error) => fail(&error),
    }
}

/// A ping: kernel and initrd are loaded, the machine really boots.
async fn booting(Query(params): Params) -> Response {
    match mac_of(&params) {
        Ok(mac) => {
            info!(%mac, "kernel and initrd are loaded, starting the kernel");
            plain("# Booting\n".to_owned())
        }
        Err(reason) => refuse(&reason),
    }
}

/// The loader of UEFI's HTTP boot: the full iPXE, which needs nothing of the firmware but its network protocol.
async fn loader(
    State(boot): State<Arc<BootHttp>>,
    UrlPath(name): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if name != HTTP_LOADER {
        return StatusCode::NOT_FOUND.into_response();
    }
    let candidates = std::iter::once(HTTP_LOADER).chain(Firmware::Efi64.loaders().iter().copied());
    let Some(path) = candidates.map(|name| boot.loader_dir.join(name)).find(|path| path.is_file()) else {
        return fail(&anyhow::anyhow!("there is no UEFI iPXE in {}", boot.loader_dir.display()));
    };
    match send_file(&path, &method, &headers, "application/efi") {
        Ok(response) => response,
        Err(error) => fail(&error),
    }
}

fn send_file(path: &Path, method: &Method, headers: &HeaderMap, content_type: &'static str) -> Result<Response> {
    let open = || -> Result<Response> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        ensure!(file.metadata()?.is_file(), "not a regular file");
        Ok(respond(file, method, headers, content_type)?)
    };
    open().with_context(|| format!("serving {}", path.display()))
}

/// In the extensions of the requests that come by TLS, as [`ConnectInfo`], and of no others.
#[derive(Clone, Copy, Debug)]
pub struct ByTls {
    pub from: SocketAddr,
}

/// The agent's configuration.
///
/// This hands a client key and an HMAC secret to whoever asks, as the protocol wants it: a machine that boots has nothing
/// yet to prove who it is with. Unless machines have to be admitted, the provisioning network must therefore be one that
/// only machines are on.
async fn metal_config(
    State(boot): State<Arc<BootHttp>>,
    by_tls: Option<Extension<ConnectInfo<ByTls>>>,
    headers: HeaderMap,
) -> Response {
    let mut asking = asking(&headers);
    asking.by_tls = by_tls.is_some();
    asking.from = by_tls.map(|Extension(ConnectInfo(by_tls))| by_tls.from.ip());
    let text = match boot.authority.metal_config(asking).await {
        Ok(ConfigAnswer::Config(config)) => {
            serde_json::to_string_pretty(&config).context("encoding the agent's configuration")
        }
        Ok(ConfigAnswer::NotAdmitted(reason)) => return (StatusCode::FORBIDDEN, Json(reason)).into_response(),
        Err(error) => Err(error.context("putting the agent's configuration together")),
    };
    match text {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => fail(&error),
    }
}

/// What can't be read is as good as not said.
fn asking(headers: &HeaderMap) -> Asking {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Asking {
        machine: text(MACHINE_HEADER).and_then(|text| text.parse::<Uuid>().ok()).map(|uuid| uuid.to_string()),
        macs: text(MACS_HEADER)
            .map(|list| list.split(',').take(MAX_MACS).filter_map(|mac| mac.trim().parse().ok()).collect())
            .unwrap_or_default(),
        token: text(TOKEN_HEADER).map(str::to_owned),
        ..Asking::default()
    }
}

/// The error is the sentence that the client gets.
fn mac_of(params: &HashMap<String, String>) -> Result<Mac, String> {
    let text = params.get("mac").ok_or("mac is missing")?;
    text.parse().map_err(|error: crate::api::mac::NotAMac| error.to_string())
}

fn plain(text: String) -> Response {
    ([(CONTENT_TYPE, "text/plain")], text).into_response()
}

fn refuse(reason: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response()
}

fn fail(error: &anyhow::Error) -> Response {
    warn!(error = format!("{error:#}"), "boot request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
}
