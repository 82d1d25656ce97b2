//! The place of an interrupted job, `.kmsfs.job` in the lower root (FORMAT.md section 10): a line of text, then what the
//! program that runs the job wants to find again. Authenticated under the policy key, not secret.

use data_encoding::HEXLOWER;

use crate::{FORMAT, FormatError, Record, UnlockedPolicy};

const MAGIC: &str = "KMSFSJOB ";
const MAC: &str = " hmac=";
const LABEL: &[u8] = b"kmsfs/1/job";

/// A record, taken apart. Nothing is authenticated yet.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// What it says.
    pub body: &'a [u8],
    mac: &'a str,
}

/// The bytes to write; the file is replaced as a whole.
///
/// # Errors
/// None in practice.
pub fn seal(policy: &UnlockedPolicy, body: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mac = HEXLOWER.encode(&mac(policy, body));
    let head = format!("{MAGIC}{FORMAT}{MAC}{mac}\n");
    Ok([head.as_bytes(), body].concat())
}

/// Takes a record apart.
///
/// # Errors
/// [`FormatError::Blank`], [`FormatError::WrongMagic`], [`FormatError::UnsupportedFormat`].
pub fn split(bytes: &[u8]) -> Result<Parts<'_>, FormatError> {
    const RECORD: Record = Record::Job;
    if crate::bytes::is_zero(bytes) {
        return Err(FormatError::Blank { record: RECORD });
    }
    let magic = || FormatError::WrongMagic { record: RECORD };
    let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or_else(magic)?;
    let line = rest.iter().position(|byte| *byte == b'\n');
    let (head, body) = line
        .and_then(|line| rest.split_at_checked(line))
        .ok_or_else(magic)?;
    let body = body.strip_prefix(b"\n").unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| magic())?;
    let (format, mac) = head.split_once(MAC).ok_or_else(magic)?;
    match format.parse::<u16>() {
        Ok(FORMAT) => Ok(Parts { body, mac }),
        Ok(found) => Err(FormatError::UnsupportedFormat {
            record: RECORD,
            found,
        }),
        Err(_) => Err(magic()),
    }
}

/// What a record says, if it was written under this policy key.
///
/// # Errors
/// As [`split`]; [`FormatError::TagMismatch`].
pub fn open<'a>(policy: &UnlockedPolicy, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
    let parts = split(bytes)?;
    let right = HEXLOWER.encode(&mac(policy, parts.body));
    if kms_crypto::constant_time_eq(right.as_bytes(), parts.mac.as_bytes()) {
        Ok(parts.body)
    } else {
        Err(FormatError::TagMismatch {
            record: Record::Job,
        })
    }
}

fn mac(policy: &UnlockedPolicy, body: &[u8]) -> [u8; 32] {
    kms_crypto::hmac_sha256(policy.jobs().expose(), &[LABEL, body])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContentMode, PolicyId, VolumeId};
    use kms_crypto::Key;

    fn policy(generation: u32) -> UnlockedPolicy {
        UnlockedPolicy::derive(
            VolumeId([1; 16]),
            PolicyId([2; 16]),
            generation,
            ContentMode::Xts,
            &Key::from_slice(&[3; 32]).unwrap(),
            &Key::from_slice(&[4; 32]).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn a_record_opens_under_the_key_that_sealed_it_and_unaltered_only() {
        let record = seal(&policy(2), b"{\"done\":7}").unwrap();
        assert_eq!(open(&policy(2), &record).unwrap(), b"{\"done\":7}");
        assert!(matches!(
            open(&policy(3), &record),
            Err(FormatError::TagMismatch { .. })
        ));
        for place in 0..record.len() {
            let mut altered = record.clone();
            altered[place] ^= 1;
            assert!(open(&policy(2), &altered).is_err(), "byte {place}");
            assert!(
                open(&policy(2), &record[..place]).is_err(),
                "cut to {place}"
            );
        }
        assert!(matches!(split(&[0; 9]), Err(FormatError::Blank { .. })));
        assert!(matches!(
            split(b"KMSFSJOB 2 hmac=00\n"),
            Err(FormatError::UnsupportedFormat { found: 2, .. })
        ));
    }
}
