//! `EVP_PKEY` of AWS-LC: every asymmetric key that it knows behind one handle. aws-lc-rs offers neither signatures over
//! digests for all of them, nor Ed25519ph, ML-DSA over an external mu, secp256k1 in PKCS#8, or seeds of ML-KEM keys.
//!
//! Which algorithm goes with which key is checked above this file; here only memory and return codes are looked after.
#![allow(
    unsafe_code,
    reason = "AWS-LC has these operations only in its C interface"
)]

mod context;
mod secret;
mod sign;

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};

use zeroize::Zeroizing;

use self::context::KeyContext;
pub(crate) use self::sign::{Padding, Signing};
use super::lc;
use crate::CryptoError;
use crate::secret::SecretBytes;

/// A digest that messages are hashed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Md {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Md {
    fn description(self) -> *const lc::EVP_MD {
        // SAFETY: each takes nothing and gives a static.
        unsafe {
            match self {
                Self::Sha1 => lc::EVP_sha1(),
                Self::Sha256 => lc::EVP_sha256(),
                Self::Sha384 => lc::EVP_sha384(),
                Self::Sha512 => lc::EVP_sha512(),
            }
        }
    }
}

/// What kind of key to make.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// The bits of the modulus.
    Rsa(c_int),
    P256,
    P384,
    P521,
    Secp256k1,
    Ed25519,
    MlDsa44,
    MlDsa65,
    MlDsa87,
    MlKem512,
    MlKem768,
    MlKem1024,
}

/// The number that makes a general kind of key a special one.
enum Parameter {
    RsaBits(c_int),
    Curve(c_int),
    MlDsa(c_int),
    MlKem(c_int),
    None,
}

impl Kind {
    const fn parameter(self) -> Parameter {
        match self {
            Self::Rsa(bits) => Parameter::RsaBits(bits),
            Self::P256 => Parameter::Curve(lc::NID_X9_62_prime256v1),
            Self::P384 => Parameter::Curve(lc::NID_secp384r1),
            Self::P521 => Parameter::Curve(lc::NID_secp521r1),
            Self::Secp256k1 => Parameter::Curve(lc::NID_secp256k1),
            Self::Ed25519 => Parameter::None,
            Self::MlDsa44 => Parameter::MlDsa(lc::NID_MLDSA44),
            Self::MlDsa65 => Parameter::MlDsa(lc::NID_MLDSA65),
            Self::MlDsa87 => Parameter::MlDsa(lc::NID_MLDSA87),
            Self::MlKem512 => Parameter::MlKem(lc::NID_MLKEM512),
            Self::MlKem768 => Parameter::MlKem(lc::NID_MLKEM768),
            Self::MlKem1024 => Parameter::MlKem(lc::NID_MLKEM1024),
        }
    }
}

/// A private key with its public part, or a public key alone. AWS-LC zeroises it when it is freed.
pub(crate) struct Pkey(NonNull<lc::EVP_PKEY>);

// SAFETY: a key is memory without ties to a thread.
unsafe impl Send for Pkey {}
// SAFETY: AWS-LC lets many threads use a key at once as long as none changes it; `new` and `parse_private` change it
// before anyone else can see it, nothing does after. What RSA caches inside has a lock of its own.
unsafe impl Sync for Pkey {}

impl Drop for Pkey {
    fn drop(&mut self) {
        // SAFETY: the key is owned and not used again.
        unsafe { lc::EVP_PKEY_free(self.0.as_ptr()) };
    }
}

impl Pkey {
    pub(crate) fn generate(kind: Kind) -> Result<Self, CryptoError> {
        let parameter = kind.parameter();
        let id = match parameter {
            Parameter::RsaBits(_) => lc::EVP_PKEY_RSA,
            Parameter::Curve(_) => lc::EVP_PKEY_EC,
            Parameter::None => lc::EVP_PKEY_ED25519,
            Parameter::MlDsa(_) => lc::EVP_PKEY_PQDSA,
            Parameter::MlKem(_) => lc::EVP_PKEY_KEM,
        };
        let failed = CryptoError::Provider("making a key pair");
        let context = KeyContext::of_kind(id)?;
        let at = context.as_ptr();
        // SAFETY: the context is live; each parameter is one for its kind of key.
        let ready = unsafe {
            lc::EVP_PKEY_keygen_init(at) == 1
                && 1 == match parameter {
                    Parameter::RsaBits(bits) => lc::EVP_PKEY_CTX_set_rsa_keygen_bits(at, bits),
                    Parameter::Curve(nid) => lc::EVP_PKEY_CTX_set_ec_paramgen_curve_nid(at, nid),
                    Parameter::None => 1,
                    Parameter::MlDsa(nid) => lc::EVP_PKEY_CTX_pqdsa_set_params(at, nid),
                    Parameter::MlKem(nid) => lc::EVP_PKEY_CTX_kem_set_params(at, nid),
                }
        };
        let mut key = null_mut();
        // SAFETY: the context is ready; the key is given into a place that is owned.
        if !ready || unsafe { lc::EVP_PKEY_keygen(at, &raw mut key) } != 1 {
            return Err(refuse(failed));
        }
        NonNull::new(key).map(Self).ok_or(failed)
    }

    /// The ML-KEM key of a seed.
    pub(crate) fn ml_kem(kind: Kind, seed: &[u8; 64]) -> Result<Self, CryptoError> {
        let failed = CryptoError::Provider("making an ML-KEM key");
        let Parameter::MlKem(nid) = kind.parameter() else {
            return Err(failed);
        };
        let context = KeyContext::of_kind(lc::EVP_PKEY_KEM)?;
        let (mut key, mut len) = (null_mut(), seed.len());
        // SAFETY: the context is live, the seed has the length that is given, the key is given into a place that is owned.
        let done = unsafe {
            lc::EVP_PKEY_CTX_kem_set_params(context.as_ptr(), nid) == 1
                && lc::EVP_PKEY_keygen_init(context.as_ptr()) == 1
                && lc::EVP_PKEY_keygen_deterministic(
                    context.as_ptr(),
                    &raw mut key,
                    seed.as_ptr(),
                    &raw mut len,
                ) == 1
        };
        match NonNull::new(key) {
            Some(key) if done => Ok(Self(key)),
            _ => Err(refuse(failed)),
        }
    }

    /// Reads a PKCS#8 `PrivateKeyInfo`; nothing may follow it. None if AWS-LC does not accept it.
    pub(crate) fn parse_private(pkcs8: &[u8]) -> Option<Self> {
        let key = parse(pkcs8, lc::EVP_parse_private_key)?;
        // SAFETY: the key is live; the result is null for a key of another kind, else a part of it.
        if let Some(ec) = NonNull::new(unsafe { lc::EVP_PKEY_get0_EC_KEY(key.0.as_ptr()) }) {
            // What the sender's encoder left out, or wrote compressed, is written in full from now on.
            // SAFETY: the part is live as long as the key, which nobody else has seen yet.
            unsafe {
                let form = lc::point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED;
                lc::EC_KEY_set_conv_form(ec.as_ptr(), form);
                lc::EC_KEY_set_enc_flags(ec.as_ptr(), 0);
            }
        }
        Some(key)
    }

    /// Reads a `SubjectPublicKeyInfo`; nothing may follow it. None if AWS-LC does not accept it.
    pub(crate) fn parse_public(spki: &[u8]) -> Option<Self> {
        parse(spki, lc::EVP_parse_public_key)
    }

    /// The PKCS#8 form, version 1; for ML-KEM and ML-DSA with the seed.
    pub(crate) fn marshal_private(&self) -> Result<SecretBytes, CryptoError> {
        Ok(SecretBytes::from(
            self.marshal(lc::EVP_marshal_private_key)?,
        ))
    }

    /// The `SubjectPublicKeyInfo`.
    pub(crate) fn marshal_public(&self) -> Result<Vec<u8>, CryptoError> {
        self.marshal(lc::EVP_marshal_public_key)
    }

    fn marshal(
        &self,
        write: unsafe extern "C" fn(*mut lc::CBB, *const lc::EVP_PKEY) -> c_int,
    ) -> Result<Vec<u8>, CryptoError> {
        let failed = CryptoError::Provider("writing a key");
        let mut cbb = MaybeUninit::<lc::CBB>::zeroed();
        let cbb = cbb.as_mut_ptr();
        // SAFETY: the CBB is memory of its type, which `CBB_init` sets up.
        if unsafe { lc::CBB_init(cbb, 0) } != 1 {
            return Err(refuse(failed));
        }
        let (mut at, mut len) = (null_mut(), 0);
        // SAFETY: CBB and key are live.
        let done = unsafe { write(cbb, self.0.as_ptr()) } == 1
            // SAFETY: as above; on success the buffer is ours.
            && unsafe { lc::CBB_finish(cbb, &raw mut at, &raw mut len) } == 1;
        if !done {
            // SAFETY: the CBB was set up and not finished.
            unsafe { lc::CBB_cleanup(cbb) };
            return Err(refuse(failed));
        }
        // SAFETY: AWS-LC gave a buffer of `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(at, len) }.to_vec();
        // SAFETY: the buffer is ours and not used again. `OPENSSL_free` zeroises what it frees.
        unsafe { lc::OPENSSL_free(at.cast()) };
        Ok(bytes)
    }

    /// The private key in the form that its own standard gives: a seed for Ed25519, the expanded key for ML-KEM and
    /// ML-DSA. Not for RSA.
    pub(crate) fn raw_private(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let failed = CryptoError::Provider("reading a private key");
        // SAFETY: the key is live; the buffer has the length that the first call gives.
        sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_get_raw_private_key(self.0.as_ptr(), out, len)
        })
    }

    /// The public key in the form that its own standard gives. Not for RSA and elliptic curves of Weierstrass form.
    pub(crate) fn raw_public(&self) -> Result<Vec<u8>, CryptoError> {
        let failed = CryptoError::Provider("reading a public key");
        // SAFETY: the key is live; the buffer has the length that the first call gives.
        let mut public = sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_get_raw_public_key(self.0.as_ptr(), out, len)
        })?;
        Ok(std::mem::take(&mut *public))
    }

    /// The bits of an RSA modulus and the bits of its public exponent; none for other keys.
    pub(crate) fn rsa_bits(&self) -> Option<(u32, u32)> {
        // SAFETY: the key is live; the result is null for a key of another kind, else a part of it.
        let rsa = NonNull::new(unsafe { lc::EVP_PKEY_get0_RSA(self.0.as_ptr()) })?;
        // SAFETY: the part lives as long as the key; an RSA key always has modulus and exponent.
        unsafe {
            let exponent = lc::BN_num_bits(lc::RSA_get0_e(rsa.as_ptr()));
            Some((lc::RSA_bits(rsa.as_ptr()), exponent))
        }
    }

    fn context(&self) -> Result<KeyContext, CryptoError> {
        // SAFETY: the key is live; the context takes its own reference to it.
        unsafe { KeyContext::of_key(self.0.as_ptr()) }
    }
}

fn parse(
    der: &[u8],
    read: unsafe extern "C" fn(*mut lc::CBS) -> *mut lc::EVP_PKEY,
) -> Option<Pkey> {
    let mut cbs = lc::CBS {
        data: std::ptr::null(),
        len: 0,
    };
    // SAFETY: the CBS is set up over bytes that outlive it; the result is null or an owned key.
    let key = unsafe {
        lc::CBS_init(&raw mut cbs, der.as_ptr(), der.len());
        NonNull::new(read(&raw mut cbs)).map(Pkey)
    };
    if key.is_none() {
        clear_errors();
    }
    key.filter(|_| cbs.len == 0)
}

/// Calls once for the length and once for the bytes; the bytes may be fewer.
fn sized(
    failed: CryptoError,
    mut call: impl FnMut(*mut u8, *mut usize) -> c_int,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let mut len = 0;
    if call(null_mut(), &raw mut len) != 1 {
        return Err(refuse(failed));
    }
    let mut out = Zeroizing::new(vec![0; len]);
    if call(out.as_mut_ptr(), &raw mut len) != 1 || len > out.len() {
        return Err(refuse(failed));
    }
    out.truncate(len);
    Ok(out)
}

fn authentic(done: c_int) -> Result<(), CryptoError> {
    if done == 1 {
        Ok(())
    } else {
        Err(refuse(CryptoError::Authentication))
    }
}

/// The error, with AWS-LC's queue of errors of this thread emptied: nobody reads it, and it may name details of a
/// decryption that no caller shall learn.
fn refuse(error: CryptoError) -> CryptoError {
    clear_errors();
    error
}

fn clear_errors() {
    // SAFETY: takes nothing and touches only this thread's queue.
    unsafe { lc::ERR_clear_error() };
}
