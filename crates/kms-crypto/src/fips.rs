//! The build on AWS-LC's FIPS 140-3 module (cargo feature `fips`): what it is, and what it keeps from being used.
//!
//! The feature puts `aws-lc-fips-sys`, the branch of AWS-LC that is validated, in the place of `aws-lc-sys`, and refuses
//! key pairs that are not approved: secp256k1 (SP 800-186 has no such curve) and SM2. Ed25519, Ed25519ph, ML-DSA, ML-KEM
//! and the rest are. What this project computes around the module is not validated by that: SIV for file names (built of
//! CMAC and CTR), HPKE over X25519 for recovery keys, Shamir's shares, the TPM's part. It is left in, for a store without
//! its recovery key is a worse thing.

use std::sync::OnceLock;

use crate::CryptoError;
#[cfg(feature = "aws-lc")]
use crate::provider::aws_lc::fips;

/// Whether this build is on the FIPS module.
pub const ENABLED: bool = cfg!(feature = "fips");

/// What the cryptographic module says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Its name and version.
    pub version: String,
    /// Whether it is the FIPS module in its approved mode: its check of its own code passed when it was loaded.
    pub approved: bool,
}

/// The self-tests run once in the life of a process, and their outcome is kept.
static STATUS: OnceLock<Result<Module, CryptoError>> = OnceLock::new();

/// Runs the self-tests of the cryptographic module, on the first call, and gives its version. A daemon calls it before the
/// first use of a key and ends if it fails.
///
/// # Errors
/// [`CryptoError::Provider`] if a self-test fails, or if the build is on the FIPS module and that is not in its approved
/// mode.
pub fn status() -> Result<&'static Module, CryptoError> {
    STATUS.get_or_init(test).as_ref().map_err(Clone::clone)
}

#[cfg(feature = "aws-lc")]
fn test() -> Result<Module, CryptoError> {
    if !fips::self_test() {
        return Err(CryptoError::Provider(
            "a self-test of the cryptographic module",
        ));
    }
    let module = Module {
        version: fips::version(),
        approved: fips::approved_mode(),
    };
    if ENABLED && !module.approved {
        return Err(CryptoError::Provider(
            "entering the approved mode of the FIPS module",
        ));
    }
    Ok(module)
}

/// The second provider has no self-tests.
#[cfg(not(feature = "aws-lc"))]
fn test() -> Result<Module, CryptoError> {
    Ok(Module {
        version: "RustCrypto".to_owned(),
        approved: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_the_one_that_was_asked_for() {
        let module = status().unwrap();
        assert_eq!(module.approved, ENABLED, "{module:?}");
        #[cfg(feature = "aws-lc")]
        assert_eq!(module.version.contains("FIPS"), ENABLED, "{module:?}");
    }
}
