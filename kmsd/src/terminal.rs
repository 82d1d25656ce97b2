//! Talking to a person at a terminal.

use std::io::{self, BufRead, Write};

use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::exit::Failure;

/// Whether someone is there to read and to type.
pub(crate) fn is_interactive() -> bool {
    isatty(io::stdin()) && isatty(io::stderr())
}

/// Shows a text.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stderr().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|e| failed(&e))
}

/// Asks for a line, shown while it is typed.
pub(crate) fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let mut out = io::stderr().lock();
    write!(out, "{prompt}")
        .and_then(|()| out.flush())
        .map_err(|e| failed(&e))?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    let count = io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| failed(&e))?;
    if count == 0 {
        return Err(failed(&io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    while line.ends_with(['\n', '\r']) {
        line.pop();
    }
    Ok(line)
}

/// Asks for a line that is not shown while it is typed.
pub(crate) fn ask_secret(prompt: &str) -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|e| failed(&e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|e| failed(&e.into()))?;
    let line = ask(prompt);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &before);
    say("")?;
    let line = line?;
    restored.map_err(|e| failed(&e.into()))?;
    Ok(line.as_bytes().to_vec())
}

fn failed(e: &io::Error) -> Failure {
    Failure::local(
        "the terminal",
        e,
        "Run it in a terminal, or give the files as options.",
    )
}
