//! Runs the distribution's tools. What they say on standard error goes into our error.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use thiserror::Error;

/// Making a file system on the largest disk takes minutes; longer means that the disk hangs.
const LIMIT: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(20);
/// PID 1 may have no PATH at all.
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const LAST_LINES: usize = 5;

#[derive(Debug, Error)]
pub enum ToolError {
    #[error("{tool} is needed for this layout and is not there (looked in {path})")]
    Missing { tool: String, path: String },
    #[error("starting {call}")]
    Start { call: String, source: std::io::Error },
    #[error("waiting for {call}")]
    Wait { call: String, source: std::io::Error },
    #[error("{call} was ended after {seconds} s without a result")]
    TimedOut { call: String, seconds: u64 },
    #[error("{call} failed with {status}: {}", if .stderr.is_empty() { "it said nothing" } else { .stderr })]
    Failed { call: String, status: ExitStatus, stderr: String },
}

/// What a tool may say on standard output or standard error; the rest is thrown away with the pipe.
const WORDS_LIMIT: u64 = 1 << 20;

/// For tools that would look for a udev, or complain about file descriptors that are not theirs.
const ENVIRONMENT: [(&str, &str); 3] = [("LC_ALL", "C"), ("MDADM_NO_UDEV", "1"), ("LVM_SUPPRESS_FD_WARNINGS", "1")];

/// Runs a tool to its end.
pub fn run_tool(tool: &str, arguments: &[String]) -> Result<(), ToolError> {
    read_tool(tool, arguments).map(|_| ())
}

/// Runs a tool to its end and returns what it wrote to standard output.
pub fn read_tool(tool: &str, arguments: &[String]) -> Result<String, ToolError> {
    let call = format!("{tool} {}", arguments.join(" "));
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let mut command = Command::new(tool);
    command.args(arguments).env("PATH", &path).envs(ENVIRONMENT);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(ToolError::Missing { tool: tool.to_owned(), path });
        }
        Err(source) => return Err(ToolError::Start { call, source }),
    };
    let (stdout, stderr) = (listen(child.stdout.take()), listen(child.stderr.take()));
    let status = wait(&mut child, &call)?;
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if status.success() { Ok(stdout) } else { Err(ToolError::Failed { call, status, stderr: last_lines(&stderr) }) }
}

/// Reads beside the wait: a full pipe would stop the tool.
fn listen(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(WORDS_LIMIT).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Whether a tool is there at all.
pub fn has_tool(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    path.split(':').any(|folder| Path::new(folder).join(tool).is_file())
}

fn wait(child: &mut Child, call: &str) -> Result<ExitStatus, ToolError> {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if began.elapsed() > LIMIT => {
                // It may hang in the kernel and outlive this; nothing more can be done about it.
                let _ = child.kill();
                return Err(ToolError::TimedOut { call: call.to_owned(), seconds: LIMIT.as_secs() });
            }
            Ok(None) => sleep(POLL),
            Err(source) => return Err(ToolError::Wait { call: call.to_owned(), source }),
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tool: &str, arguments: &[&str]) -> Option<String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        run_tool(tool, &arguments).err().map(|error| error.to_string())
    }

    #[test]
    fn a_failed_tool_reports_arguments_status_and_last_words() {
        assert_eq!(told("sh", &["-c", "true"]), None);
        let error = told("sh", &["-c", "echo out; echo one >&2; echo two >&2; exit 3"]);
        let expected = "sh -c echo out; echo one >&2; echo two >&2; exit 3 failed with exit status: 3: one / two";
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = told("mkfs.nothing", &[]).unwrap();
        assert!(error.starts_with("mkfs.nothing is needed for this layout and is not there (looked in "), "{error}");
    }
}
