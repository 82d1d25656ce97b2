//! `EVP_PKEY` of AWS-LC: every asymmetric key that it knows behind one handle. aws-lc-rs offers neither signatures over
//! digests for all of them, nor Ed25519ph, ML-DSA over an external mu, secp256k1 in PKCS#8, or seeds of ML-KEM keys.
//!
//! Which algorithm goes with which key is checked above this file; here only memory and return codes are looked after.
#![allow(
    unsafe_code,
    reason = "AWS-LC has these operations only in its C interface"
)]

mod context;

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};

use aws_lc_sys as lc;
use zeroize::Zeroizing;

use self::context::{KeyContext, MessageContext};
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

/// RSA's way to encode what is signed.
#[derive(Clone, Copy)]
pub(crate) enum Padding {
    Pkcs1,
    /// With a salt as long as the digest and MGF1 over the same digest.
    Pss,
}

/// How to sign or verify: the padding is for RSA alone, the digest for RSA and ECDSA.
#[derive(Clone, Copy)]
pub(crate) struct Signing {
    pub(crate) padding: Option<Padding>,
    pub(crate) md: Option<Md>,
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

    /// Signs a message.
    pub(crate) fn sign(&self, how: Signing, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = MessageContext::new()?;
        let mut inner = null_mut();
        // SAFETY: context and key are live, the digest is a static or null; `inner` becomes a part of the context.
        let ready = unsafe {
            let (at, md) = (context.as_ptr(), description(how.md));
            lc::EVP_DigestSignInit(at, &raw mut inner, md, null_mut(), self.0.as_ptr()) == 1
                && pad(inner, how.padding)
        };
        let failed = CryptoError::Provider("signing");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut signature = sized(failed, |out, len| unsafe {
            lc::EVP_DigestSign(context.as_ptr(), out, len, message.as_ptr(), message.len())
        })?;
        Ok(std::mem::take(&mut *signature))
    }

    /// Signs what was hashed already; for ML-DSA, mu.
    pub(crate) fn sign_digest(&self, how: Signing, digest: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_sign_init(context.as_ptr()) == 1 && prepare(context.as_ptr(), how)
        };
        let failed = CryptoError::Provider("signing");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut signature = sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_sign(context.as_ptr(), out, len, digest.as_ptr(), digest.len())
        })?;
        Ok(std::mem::take(&mut *signature))
    }

    /// Whether `signature` is this key's over a message.
    pub(crate) fn verify(
        &self,
        how: Signing,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let context = MessageContext::new()?;
        let mut inner = null_mut();
        // SAFETY: context and key are live, the digest is a static or null; `inner` becomes a part of the context.
        let ready = unsafe {
            let (at, md) = (context.as_ptr(), description(how.md));
            lc::EVP_DigestVerifyInit(at, &raw mut inner, md, null_mut(), self.0.as_ptr()) == 1
                && pad(inner, how.padding)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("verifying a signature")));
        }
        // SAFETY: the context is ready, both buffers are valid for their lengths.
        authentic(unsafe {
            lc::EVP_DigestVerify(
                context.as_ptr(),
                signature.as_ptr(),
                signature.len(),
                message.as_ptr(),
                message.len(),
            )
        })
    }

    /// Whether `signature` is this key's over what was hashed already; for ML-DSA, mu.
    pub(crate) fn verify_digest(
        &self,
        how: Signing,
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_verify_init(context.as_ptr()) == 1 && prepare(context.as_ptr(), how)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("verifying a signature")));
        }
        // SAFETY: the context is ready, both buffers are valid for their lengths.
        authentic(unsafe {
            lc::EVP_PKEY_verify(
                context.as_ptr(),
                signature.as_ptr(),
                signature.len(),
                digest.as_ptr(),
                digest.len(),
            )
        })
    }

    /// RSAES-OAEP with an empty label.
    pub(crate) fn encrypt_oaep(&self, md: Md, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_encrypt_init(context.as_ptr()) == 1 && oaep(context.as_ptr(), md)
        };
        let failed = CryptoError::Provider("RSAES-OAEP");
        if !ready {
            return Err(refuse(failed));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut ciphertext = sized(failed, |out, len| unsafe {
            lc::EVP_PKEY_encrypt(
                context.as_ptr(),
                out,
                len,
                plaintext.as_ptr(),
                plaintext.len(),
            )
        })?;
        Ok(std::mem::take(&mut *ciphertext))
    }

    /// RSAES-OAEP with an empty label; [`CryptoError::Authentication`] for every ciphertext that does not decrypt.
    pub(crate) fn decrypt_oaep(
        &self,
        md: Md,
        ciphertext: &[u8],
    ) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        // SAFETY: the context is live.
        let ready = unsafe {
            lc::EVP_PKEY_decrypt_init(context.as_ptr()) == 1 && oaep(context.as_ptr(), md)
        };
        if !ready {
            return Err(refuse(CryptoError::Provider("RSAES-OAEP")));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut plaintext = sized(CryptoError::Authentication, |out, len| unsafe {
            let (from, count) = (ciphertext.as_ptr(), ciphertext.len());
            lc::EVP_PKEY_decrypt(context.as_ptr(), out, len, from, count)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *plaintext)))
    }

    /// ECDH: the x coordinate of the shared point. The peer's key is on the same curve, or it is refused.
    pub(crate) fn agree(&self, peer: &Self) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        // SAFETY: context and peer are live; the context takes its own reference to the peer.
        let ready = unsafe {
            lc::EVP_PKEY_derive_init(context.as_ptr()) == 1
                && lc::EVP_PKEY_derive_set_peer(context.as_ptr(), peer.0.as_ptr()) == 1
        };
        if !ready {
            return Err(refuse(CryptoError::PublicKey));
        }
        // SAFETY: the context is ready; the buffer has the length that the first call gives.
        let mut secret = sized(CryptoError::PublicKey, |out, len| unsafe {
            lc::EVP_PKEY_derive(context.as_ptr(), out, len)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *secret)))
    }

    /// ML-KEM: a new secret, and its ciphertext for the holder of the private key.
    pub(crate) fn encapsulate(&self) -> Result<(SecretBytes, Vec<u8>), CryptoError> {
        let failed = CryptoError::PublicKey;
        let context = self.context()?;
        let (mut ciphertext_len, mut secret_len) = (0, 0);
        // SAFETY: the context is live; with null buffers only the lengths are written.
        let asked = unsafe {
            lc::EVP_PKEY_encapsulate(
                context.as_ptr(),
                null_mut(),
                &raw mut ciphertext_len,
                null_mut(),
                &raw mut secret_len,
            )
        };
        if asked != 1 {
            return Err(refuse(failed));
        }
        let mut ciphertext = vec![0; ciphertext_len];
        let mut secret = Zeroizing::new(vec![0; secret_len]);
        // SAFETY: both buffers have the lengths that were asked for.
        let done = unsafe {
            lc::EVP_PKEY_encapsulate(
                context.as_ptr(),
                ciphertext.as_mut_ptr(),
                &raw mut ciphertext_len,
                secret.as_mut_ptr(),
                &raw mut secret_len,
            )
        };
        if done != 1 || ciphertext_len != ciphertext.len() || secret_len != secret.len() {
            return Err(refuse(failed));
        }
        Ok((SecretBytes::from(std::mem::take(&mut *secret)), ciphertext))
    }

    /// ML-KEM: the secret of a ciphertext. One that was not made with this key gives another secret, not an error.
    pub(crate) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretBytes, CryptoError> {
        let context = self.context()?;
        let failed = CryptoError::Provider("ML-KEM");
        // SAFETY: the context is live; the buffer has the length that the first call gives.
        let mut secret = sized(failed, |out, len| unsafe {
            let (from, count) = (ciphertext.as_ptr(), ciphertext.len());
            lc::EVP_PKEY_decapsulate(context.as_ptr(), out, len, from, count)
        })?;
        Ok(SecretBytes::from(std::mem::take(&mut *secret)))
    }

    /// Ed25519ph (RFC 8032) without a context, over a SHA-512 digest.
    pub(crate) fn sign_ed25519ph(&self, digest: &[u8; 64]) -> Result<Vec<u8>, CryptoError> {
        // AWS-LC's form of the private key: the seed, then the public key.
        let (seed, public) = (self.raw_private()?, self.raw_public()?);
        let mut private = Zeroizing::new([0; 64]);
        if seed.len() != 32 || public.len() != 32 {
            return Err(CryptoError::Provider("Ed25519ph"));
        }
        for (to, from) in private.iter_mut().zip(seed.iter().chain(&public)) {
            *to = *from;
        }
        let mut signature = vec![0; 64];
        // SAFETY: 64 bytes are written; digest and private key have 64 bytes, the context none.
        let done = unsafe {
            lc::ED25519ph_sign_digest(
                signature.as_mut_ptr(),
                digest.as_ptr(),
                private.as_ptr(),
                NonNull::dangling().as_ptr(),
                0,
            )
        };
        if done == 1 {
            Ok(signature)
        } else {
            Err(refuse(CryptoError::Provider("Ed25519ph")))
        }
    }

    /// Whether `signature` is this key's Ed25519ph signature over a SHA-512 digest.
    pub(crate) fn verify_ed25519ph(
        &self,
        digest: &[u8; 64],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let public = self.raw_public()?;
        if signature.len() != 64 || public.len() != 32 {
            return Err(CryptoError::Authentication);
        }
        // SAFETY: the digest and the signature have 64 bytes, the public key 32, the context none.
        authentic(unsafe {
            lc::ED25519ph_verify_digest(
                digest.as_ptr(),
                signature.as_ptr(),
                public.as_ptr(),
                NonNull::dangling().as_ptr(),
                0,
            )
        })
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

fn description(md: Option<Md>) -> *const lc::EVP_MD {
    md.map_or(std::ptr::null(), Md::description)
}

/// # Safety
/// The context must be live and ready to sign or to verify.
unsafe fn prepare(context: *mut lc::EVP_PKEY_CTX, how: Signing) -> bool {
    // SAFETY: the caller vouches for the context; the digest is a static.
    unsafe {
        pad(context, how.padding)
            && how
                .md
                .is_none_or(|md| lc::EVP_PKEY_CTX_set_signature_md(context, md.description()) == 1)
    }
}

/// # Safety
/// The context must be live and ready to sign or to verify, with RSA if there is a padding.
unsafe fn pad(context: *mut lc::EVP_PKEY_CTX, padding: Option<Padding>) -> bool {
    // SAFETY: the caller vouches for the context.
    unsafe {
        match padding {
            None => true,
            Some(Padding::Pkcs1) => {
                lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_PADDING) == 1
            }
            Some(Padding::Pss) => {
                lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_PSS_PADDING) == 1
                    && lc::EVP_PKEY_CTX_set_rsa_pss_saltlen(context, lc::RSA_PSS_SALTLEN_DIGEST)
                        == 1
            }
        }
    }
}

/// # Safety
/// The context must be live and ready to encrypt or to decrypt, with RSA.
unsafe fn oaep(context: *mut lc::EVP_PKEY_CTX, md: Md) -> bool {
    // SAFETY: the caller vouches for the context; the digests are statics.
    unsafe {
        lc::EVP_PKEY_CTX_set_rsa_padding(context, lc::RSA_PKCS1_OAEP_PADDING) == 1
            && lc::EVP_PKEY_CTX_set_rsa_oaep_md(context, md.description()) == 1
            && lc::EVP_PKEY_CTX_set_rsa_mgf1_md(context, md.description()) == 1
    }
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
