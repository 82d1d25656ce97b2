//! `kmsctl encrypt` and `kmsctl decrypt`.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use data_encoding::BASE64;
use kms_api::{Blob, DecryptRequest, EncryptRequest};
use kms_api::{MAX_CIPHERTEXT, MAX_PLAINTEXT};

use crate::Context;
use crate::args::{DataArgs, DecryptArgs, EncryptArgs};
use crate::exit::{Exit, Failure};

pub(super) fn encrypt(args: &EncryptArgs, context: &Context) -> Result<(), Failure> {
    let plaintext = read(&args.data, MAX_PLAINTEXT)?;
    if plaintext.is_empty() {
        return Err(Failure::new(
            Exit::Invalid,
            "there is nothing to encrypt: the input is empty",
        ));
    }
    let response = context.client.send(EncryptRequest {
        key_id: args.key.clone(),
        plaintext,
        encryption_context: args.data.context.iter().cloned().collect(),
        grant_tokens: Vec::new(),
        encryption_algorithm: None,
        dry_run: false,
    })?;
    if context.output.is_json() && args.data.output.is_none() {
        return context.output.print("", &response);
    }
    if args.base64 {
        let text = format!("{}\n", BASE64.encode(response.ciphertext_blob.as_slice()));
        write(&args.data, text.as_bytes(), false, context)
    } else {
        write(
            &args.data,
            response.ciphertext_blob.as_slice(),
            false,
            context,
        )
    }
}

pub(super) fn decrypt(args: &DecryptArgs, context: &Context) -> Result<(), Failure> {
    let limit = if args.base64 {
        2 * MAX_CIPHERTEXT
    } else {
        MAX_CIPHERTEXT
    };
    let input = read(&args.data, limit)?;
    let ciphertext = if args.base64 {
        let mut text = input.as_slice().to_vec();
        text.retain(|byte| !byte.is_ascii_whitespace());
        let bytes = BASE64.decode(&text);
        Blob::new(bytes.map_err(|e| {
            Failure::new(Exit::Invalid, format!("the input is not base64: {e}"))
                .next("Leave out --base64 for a binary ciphertext.")
        })?)
    } else {
        input
    };
    let response = context.client.send(DecryptRequest {
        ciphertext_blob: Some(ciphertext),
        encryption_context: args.data.context.iter().cloned().collect(),
        key_id: args.key.clone(),
        ..DecryptRequest::default()
    })?;
    if context.output.is_json() && args.data.output.is_none() {
        return context.output.print("", &response);
    }
    write(&args.data, response.plaintext.as_slice(), true, context)
}

/// Reads the whole input; more than `limit` bytes are refused.
fn read(data: &DataArgs, limit: usize) -> Result<Blob, Failure> {
    let mut bytes = Vec::with_capacity(limit + 1);
    let most = limit as u64 + 1;
    let (name, result) = match &data.input {
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
        return Err(Failure::new(
            Exit::Invalid,
            format!("{name} is longer than {limit} bytes"),
        )
        .next("Encrypt larger data with a data key, or keep it in a kmsfs directory."));
    }
    Ok(blob)
}

fn write(data: &DataArgs, bytes: &[u8], private: bool, context: &Context) -> Result<(), Failure> {
    match &data.output {
        None => context.output.write(bytes),
        Some(path) => {
            write_file(path, bytes, private).map_err(|e| Failure::local(path.display(), &e))
        }
    }
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
}
