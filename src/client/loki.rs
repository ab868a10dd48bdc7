//! The log, to a server that takes Loki's push: labels and lines as metal-stack's agent sends them, in the form of JSON
//! (Loki's HTTP API, `POST /loki/api/v1/push`).
//!
//! Nobody waits for it. A server that is slow, away, or busy (429, 5xx) gets the same batch again, later and later, while
//! the queue fills; one that refuses a batch (other 4xx) does not get that one again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::log_queue::{Line, LogQueue};
use crate::causes::with_causes;
use crate::net::Backoff;

/// As upstream's agent: dashboards look for it.
const COMPONENT: &str = "metal-hammer";
/// A batch is sent after this time, or when it has so many bytes.
const BATCH_TIME: Duration = Duration::from_secs(1);
const BATCH_BYTES: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A server that asks for more is not waited for that long.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Between two complaints about the server.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);
/// Of what a server says about a refusal.
const MOST_REASON: usize = 300;

/// Where the log goes, and as whose. Not `Debug`: it may hold a password.
pub struct Loki {
    http: Client,
    url: Url,
    basic_auth: Option<(String, String)>,
    machine_id: String,
    timeout: Duration,
}

/// Why a batch did not arrive.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Worth another try, not before this time.
    Later(String, Option<Duration>),
    /// The same batch would be refused again.
    Refused(String),
}

impl Loki {
    /// `endpoint` is used as it stands.
    ///
    /// # Errors
    ///
    /// When it is no URL of http or https. The text is not in the error, as it may hold a password.
    pub fn new(http: Client, endpoint: &str, basic_auth: Option<(String, String)>, machine_id: &str) -> Result<Self> {
        let url: Url = endpoint.parse().context("the endpoint is no URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("the endpoint is neither http nor https, but {}", url.scheme());
        }
        Ok(Self { http, url, basic_auth, machine_id: machine_id.to_owned(), timeout: TIMEOUT })
    }

    /// With another time for a server to answer than 10 s.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The endpoint without user and password.
    pub fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // Neither fails for URLs with a host, which those of http have.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.to_string()
    }

    /// Sends what is queued from now on, until the queue is closed.
    pub fn start(self, queue: LogQueue) -> JoinHandle<()> {
        queue.set_served();
        tokio::spawn(self.run(queue))
    }

    async fn run(self, queue: LogQueue) {
        let mut complaint = Complaint::default();
        loop {
            let batch = queue.take(BATCH_TIME, BATCH_BYTES).await;
            if batch.is_empty() {
                return;
            }
            let lost = if self.deliver(&batch, &queue, &mut complaint).await { 0 } else { batch.len() };
            queue.settle(lost);
            let dropped = queue.take_dropped();
            if dropped > 0 {
                warn!(server = self.shown_url(), "{dropped} lines of the log did not get to the log server");
            }
        }
    }

    /// Whether the server took it.
    async fn deliver(&self, batch: &[Line], queue: &LogQueue, complaint: &mut Complaint) -> bool {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            match self.push(batch).await {
                Ok(()) => {
                    complaint.end(&self.shown_url());
                    return true;
                }
                Err(Failure::Refused(reason)) => {
                    complaint.make(&self.shown_url(), &reason, "it does not get these lines again");
                    return false;
                }
                Err(Failure::Later(reason, not_before)) => {
                    complaint.make(&self.shown_url(), &reason, "trying again behind the scenes");
                    let delay = not_before.unwrap_or_default().max(backoff.next_delay());
                    tokio::time::sleep(delay).await;
                    if queue.is_closed() {
                        return false;
                    }
                }
            }
        }
    }

    async fn push(&self, batch: &[Line]) -> Result<(), Failure> {
        let body = encode(batch, &self.machine_id, Instant::now(), SystemTime::now());
        let mut request = self.http.post(self.url.clone()).timeout(self.timeout).json(&body);
        if let Some((user, password)) = &self.basic_auth {
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await;
        // Its URL may hold a password.
        let mut answer = answer.map_err(|error| Failure::Later(with_causes(&error.without_url()), None))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let reason = format!("it answered {status}: {}", read_reason(&mut answer).await);
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
        {
            let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let not_before = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
            return Err(Failure::Later(reason, not_before));
        }
        Err(Failure::Refused(reason))
    }
}

/// The start of what the server says, on one line.
async fn read_reason(answer: &mut reqwest::Response) -> String {
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() >= MOST_REASON {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_REASON).collect::<String>().trim().to_owned()
}

/// The body of a push: a stream a level, its lines in order, times in nanoseconds as text.
fn encode(batch: &[Line], machine_id: &str, now: Instant, clock: SystemTime) -> Value {
    let mut streams: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    for line in batch {
        let at = clock.checked_sub(now.saturating_duration_since(line.at)).unwrap_or(UNIX_EPOCH);
        let nanoseconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        streams.entry(line.level.as_str()).or_default().push(json!([nanoseconds, text_of(line, at)]));
    }
    let streams: Vec<Value> = streams
        .into_iter()
        .map(|(level, values)| {
            let labels = json!({ "component": COMPONENT, "machineID": machine_id, "level": level });
            json!({ "stream": labels, "values": values })
        })
        .collect();
    json!({ "streams": streams })
}

/// A line as one JSON object of texts.
fn text_of(line: &Line, at: SystemTime) -> String {
    let mut object = Map::new();
    for (key, value) in &line.fields {
        object.insert(key.clone(), Value::String(value.clone()));
    }
    let time = OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default();
    for (key, value) in [("msg", line.message.as_str()), ("level", line.level.as_str()), ("time", &time)] {
        object.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Value::Object(object).to_string()
}

/// Complains at the first failure and then once a minute; says when it is over.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn make(&mut self, server: &str, reason: &str, then: &str) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PERIOD) {
            return debug!(server, error = reason, "the log server did not take a batch");
        }
        self.last = Some(Instant::now());
        warn!(server, error = reason, "the log server did not take lines; {then}");
    }

    fn end(&mut self, server: &str) {
        if self.last.take().is_some() {
            info!(server, "the log server takes lines again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn line(at: Instant, level: Level, message: &str) -> Line {
        Line { at, level, message: message.to_owned(), fields: vec![("disk".to_owned(), "vda \"x\"".to_owned())] }
    }

    #[test]
    fn a_push_is_lokis_with_upstreams_labels_and_the_times_of_the_lines() {
        let now = Instant::now() + Duration::from_secs(100);
        let clock = UNIX_EPOCH + Duration::from_secs(1_782_864_000);
        let batch = [
            line(now - Duration::from_secs(2), Level::INFO, "first"),
            line(now - Duration::from_millis(1500), Level::WARN, "odd"),
            line(now, Level::INFO, "second"),
        ];
        let body = encode(&batch, "m-1", now, clock);
        let streams = body["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 2);
        assert_eq!(streams[0]["stream"], json!({"component": "metal-hammer", "machineID": "m-1", "level": "INFO"}));
        assert_eq!(streams[1]["stream"]["level"], "WARN");
        assert_eq!(streams[0]["values"][0][0], "1782863998000000000");
        assert_eq!(streams[1]["values"][0][0], "1782863998500000000");
        let object: Value = serde_json::from_str(streams[0]["values"][1][1].as_str().unwrap()).unwrap();
        let wanted = json!({"msg": "second", "level": "INFO", "time": "2026-07-01T00:00:00Z", "disk": "vda \"x\""});
        assert_eq!(object, wanted);
    }

    #[test]
    fn a_password_in_the_url_is_not_shown() {
        let http = crate::net::http_client(crate::net::Resolver::new(&[], &[]), None).unwrap();
        let loki = |url: &str| Loki::new(http.clone(), url, None, "m");
        assert_eq!(loki("https://u:SECRET@10.0.0.9/push?key=SECRET").unwrap().shown_url(), "https://10.0.0.9/push");
        for wrong in ["u:SECRET@10.0.0.9", "", "ftp://u:SECRET@a/b"] {
            let error = format!("{:#}", loki(wrong).err().unwrap());
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
