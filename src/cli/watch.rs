//! Something shown again and again: in place on a terminal, a line each time elsewhere, until Ctrl-C.

use std::io::{self, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

use super::CliError;
use super::output::{self, Stream, Tone};

/// While a picture is drawn nothing wraps, so that a line is a line.
const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[?7h";
const NO_CURSOR: &str = "\u{1b}[?25l";
const CURSOR: &str = "\u{1b}[?25h";

/// What is shown at one moment.
pub struct Look {
    /// Many lines, each ended.
    pub screen: String,
    /// The same in one, not ended.
    pub line: String,
}

/// Shows what `look` answers, `every` so often, in place or a line each time, until SIGINT or SIGTERM, or until nobody reads
/// any more. It looks on a thread of its own: a broker that does not answer must not keep Ctrl-C from ending it.
///
/// # Errors
/// Whatever the first look fails with, a stdout that cannot take it, and a look that panics. A later look that fails is told and
/// tried again.
pub fn watch(every: Duration, in_place: bool, mut look: impl FnMut() -> Result<Look, CliError> + Send + 'static) -> Result<(), CliError> {
    let mut signals = Signals::new().map_err(|error| CliError::failed(format!("cannot listen for signals: {error}")))?;
    let (sender, mut looks) = channel(1);
    // Never joined: who ends this does not wait for its last look.
    std::thread::spawn(move || {
        while sender.blocking_send(look()).is_ok() {
            std::thread::sleep(every);
        }
    });
    let mut picture = Picture { in_place, height: 0 };
    let mut first = true;
    let mut shown = Ok(());
    let mut ended = Ok(());
    loop {
        let look = match signals.or(&mut looks) {
            Next::Look(look) => look,
            Next::Signal => break,
            Next::Nothing => {
                ended = Err(CliError::failed("cannot look any more: a look panicked, as is said above"));
                break;
            }
        };
        match look {
            Ok(look) => shown = picture.show(&mut io::stdout().lock(), &look),
            Err(error) if first => return Err(error),
            Err(error) => {
                let what = output::paint("not read:", Tone::Bad, output::colour(Stream::Err));
                output::note(&format!("{what} {error}; looking again"));
                // What was said stands below the picture, and a new one below that.
                picture.height = 0;
            }
        }
        first = false;
        if shown.is_err() {
            break;
        }
    }
    if picture.in_place {
        // A terminal that is gone has no cursor to give back.
        let _ = io::stdout().lock().write_all(CURSOR.as_bytes());
    }
    ended.and(output::written(shown))
}

struct Picture {
    in_place: bool,
    /// Lines of the picture that stands there.
    height: usize,
}

impl Picture {
    fn show(&mut self, out: &mut impl Write, look: &Look) -> io::Result<()> {
        if !self.in_place {
            writeln!(out, "{}", look.line)?;
            return out.flush();
        }
        let mut text = format!("{NO_CURSOR}{NO_WRAP}");
        if self.height > 0 {
            text += &format!("\u{1b}[{}A", self.height);
        }
        for line in look.screen.lines() {
            text += line;
            text += "\u{1b}[K\n";
        }
        // A shorter picture leaves nothing of a longer one.
        text += "\u{1b}[J";
        text += WRAP;
        self.height = look.screen.lines().count();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// What a watch goes on with.
enum Next<T> {
    Look(T),
    Signal,
    /// Nobody looks any more.
    Nothing,
}

/// What ends a watch.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (interrupt, terminate) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        Ok(Signals { runtime, interrupt, terminate })
    }

    /// The next of `looks`, unless a signal comes first.
    fn or<T>(&mut self, looks: &mut Receiver<T>) -> Next<T> {
        let Signals { runtime, interrupt, terminate } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupt.recv() => Next::Signal,
                _ = terminate.recv() => Next::Signal,
                look = looks.recv() => look.map_or(Next::Nothing, Next::Look),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(screen: &str) -> Look {
        Look { screen: screen.to_owned(), line: "one line".to_owned() }
    }

    #[test]
    fn a_terminal_gets_one_picture_in_place() {
        let mut picture = Picture { in_place: true, height: 0 };
        let mut out = Vec::new();
        picture.show(&mut out, &look("a\nb\nc\n")).unwrap();
        assert!(!String::from_utf8(std::mem::take(&mut out)).unwrap().contains('A'), "nothing stands there yet");
        picture.show(&mut out, &look("d\n")).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\u{1b}[3Ad\u{1b}[K\n\u{1b}[J"), "{text:?}");
        assert_eq!(picture.height, 1);
    }

    #[test]
    fn the_first_look_that_fails_ends_it() {
        let refused = watch(Duration::from_secs(60), false, || Err(CliError::failed("there is no state")));
        assert_eq!(refused.unwrap_err().message, "there is no state");
    }

    #[test]
    fn a_look_that_panics_ends_it_with_an_error() {
        let mut looks = 0;
        let broken = watch(Duration::ZERO, false, move || {
            looks += 1;
            assert!(looks < 2, "for this test");
            Ok(look("a\n"))
        });
        assert!(broken.unwrap_err().message.contains("cannot look any more"));
    }

    #[test]
    fn elsewhere_each_look_is_a_line() {
        let mut picture = Picture { in_place: false, height: 0 };
        let mut out = Vec::new();
        for _ in 0..2 {
            picture.show(&mut out, &look("a\nb\n")).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "one line\none line\n");
    }
}
