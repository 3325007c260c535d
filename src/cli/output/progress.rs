//! What is shown beside the result while a command works: a bar or a spinner, on a terminal only, and notes.
//! All of it goes to the standard error.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::text::printable;
use cold_s3::watcher::Watcher;

/// How often a bar is drawn anew when nothing changes: it shows how long things take.
const TICK: Duration = Duration::from_millis(250);
/// With a known end. The message has what is counted beside bytes.
const BAR: &str = "{bar:24} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {msg}  {left} left";
/// With an unknown end.
const SPINNER: &str = "{spinner} {elapsed_precise}  {msg}";

/// Says something to whoever runs the command. Where nobody listens any more, it is done all the same.
pub(in crate::cli) fn tell(text: &dyn Display) {
    let _ = writeln!(io::stderr(), "zombi: {text}");
}

/// How long it takes from now on; before anything is done there is nothing to tell it by.
fn write_left(state: &ProgressState, out: &mut dyn fmt::Write) {
    let _ = match state.pos() {
        0 => out.write_str("--:--:--"),
        _ => write!(out, "{}", FormattedDuration(state.eta())),
    };
}

fn style_of(template: &str) -> ProgressStyle {
    let plain = ProgressStyle::default_bar();
    let style = ProgressStyle::with_template(template).unwrap_or(plain).progress_chars("=> ");
    style.tick_chars("|/-\\ ").with_key("left", write_left)
}

/// The line at the foot of a terminal.
#[derive(Debug, Clone)]
pub(in crate::cli) struct StatusLine {
    bar: ProgressBar,
}

impl StatusLine {
    /// Shows nothing but notes.
    pub(in crate::cli) fn none() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// How far a file is read.
    pub(in crate::cli) fn of_bytes(total: u64) -> Self {
        Self::shown(ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()), BAR)
    }

    /// Begins anew, with another end; 0 if that is not known.
    fn restart(&self, what: &str, total: u64) {
        self.bar.set_position(0);
        // In this order: of a bar with no end, anything is all.
        if total > 0 {
            self.bar.set_length(total);
            self.bar.set_style(style_of(BAR));
        } else {
            self.bar.set_style(style_of(SPINNER));
        }
        self.say(what);
    }

    /// That something goes on, and what.
    pub(in crate::cli) fn waiting(what: &str) -> Self {
        let line = Self::shown(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()), SPINNER);
        line.say(what);
        line
    }

    fn shown(bar: ProgressBar, template: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self::none();
        }
        bar.set_style(style_of(template));
        // Hidden where the terminal is a dumb one.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// So many bytes are read.
    pub(in crate::cli) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// What is said beside the bar.
    pub(in crate::cli) fn say(&self, message: &str) {
        self.bar.set_message(printable(message).into_owned());
    }

    /// A line that stays.
    pub(in crate::cli) fn note(&self, text: &str) {
        self.bar.suspend(|| tell(&printable(text)));
    }

    /// Takes the line away; before the result is printed, so that both are not on one line.
    pub(in crate::cli) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watcher for StatusLine {
    fn begins(&self, what: &str, bytes: u64) {
        self.restart(what, bytes);
    }

    fn did(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}
