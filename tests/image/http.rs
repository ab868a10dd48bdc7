//! Images by HTTP from a server that breaks, stalls, lies and changes its mind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use drophammer::image::{DigestRule, ImageError, Report, Source, Unobserved, unpack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Rack, assert_same, block_on, facts, options, quick, rack, run, text};

/// What the server does with one request for the image. After the last of a script all is served well.
#[derive(Clone, Debug)]
enum Act {
    /// Serves as asked, but closes after so many bytes of the body.
    Break(usize),
    /// Sends so many bytes and then nothing.
    Stall(usize),
    /// The whole, whatever range was asked for.
    NoRange,
    /// Range, but from so many bytes further on.
    WrongStart(usize),
    /// As if the file had another ETag now.
    NewTag,
    /// The beginning of what the file was before it changed.
    Older(Vec<u8>),
    Status(u16),
    /// Promises so many bytes more than it has.
    Promise(usize),
    /// Closes without a word.
    HangUp,
    /// These bytes and no others.
    Raw(Vec<u8>),
    /// This head, and all of the file behind it.
    Head(&'static str),
}

/// Installs from a server that follows the script. Returns the heads of the requests for the image, too.
fn install(rack: &Rack, script: Vec<Act>) -> (Result<Report, ImageError>, Vec<String>) {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/img.tar.lz4?token=secret", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let server = tokio::spawn(serve(listener, Arc::clone(&rack.bytes), script, Arc::clone(&heads)));
        let source: Source = url.parse().unwrap();
        let result = unpack(&source, &rack.target, &options(DigestRule::Sidecar), &Unobserved).await;
        server.abort();
        let heads = heads.lock().unwrap().clone();
        (result, heads)
    })
}

async fn serve(
    listener: TcpListener,
    bytes: Arc<Vec<u8>>,
    script: Arc<Mutex<VecDeque<Act>>>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (bytes, script, heads) = (Arc::clone(&bytes), Arc::clone(&script), Arc::clone(&heads));
        tokio::spawn(async move {
            // the client may leave in the middle
            let _ = answer(stream, &bytes, &script, &heads).await;
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    bytes: &[u8],
    script: &Mutex<VecDeque<Act>>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    if !head.starts_with("get /img.tar.lz4?token=secret ") {
        let body = match head.starts_with("get /img.tar.lz4.sha256?token=secret ") {
            true => format!("{}  img.tar.lz4\n", hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))),
            false => {
                return stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            }
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        return stream.write_all(answer.as_bytes()).await;
    }
    heads.lock().unwrap().push(head.clone());
    let asked = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let act = script.lock().unwrap().pop_front();
    if let Some(Act::Older(content)) = &act {
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"older\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            content.len() + 1_000_000
        );
        return stream.write_all(&[head.as_bytes(), content].concat()).await;
    }
    match &act {
        Some(Act::Raw(raw)) => return stream.write_all(raw).await,
        Some(Act::Head(head)) => return stream.write_all(&[head.as_bytes(), bytes].concat()).await,
        _ => {}
    }
    let start: usize = match act {
        Some(Act::NoRange | Act::NewTag) => 0,
        Some(Act::WrongStart(further)) => asked.unwrap_or(0) + further,
        _ => asked.unwrap_or(0),
    };
    let promised = bytes.len() + if let Some(Act::Promise(more)) = act { more } else { 0 };
    let tag = if matches!(act, Some(Act::NewTag)) { "new" } else { "old" };
    let mut answer = match (&act, start) {
        (Some(Act::Status(code)), _) => format!("HTTP/1.1 {code} Odd\r\n"),
        (_, 0) => "HTTP/1.1 200 OK\r\n".to_owned(),
        (_, start) if start >= bytes.len() => {
            format!(
                "HTTP/1.1 416 No\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                bytes.len()
            )
        }
        (_, start) => format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{}/{promised}\r\n", promised - 1),
    };
    if answer.contains(" 416 ") {
        return stream.write_all(answer.as_bytes()).await;
    }
    answer.push_str(&format!("ETag: \"{tag}\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", promised - start));
    let body = &bytes[start..];
    match act {
        Some(Act::HangUp) => Ok(()),
        Some(Act::Stall(count)) => {
            stream.write_all(&[answer.as_bytes(), &body[..count]].concat()).await?;
            std::future::pending().await
        }
        Some(Act::Break(count)) => stream.write_all(&[answer.as_bytes(), &body[..count]].concat()).await,
        _ => stream.write_all(&[answer.as_bytes(), body].concat()).await,
    }
}

#[test]
fn a_good_server_needs_one_request_and_the_query_is_kept() {
    let rack = rack();
    let (result, heads) = install(&rack, vec![]);
    let report = result.unwrap();
    assert_eq!((report.bytes_in, report.retries, heads.len()), (rack.bytes.len() as u64, 0, 1));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn broken_and_stalled_connections_are_resumed_where_they_stopped() {
    let rack = rack();
    let script = vec![Act::Break(1_000_000), Act::HangUp, Act::Stall(500_000), Act::Status(503), Act::Break(0)];
    let (result, heads) = install(&rack, script);
    let report = result.unwrap();
    assert_same(&facts(&rack.tree), &facts(&rack.target));
    assert_eq!((report.retries, report.bytes_in), (5, rack.bytes.len() as u64));
    assert!(heads[1].contains("range: bytes=1000000-") && heads[1].contains("if-range: \"old\""), "{}", heads[1]);
    assert!(heads[5].contains("range: bytes=1500000-"), "{}", heads[5]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let rack = rack();
    let report = install(&rack, vec![Act::Break(1_000_000), Act::NoRange]).0.unwrap();
    assert_eq!((report.retries, report.bytes_in), (1, rack.bytes.len() as u64));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

/// An image with a file that ours has not, and with other content in one that both have.
fn older_image() -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let script = "mkdir -p $0/bin $0/old && head -c 900000 /dev/urandom | tee $0/bin/large > $0/old/file";
    run("sh", &["-c", script, text(temp.path())]);
    run("tar", &["-C", text(temp.path()), "-cf", "-", "."])
}

#[test]
fn an_image_that_changed_is_begun_anew_and_nothing_of_the_old_one_stays() {
    let rack = rack();
    let mount_point = rack.target.join("empty");
    std::fs::create_dir(&mount_point).unwrap();
    let (result, heads) = install(&rack, vec![Act::Older(older_image()), Act::NewTag]);
    let report = result.unwrap();
    assert_eq!((report.starts, heads.len()), (2, 3));
    assert!(!heads[2].contains("range:"), "{}", heads[2]);
    assert_eq!(report.bytes_in, rack.bytes.len() as u64);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn an_image_that_changes_again_and_again_is_an_error() {
    let rounds = (0..3).flat_map(|_| [Act::Break(1_000_000), Act::NewTag]).collect();
    match install(&rack(), rounds).0.unwrap_err() {
        ImageError::Changed { offset, expected, found, .. } => {
            assert_eq!((offset, expected.as_str(), found.as_str()), (1_000_000, "\"old\"", "\"new\""));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_image_that_changed_is_an_error_where_other_files_can_not_be_told_from_its_own() {
    let rack = rack();
    std::fs::write(rack.target.join("mine"), "kept").unwrap();
    let err = install(&rack, vec![Act::Break(1_000_000), Act::NewTag]).0.unwrap_err();
    assert!(matches!(err, ImageError::Changed { .. }), "{err}");
    assert_eq!(std::fs::read(rack.target.join("mine")).unwrap(), b"kept");
}

#[test]
fn a_range_that_starts_elsewhere_is_an_error() {
    let err = install(&rack(), vec![Act::Break(1_000_000), Act::WrongStart(7)]).0.unwrap_err();
    assert!(matches!(err, ImageError::WrongRange { offset: 1_000_000, .. }), "{err}");
}

#[test]
fn a_body_shorter_than_promised_tells_both_lengths() {
    let rack = rack();
    let err = install(&rack, vec![Act::Promise(10)]).0.unwrap_err();
    match err {
        ImageError::Short { image, expected, found } => {
            assert_eq!((expected, found), (rack.bytes.len() as u64 + 10, rack.bytes.len() as u64));
            assert!(image.ends_with("/img.tar.lz4?…"), "{image}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_missing_image_is_told_at_once_with_its_status() {
    let (result, heads) = install(&rack(), vec![Act::Status(404)]);
    assert!(matches!(result, Err(ImageError::Status { status: 404, offset: 0, .. })), "{result:?}");
    assert_eq!(heads.len(), 1);
}

#[test]
fn a_server_that_never_gets_better_is_given_up() {
    let tries = quick().tries as usize;
    let (result, heads) = install(&rack(), vec![Act::HangUp; 20]);
    assert!(matches!(result, Err(ImageError::Unreachable { tries: 4, .. })), "{result:?}");
    assert_eq!(heads.len(), tries);
    let (result, _) = install(&rack(), vec![Act::Status(503); 20]);
    assert!(matches!(result, Err(ImageError::Status { status: 503, .. })), "{result:?}");
}

#[test]
fn an_error_after_many_tries_tells_each_reason_once() {
    let script =
        vec![Act::Break(500_000), Act::Status(503), Act::HangUp, Act::Status(503), Act::HangUp, Act::Status(502)];
    let error = install(&rack(), script).0.unwrap_err();
    let ImageError::Unreachable { offset: 500_000, history, .. } = &error else { panic!("{error}") };
    assert!(history.contains("2 × server answered 503 (at byte 500000)"), "{error}");
    assert!(history.contains("1 × connection ended before the promised length"), "{error}");
    assert_eq!(history.matches("503").count(), 1, "{error}");
}

#[test]
fn garbage_instead_of_http_is_tried_again_and_told() {
    let rack = rack();
    let garbage = || Act::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec());
    let report = install(&rack, vec![garbage(), garbage()]).0.unwrap();
    assert_eq!(report.retries, 2);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
    let error = install(&self::rack(), vec![garbage(); 10]).0.unwrap_err();
    assert!(matches!(&error, ImageError::Unreachable { history, .. } if history.contains("HTTP")), "{error}");
}

#[test]
fn a_part_that_was_not_asked_for_is_an_error() {
    let part = "HTTP/1.1 206 Part\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\nabcde";
    let (result, heads) = install(&rack(), vec![Act::Raw(part.into())]);
    let error = result.unwrap_err();
    assert!(matches!(error, ImageError::Status { status: 206, offset: 0, expected: "200", .. }), "{error}");
    assert_eq!(heads.len(), 1);
}

#[test]
fn a_part_without_or_with_a_senseless_range_is_an_error() {
    for range in ["", "Content-Range: bytes */*\r\n", "Content-Range: pages 1-2/3\r\n"] {
        let part = format!("HTTP/1.1 206 Part\r\n{range}Content-Length: 5\r\n\r\nabcde");
        let error = install(&rack(), vec![Act::Break(1_000_000), Act::Raw(part.into())]).0.unwrap_err();
        assert!(matches!(error, ImageError::WrongRange { offset: 1_000_000, .. }), "{range}: {error}");
    }
}

#[test]
fn a_whole_that_is_shorter_than_before_is_begun_anew() {
    let rack = rack();
    let shorter = Act::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde".to_vec());
    let report = install(&rack, vec![Act::Break(1_000_000), shorter]).0.unwrap();
    assert_eq!((report.starts, report.bytes_in), (2, rack.bytes.len() as u64));
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn a_length_that_is_too_small_is_found_by_the_digest() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";
    let error = install(&rack(), vec![Act::Head(head)]).0.unwrap_err();
    assert!(matches!(error, ImageError::Digest { bytes: 1_000_000, .. }), "{error}");
}

#[test]
fn chunks_that_are_cut_off_are_gone_on_with() {
    let rack = rack();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n";
    let cut = [head.as_slice(), &rack.bytes[..400_000]].concat();
    let (result, heads) = install(&rack, vec![Act::Raw(cut)]);
    let report = result.unwrap();
    assert_eq!((report.retries, report.bytes_in), (1, rack.bytes.len() as u64));
    assert!(heads[1].contains("range: bytes=400000-"), "{}", heads[1]);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
}

#[test]
fn a_file_that_is_compressed_on_the_way_is_refused() {
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let (result, heads) = install(&rack(), vec![Act::Head(head)]);
    let error = result.unwrap_err();
    assert!(matches!(&error, ImageError::Answer { reason, .. } if reason.contains("\"gzip\"")), "{error}");
    assert!(heads.len() == 1 && heads[0].contains("accept-encoding: identity"), "{heads:?}");
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let rack = rack();
    let redirect = || {
        let head = "HTTP/1.1 302 Found\r\nLocation: /img.tar.lz4?token=secret\r\nContent-Length: 0\r\n";
        Act::Raw(format!("{head}Connection: close\r\n\r\n").into())
    };
    let report = install(&rack, vec![redirect(), redirect()]).0.unwrap();
    assert_eq!(report.retries, 0);
    assert_same(&facts(&rack.tree), &facts(&rack.target));
    let (result, heads) = install(&self::rack(), vec![redirect(); 50]);
    let error = result.unwrap_err();
    assert!(matches!(&error, ImageError::Answer { reason, .. } if reason.contains("more than 5 times")), "{error}");
    assert_eq!(heads.len(), 6, "a circle is not tried again");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[test]
fn errors_show_no_query() {
    let err = install(&rack(), vec![Act::Status(404)]).0.unwrap_err();
    assert!(!format!("{err} {err:?}").contains("secret"), "{err:?}");
}
