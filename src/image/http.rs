//! Images by HTTP: resumed where they broke, refused when they changed.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_RANGE, LAST_MODIFIED, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode, Url};

use super::error::ImageError;
use super::fetch::{Chunker, Stop};
use super::oci::{OciError, Registry};
use super::places::Places;
use super::queue::Sender;
use super::report::Counters;
use super::retry::{History, Retry};
use super::source::{Source, shown};
use crate::causes::with_causes;

/// A try that brought at least so much clears the count of failures: a slow line that breaks every few minutes still
/// gets there, a server that gives a few bytes a time does not keep us for ever.
const WORTHWHILE_BYTES: u64 = 1 << 20;

/// Fetches all of the image into the queue, from the first place that gives it.
///
/// A place that failed before its first byte is followed by the next one. One that failed later is, too, if `resumable`:
/// the image's content is checked as a whole, so that it may come from several places. Otherwise the place's error is
/// returned, and the caller begins anew.
pub(super) async fn fetch_image(
    client: &Client,
    places: &Places,
    resumable: bool,
    retry: Retry,
    counters: &Counters,
    sender: Sender,
) -> Result<(), Stop> {
    let closed = sender.closed();
    let chunks = Chunker::new(sender, counters);
    // a stage that failed must not wait for a server that says nothing
    tokio::select! {
        fetched = fetch_from_any(client, places, resumable, retry, counters, chunks) => fetched,
        () = closed => Err(Stop::Gone),
    }
}

async fn fetch_from_any(
    client: &Client,
    places: &Places,
    resumable: bool,
    retry: Retry,
    counters: &Counters,
    mut chunks: Chunker<'_>,
) -> Result<(), Stop> {
    let (mut offset, mut total) = (0, None);
    let mut last = None;
    loop {
        let url = places.left().into_iter().find_map(|(place, source)| match source {
            Source::Url(url) => Some((place, url)),
            Source::File(_) | Source::Oci(_) => None,
        });
        let Some((place, url)) = url else { return Err(last.unwrap_or(Stop::Gone)) };
        let serving = Some((places, place));
        let (bytes, registry, identity) = (None, None, None);
        let mut fetch = Fetch { client, serving, url, bytes, registry, retry, counters, offset, total, identity };
        let fetched = fetch.run(&mut chunks).await;
        (offset, total) = (fetch.offset, fetch.total);
        match fetched {
            Ok(()) => return Ok(chunks.end().await?),
            Err(Stop::Gone) => return Err(Stop::Gone),
            // the place is sound, but has another image
            Err(Stop::Failed(error @ (ImageError::Changed { .. } | ImageError::OtherLength { .. }))) => {
                return Err(error.into());
            }
            Err(Stop::Failed(error)) => {
                places.fail(place, &error);
                if offset > 0 && !resumable {
                    return Err(error.into());
                }
                last = Some(error.into());
            }
        }
    }
}

/// A layer of an OCI image.
#[derive(Clone, Copy)]
pub(super) struct LayerRequest<'a> {
    pub(super) url: &'a Url,
    /// Length that it must have.
    pub(super) bytes: u64,
    /// Knows how to be let in by the server.
    pub(super) registry: &'a Registry,
}

/// Fetches all of a layer into the queue.
pub(super) async fn fetch_layer(
    client: &Client,
    request: LayerRequest<'_>,
    retry: Retry,
    counters: &Counters,
    sender: Sender,
) -> Result<(), Stop> {
    let closed = sender.closed();
    let mut chunks = Chunker::new(sender, counters);
    let LayerRequest { url, bytes, registry } = request;
    let mut fetch = Fetch {
        client,
        serving: None,
        url,
        bytes: Some(bytes),
        registry: Some(registry),
        retry,
        counters,
        offset: 0,
        total: None,
        identity: None,
    };
    let fetched = async {
        fetch.run(&mut chunks).await?;
        Ok(chunks.end().await?)
    };
    // as for an image
    tokio::select! {
        fetched = fetched => fetched,
        () = closed => Err(Stop::Gone),
    }
}

/// A small text beside the image, `None` if the server has none.
pub(super) async fn fetch_text(
    client: &Client,
    url: &Url,
    limit: usize,
    retry: Retry,
) -> Result<Option<String>, ImageError> {
    retried(url, retry, async || try_text(client, url, limit, retry.stall).await).await
}

/// Tries until there is an answer, or none to be hoped for.
async fn retried<T>(url: &Url, retry: Retry, attempt: impl AsyncFn() -> Result<T, Broken>) -> Result<T, ImageError> {
    let mut failed = 0;
    let mut history = History::default();
    loop {
        let last = match attempt().await {
            Ok(found) => return Ok(found),
            Err(Broken::Final(err)) => return Err(err),
            Err(Broken::Retry(reason)) => reason,
        };
        failed += 1;
        history.note(0, &last.to_string());
        if failed >= retry.tries || last.is_final() {
            return Err(last.into_error(url, 0, None, failed, &history));
        }
        pause(&retry, failed, url, 0, &last).await;
    }
}

async fn try_text(client: &Client, url: &Url, limit: usize, stall: Duration) -> Result<Option<String>, Broken> {
    let request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    let mut response = within(stall, request.send()).await?;
    // object stores that may not be listed answer 403 for what is not there
    if matches!(response.status().as_u16(), 403 | 404 | 410) {
        return Ok(None);
    }
    check_status(&response, url, 0)?;
    check_encoding(&response, url, 0)?;
    let mut text = Vec::new();
    while let Some(chunk) = within(stall, response.chunk()).await? {
        text.extend_from_slice(&chunk);
        if text.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// A small document, and what its server must know to give it.
pub(super) struct Small<'a> {
    pub(super) url: &'a Url,
    pub(super) accept: &'static str,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) limit: u64,
}

/// What a server says when asked for a small document.
pub(super) enum Answer {
    Content(Vec<u8>),
    /// Longer than the limit.
    TooLarge,
    Missing,
    /// It wants to know who asks: its `WWW-Authenticate` headers.
    Challenge(Vec<String>),
}

/// Fetches a small document, trying again as for images.
pub(super) async fn fetch_small(client: &Client, small: &Small<'_>, retry: Retry) -> Result<Answer, ImageError> {
    retried(small.url, retry, async || try_small(client, small, retry.stall).await).await
}

async fn try_small(client: &Client, small: &Small<'_>, stall: Duration) -> Result<Answer, Broken> {
    let request = client.get(small.url.clone()).header(ACCEPT, small.accept).header(ACCEPT_ENCODING, "identity");
    let request = match &small.authorization {
        Some(value) => request.header(AUTHORIZATION, value),
        None => request,
    };
    let mut response = within(stall, request.send()).await?;
    if let Some(challenges) = challenges(&response, small.url) {
        return Ok(Answer::Challenge(challenges));
    }
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(Answer::Missing);
    }
    check_status(&response, small.url, 0)?;
    check_encoding(&response, small.url, 0)?;
    let mut content = Vec::new();
    while let Some(chunk) = within(stall, response.chunk()).await? {
        content.extend_from_slice(&chunk);
        if content.len() as u64 > small.limit {
            return Ok(Answer::TooLarge);
        }
    }
    Ok(Answer::Content(content))
}

/// What the server asks for, if it wants to know who we are. A server that it sent us to may not ask.
fn challenges(response: &Response, url: &Url) -> Option<Vec<String>> {
    let asks = response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == url.origin();
    asks.then(|| {
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
        values.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect()
    })
}

struct Fetch<'a> {
    client: &'a Client,
    /// The image's places, and which of them this is.
    serving: Option<(&'a Places, usize)>,
    url: &'a Url,
    /// Length that it must have, if that is known.
    bytes: Option<u64>,
    registry: Option<&'a Registry>,
    retry: Retry,
    counters: &'a Counters,
    /// Bytes we have, also from places before this one.
    offset: u64,
    total: Option<u64>,
    /// Of the first answer of this place.
    identity: Option<Identity>,
}

impl Fetch<'_> {
    async fn run(&mut self, chunks: &mut Chunker<'_>) -> Result<(), Stop> {
        let mut failed = 0;
        let mut history = History::default();
        let mut counted_from = self.offset;
        loop {
            let last = match self.attempt(chunks).await {
                Ok(()) => return Ok(()),
                Err(AttemptEnd::Stop(stop)) => return Err(stop),
                Err(AttemptEnd::Broken(Broken::Final(err))) => return Err(err.into()),
                Err(AttemptEnd::Broken(Broken::Retry(reason))) => reason,
            };
            if self.offset - counted_from >= WORTHWHILE_BYTES {
                counted_from = self.offset;
                failed = 0;
            }
            failed += 1;
            history.note(self.offset, &last.to_string());
            if failed >= self.retry.tries || last.is_final() {
                return Err(last.into_error(self.url, self.offset, self.total, failed, &history).into());
            }
            Counters::add(&self.counters.retries, 1);
            pause(&self.retry, failed, self.url, self.offset, &last).await;
        }
    }

    /// One connection. `Ok` when the image is complete.
    async fn attempt(&mut self, chunks: &mut Chunker<'_>) -> Result<(), AttemptEnd> {
        let mut response = within(self.retry.stall, self.request().send()).await?;
        // what let us in before may be out of date
        if let (Some(registry), Some(challenges)) = (self.registry, challenges(&response, self.url)) {
            registry.authorize(&challenges).await.map_err(Broken::Final)?;
            response = within(self.retry.stall, self.request().send()).await?;
        }
        let mut skip = self.accept(&response)?;
        let mut unnoted = self.serving;
        while let Some(chunk) = within(self.retry.stall, response.chunk()).await? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let fresh = chunk.get(usize::try_from(skipped).unwrap_or(usize::MAX)..).unwrap_or_default();
            if !fresh.is_empty()
                && let Some((places, place)) = unnoted.take()
            {
                places.serves(place);
            }
            self.offset += fresh.len() as u64;
            if self.total.is_some_and(|total| self.offset > total) {
                break;
            }
            chunks.push(fresh).await.map_err(|gone| AttemptEnd::Stop(gone.into()))?;
        }
        match self.total {
            Some(total) if self.offset < total => Err(Broken::Retry(Reason::EndedEarly).into()),
            Some(total) if self.offset > total => {
                let found = format!("{} bytes of {total}", self.offset);
                Err(Broken::Final(ImageError::WrongRange { url: shown(self.url), offset: self.offset, found }).into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        // the bytes as they lie on the server: the digest is over those
        let request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        let request = match self.registry.and_then(Registry::authorization) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        if self.offset == 0 {
            return request;
        }
        let request = request.header(RANGE, format!("bytes={}-", self.offset));
        match self.identity.as_ref().and_then(Identity::condition) {
            Some(value) => request.header(IF_RANGE, value),
            None => request,
        }
    }

    /// Looks at the head of an answer. Returns how many bytes of the body we have already.
    fn accept(&mut self, response: &Response) -> Result<u64, Broken> {
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && self.offset > 0 {
            return Err(self.range_refused(response.headers()));
        }
        check_status(response, self.url, self.offset)?;
        check_encoding(response, self.url, self.offset)?;
        let identity = Identity::of(response.headers());
        let (start, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.content_range(response.headers())?,
            _ => (0, response.content_length()),
        };
        if self.offset == 0 {
            if let (Some(expected), Some(found)) = (self.bytes, total)
                && expected != found
            {
                let (image, what) = (shown(self.url), "the layer".to_owned());
                let source = OciError::WrongLength { what, expected, found };
                return Err(Broken::Final(ImageError::Oci { image, source }));
            }
            self.identity = Some(identity);
            self.total = total.or(self.bytes);
            self.counters.set_total(self.total);
            return Ok(0);
        }
        if let Some((what, expected, found)) = self.identity.as_ref().and_then(|before| before.difference(&identity)) {
            return Err(self.changed(what, expected, found));
        }
        if let (Some(before), Some(now)) = (self.total, total)
            && before != now
        {
            return Err(self.changed("length", before.to_string(), now.to_string()));
        }
        self.identity.get_or_insert(identity);
        // the whole again, from a server without ranges: what we have is read over
        Ok(self.offset - start)
    }

    /// Start and total of a partial answer, which must begin where we asked it to, or at 0.
    fn content_range(&self, headers: &HeaderMap) -> Result<(u64, Option<u64>), Broken> {
        let text = header_text(headers, &CONTENT_RANGE).unwrap_or_else(|| "no Content-Range".to_owned());
        match parse_content_range(&text) {
            Some(range) if range.start == Some(self.offset) => Ok((self.offset, range.total)),
            _ => Err(Broken::Final(ImageError::WrongRange { url: shown(self.url), offset: self.offset, found: text })),
        }
    }

    /// The server has nothing behind what we have, although more was promised.
    fn range_refused(&self, headers: &HeaderMap) -> Broken {
        let now = header_text(headers, &CONTENT_RANGE).and_then(|text| parse_content_range(&text)?.total);
        let found = now.unwrap_or(self.offset);
        match self.total {
            Some(expected) if found < expected && self.identity.is_some() => {
                Broken::Final(ImageError::Short { image: shown(self.url), expected, found })
            }
            _ => self.changed("length", describe(self.total), describe(now)),
        }
    }

    /// Against what this place said before, or else against the place before it.
    fn changed(&self, what: &'static str, expected: String, found: String) -> Broken {
        let (url, offset) = (shown(self.url), self.offset);
        Broken::Final(match self.identity {
            Some(_) => ImageError::Changed { url, offset, what, expected, found },
            None => ImageError::OtherLength { url, offset, expected, found },
        })
    }
}

/// What tells one version of a file from the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity {
    etag: Option<String>,
    modified: Option<String>,
}

impl Identity {
    fn of(headers: &HeaderMap) -> Self {
        Self { etag: header_text(headers, &ETAG), modified: header_text(headers, &LAST_MODIFIED) }
    }

    /// For If-Range, which takes a strong ETag or a date (RFC 9110, 13.1.5).
    fn condition(&self) -> Option<HeaderValue> {
        let strong = self.etag.as_ref().filter(|etag| !etag.starts_with("W/"));
        HeaderValue::from_str(strong.or(self.modified.as_ref())?).ok()
    }

    /// What differs, as it was and as it is. A server that stops sending a header proves nothing.
    fn difference(&self, now: &Self) -> Option<(&'static str, String, String)> {
        let differ = |what, a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) if a != b => Some((what, a.clone(), b.clone())),
            _ => None,
        };
        differ("ETag", &self.etag, &now.etag).or_else(|| differ("Last-Modified", &self.modified, &now.modified))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

/// `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let start = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some(ContentRange { start, total })
}

/// Why one connection was not enough.
enum Broken {
    Final(ImageError),
    Retry(Reason),
}

enum AttemptEnd {
    Stop(Stop),
    Broken(Broken),
}

impl From<Broken> for AttemptEnd {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

enum Reason {
    /// The body stopped before its promised length.
    EndedEarly,
    Status(StatusCode),
    Stalled(Duration),
    Connection(String),
    /// A redirection that is not followed.
    Redirect(String),
}

impl Reason {
    /// Another try would end the same way.
    fn is_final(&self) -> bool {
        match self {
            Self::Redirect(_) => true,
            Self::EndedEarly | Self::Status(_) | Self::Stalled(_) | Self::Connection(_) => false,
        }
    }

    /// After the last try. What was always the same gets its own error.
    fn into_error(self, url: &Url, offset: u64, total: Option<u64>, tries: u32, history: &History) -> ImageError {
        let url = shown(url);
        match (self, total) {
            (Self::Redirect(reason), _) => ImageError::Answer { url, offset, reason },
            (Self::EndedEarly, Some(expected)) if history.is_uniform() => {
                ImageError::Short { image: url, expected, found: offset }
            }
            (Self::Status(status), _) if history.is_uniform() => {
                ImageError::Status { url, offset, status: status.as_u16(), expected: expected_status(offset) }
            }
            (Self::EndedEarly | Self::Status(_) | Self::Stalled(_) | Self::Connection(_), _) => {
                ImageError::Unreachable { url, offset, tries, history: history.to_string() }
            }
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EndedEarly => f.write_str("connection ended before the promised length"),
            Self::Status(status) => write!(f, "server answered {}", status.as_u16()),
            Self::Stalled(time) => write!(f, "nothing received for {} s", time.as_secs_f32()),
            Self::Connection(text) | Self::Redirect(text) => f.write_str(text),
        }
    }
}

/// An answer that will not get better is final; one of an overloaded or restarting server is worth another try.
fn check_status(response: &Response, url: &Url, offset: u64) -> Result<(), Broken> {
    let status = response.status();
    match status.as_u16() {
        200 => Ok(()),
        206 if offset > 0 => Ok(()),
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Err(Broken::Retry(Reason::Status(status))),
        other => Err(Broken::Final(ImageError::Status {
            url: shown(url),
            offset,
            status: other,
            expected: expected_status(offset),
        })),
    }
}

/// Bytes that were compressed on the way are not the file that the digest is of.
fn check_encoding(response: &Response, url: &Url, offset: u64) -> Result<(), Broken> {
    match header_text(response.headers(), &CONTENT_ENCODING) {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") && !is_own_coding(&coding, url) => {
            Err(Broken::Final(ImageError::Answer {
                url: shown(url),
                offset,
                reason: format!(
                    "the server sends it with Content-Encoding {coding:?}, although it was asked for the file as it \
                     is; turn that off for images"
                ),
            }))
        }
        Some(_) | None => Ok(()),
    }
}

/// Some servers tell the compression of the file itself in this way, by its name (Apache's `AddEncoding`).
fn is_own_coding(coding: &str, url: &Url) -> bool {
    let names: &[&str] = match coding.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => &[".gz", ".tgz"],
        "zstd" => &[".zst", ".tzst"],
        "xz" | "x-xz" => &[".xz", ".txz"],
        _ => &[],
    };
    names.iter().any(|name| url.path().ends_with(name))
}

fn expected_status(offset: u64) -> &'static str {
    if offset == 0 { "200" } else { "206 or 200" }
}

/// The answer to one wait for the network.
async fn within<T>(stall: Duration, work: impl Future<Output = reqwest::Result<T>>) -> Result<T, AttemptError> {
    match tokio::time::timeout(stall, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(err)) => Err(AttemptError(connection_reason(&err))),
        Err(_) => Err(AttemptError(Reason::Stalled(stall))),
    }
}

struct AttemptError(Reason);

impl From<AttemptError> for Broken {
    fn from(AttemptError(reason): AttemptError) -> Self {
        Self::Retry(reason)
    }
}

impl From<AttemptError> for AttemptEnd {
    fn from(err: AttemptError) -> Self {
        Self::Broken(err.into())
    }
}

fn connection_reason(err: &reqwest::Error) -> Reason {
    if err.is_redirect() {
        return Reason::Redirect(err.source().map(with_causes).unwrap_or_else(|| "redirected".to_owned()));
    }
    let mut cause: Option<&(dyn Error + 'static)> = err.source();
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::UnexpectedEof)
            && err.is_body_or_decode()
        {
            return Reason::EndedEarly;
        }
        cause = inner.source();
    }
    // reqwest's own text repeats the URL with its query
    Reason::Connection(err.source().map(with_causes).unwrap_or_else(|| "request failed".to_owned()))
}

trait BodyError {
    fn is_body_or_decode(&self) -> bool;
}

impl BodyError for reqwest::Error {
    fn is_body_or_decode(&self) -> bool {
        self.is_body() || self.is_decode()
    }
}

async fn pause(retry: &Retry, failed: u32, url: &Url, offset: u64, reason: &Reason) {
    let time = retry.pause(failed, getrandom::u32().unwrap_or(250));
    tracing::warn!(
        url = shown(url),
        offset,
        try_of = format!("{failed}/{}", retry.tries),
        again_in = format!("{:.1} s", time.as_secs_f32()),
        %reason,
        "image connection broke"
    );
    tokio::time::sleep(time).await;
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn describe(length: Option<u64>) -> String {
    length.map_or_else(|| "not told".to_owned(), |length| length.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_understood() {
        let range = |start, total| Some(ContentRange { start, total });
        assert_eq!(parse_content_range("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(parse_content_range("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(parse_content_range("bytes */10"), range(None, Some(10)));
        for text in ["", "bytes", "bytes 5/10", "items 5-9/10", "bytes x-9/10", "bytes 5-9/99999999999999999999"] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_files_own_compression_may_be_told_as_a_coding() {
        let own = |coding, path| is_own_coding(coding, &format!("http://10.0.0.1/{path}?x=.gz").parse().unwrap());
        assert!(own("gzip", "img.tar.gz") && own("X-GZIP", "img.tgz") && own("zstd", "img.tar.zst"));
        assert!(!own("gzip", "img.tar.zst") && !own("gzip", "img.tar") && !own("br", "img.tar.br"));
    }

    #[test]
    fn a_weak_etag_gives_way_to_the_date() {
        let mut identity = Identity { etag: Some("W/\"1\"".into()), modified: Some("Sun, 22 Nov 2026".into()) };
        assert_eq!(identity.condition().unwrap(), "Sun, 22 Nov 2026");
        identity.etag = Some("\"1\"".into());
        assert_eq!(identity.condition().unwrap(), "\"1\"");
        assert_eq!(Identity::default().condition(), None);
    }

    #[test]
    fn a_change_is_seen_only_where_both_tell() {
        let one = Identity { etag: Some("1".into()), modified: None };
        let two = Identity { etag: Some("2".into()), modified: None };
        assert_eq!(one.difference(&two), Some(("ETag", "1".into(), "2".into())));
        assert_eq!(one.difference(&Identity::default()), None);
    }
}
