//! Where the data of cryptographic commands comes from and goes to.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::BASE64;
use kms_api::Blob;
use serde::Serialize;

use crate::Context;
use crate::exit::{Exit, Failure};

/// Where data comes from and goes to.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Read from this file instead of standard input.
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Write to this file (mode 0600 when it is made) instead of standard output.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What every use of a key takes.
#[derive(Debug, Args)]
pub struct UseArgs {
    /// A grant token (of `grant create`), may be given several times.
    #[arg(long = "grant-token", value_name = "TOKEN")]
    pub grant_tokens: Vec<String>,
    /// Only check whether it would be allowed and would succeed.
    #[arg(long)]
    pub dry_run: bool,
}

/// Reads a whole file, or standard input; more than `limit` bytes are refused with `hint`.
pub(super) fn read(file: Option<&Path>, limit: usize, hint: &str) -> Result<Blob, Failure> {
    let mut bytes = Vec::with_capacity(limit + 1);
    let most = limit as u64 + 1;
    let (name, result) = match file {
        Some(path) => (
            path.display().to_string(),
            File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
        ),
        None => (
            "standard input".to_owned(),
            io::stdin().lock().take(most).read_to_end(&mut bytes),
        ),
    };
    let blob = Blob::new(bytes);
    result.map_err(|e| Failure::local(&name, &e))?;
    if blob.len() > limit {
        let text = format!("{name} is longer than {limit} bytes");
        return Err(Failure::new(Exit::Invalid, text).next(hint));
    }
    if blob.is_empty() {
        return Err(Failure::new(Exit::Invalid, format!("{name} is empty")));
    }
    Ok(blob)
}

/// Reads bytes, or base64 of them (with any white space).
pub(super) fn read_binary(
    file: Option<&Path>,
    base64: bool,
    limit: usize,
    hint: &str,
) -> Result<Blob, Failure> {
    if !base64 {
        return read(file, limit, hint);
    }
    let text = read(file, 2 * limit, hint)?;
    unbase64(text.as_slice()).ok_or_else(|| {
        Failure::new(Exit::Invalid, "the input is not base64")
            .next("Leave out --base64 for a binary file.")
    })
}

fn unbase64(text: &[u8]) -> Option<Blob> {
    let text: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    BASE64.decode(&text).ok().map(Blob::new)
}

/// Writes bytes, or a line of base64 of them, to a file or to standard output. What is `private` closes a file that is
/// there to others.
pub(super) fn write(
    file: Option<&Path>,
    bytes: &[u8],
    base64: bool,
    private: bool,
    context: &Context,
) -> Result<(), Failure> {
    if base64 {
        let text = Blob::new(format!("{}\n", BASE64.encode(bytes)).into_bytes());
        return write(file, text.as_slice(), false, private, context);
    }
    match file {
        None => context.output.write(bytes),
        Some(path) => {
            write_file(path, bytes, private).map_err(|e| Failure::local(path.display(), &e))
        }
    }
}

/// How bytes of an answer are written.
#[derive(Clone, Copy, Default)]
pub(super) struct Form {
    /// As a line of base64.
    pub(super) base64: bool,
    /// For nobody else's eyes.
    pub(super) private: bool,
}

/// Ends a command whose answer is `bytes`: into the file or to standard output. With `--json` and without a file the whole
/// reply of the API is printed.
pub(super) fn write_answer(
    response: &impl Serialize,
    bytes: &[u8],
    file: Option<&Path>,
    form: Form,
    context: &Context,
) -> Result<(), Failure> {
    if context.output.is_json() && file.is_none() {
        return context.output.print("", response);
    }
    write(file, bytes, form.base64, form.private, context)
}

/// Writes a file, new ones with mode 0600. One that is there keeps its mode, unless what it is to
/// hold is `private`: then it is closed to others before the first byte.
fn write_file(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let metadata = file.metadata()?;
    if private && metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    file.write_all(bytes)
}

/// DER as PEM (RFC 7468) under a label such as `PUBLIC KEY`.
pub(super) fn pem(label: &str, der: &[u8]) -> Blob {
    let mut text = format!("-----BEGIN {label}-----\n").into_bytes();
    let body = Blob::new(BASE64.encode(der).into_bytes());
    for line in body.as_slice().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    Blob::new(text)
}

/// The DER of a file that is DER, or PEM under the label. Text around the PEM block is skipped, as OpenSSL does.
///
/// # Errors
/// It is PEM, but has no block with that label, or the block is not base64.
pub(super) fn der(name: &str, label: &str, bytes: Blob) -> Result<Blob, Failure> {
    let Ok(text) = std::str::from_utf8(bytes.as_slice()) else {
        return Ok(bytes);
    };
    if !text.contains("-----BEGIN ") {
        return Ok(bytes);
    }
    let block = text
        .split_once(&format!("-----BEGIN {label}-----"))
        .and_then(|(_, rest)| rest.split_once(&format!("-----END {label}-----")));
    let Some((body, _)) = block else {
        let wrong = format!("{name} is PEM, but has no `{label}`");
        return Err(Failure::new(Exit::Invalid, wrong).next(format!(
            "Convert it to `-----BEGIN {label}-----` (unencrypted), or to DER."
        )));
    };
    unbase64(body.as_bytes()).ok_or_else(|| {
        Failure::new(
            Exit::Invalid,
            format!("the PEM block of {name} is not base64"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn plaintext_files_are_private_whatever_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain");
        write_file(&path, b"one", true).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_file(&path, b"2", true).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        write_file(Path::new("/dev/null"), b"3", true).unwrap();
        assert_eq!(
            mode(Path::new("/dev/null")),
            0o666,
            "only files are changed"
        );
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_file(&path, b"4", false).unwrap();
        assert_eq!(mode(&path), 0o644, "a ciphertext is no secret");
    }

    #[test]
    fn pem_and_der_are_read_alike() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = pem("PUBLIC KEY", &bytes);
        let lines: Vec<&str> = std::str::from_utf8(text.as_slice())
            .unwrap()
            .lines()
            .collect();
        assert_eq!(lines[0], "-----BEGIN PUBLIC KEY-----");
        assert_eq!((lines[1].len(), lines.len()), (64, 8));
        assert_eq!(der("f", "PUBLIC KEY", text).unwrap().as_slice(), bytes);
        let plain = Blob::new(bytes.clone());
        assert_eq!(der("f", "PUBLIC KEY", plain).unwrap().as_slice(), bytes);
        let around = Blob::new(
            b"subject\n-----BEGIN PUBLIC KEY-----\r\nAAEC\r\n-----END PUBLIC KEY-----\r\nmore"
                .to_vec(),
        );
        assert_eq!(
            der("f", "PUBLIC KEY", around).unwrap().as_slice(),
            [0, 1, 2]
        );
        let other = pem("CERTIFICATE", &bytes);
        let failure = der("peer.pem", "PUBLIC KEY", other).unwrap_err();
        assert!(failure.message.contains("peer.pem"), "{failure:?}");
    }
}
