//! The subcommands as a person meets them: what is told, when, and with which status.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::text;

fn drophammer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drophammer"));
    // whoever asks for back traces gets an error all the same
    command.env("RUST_BACKTRACE", "1");
    command
}

fn unpack(source: &str, target: &Path) -> Output {
    drophammer().args(["unpack", source, text(target)]).output().unwrap()
}

fn told(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_file_that_is_not_there_is_said_to_be_missing_and_not_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let error = told(&unpack("/no/such/image.tar", dir.path()));
    assert!(error.contains("/no/such/image.tar") && error.contains("No such file"), "{error}");
    assert!(!error.contains("digest"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/image.tar");
    let mut child = drophammer().args(["unpack", &url, text(dir.path())]).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("WARN") && line.contains(&closed.to_string()) && line.contains("again_in"), "{line}");
    assert!(line.contains("refused"), "{line}");
}
