//! Progress for people: one line redrawn on a terminal, else a line each 10 s.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{Observer, Progress, Step};
use crate::sys::units::Bytes;

/// Between two lines where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes progress to standard error.
pub struct Console {
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Console {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last_line: Mutex::new(Instant::now()) }
    }

    /// Removes the redrawn line.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line_is_due(&self) -> bool {
        let Ok(mut last) = self.last_line.lock() else { return false };
        let due = last.elapsed() >= LINE_EVERY;
        if due {
            *last = Instant::now();
        }
        due
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Console {
    fn progress(&self, progress: &Progress) {
        match &self.bar {
            Some(bar) => {
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                bar.set_position(progress.bytes_in);
                bar.set_message(line(progress));
            }
            None if self.line_is_due() => eprintln!("{}", line(progress)),
            None => {}
        }
    }
}

/// One progress as a line of text.
pub fn line(progress: &Progress) -> String {
    let files = if progress.files > 0 { format!(", {} files", progress.files) } else { String::new() };
    let written = format!("{} written{files}", Bytes(progress.bytes_out));
    if progress.step == Step::Settling {
        return format!("{written}, waiting for the disk");
    }
    let fetched = match progress.total {
        Some(total) if total > 0 => {
            let percent = u128::from(progress.bytes_in) * 100 / u128::from(total);
            format!("{percent} % of {}", Bytes(total))
        }
        _ => format!("{} fetched", Bytes(progress.bytes_in)),
    };
    let left = progress.left().map(|left| format!(", {} s left", left.as_secs())).unwrap_or_default();
    format!("{fetched} at {}/s{left}, {written}", Bytes(progress.rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_known() {
        let progress = Progress {
            step: Step::Streaming,
            bytes_in: 50_000_000,
            total: Some(200_000_000),
            bytes_out: 120_000_000,
            files: 900,
            elapsed: Duration::from_secs(5),
            rate: 10_000_000,
        };
        assert_eq!(line(&progress), "25 % of 200 MB at 10 MB/s, 15 s left, 120 MB written, 900 files");
        let unknown = Progress { total: None, rate: 0, files: 0, ..progress };
        assert_eq!(line(&unknown), "50 MB fetched at 0 B/s, 120 MB written");
        assert_eq!(
            line(&Progress { step: Step::Settling, ..progress }),
            "120 MB written, 900 files, waiting for the disk"
        );
    }
}
