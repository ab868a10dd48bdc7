//! The log on its way to a server that speaks Loki's push: a small one of the test's own, which does what it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::post;
use drophammer::client::log_queue::{Line, LogQueue};
use drophammer::client::loki::Loki;
use drophammer::net::{Resolver, http_client};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;

/// Held by each test: `tracing` asks whoever logs first whether a line is wanted, also when that is a test without
/// anybody who wants any.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Only reached when something that must happen does not.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does with the next request; without a word it takes it.
#[derive(Clone, Copy)]
enum Act {
    Answer(u16),
    /// Holds the connection and says nothing.
    Hang,
}

#[derive(Default)]
struct Seen {
    acts: VecDeque<Act>,
    /// Path with query, headers, body.
    requests: Vec<(String, HeaderMap, Value)>,
    /// Messages of the batches that were taken.
    taken: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Seen>>);

impl Server {
    fn with(acts: &[Act]) -> Self {
        let server = Self::default();
        server.0.lock().unwrap().acts = acts.iter().copied().collect();
        server
    }

    async fn listen(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/loki/api/v1/push", post(push)).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        address
    }

    async fn start(&self) -> SocketAddr {
        self.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    fn requests(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    fn taken(&self) -> Vec<String> {
        self.0.lock().unwrap().taken.clone()
    }

    async fn wait_for(&self, message: &str) {
        let arrived = async {
            while !self.taken().iter().any(|taken| taken.contains(message)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, arrived).await.unwrap_or_else(|_| panic!("{message:?} never came: {:?}", self.taken()));
    }
}

async fn push(State(server): State<Server>, uri: Uri, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let act = {
        let mut seen = server.0.lock().unwrap();
        seen.requests.push((uri.to_string(), headers, body.clone()));
        seen.acts.pop_front().unwrap_or(Act::Answer(204))
    };
    match act {
        Act::Answer(status) => {
            if status < 300 {
                server.0.lock().unwrap().taken.extend(messages(&body));
            }
            (StatusCode::from_u16(status).unwrap(), [("retry-after", "1")], "as the test wants it")
        }
        Act::Hang => std::future::pending().await,
    }
}

/// In the order of their times.
fn messages(body: &Value) -> Vec<String> {
    let mut lines: Vec<(u128, String)> = Vec::new();
    for stream in body["streams"].as_array().unwrap() {
        for value in stream["values"].as_array().unwrap() {
            let line: Value = serde_json::from_str(value[1].as_str().unwrap()).unwrap();
            assert_eq!(line["level"], stream["stream"]["level"]);
            lines.push((value[0].as_str().unwrap().parse().unwrap(), line["msg"].as_str().unwrap().to_owned()));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, message)| message).collect()
}

fn line(message: &str) -> Line {
    Line { at: Instant::now(), level: Level::INFO, message: message.to_owned(), fields: Vec::new() }
}

fn send(queue: &LogQueue, address: SocketAddr) {
    let endpoint = format!("http://{address}/loki/api/v1/push?tenant=a");
    let http = http_client(Resolver::new(&[], &[]), None).unwrap();
    let auth = Some(("agent".to_owned(), "password".to_owned()));
    let loki = Loki::new(http, &endpoint, auth, "m-1").unwrap().with_timeout(Duration::from_secs(1));
    drop(loki.start(queue.clone()));
}

#[tokio::test]
async fn lines_arrive_in_order_as_a_push_of_json_with_the_configured_user() {
    let _alone = ALONE.lock().await;
    let (server, queue) = (Server::default(), LogQueue::default());
    queue.push(line("before there was a server"));
    send(&queue, server.start().await);
    queue.push(line("second"));
    queue.push(Line { level: Level::ERROR, fields: vec![("error".into(), "why".into())], ..line("third") });
    assert!(queue.flush(PATIENCE).await);
    assert_eq!(server.taken(), ["before there was a server", "second", "third"]);
    let seen = server.0.lock().unwrap();
    let (uri, headers, body) = &seen.requests[0];
    assert_eq!(uri, "/loki/api/v1/push?tenant=a");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Basic YWdlbnQ6cGFzc3dvcmQ=");
    let labels = &body["streams"][0]["stream"];
    assert_eq!(labels["component"], "metal-hammer");
    assert_eq!(labels["machineID"], "m-1");
}

#[tokio::test]
async fn a_busy_or_broken_server_gets_the_same_lines_again_and_each_once() {
    let _alone = ALONE.lock().await;
    let server = Server::with(&[Act::Answer(429), Act::Answer(500), Act::Hang, Act::Answer(503)]);
    let queue = LogQueue::default();
    let begun = Instant::now();
    queue.push(line("first"));
    send(&queue, server.start().await);
    assert!(queue.flush(PATIENCE).await);
    assert!(begun.elapsed() >= Duration::from_secs(3), "retry-after was not kept to: {:?}", begun.elapsed());
    queue.push(line("second"));
    assert!(queue.flush(PATIENCE).await);
    assert_eq!(server.taken(), ["first", "second"]);
    assert_eq!(server.requests(), 6);
    assert_eq!(queue.take_dropped(), 0);
}

#[tokio::test]
async fn a_batch_that_is_refused_is_not_sent_again_and_the_next_says_how_much_was_lost() {
    let _alone = ALONE.lock().await;
    let server = Server::with(&[Act::Answer(400)]);
    let queue = LogQueue::default();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(queue.layer()));
    for n in 0..3 {
        queue.push(line(&format!("lost {n}")));
    }
    send(&queue, server.start().await);
    server.wait_for("3 lines of the log did not get to the log server").await;
    queue.push(line("later"));
    server.wait_for("later").await;
    let taken = server.taken();
    assert!(!taken.iter().any(|message| message.starts_with("lost ")), "{taken:?}");
    let complaint = taken.iter().find(|message| message.contains("did not take lines")).unwrap();
    assert!(complaint.contains("does not get these lines again"), "{complaint}");
}

#[tokio::test]
async fn a_server_that_is_away_holds_up_nobody_and_gets_the_newest_lines_when_it_comes() {
    let _alone = ALONE.lock().await;
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let queue = LogQueue::default();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(queue.layer()));
    send(&queue, address);
    tokio::task::yield_now().await;
    for n in 0..30_000 {
        tracing::info!(target: "drophammer::test", "line {n} {}", "x".repeat(100));
    }
    assert!(!queue.flush(Duration::from_millis(100)).await);
    let server = Server::default();
    server.listen(address).await;
    server.wait_for("line 29999 ").await;
    server.wait_for("lines of the log did not get to the log server").await;
    let taken = server.taken();
    let lines = taken.iter().filter(|message| message.starts_with("line ")).count();
    let dropped =
        taken.iter().find_map(|message| message.strip_suffix(" lines of the log did not get to the log server"));
    assert_eq!(lines + dropped.unwrap().parse::<usize>().unwrap(), 30_000);
}
