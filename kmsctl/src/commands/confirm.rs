//! Asking before something is lost.

use std::io::{self, IsTerminal as _, Write as _};

use crate::exit::{Exit, Failure};

/// Asks a question that has to be answered with `yes`, unless that was given on the command line.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let text = "nobody is at a terminal to confirm it; nothing was changed";
        return Err(
            Failure::new(Exit::Usage, text).next("Look at what is shown above; then give --yes.")
        );
    }
    let failed = |error: io::Error| Failure::local("the terminal", &error);
    eprint!("{question} Type yes: ");
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        "not confirmed; nothing was changed",
    ))
}
