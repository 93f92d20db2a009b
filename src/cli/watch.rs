//! `handover status --watch`: one observation after the other. On a terminal the same place is drawn again, on its second screen, so
//! that what stood there before comes back at the end; elsewhere each state is a block, or a line of JSON, of its own.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::args::{self, StatusFormat};
use super::context::Context;
use super::exit::Exit;
use super::files;
use super::status::{State, not_written};
use super::voice::Voice;

/// Why the wait for the next observation ended.
enum Next {
    /// It is time.
    Observe,
    /// The terminal has another size.
    Redraw,
    /// Somebody has seen enough.
    Stop,
}

/// Observes until Ctrl-C or SIGTERM. An observation begins `every` after the one before began, or at once where that one took longer:
/// there is never more than one.
///
/// # Errors
/// If the store fails or signals cannot be heard.
pub async fn run(args: &args::Status, context: &Context, every: Duration, voice: Voice) -> Result<Exit> {
    let mut signals = Signals::new()?;
    let drawn = args.format == StatusFormat::Text && args.out.is_none() && std::io::stdout().is_terminal();
    let mut screen = drawn.then(Screen::enter);
    let mut last: Option<State> = None;
    loop {
        let next = Instant::now() + every;
        let state = tokio::select! {
            state = State::observe(context) => state?,
            () = signals.stop() => break,
        };
        let mut told = tell(&state, args, context, every, screen.as_mut());
        last = Some(state);
        while let (Ok(()), Some(state)) = (&told, &last) {
            match signals.until(next).await {
                Next::Redraw => told = tell(state, args, context, every, screen.as_mut()),
                Next::Observe => break,
                Next::Stop => return Ok(ended(screen, state, args, context)),
            }
        }
        if let Err(error) = told {
            match &args.out {
                Some(file) => return Ok(voice.error(Exit::Error, &not_written(file, &error))),
                // Whoever read it has gone away.
                None => break,
            }
        }
    }
    Ok(match last {
        Some(state) => ended(screen, &state, args, context),
        None => {
            drop(screen);
            voice.error(Exit::Error, "stopped before the first observation had ended")
        }
    })
}

/// The last state stays on the terminal, and becomes the exit code.
fn ended(screen: Option<Screen>, state: &State, args: &args::Status, context: &Context) -> Exit {
    if screen.is_some() {
        drop(screen);
        let _ = std::io::stdout().write_all(state.told(args, context).as_bytes());
    }
    state.exit()
}

fn tell(
    state: &State,
    args: &args::Status,
    context: &Context,
    every: Duration,
    screen: Option<&mut Screen>,
) -> std::io::Result<()> {
    let text = state.told(args, context);
    if let Some(file) = &args.out {
        return files::replace(file, &text);
    }
    let at = state.at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let changed =
        if context.source.is_as_it_was() { "" } else { "; the topology file has changed: start again to see it" };
    let head = format!("{at}, every {}{changed}", crate::model::Span(every));
    let out = match (args.format, screen) {
        (_, Some(_)) => {
            let (rows, columns) = size();
            frame(&head.chars().take(columns).collect::<String>(), &text, rows)
        }
        (StatusFormat::Text, None) => format!("{head}\n\n{text}\n"),
        (StatusFormat::Json | StatusFormat::Prometheus, None) => text,
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let size = console::Term::stdout().size_checked();
    size.map_or((usize::MAX, usize::MAX), |(rows, columns)| (rows.into(), columns.into()))
}

/// Draws over the frame before: each line is cleared behind its end, and so is what is below the last one. What does not fit is
/// counted, so that nobody takes the part for the whole.
fn frame(head: &str, text: &str, rows: usize) -> String {
    let lines: Vec<&str> = std::iter::once(head).chain([""]).chain(text.lines()).collect();
    let mut out = "\u{1b}[H".to_owned();
    let hidden = lines.len().saturating_sub(rows.max(2));
    // The verdict is the last line: it stays in sight.
    let shown = if hidden == 0 { lines.len() } else { rows.max(2) - 2 };
    let mut visible: Vec<String> = lines.iter().take(shown).map(|line| (*line).to_owned()).collect();
    if hidden > 0 {
        visible.push(format!("… {} more lines: make the window higher", lines.len() - shown - 1));
        visible.extend(lines.last().map(|line| (*line).to_owned()));
    }
    for (index, line) in visible.iter().enumerate() {
        out += if index == 0 { "" } else { "\r\n" };
        out += &format!("{line}\u{1b}[K");
    }
    out + "\u{1b}[J"
}

/// The terminal's second screen, without a cursor, for as long as this lives.
struct Screen;

impl Screen {
    fn enter() -> Self {
        put("\u{1b}[?1049h\u{1b}[?25l\u{1b}[2J");
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put("\u{1b}[?25h\u{1b}[?1049l");
    }
}

fn put(sequence: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(sequence.as_bytes());
    let _ = stdout.flush();
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    resized: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            resized: listen(SignalKind::window_change())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    async fn until(&mut self, next: Instant) -> Next {
        tokio::select! {
            () = sleep_until(next) => Next::Observe,
            _ = self.resized.recv() => Next::Redraw,
            _ = self.interrupt.recv() => Next::Stop,
            _ = self.terminate.recv() => Next::Stop,
            _ = self.hangup.recv() => Next::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_and_ends_with_the_verdict() {
        let text = "matrix\nrow 1\nrow 2\n\nHEALTHY: everything is well\n";
        let shown = |rows| frame("12:00", text, rows).replace('\u{1b}', "␛").replace("\r\n", "\n");
        insta::assert_snapshot!(shown(24), @r"
        ␛[H12:00␛[K
        ␛[K
        matrix␛[K
        row 1␛[K
        row 2␛[K
        ␛[K
        HEALTHY: everything is well␛[K␛[J
        ");
        assert_eq!(shown(7), shown(24));
        insta::assert_snapshot!(shown(5), @r"
        ␛[H12:00␛[K
        ␛[K
        matrix␛[K
        … 3 more lines: make the window higher␛[K
        HEALTHY: everything is well␛[K␛[J
        ");
        assert_eq!(shown(0).lines().count(), 2);
    }
}
