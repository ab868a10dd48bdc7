//! A local file as an HTTP answer: ranges, validators, and a body of bounded buffers (RFC 9110).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use axum::http::{HeaderMap, Method, StatusCode, response};
use axum::response::Response;
use tracing::warn;

/// What one read takes from the page cache, and the most that waits for a slow client.
const CHUNK_BYTES: u64 = 256 << 10;

/// Inclusive, within the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ByteRange {
    first: u64,
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Everything,
    Part(ByteRange),
    Unsatisfiable,
}

/// Answers GET or HEAD with an open regular file.
pub fn respond(file: File, method: &Method, headers: &HeaderMap, content_type: &'static str) -> io::Result<Response> {
    let metadata = file.metadata()?;
    let size = metadata.len();
    let (tag, modified) = (entity_tag(&metadata), metadata.modified()?);
    let answer = Response::builder()
        .header(ETAG, &tag)
        .header(LAST_MODIFIED, httpdate::fmt_http_date(modified))
        .header(ACCEPT_RANGES, "bytes");
    if is_not_modified(headers, &tag, modified) {
        return finish(answer.status(StatusCode::NOT_MODIFIED), Body::empty());
    }
    let (status, range) = match wanted(headers, &tag, modified, size) {
        Wanted::Everything => (StatusCode::OK, size.checked_sub(1).map(|last| ByteRange { first: 0, last })),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
        Wanted::Unsatisfiable => {
            let answer =
                answer.status(StatusCode::RANGE_NOT_SATISFIABLE).header(CONTENT_RANGE, format!("bytes */{size}"));
            return finish(answer, Body::empty());
        }
    };
    let length = range.map_or(0, |range| range.last - range.first + 1);
    let mut answer = answer.status(status).header(CONTENT_LENGTH, length).header(CONTENT_TYPE, content_type);
    if let (StatusCode::PARTIAL_CONTENT, Some(ByteRange { first, last })) = (status, range) {
        answer = answer.header(CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
    }
    let body = match range {
        Some(range) if method == Method::GET => stream(file, range),
        Some(_) | None => Body::empty(),
    };
    finish(answer, body)
}

fn finish(answer: response::Builder, body: Body) -> io::Result<Response> {
    answer.body(body).map_err(io::Error::other)
}

/// Changes whenever the file is replaced or written: inode, size and time to the nanosecond.
fn entity_tag(metadata: &Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}.{:09x}\"", metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn text(headers: &HeaderMap, name: axum::http::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// RFC 9110 section 13.1: If-None-Match, else If-Modified-Since.
fn is_not_modified(headers: &HeaderMap, tag: &str, modified: SystemTime) -> bool {
    if let Some(tags) = text(headers, IF_NONE_MATCH) {
        return tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    }
    text(headers, IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|since| whole_seconds(modified) <= since)
}

/// HTTP dates have no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A range counts only if the file is still the one that the client has a part of (If-Range).
fn wanted(headers: &HeaderMap, tag: &str, modified: SystemTime, size: u64) -> Wanted {
    let Some(range) = text(headers, RANGE) else { return Wanted::Everything };
    match text(headers, IF_RANGE) {
        Some(known) if known != tag && known != httpdate::fmt_http_date(modified) => Wanted::Everything,
        Some(_) | None => parse_range(range, size),
    }
}

/// One range of bytes. Several at once, other units and malformed ones are passed over, as RFC 9110 section 14.2
/// allows: the client then gets the whole file.
fn parse_range(value: &str, size: u64) -> Wanted {
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
        return Wanted::Everything;
    };
    let number =
        |text: &str| if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last),
        (Some(first), None) if last.is_empty() => (first, u64::MAX),
        (None, Some(0)) if first.is_empty() => return Wanted::Unsatisfiable,
        (None, Some(count)) if first.is_empty() => (size.saturating_sub(count), u64::MAX),
        _ => return Wanted::Everything,
    };
    match size.checked_sub(1) {
        Some(end) if range.0 <= end => Wanted::Part(ByteRange { first: range.0, last: range.1.min(end) }),
        Some(_) | None => Wanted::Unsatisfiable,
    }
}

/// Reads a chunk when the connection wants one. A file that shrinks on the way ends the connection with an error, so
/// that the client does not take a part for the whole.
fn stream(file: File, range: ByteRange) -> Body {
    let file = Arc::new(file);
    let chunks = futures_util::stream::try_unfold(range.first, move |offset| {
        let file = Arc::clone(&file);
        async move {
            if offset > range.last {
                return Ok(None);
            }
            let len = CHUNK_BYTES.min(range.last - offset + 1);
            let read = tokio::task::spawn_blocking(move || read_chunk(&file, offset, len as usize)).await;
            match read.map_err(io::Error::other).flatten() {
                Ok(chunk) => Ok(Some((chunk, offset + len))),
                Err(error) => {
                    warn!(offset, %error, "HTTP: reading a file failed in the middle of an answer");
                    Err(error)
                }
            }
        }
    });
    Body::from_stream(chunks)
}

fn read_chunk(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; len];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        let part = |first, last| Wanted::Part(ByteRange { first, last });
        for (value, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-5", part(2, 5)),
            ("bytes=2-", part(2, 9)),
            ("bytes=2-500", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Everything),
            ("bytes=0-1,4-5", Wanted::Everything),
            ("bytes=", Wanted::Everything),
            ("bytes=-", Wanted::Everything),
            ("bytes=+1-2", Wanted::Everything),
            ("lines=0-1", Wanted::Everything),
            ("bytes=0-99999999999999999999999", Wanted::Everything),
        ] {
            assert_eq!(parse_range(value, 10), expected, "{value}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Wanted::Unsatisfiable);
    }
}
