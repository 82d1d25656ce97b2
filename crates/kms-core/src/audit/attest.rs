//! What a TPM signs for a checkpoint, and its verification without a TPM.
//!
//! A checkpoint of a TPM carries a signature line of the private kind `kmsd.local/tpm-attestation@v1`. It holds two
//! structures that the chip's attestation key has signed, both over [`Checkpoint::qualifying`]:
//!
//! - a **quote** (TPM2_Quote): the chip's clock, its reset and restart counts, a digest of PCRs;
//! - a **certification** of the checkpoint counter (TPM2_NV_Certify): the value that the counter has in the chip.
//!
//! The counter only goes up, and after each checkpoint it does. So a value that has passed cannot be certified any more by
//! anybody: a checkpoint that was replaced leaves a gap. Chips without TPM2_NV_Certify only give the quote; the
//! value is then one that the host claims, and what is left is the order of the clocks.
//!
//! [`Checkpoint::qualifying`]: super::checkpoint::Checkpoint::qualifying

use kms_crypto::{p256_verify, sha256};

use super::note::{KIND_PRIVATE, key_id};

/// Follows [`KIND_PRIVATE`] in the id of the signature line.
pub const ATTESTATION_KIND: &[u8] = b"kmsd.local/tpm-attestation@v1";

const MAGIC: u32 = 0xff54_4347;
const ST_ATTEST_NV: u16 = 0x8014;
const ST_ATTEST_QUOTE: u16 = 0x8018;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const NIST_P256: u16 = 0x0003;
const RH_ENDORSEMENT: u32 = 0x4000_000b;

/// What a TPM gave for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// TPMS_ATTEST of the quote with its signature.
    pub quote: Signed,
    /// TPMS_ATTEST of the counter's certification; none from a chip that cannot certify.
    pub certification: Option<Signed>,
}

/// A structure and its ECDSA signature (r, then s).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// TPMS_ATTEST as marshalled.
    pub attest: Vec<u8>,
    /// Over SHA-256 of it.
    pub signature: [u8; 64],
}

/// Public parts of what a TPM attests with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmKeys {
    /// TPMT_PUBLIC of the attestation key.
    pub attestation_key: Vec<u8>,
    /// Name of the endorsement key under which it lies.
    pub endorsement_name: Vec<u8>,
    /// TPMS_NV_PUBLIC of the checkpoint counter.
    pub counter: Vec<u8>,
    /// Whether the chip certifies the counter. An attestation without a certification is then refused.
    pub certifies: bool,
}

/// What a verified attestation says about the chip's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TpmTime {
    /// Milliseconds that the chip was powered, since it was last cleared.
    pub clock: u64,
    /// TPM resets (reboots).
    pub resets: u32,
    /// Restarts and resumes since the last reset.
    pub restarts: u32,
    /// Whether no later clock value was ever reported.
    pub safe: bool,
}

/// Why an attestation does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// Not the structure it should be.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// The public area is not one of a key or counter that can vouch for anything.
    #[error("{0}")]
    Unfit(&'static str),
    /// Signed by another key, or altered.
    #[error("the signature of the {0} does not fit")]
    Signature(&'static str),
    /// Says something else than the checkpoint.
    #[error("the {0}")]
    Differs(&'static str),
}

impl Attestation {
    /// The bytes of the signature line.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        for signed in [Some(&self.quote), self.certification.as_ref()]
            .into_iter()
            .flatten()
        {
            // A TPM's buffers have less than 64 KiB.
            let len = u16::try_from(signed.attest.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&signed.attest);
            out.extend_from_slice(&signed.signature);
        }
        out
    }

    /// Reads the bytes of a signature line.
    ///
    /// # Errors
    /// [`AttestError::Malformed`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttestError> {
        let mut reader = Reader::new(bytes, "the attestation");
        let quote = reader.signed()?;
        let certification = if reader.rest.is_empty() {
            None
        } else {
            Some(reader.signed()?)
        };
        reader.end()?;
        Ok(Self {
            quote,
            certification,
        })
    }
}

impl TpmKeys {
    /// The id of this key's signature lines under `name`.
    ///
    /// # Errors
    /// The attestation key is malformed or unfit.
    pub fn key_id(&self, name: &str) -> Result<[u8; 4], AttestError> {
        let public = [ATTESTATION_KIND, b"\n", &self.point()?].concat();
        Ok(key_id(name, KIND_PRIVATE, &public))
    }

    /// Checks that the keys can vouch for a log: a restricted signing key that cannot leave its chip, so that it signs
    /// nothing of this form but what the chip itself says, and a counter that only goes up.
    ///
    /// # Errors
    /// [`AttestError`]
    pub fn check(&self) -> Result<(), AttestError> {
        self.point()?;
        self.counter_name().map(drop)
    }

    /// Verifies an attestation of a checkpoint: `qualifying` is [`Checkpoint::qualifying`], `counter` the value it
    /// names.
    ///
    /// [`Checkpoint::qualifying`]: super::checkpoint::Checkpoint::qualifying
    ///
    /// # Errors
    /// [`AttestError`]
    pub fn verify(
        &self,
        attestation: &Attestation,
        qualifying: &[u8; 32],
        counter: u64,
    ) -> Result<TpmTime, AttestError> {
        let point = self.point()?;
        let signer = self.qualified_name();
        let quote = Attest::verified(&attestation.quote, "quote", &point, &signer, qualifying)?;
        if !matches!(quote.body, Body::Quote) {
            return Err(AttestError::Differs("quote is no quote"));
        }
        match &attestation.certification {
            None if self.certifies => Err(AttestError::Differs(
                "certification of the counter is missing, which this TPM gives",
            )),
            None => Ok(quote.time),
            Some(signed) => {
                let what = "certification of the counter";
                let nv = Attest::verified(signed, what, &point, &signer, qualifying)?;
                let Body::Nv { name, contents } = nv.body else {
                    return Err(AttestError::Differs("certification is of no NV index"));
                };
                if name != self.counter_name()? {
                    return Err(AttestError::Differs("certification is of another NV index"));
                }
                if contents != counter.to_be_bytes() {
                    return Err(AttestError::Differs(
                        "counter has another value in the TPM than in the checkpoint",
                    ));
                }
                if (nv.time.resets, nv.time.restarts) != (quote.time.resets, quote.time.restarts)
                    || nv.time.clock < quote.time.clock
                {
                    return Err(AttestError::Differs(
                        "quote and certification are not of one moment",
                    ));
                }
                Ok(nv.time)
            }
        }
    }

    /// Name of the attestation key.
    fn name(&self) -> Vec<u8> {
        name_of(&self.attestation_key)
    }

    /// What the chip names as the signer: the key's name hashed with those above it, up to the hierarchy (TPM 2.0 part
    /// 1, 16.2). So it shows that the key lies under the endorsement hierarchy.
    fn qualified_name(&self) -> Vec<u8> {
        let hierarchy = RH_ENDORSEMENT.to_be_bytes();
        let parent = qualified(&hierarchy, &self.endorsement_name);
        qualified(&parent, &self.name())
    }

    /// The point of the attestation key, x then y, of a public area that is fit for it (TPM 2.0 part 2, 12.2.4).
    fn point(&self) -> Result<[u8; 64], AttestError> {
        const FIXED_TPM: u32 = 1 << 1;
        const FIXED_PARENT: u32 = 1 << 4;
        const ORIGIN: u32 = 1 << 5;
        const RESTRICTED: u32 = 1 << 16;
        const DECRYPT: u32 = 1 << 17;
        const SIGN: u32 = 1 << 18;
        const NEEDED: u32 = FIXED_TPM | FIXED_PARENT | ORIGIN | RESTRICTED | SIGN;
        let mut reader = Reader::new(&self.attestation_key, "the attestation key");
        let kind = (reader.u16()?, reader.u16()?);
        let attributes = reader.u32()?;
        reader.sized()?;
        let parameters = [
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
            reader.u16()?,
        ];
        let (x, y) = (reader.sized()?, reader.sized()?);
        reader.end()?;
        if kind != (ALG_ECC, ALG_SHA256)
            || parameters != [ALG_NULL, ALG_ECDSA, ALG_SHA256, NIST_P256, ALG_NULL]
        {
            return Err(AttestError::Unfit(
                "the attestation key is not ECDSA P-256 with SHA-256",
            ));
        }
        if attributes & (NEEDED | DECRYPT) != NEEDED {
            return Err(AttestError::Unfit(
                "the attestation key is not a restricted signing key that is fixed to its TPM",
            ));
        }
        let mut point = [0; 64];
        let (to_x, to_y) = point.split_at_mut(32);
        for (to, from) in [(to_x, x), (to_y, y)] {
            // Some chips leave leading zeros out.
            let start = 32_usize.checked_sub(from.len());
            match start.and_then(|start| to.get_mut(start..)) {
                Some(to) => to.copy_from_slice(from),
                None => return Err(AttestError::Malformed("the attestation key")),
            }
        }
        Ok(point)
    }

    /// Name of the counter, of a public area that is a counter's (TPM 2.0 part 2, 13.5 and 13.4).
    fn counter_name(&self) -> Result<Vec<u8>, AttestError> {
        const TYPE: u32 = 0xf0;
        const COUNTER: u32 = 0x10;
        const ORDERLY: u32 = 1 << 26;
        const CLEAR_STCLEAR: u32 = 1 << 27;
        const WRITTEN: u32 = 1 << 29;
        let mut reader = Reader::new(&self.counter, "the counter's description");
        let (_index, algorithm) = (reader.u32()?, reader.u16()?);
        let attributes = reader.u32()?;
        reader.sized()?;
        let size = reader.u16()?;
        reader.end()?;
        if attributes & TYPE != COUNTER
            || attributes & (ORDERLY | CLEAR_STCLEAR | WRITTEN) != WRITTEN
            || (algorithm, size) != (ALG_SHA256, 8)
        {
            return Err(AttestError::Unfit(
                "the NV index is not a counter that keeps its value",
            ));
        }
        Ok(name_of(&self.counter))
    }
}

/// Name of an entity: algorithm and hash of its public area.
fn name_of(public: &[u8]) -> Vec<u8> {
    [ALG_SHA256.to_be_bytes().as_slice(), &sha256(&[public])].concat()
}

fn qualified(parent: &[u8], name: &[u8]) -> Vec<u8> {
    [
        ALG_SHA256.to_be_bytes().as_slice(),
        &sha256(&[parent, name]),
    ]
    .concat()
}

/// A parsed TPMS_ATTEST (TPM 2.0 part 2, 10.12.8).
struct Attest<'a> {
    time: TpmTime,
    body: Body<'a>,
}

enum Body<'a> {
    Quote,
    Nv { name: &'a [u8], contents: &'a [u8] },
}

impl<'a> Attest<'a> {
    fn verified(
        signed: &'a Signed,
        what: &'static str,
        point: &[u8; 64],
        signer: &[u8],
        qualifying: &[u8; 32],
    ) -> Result<Self, AttestError> {
        p256_verify(point, &signed.attest, &signed.signature)
            .map_err(|_| AttestError::Signature(what))?;
        let mut reader = Reader::new(&signed.attest, what);
        // A restricted key signs nothing that begins so but what the chip made itself.
        if reader.u32()? != MAGIC {
            return Err(reader.bad());
        }
        let kind = reader.u16()?;
        if reader.sized()? != signer {
            return Err(AttestError::Differs(
                "signer is not the key under the endorsement hierarchy that it should be",
            ));
        }
        if reader.sized()? != qualifying {
            return Err(AttestError::Differs("TPM signed another checkpoint"));
        }
        let time = TpmTime {
            clock: reader.u64()?,
            resets: reader.u32()?,
            restarts: reader.u32()?,
            safe: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(reader.bad()),
            },
        };
        let _firmware = reader.u64()?;
        let body = match kind {
            ST_ATTEST_QUOTE => {
                let selections = reader.u32()?;
                for _ in 0..selections {
                    let _bank = reader.u16()?;
                    let len = reader.u8()?;
                    reader.take(usize::from(len))?;
                }
                let _digest = reader.sized()?;
                Body::Quote
            }
            ST_ATTEST_NV => {
                let name = reader.sized()?;
                if reader.u16()? != 0 {
                    return Err(AttestError::Differs(
                        "certification is of a part of the index",
                    ));
                }
                Body::Nv {
                    name,
                    contents: reader.sized()?,
                }
            }
            _ => return Err(reader.bad()),
        };
        reader.end()?;
        Ok(Self { time, body })
    }
}

/// Reads the TPM's big-endian encoding, strictly.
struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    const fn bad(&self) -> AttestError {
        AttestError::Malformed(self.what)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], AttestError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AttestError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, AttestError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, AttestError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, AttestError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, AttestError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: two bytes of length, then so many.
    fn sized(&mut self) -> Result<&'a [u8], AttestError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn signed(&mut self) -> Result<Signed, AttestError> {
        Ok(Signed {
            attest: self.sized()?.to_vec(),
            signature: self.array()?,
        })
    }

    fn end(&self) -> Result<(), AttestError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.bad())
        }
    }
}
