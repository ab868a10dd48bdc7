//! Where lines for people go: the kernel's log, and through it every console.
//!
//! A line written to `/dev/kmsg` appears on all consoles of the command line, in order with the kernel's own, with its
//! time stamp, and stays in the ring buffer. `/dev/console` would reach only the last one. It is the fall-back.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use crate::redact::redacted;

/// The kernel cuts records at about 1000 bytes (`LOG_LINE_MAX`, kernel/printk/printk.c).
const RECORD_LIMIT: usize = 900;

/// Sends all `tracing` events of this process to the consoles, and to `also`. To be called once, after `/dev` is mounted.
pub fn start(debug: bool, also: impl Layer<Registry> + Send + Sync) {
    // The kernel lets user space write ten records in five seconds unless told otherwise (kernel/printk/printk.c).
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    // `quiet` on the command line hides the kernel's chatter, not the agent's lines (level 6).
    let _ = fs::write("/proc/sys/kernel/printk", "7 4 1 7\n");
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let sink = Sink(Mutex::new(open()));
    // A second call would be a mistake of ours; the first subscriber goes on working.
    let console = ConsoleLayer { sink, own: debug }.with_filter(level);
    let _ = tracing_subscriber::registry().with(also).with(console).try_init();
}

/// One line straight to the consoles, without `tracing`: for the panic hook and the exit door.
pub fn say(line: &str) {
    write_records(open().as_mut(), 4, line);
}

enum Device {
    Kmsg(File),
    Console(File),
}

struct Sink(Mutex<Option<Device>>);

fn open() -> Option<Device> {
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg").map(Device::Kmsg);
    kmsg.or_else(|_| OpenOptions::new().write(true).open("/dev/console").map(Device::Console)).ok()
}

fn write_records(device: Option<&mut Device>, kernel_level: u8, text: &str) {
    let Some(device) = device else { return };
    for line in redacted(text).lines().flat_map(split_record) {
        // Nothing is left to be told to when the console fails.
        let _ = match device {
            Device::Kmsg(file) => file.write_all(format!("<{kernel_level}>drophammer: {line}\n").as_bytes()),
            Device::Console(file) => file.write_all(format!("drophammer: {line}\r\n").as_bytes()),
        };
    }
}

/// Pieces of at most [`RECORD_LIMIT`] bytes, cut between characters.
fn split_record(line: &str) -> Vec<&str> {
    let mut rest = line;
    let mut pieces = Vec::new();
    while rest.len() > RECORD_LIMIT {
        let cut = rest.floor_char_boundary(RECORD_LIMIT);
        let (piece, tail) = rest.split_at(cut);
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

struct ConsoleLayer {
    sink: Sink,
    /// Debug lines of libraries are noise even in debug mode.
    own: bool,
}

impl<S: Subscriber> Layer<S> for ConsoleLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let ours = metadata.target().starts_with("drophammer");
        let level = *metadata.level();
        if !ours && (level > Level::WARN || !self.own) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let kernel_level = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        // A poisoned lock only means that a line was cut short.
        let mut device = self.sink.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        write_records(device.as_mut(), kernel_level, &line.finish());
    }
}

/// `message field=value …`; an `error` field is set off by a colon.
#[derive(Default)]
struct Line {
    message: String,
    error: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        let mut text = self.message + &self.fields;
        if !self.error.is_empty() {
            let _ = write!(text, ": {}", self.error);
        }
        text
    }

    fn put(&mut self, name: &str, value: String) {
        match name {
            "message" => self.message = value,
            "error" => self.error = value,
            _ => {
                let _ = write!(self.fields, " {name}={value}");
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_become_several_records_and_lose_nothing() {
        let line = "ä".repeat(1000);
        let pieces = split_record(&line);
        assert!(pieces.iter().all(|piece| piece.len() <= RECORD_LIMIT), "{:?}", pieces.len());
        assert_eq!(pieces.concat(), line);
    }

    #[test]
    fn the_cause_comes_last() {
        let mut line = Line::default();
        line.put("error", "no route".into());
        line.put("disk", "vda".into());
        line.put("message", "could not erase".into());
        assert_eq!(line.finish(), "could not erase disk=vda: no route");
    }
}
