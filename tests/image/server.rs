//! A small HTTP server whose answers a test decides, byte for byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was asked.
pub struct Request {
    /// With the query.
    pub path: String,
    /// First byte of the range that was asked for.
    pub from: Option<usize>,
}

type Answer = dyn Fn(&Request) -> Vec<u8> + Send + Sync;

/// Runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Each connection gets one answer, and is closed then.
    pub async fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&heads));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    // the client may leave in the middle
                    let _ = serve(stream, &*answer, &seen).await;
                });
            }
        });
        Self { address, heads, task }
    }

    pub fn url(&self, path: &str) -> reqwest::Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    /// Heads of the requests so far, lower-case.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Of those for that path, which ends at a blank.
    pub fn heads_for(&self, path: &str) -> Vec<String> {
        let start = format!("get {path} ");
        self.heads().into_iter().filter(|head| head.starts_with(&start)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: &Answer, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    seen.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let from = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let bytes = answer(&Request { path, from });
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}

/// Up to the empty line, lower-case.
pub async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

/// The body, or what was asked for of it.
pub fn file(body: &[u8], request: &Request) -> Vec<u8> {
    let start = request.from.unwrap_or(0);
    let head = match start {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        start if start >= body.len() => {
            let total = body.len();
            return format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n").into();
        }
        start => format!("HTTP/1.1 206 Part\r\nContent-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len()),
    };
    let rest = &body[start..];
    let head = format!("{head}ETag: \"{}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len(), rest.len());
    [head.as_bytes(), rest].concat()
}

/// Only a status.
pub fn status(code: u16) -> Vec<u8> {
    format!("HTTP/1.1 {code} Odd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into()
}

pub fn sha256_file(body: &[u8]) -> Vec<u8> {
    format!("{}\n", hex::encode(ring::digest::digest(&ring::digest::SHA256, body))).into()
}
