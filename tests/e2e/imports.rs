//! Key material that OpenSSL made and wrapped, imported by the procedure of AWS's documentation.

use std::fs;
use std::path::Path;
use std::process::Command;

use data_encoding::{BASE64, HEXLOWER};
use kms_tests::daemon::path_text;
use kms_tests::require::{self, output_of};
use kms_tests::world::World;
use serde_json::{Value, json};

fn openssl(arguments: &[&str]) {
    output_of(Command::new("openssl").args(arguments));
}

/// Wraps `material` with the public key in `public`, by OpenSSL alone.
fn wrap(world: &World, algorithm: &str, public: &Path, material: &[u8]) -> Vec<u8> {
    let digest = match algorithm.ends_with("SHA_1") {
        true => "sha1",
        false => "sha256",
    };
    let rsa = |plain: &[u8]| {
        let (from, to) = (world.path("plain"), world.path("wrapped"));
        fs::write(&from, plain).unwrap();
        openssl(&[
            "pkeyutl",
            "-encrypt",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            path_text(public),
            "-in",
            path_text(&from),
            "-out",
            path_text(&to),
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-pkeyopt",
            &format!("rsa_oaep_md:{digest}"),
            "-pkeyopt",
            &format!("rsa_mgf1_md:{digest}"),
        ]);
        fs::read(&to).unwrap()
    };
    if algorithm.starts_with("RSAES") {
        return rsa(material);
    }
    let aes = [0x5a; 32];
    let (from, to) = (world.path("plain"), world.path("wrapped.aes"));
    fs::write(&from, material).unwrap();
    openssl(&[
        "enc",
        "-id-aes256-wrap-pad",
        "-iv",
        "A65959A6",
        "-K",
        &HEXLOWER.encode(&aes),
        "-in",
        path_text(&from),
        "-out",
        path_text(&to),
    ]);
    let mut wrapped = rsa(&aes);
    wrapped.extend(fs::read(&to).unwrap());
    wrapped
}

fn import(world: &World, key: &str, algorithm: &str, material: &[u8]) -> Value {
    let given = world.call(
        "GetParametersForImport",
        &json!({ "KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_3072" }),
    );
    let public = world.path("public.der");
    let bytes = BASE64.decode(given["PublicKey"].as_str().unwrap().as_bytes());
    fs::write(&public, bytes.unwrap()).unwrap();
    let wrapped = wrap(world, algorithm, &public, material);
    world.call(
        "ImportKeyMaterial",
        &json!({
            "KeyId": key, "ImportToken": given["ImportToken"],
            "EncryptedKeyMaterial": BASE64.encode(&wrapped),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        }),
    )
}

fn external(world: &World, spec: &str, usage: &str) -> String {
    let body = json!({ "Origin": "EXTERNAL", "KeySpec": spec, "KeyUsage": usage });
    let made = world.call("CreateKey", &body);
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

#[test]
fn what_openssl_wrapped_is_imported() {
    if !require::tpm() || !require::program("openssl") {
        return;
    }
    let world = World::start();
    for algorithm in [
        "RSAES_OAEP_SHA_1",
        "RSAES_OAEP_SHA_256",
        "RSA_AES_KEY_WRAP_SHA_1",
        "RSA_AES_KEY_WRAP_SHA_256",
    ] {
        // An HMAC key tells whether the material is the very one.
        let key = external(&world, "HMAC_256", "GENERATE_VERIFY_MAC");
        import(&world, &key, algorithm, &[0x42; 32]);
        let made = world.call(
            "GenerateMac",
            &json!({ "KeyId": key, "Message": BASE64.encode(b"message"), "MacAlgorithm": "HMAC_SHA_256" }),
        );
        let expected = kms_crypto::hmac_sha256(&[0x42; 32], &[b"message"]);
        assert_eq!(made["Mac"], BASE64.encode(&expected), "{algorithm}");
    }

    // A private key of OpenSSL's making signs as it would there.
    let private = world.path("private.pem");
    let pkcs8 = world.path("private.der");
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        path_text(&private),
    ]);
    openssl(&[
        "pkcs8",
        "-topk8",
        "-nocrypt",
        "-outform",
        "DER",
        "-in",
        path_text(&private),
        "-out",
        path_text(&pkcs8),
    ]);
    let key = external(&world, "RSA_2048", "SIGN_VERIFY");
    import(
        &world,
        &key,
        "RSA_AES_KEY_WRAP_SHA_256",
        &fs::read(&pkcs8).unwrap(),
    );
    let signed = world.call(
        "Sign",
        &json!({
            "KeyId": key, "Message": BASE64.encode(b"message"), "SigningAlgorithm": "RSASSA_PKCS1_V1_5_SHA_256",
        }),
    );
    let signature = BASE64.decode(signed["Signature"].as_str().unwrap().as_bytes());
    fs::write(world.path("signature"), signature.unwrap()).unwrap();
    fs::write(world.path("message"), "message").unwrap();
    let message = world.path("message");
    openssl(&[
        "dgst",
        "-sha256",
        "-prverify",
        path_text(&private),
        "-signature",
        path_text(&world.path("signature")),
        path_text(&message),
    ]);
}
