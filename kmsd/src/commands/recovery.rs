//! The recovery key: made, kept by a person or in a file, and proved to be kept.

use std::path::Path;

use kms_crypto::{RecoveryPrivateKey, RecoveryShare};
use zeroize::Zeroizing;

use super::files::{self, Made};
use super::shares;
use crate::cli::RecoveryArgs;
use crate::exit::Failure;
use crate::terminal;

/// How often a mistyped key may be typed again.
const TRIES: u32 = 5;

/// A recovery key of which it is proved that someone has it.
pub(super) struct Kept {
    key: RecoveryPrivateKey,
    made: Made,
}

impl Kept {
    /// The key as it was read back.
    pub(super) fn key(&self) -> &RecoveryPrivateKey {
        &self.key
    }

    /// Removes the file again: the enrolment failed, and the key opens nothing.
    pub(super) fn undo(self) {
        self.made.undo();
    }
}

/// Makes a recovery key, hands it out, and reads it back.
///
/// # Errors
/// It was not proved that it is kept, or a file failed.
pub(super) fn make(out: Option<&Path>, verify_from: Option<&Path>) -> Result<Kept, Failure> {
    let typed = verify_from.is_none();
    if typed && !terminal::is_interactive() {
        return Err(Failure::recovery(
            "nobody is at a terminal to keep the recovery key",
            "Run it in a terminal, or unattended with --recovery-out FILE --verify-from FILE.",
        ));
    }
    let key = RecoveryPrivateKey::generate().map_err(|e| crypto(&e))?;
    let text = key.to_text();
    let made = match out {
        Some(path) => {
            let line = Zeroizing::new([text.expose(), b"\n"].concat());
            files::write_secret(path, &line, "the recovery key")?
        }
        None => {
            terminal::say(
                "This is the recovery key. It opens this host's keys when the TPM is gone, and it is\n\
                 shown only now. Write it down and keep it away from this host:\n",
            )?;
            terminal::say(&Zeroizing::new(format!(
                "    {}\n",
                String::from_utf8_lossy(text.expose())
            )))?;
            Made::Nothing
        }
    };
    let proved = match verify_from {
        Some(path) => prove(&key, read(path)),
        None => type_back(&key),
    };
    match proved {
        Ok(key) => Ok(Kept { key, made }),
        Err(failure) => {
            made.undo();
            Err(failure)
        }
    }
}

fn prove(
    made: &RecoveryPrivateKey,
    read: Result<RecoveryPrivateKey, Failure>,
) -> Result<RecoveryPrivateKey, Failure> {
    let read = read?;
    let same =
        made.public_key().map_err(|e| crypto(&e))? == read.public_key().map_err(|e| crypto(&e))?;
    if same {
        return Ok(read);
    }
    Err(Failure::recovery(
        "that is another recovery key than the one just made; nothing was changed",
        "Run it again and give back the key that it shows (or --verify-from the file of --recovery-out).",
    ))
}

fn type_back(made: &RecoveryPrivateKey) -> Result<RecoveryPrivateKey, Failure> {
    for left in (0..TRIES).rev() {
        let line = terminal::ask("Type the recovery key to prove that it is kept: ")?;
        let typed = RecoveryPrivateKey::from_text(&line).map_err(|e| {
            Failure::recovery(format!("that is not a recovery key: {e}"), "Run it again.")
        });
        match prove(made, typed) {
            Ok(key) => return Ok(key),
            Err(failure) if left == 0 => return Err(failure),
            Err(failure) => terminal::say(&format!("{}; {left} tries left.", failure.message))?,
        }
    }
    Err(Failure::recovery(
        "the recovery key was not typed",
        "Run it again.",
    ))
}

/// Reads a recovery key from a file.
pub(super) fn read(path: &Path) -> Result<RecoveryPrivateKey, Failure> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| {
            let what = format!("the recovery key {}", path.display());
            Failure::local(what, &e, "Name the file that holds the recovery key.")
        })?;
    RecoveryPrivateKey::from_text(&text).map_err(|e| {
        Failure::recovery(
            format!("{} does not hold a recovery key: {e}", path.display()),
            "Compare it with the key as it was written down; its last characters are a checksum.",
        )
    })
}

/// The recovery key that the arguments name, if they name one.
pub(super) fn given(args: &RecoveryArgs) -> Result<Option<RecoveryPrivateKey>, Failure> {
    match &args.recovery_from {
        Some(path) => read(path).map(Some),
        None if args.recovery_share.is_empty() => Ok(None),
        None => shares::read(&args.recovery_share).map(Some),
    }
}

/// Asks for a recovery key, or for shares of it one by one.
pub(super) fn ask() -> Result<RecoveryPrivateKey, Failure> {
    if !terminal::is_interactive() {
        return Err(Failure::recovery(
            "the recovery key has to be typed, and nobody is at a terminal",
            "Run it in a terminal, or name files with --recovery-from or --recovery-share.",
        ));
    }
    let line = terminal::ask("Recovery key, or a share of it: ")?;
    if let Ok(first) = RecoveryShare::from_text(&line) {
        return shares::ask_more(first);
    }
    RecoveryPrivateKey::from_text(&line).map_err(|e| {
        Failure::recovery(
            format!("that is not a recovery key: {e}"),
            "Type it as it was written down; its last characters are a checksum.",
        )
    })
}

fn crypto(error: &kms_crypto::CryptoError) -> Failure {
    Failure {
        status: crate::exit::LOCAL,
        message: format!("the recovery key cannot be made: {error}"),
        next_step: "Run it again; if it stays, the system's random generator or memory fails."
            .into(),
    }
}
