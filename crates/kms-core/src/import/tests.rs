//! What is not for this key, or not for this material.

use super::*;

#[test]
fn wrappings_go_with_materials_as_aws_says() {
    use KeySpec as K;
    use WrappingAlgorithm as A;
    use WrappingKeySpec as W;
    let materials = [
        K::SymmetricDefault,
        K::Hmac512,
        K::EccNistP256,
        K::EccNistP521,
        K::Rsa2048,
        K::MlDsa87,
    ];
    for algorithm in [
        A::RsaesOaepSha1,
        A::RsaesOaepSha256,
        A::RsaAesKeyWrapSha1,
        A::RsaAesKeyWrapSha256,
    ] {
        for wrapping in [W::Rsa2048, W::Rsa3072, W::Rsa4096] {
            for material in materials {
                let direct = algorithm.as_str().starts_with("RSAES");
                let refused = direct
                    && (material == K::Rsa2048
                        || (material == K::EccNistP521 && wrapping == W::Rsa2048));
                let found = check_wrapping(algorithm, wrapping, material);
                assert_eq!(found.is_err(), refused, "{algorithm} {wrapping} {material}");
            }
        }
    }
    for (algorithm, wrapping) in [
        (A::RsaesPkcs1V15, W::Rsa2048),
        (A::Sm2Pke, W::Sm2),
        (A::Sm2Pke, W::Rsa2048),
        (A::RsaesOaepSha256, W::Sm2),
    ] {
        let error = check_wrapping(algorithm, wrapping, K::SymmetricDefault).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
        assert!(error.message.is_some());
    }
}
