//! Running programs of the installed system, inside it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::{debug, info};

use crate::sys;

/// Lines of a failed program that go into the error: enough for a sentence and its reasons.
const TAIL_LINES: usize = 12;
/// Longer lines are cut: a program may print a progress bar without any newline.
const LINE_BYTES: u64 = 4096;
/// How often the program is looked at while it prints nothing.
const POLL: Duration = Duration::from_millis(50);
/// A program that was just written is busy for as long as a child of another thread, between fork and exec, still holds
/// the descriptor it was written through.
const BUSY_ATTEMPTS: u32 = 20;
/// How long output is awaited after the program's end, when something it started still holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// An image's root, in which programs run as root, with a clean environment and their root as working directory.
#[derive(Clone, Copy, Debug)]
pub struct Chroot<'a> {
    pub root: &'a Path,
    /// What has not ended by then is killed, with all of its process group.
    pub limit: Duration,
}

/// Who wants to read a program's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Only whoever debugs.
    Quiet,
    /// The operator: the image's own installer.
    Told,
}

impl Chroot<'_> {
    /// Runs `program` (looked up in the image's `PATH`) to its end; anything but success is an error with its last lines.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        self.run_with(program, args, Output::Quiet)
    }

    pub fn run_with(&self, program: &str, args: &[&str], output: Output) -> Result<()> {
        let shown = std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
        debug!(command = shown, "running in the image");
        let started = Instant::now();
        let mut child = self.spawn(program, args).with_context(|| format!("starting {shown} in the image"))?;
        let lines = read_lines(&mut child);
        let mut tail = Tail { program, output, lines: VecDeque::new() };
        let ended = self.wait(&mut child, &lines, &mut tail, started + self.limit);
        debug!(program, seconds = started.elapsed().as_secs_f32(), "ended");
        match ended.with_context(|| format!("waiting for {shown}"))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{shown} in the image {}{tail}", describe(status)),
            None => bail!("{shown} in the image had not ended after {} s and was killed{tail}", self.limit.as_secs()),
        }
    }

    fn spawn(&self, program: &str, args: &[&str]) -> Result<Child> {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .uid(0)
            .gid(0)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::chroot::set_root(&mut command, self.root)?;
        for _ in 1..BUSY_ATTEMPTS {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(POLL),
                spawned => return Ok(spawned?),
            }
        }
        Ok(command.spawn()?)
    }

    /// `None`: it was killed at `deadline`.
    fn wait(
        &self,
        child: &mut Child,
        lines: &Receiver<String>,
        tail: &mut Tail,
        deadline: Instant,
    ) -> Result<Option<ExitStatus>> {
        let status = loop {
            match lines.recv_timeout(POLL) {
                Ok(line) => tail.take(line),
                Err(RecvTimeoutError::Timeout) => {}
                // All output is closed: nothing to hear, so only look now and then.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            }
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= deadline {
                kill_group(child);
                child.wait()?;
                break None;
            }
        };
        let drained = Instant::now() + DRAIN;
        while let Ok(line) = lines.recv_timeout(drained.saturating_duration_since(Instant::now())) {
            tail.take(line);
        }
        Ok(status)
    }
}

fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended in this very moment.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended for an unknown reason".to_owned(),
    }
}

/// Both streams as lines, in the order they come. Ends when nobody holds the streams any more.
fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        send_lines(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        send_lines(stderr, sender);
    }
    receiver
}

fn send_lines(stream: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                        return;
                    }
                }
            }
        }
    });
}

/// The last lines of a program, told to the log as they come.
struct Tail<'a> {
    program: &'a str,
    output: Output,
    lines: VecDeque<String>,
}

impl Tail<'_> {
    fn take(&mut self, line: String) {
        if line.is_empty() {
            return;
        }
        match self.output {
            Output::Quiet => debug!("{}: {line}", self.program),
            Output::Told => info!("{}: {line}", self.program),
        }
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

impl std::fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, line) in self.lines.iter().enumerate() {
            f.write_str(if number == 0 { ": " } else { " | " })?;
            f.write_str(line)?;
        }
        if self.lines.is_empty() {
            f.write_str(", without a word")?;
        }
        Ok(())
    }
}
