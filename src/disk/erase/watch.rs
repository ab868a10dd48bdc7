//! What the thread of one disk tells while it works, and how it hears that it should stop.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::method::Method;
use crate::sys::units::Bytes;

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub method: Method,
    /// Bytes, or as many as the device's percentage makes of the disk's size.
    pub done: Bytes,
    pub activity: Activity,
}

/// What the disk is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// In steps, each with a sign of life.
    Erasing,
    /// The disk erases itself and is asked how far it is.
    ByItself,
    /// One command that says nothing until it ends, which it must within `limit`. `estimate` is the disk's own.
    Silent { limit: Duration, estimate: Option<Duration> },
    /// What was erased is read back.
    Verifying,
}

#[derive(Debug, thiserror::Error)]
#[error("stopped by request; the disk is partly erased")]
pub struct Cancelled;

/// Of one disk and one method.
pub struct Watch<'a> {
    report: &'a dyn Fn(Step),
    cancel: &'a AtomicBool,
    /// Between two looks at a device that works by itself.
    pub poll: Duration,
    method: Cell<Option<Method>>,
}

impl<'a> Watch<'a> {
    pub fn new(report: &'a dyn Fn(Step), cancel: &'a AtomicBool, poll: Duration) -> Self {
        Self { report, cancel, poll, method: Cell::new(None) }
    }

    pub fn begin(&self, method: Method) {
        self.method.set(Some(method));
        self.tell(0, Activity::Erasing);
    }

    /// So many bytes are erased. An error means that it must stop here.
    pub fn erased(&self, done: u64) -> Result<(), Cancelled> {
        self.tell(done, Activity::Erasing);
        self.check()
    }

    /// The disk says that it is so far.
    pub fn by_itself(&self, done: u64) -> Result<(), Cancelled> {
        self.tell(done, Activity::ByItself);
        self.check()
    }

    /// So many bytes were read back.
    pub fn verified(&self, done: u64) -> Result<(), Cancelled> {
        self.tell(done, Activity::Verifying);
        self.check()
    }

    /// The device is silent until it is done.
    pub fn silent(&self, limit: Duration, estimate: Option<Duration>) {
        self.tell(0, Activity::Silent { limit, estimate });
    }

    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancel.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }

    fn tell(&self, done: u64, activity: Activity) {
        if let Some(method) = self.method.get() {
            (self.report)(Step { method, done: Bytes(done), activity });
        }
    }
}
