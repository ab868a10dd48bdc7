//! Operating system images over HTTP: `/images/<id>/<file>` from a directory, with their sidecars such as
//! `<file>.sha256`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use tracing::{info, warn};

use super::netboot::file_response::respond;

/// Serves `<dir>/<id>/<file>`. There is no listing, and no way out of the directory: not by names, nor by links.
pub fn router(dir: PathBuf) -> Router {
    Router::new().route("/images/{id}/{file}", get(serve)).with_state(Arc::new(dir))
}

async fn serve(
    State(dir): State<Arc<PathBuf>>,
    UrlPath((id, name)): UrlPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if !is_plain(&id) || !is_plain(&name) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let path = Path::new(&id).join(&name);
    let content_type = if name.ends_with(".sha256") { "text/plain" } else { "application/octet-stream" };
    match open_beneath(&dir, &path).and_then(|file| respond(file, &method, &headers, content_type)) {
        Ok(response) => {
            info!(image = %path.display(), %method, status = response.status().as_u16(), "image requested");
            response
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound || leads_out(&error) => {
            StatusCode::NOT_FOUND.into_response()
        }
        Err(error) => {
            warn!(image = %path.display(), %error, "image not served");
            (StatusCode::INTERNAL_SERVER_ERROR, "the image can't be read; see the server's log\n").into_response()
        }
    }
}

/// One path component that is no hidden file. The router decodes `%2F`, so a `/` may well be inside.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// What openat2 says of a link that leaves the directory.
fn leads_out(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::CrossesDevices
}

/// Opens a regular file. The kernel refuses whatever leads out of `dir` (openat2(2), RESOLVE_BENEATH).
fn open_beneath(dir: &Path, path: &Path) -> io::Result<File> {
    let root = File::open(dir)?;
    // Without O_NONBLOCK a FIFO would hold the request for ever.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd: OwnedFd = openat2(&root, path, how)?;
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a regular file"));
    }
    Ok(file)
}
