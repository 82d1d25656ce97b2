//! kmsctl does what the API can do, with files and pipes, and what it writes is what OpenSSL reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::cli::Said;
use kms_tests::daemon::path_text;
use kms_tests::require;
use kms_tests::require::output_of;
use kms_tests::world::World;

/// A world, and files in it.
struct Desk {
    world: World,
}

impl Desk {
    fn new() -> Option<Desk> {
        (require::tpm() && require::program("openssl")).then(|| Desk {
            world: World::start(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).unwrap();
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        let metadata = fs::metadata(self.file(name)).unwrap();
        metadata.permissions().mode() & 0o777
    }

    /// Runs kmsctl with a line of arguments; `@NAME` is the file of that name.
    fn run(&self, line: &str) -> Said {
        let arguments: Vec<String> = line
            .split(' ')
            .map(|word| match word.strip_prefix('@') {
                Some(name) => path_text(&self.file(name)).to_owned(),
                None => word.to_owned(),
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.world.kmsctl(&arguments)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.run(line).ok().stdout
    }

    /// A new key; its id.
    #[track_caller]
    fn key(&self, options: &str) -> String {
        let line = format!("key create {options}");
        self.ok(line.trim_end()).trim().to_owned()
    }

    #[track_caller]
    fn ends_with(&self, code: i32, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, code, "{line}: {said:?}");
        said.stderr
    }

    #[track_caller]
    fn openssl(&self, line: &str) -> String {
        let arguments = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.file(name),
            None => Path::new(word).to_path_buf(),
        });
        output_of(Command::new("openssl").args(arguments))
    }
}

#[test]
fn kmsctl_encrypts_and_makes_data_keys() {
    let Some(desk) = Desk::new() else { return };
    let (one, two) = (desk.key("--alias alias/one --tag team=hr"), desk.key(""));
    assert!(desk.ok("key tags alias/one").contains("team"));
    desk.put("plain", b"a secret\0\xff");
    desk.ok("encrypt --key alias/one --in @plain --out @blob --context a=1");
    desk.ok("decrypt --in @blob --out @opened --context a=1");
    assert_eq!(desk.bytes("opened"), desk.bytes("plain"));
    desk.ends_with(8, "decrypt --in @blob");
    let moved = format!(
        "re-encrypt --to {two} --in @blob --out @moved --from-context a=1 --to-context b=2"
    );
    desk.ok(&moved);
    desk.ok("decrypt --in @moved --out @opened --context b=2");
    assert_eq!(desk.bytes("opened"), desk.bytes("plain"));
    // base64 both ways.
    let text = desk.ok(&format!("encrypt --key {one} --in @plain --base64"));
    desk.put("text", text.as_bytes());
    desk.ok(&format!(
        "re-encrypt --to {two} --in @text --out @text2 --base64"
    ));
    desk.ok("decrypt --in @text2 --out @opened --base64");
    assert_eq!(desk.bytes("opened"), desk.bytes("plain"));
    // The API's own reply.
    let reply = desk
        .run("decrypt --in @blob --context a=1 --json")
        .ok()
        .json();
    assert_eq!(reply["Plaintext"], "YSBzZWNyZXQA/w==");

    let dry = desk.ok(&format!("encrypt --key {one} --in @plain --dry-run"));
    assert!(dry.contains("nothing was changed"), "{dry}");
    desk.ok(&format!(
        "decrypt --key {one} --dry-run --ignore-ciphertext"
    ));
    desk.ends_with(2, "decrypt --ignore-ciphertext");

    desk.ok(&format!(
        "data-key --key {one} --out @dek.sealed --plaintext-out @dek --context a=1"
    ));
    assert_eq!((desk.bytes("dek").len(), desk.mode("dek")), (32, 0o600));
    desk.ok("decrypt --in @dek.sealed --out @opened --context a=1");
    assert_eq!(desk.bytes("opened"), desk.bytes("dek"));
    // Without a place for it, the data key is not given out.
    let reply = desk.run(&format!("data-key --key {one} --bytes 16 --json"));
    let reply = reply.ok().json();
    assert!(reply.get("Plaintext").is_none() && reply["CiphertextBlob"].is_string());
    let both = format!("data-key --key {one} --plaintext-out -");
    desk.ends_with(2, &both);
    let reply = desk.run(&format!("{both} --json")).ok().json();
    assert_eq!(reply["Plaintext"].as_str().unwrap().len(), 44);
    desk.ok("random 33 --out @random");
    assert_eq!(desk.bytes("random").len(), 33);

    desk.ok(&format!(
        "data-key-pair --key {one} --spec ecc_nist_p256 --out @pair.sealed --public-out @pair.pub --private-out @pair.pem"
    ));
    assert_eq!(desk.mode("pair.pem"), 0o600);
    desk.openssl("pkey -in @pair.pem -pubout -out @pair.pub2");
    assert_eq!(desk.bytes("pair.pub"), desk.bytes("pair.pub2"));
    desk.ok("decrypt --in @pair.sealed --out @pair.der");
    desk.openssl("pkey -in @pair.der -inform DER -pubout -out @pair.pub3");
    assert_eq!(desk.bytes("pair.pub"), desk.bytes("pair.pub3"));
}

#[test]
fn kmsctl_signs_and_agrees() {
    let Some(desk) = Desk::new() else { return };
    let ecc = desk.key("--spec ECC_NIST_P256 --usage SIGN_VERIFY");
    let described = desk.ok(&format!("key describe {ecc}"));
    assert!(described.contains("ECDSA_SHA_256"), "{described}");
    desk.ok(&format!("key public-key {ecc} --out @ecc.pem"));
    // Longer than what a request takes: hashed here.
    desk.put("long", &vec![7; 100_000]);
    desk.put("short", b"message");
    for message in ["long", "short"] {
        desk.ok(&format!(
            "sign --key {ecc} --in @{message} --out @signature"
        ));
        desk.ok(&format!(
            "verify --key {ecc} --in @{message} --signature @signature"
        ));
        let said = desk.openssl(&format!(
            "dgst -sha256 -verify @ecc.pem -signature @signature @{message}"
        ));
        assert!(said.contains("Verified OK"), "{said}");
    }
    let wrong = format!("verify --key {ecc} --in @long --signature @signature");
    desk.ends_with(8, &wrong);

    let rsa = desk.key("--spec RSA_2048 --usage SIGN_VERIFY");
    let said = desk.ends_with(2, &format!("sign --key {rsa} --in @short"));
    assert!(said.contains("RSASSA_PSS_SHA_256"), "{said}");
    desk.ok(&format!(
        "sign --key {rsa} --in @long --algorithm RSASSA_PKCS1_V1_5_SHA_512 --out @rsa.sig"
    ));
    desk.ok(&format!("key public-key {rsa} --out @rsa.pem"));
    let said = desk.openssl("dgst -sha512 -verify @rsa.pem -signature @rsa.sig @long");
    assert!(said.contains("Verified OK"), "{said}");

    let mac = desk.key("--spec HMAC_256");
    desk.ok(&format!("mac --key {mac} --in @short --out @mac"));
    assert_eq!(desk.bytes("mac").len(), 32);
    desk.ok(&format!("verify-mac --key {mac} --in @short --mac @mac"));
    desk.put("other", b"another message");
    desk.ends_with(8, &format!("verify-mac --key {mac} --in @other --mac @mac"));

    let agree = desk.key("--spec ECC_NIST_P384 --usage KEY_AGREEMENT");
    desk.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out @peer.pem");
    desk.openssl("pkey -in @peer.pem -pubout -out @peer.pub");
    desk.ok(&format!("key public-key {agree} --out @agree.pub"));
    desk.ok(&format!(
        "derive --key {agree} --public-key @peer.pub --out @secret"
    ));
    desk.openssl("pkeyutl -derive -inkey @peer.pem -peerkey @agree.pub -out @secret2");
    assert_eq!(desk.bytes("secret"), desk.bytes("secret2"));
    assert_eq!(desk.mode("secret"), 0o600);
    desk.ends_with(7, &format!("derive --key {agree} --public-key @peer.pem"));

    let kem = desk.key("--spec ML_KEM_768");
    desk.ok(&format!(
        "encapsulate --key {kem} --out @sent --secret-out @kem1"
    ));
    desk.ok(&format!("decapsulate --key {kem} --in @sent --out @kem2"));
    assert_eq!(desk.bytes("kem1"), desk.bytes("kem2"));
    assert_eq!(desk.bytes("kem1").len(), 32);
    desk.ends_with(2, &format!("encapsulate --key {kem} --out @sent"));
}

#[test]
fn kmsctl_leads_keys_through_their_lives() {
    let Some(desk) = Desk::new() else { return };
    let key = desk.key("--description first");
    desk.ok(&format!("key set-description {key} second"));
    assert!(desk.ok(&format!("key describe {key}")).contains("second"));
    let used = desk.ok(&format!("key last-usage {key}"));
    assert!(used.contains("no use"), "{used}");
    desk.put("plain", b"x");
    desk.ok(&format!("encrypt --key {key} --in @plain --out @blob"));
    let used = desk.ok(&format!("key last-usage {key}"));
    assert!(used.starts_with("Encrypt at "), "{used}");
    desk.ok(&format!("key enable-rotation {key} --days 100"));
    let status = desk.ok(&format!("key rotation-status {key}"));
    assert!(status.contains("every 100 days"), "{status}");
}

#[test]
fn kmsctl_imports_key_material() {
    let Some(desk) = Desk::new() else { return };
    let key = desk.key("--origin EXTERNAL --description imported");
    desk.put("plain", b"a secret");
    let encrypt = format!("encrypt --key {key} --in @plain --out @blob");
    desk.ends_with(6, &encrypt);
    desk.put("material", &[7; 32]);
    desk.put("short", &[7; 31]);
    let said = desk.ends_with(7, &format!("key import {key} @short"));
    assert!(!said.is_empty());
    let said = desk.ok(&format!(
        "key import {key} @material --expires 30d --material-description first"
    ));
    assert!(said.contains("cannot give it back"), "{said}");
    desk.ok(&encrypt);
    // Gone only when somebody says so.
    let delete = format!("key delete-material {key}");
    desk.ends_with(2, &delete);
    desk.ok("decrypt --in @blob --out @opened");
    desk.ok(&format!("{delete} --yes"));
    desk.ends_with(6, "decrypt --in @blob");
    // Other material is not taken; the same is, and opens what was encrypted.
    desk.put("other", &[8; 32]);
    desk.ends_with(7, &format!("key import {key} @other"));
    desk.ok(&format!("key import {key} @material"));
    desk.ok("decrypt --in @blob --out @opened");
    assert_eq!(desk.bytes("opened"), desk.bytes("plain"));

    // A private key of OpenSSL's.
    desk.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out @ec.pem");
    desk.openssl("pkey -in @ec.pem -pubout -out @ec.pub");
    let signer = desk.key("--origin EXTERNAL --spec ECC_NIST_P256 --usage SIGN_VERIFY");
    desk.ends_with(7, &format!("key import {signer} @ec.pub"));
    desk.ok(&format!("key import {signer} @ec.pem"));
    desk.ok(&format!("key public-key {signer} --out @ec.pub2"));
    assert_eq!(desk.bytes("ec.pub"), desk.bytes("ec.pub2"));
    desk.ok(&format!("sign --key {signer} --in @plain --out @signature"));
    desk.openssl("dgst -sha256 -verify @ec.pub -signature @signature @plain");

    // The steps one by one, with the wrapping done by OpenSSL.
    let key = desk.key("--origin EXTERNAL");
    desk.ok(&format!(
        "key import-parameters {key} --algorithm RSAES_OAEP_SHA_256 --spec RSA_2048 --public-out @wrap.pem --token-out @token"
    ));
    desk.openssl(
        "pkeyutl -encrypt -pubin -inkey @wrap.pem -in @material -out @wrapped -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256",
    );
    desk.ok(&format!(
        "key import-wrapped {key} --wrapped @wrapped --token @token"
    ));
    desk.ok(&format!("encrypt --key {key} --in @plain --out @blob"));
}
