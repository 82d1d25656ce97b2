//! The table of failures: names, exit codes, next steps. Documented in `docs/OPERATIONS.md`.

use super::SealError;

/// One row of the table of failures, see [`kinds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorKind {
    /// Stable name, for logs and JSON.
    pub name: &'static str,
    /// Exit status of the programs, unique per kind.
    pub exit_code: u8,
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// What the operator does next.
    pub next_step: &'static str,
}

/// All failures that a sealer reports, in the order of their exit codes.
#[must_use]
pub const fn kinds() -> &'static [ErrorKind] {
    &KINDS
}

impl SealError {
    /// The exit status that programs end with: 20 to 47, one per kind, see [`kinds`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.kind().exit_code
    }

    /// What the operator does now, one sentence.
    #[must_use]
    pub fn next_step(&self) -> String {
        self.kind().next_step.to_owned()
    }

    /// The row of [`kinds`] for this failure.
    #[must_use]
    pub const fn kind(&self) -> &'static ErrorKind {
        match self {
            Self::NoDevice { .. } => &KINDS[0],
            Self::DeviceBusy { .. } => &KINDS[1],
            Self::DeviceForbidden { .. } => &KINDS[2],
            Self::Tpm { .. } => &KINDS[3],
            Self::PcrChanged { .. } => &KINDS[4],
            Self::WrongCredential => &KINDS[5],
            Self::WrongPin { .. } => &KINDS[6],
            Self::LockedOut { .. } => &KINDS[7],
            Self::OtherTpm { .. } => &KINDS[8],
            Self::DamagedBlob => &KINDS[9],
            Self::DamagedRecord { .. } => &KINDS[10],
            Self::UnsupportedRecord { .. } => &KINDS[11],
            Self::CounterMissing { .. } => &KINDS[12],
            Self::CounterReplaced { .. } => &KINDS[13],
            Self::RolledBack { .. } => &KINDS[14],
            Self::EpochDestroyed { .. } => &KINDS[15],
            Self::EpochReplaced { .. } => &KINDS[16],
            Self::NvFull { .. } => &KINDS[17],
            Self::OwnerAuth { .. } => &KINDS[18],
            Self::KeyFileMissing { .. } => &KINDS[19],
            Self::KeyFileMode { .. } => &KINDS[20],
            Self::KeyFileDamaged { .. } => &KINDS[21],
            Self::Io { .. } => &KINDS[22],
            Self::WeakCredential { .. } => &KINDS[23],
            Self::NotUnsealed => &KINDS[24],
            Self::InvalidConfig { .. } => &KINDS[25],
            Self::Crypto(_) => &KINDS[26],
            Self::OtherKeyFile { .. } => &KINDS[27],
        }
    }
}

const RECOVER: &str =
    "If this is expected, run `kmsctl tpm recover` with the recovery key: it enrols anew.";

const KINDS: [ErrorKind; 28] = [
    kind(
        20,
        "no-device",
        "No TPM at the configured device.",
        "Check `seal.device` and that the TPM is enabled in the firmware; without a chip use swtpm or the software sealer.",
    ),
    kind(
        21,
        "device-busy",
        "Another process holds the TPM for longer than `seal.wait`.",
        "Find it with `fuser /dev/tpm0 /dev/tpmrm0`; use /dev/tpmrm0, which many may open.",
    ),
    kind(
        22,
        "device-forbidden",
        "The TPM device may not be opened by this user.",
        "Put the service user into the group `tss` and allow the device in the unit (`DeviceAllow=/dev/tpmrm0 rw`).",
    ),
    kind(
        23,
        "tpm-failure",
        "The TPM refused a step for a reason without a kind of its own.",
        "Try again once; if it stays, run `tpm2_getcap properties-variable`, restart the TPM, or recover with the recovery key.",
    ),
    kind(
        24,
        "pcr-changed",
        "The measured state (PCRs) differs from every approved one.",
        "If the update was yours, boot the old state and approve the new one there, or run `kmsctl tpm recover` with the recovery key; if not, treat the host as tampered with.",
    ),
    kind(
        25,
        "wrong-credential",
        "The credential does not open this enrolment.",
        "Give the credential that was made at enrolment, or run `kmsctl tpm recover` with the recovery key. Nothing was counted.",
    ),
    kind(
        26,
        "wrong-pin",
        "The typed PIN is wrong and was counted.",
        "Type the PIN again; after the last try the TPM is left alone until it forgives.",
    ),
    kind(
        27,
        "locked-out",
        "Too many wrong PINs or unclean power-offs; no attempt was made.",
        "Wait for the time shown, or reset with `tpm2_dictionarylockout --clear-lockout` and the lockout password.",
    ),
    kind(
        28,
        "other-tpm",
        "The storage root key is not the one of the enrolment.",
        RECOVER,
    ),
    kind(
        29,
        "damaged-blob",
        "The sealed blob does not load under the right storage root key.",
        "Restore the newest backup of the store's files, or run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        30,
        "damaged-record",
        "The enrolment record is damaged or was edited.",
        "Restore the newest backup of the store's files, or run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        31,
        "unsupported-record",
        "The enrolment record is of a newer version or of another kind of sealer.",
        "Use the program version and the `seal.kind` that the record was made with.",
    ),
    kind(
        32,
        "counter-missing",
        "The rollback counter is gone.",
        "Somebody removed the NV index (or file); check who, then run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        33,
        "counter-replaced",
        "The rollback counter is not the enrolled one, or ran backwards.",
        "Check who changed the TPM or put its state back; then run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        34,
        "rolled-back",
        "The store is not the newest one that this host has written.",
        "Put the newest store back; to go on with this one anyway, run `kmsd accept-rollback` with the recovery key.",
    ),
    kind(
        35,
        "epoch-destroyed",
        "The record is from before a deletion; its epoch secret no longer exists.",
        "Put the newest store back; this one cannot be opened here again, which is what the deletion promised.",
    ),
    kind(
        36,
        "epoch-replaced",
        "The epoch secret was overwritten or belongs to something else.",
        "Check who changed the TPM (or the file); then run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        37,
        "nv-full",
        "The TPM has no room for the NV indices or for a persistent key.",
        "List with `tpm2_getcap handles-nv-index` and `tpm2_getcap handles-persistent`, and remove what nobody needs.",
    ),
    kind(
        38,
        "owner-auth",
        "The owner hierarchy has a password that was not given, or a wrong one was.",
        "Name a file with it as `seal.owner_auth`, or clear it with `tpm2_changeauth -c owner`.",
    ),
    kind(
        39,
        "key-file-missing",
        "The key file of the software sealer does not exist.",
        "Put the file back from its backup, or run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        40,
        "key-file-mode",
        "The key file can be read by group or others.",
        "Run `chmod 0600` on it, and think about who may have read it meanwhile.",
    ),
    kind(
        41,
        "key-file-damaged",
        "The key file or a file beside it is damaged.",
        "Put the file back from its backup, or run `kmsctl tpm recover` with the recovery key.",
    ),
    kind(
        42,
        "io",
        "A file of the software sealer could not be read or written.",
        "Check the path, its owner and free space, then try again.",
    ),
    kind(
        43,
        "weak-credential",
        "The credential is too short for the profile.",
        "Use 32 random bytes (`head -c 32 /dev/urandom`) or, with the PIN profile, at least 4 characters.",
    ),
    kind(
        44,
        "not-unsealed",
        "An operation came before the enrolment was unsealed.",
        "This is a fault in the program; report it.",
    ),
    kind(
        45,
        "invalid-config",
        "The `[seal]` section makes no sense.",
        "Correct the option that is named; `kmsd --check-config` tests it.",
    ),
    kind(
        46,
        "crypto",
        "A cryptographic primitive or the random generator failed.",
        "Restart the program; if it stays, the host's memory or random generator is broken.",
    ),
    kind(
        47,
        "other-key-file",
        "The key file is not the one of the enrolment.",
        "Put the right file back from its backup, or run `kmsctl tpm recover` with the recovery key.",
    ),
];

const fn kind(
    exit_code: u8,
    name: &'static str,
    meaning: &'static str,
    next_step: &'static str,
) -> ErrorKind {
    ErrorKind {
        name,
        exit_code,
        meaning,
        next_step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_code() {
        for (place, kind) in kinds().iter().enumerate() {
            assert_eq!(usize::from(kind.exit_code), 20 + place, "{}", kind.name);
            assert!(
                kinds()
                    .iter()
                    .filter(|other| other.name == kind.name)
                    .count()
                    == 1
            );
        }
    }

    #[test]
    fn the_operators_guide_lists_every_kind() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/OPERATIONS.md");
        let guide = std::fs::read_to_string(path).unwrap();
        for kind in kinds() {
            let row = format!(
                "| {} | `{}` | {} | {} |",
                kind.exit_code, kind.name, kind.meaning, kind.next_step
            );
            assert!(guide.contains(&row), "docs/OPERATIONS.md lacks: {row}");
        }
    }
}
