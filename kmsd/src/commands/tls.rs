//! `kmsd tls …`: certificates of an authority of this host's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use kms_api::sigv4::time;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::files::write_secret;
use crate::cli::{ClientArgs, PlaceArgs, ServerArgs, TlsCommand};
use crate::config::Config;
use crate::exit::Failure;

/// Days for which the authority's certificate is good.
const AUTHORITY_DAYS: u32 = 3650;

/// `kmsd tls`.
pub(crate) fn tls(config: &Config, command: &TlsCommand, is_json: bool) -> Result<(), Failure> {
    match command {
        TlsCommand::Init(args) => init(config, args, is_json),
        TlsCommand::Renew(args) => renew(args, is_json),
        TlsCommand::Client(args) => client(args, is_json),
    }
}

fn init(config: &Config, args: &ServerArgs, is_json: bool) -> Result<(), Failure> {
    let place = Place::of(&args.place);
    for path in [&place.ca, &place.ca_key, &place.certificate, &place.key] {
        if path.exists() {
            return Err(Failure::local(
                path.display(),
                &"it is there already",
                "Give --directory, or make a new certificate with `kmsd tls renew`.",
            ));
        }
    }
    // Everything that can be wrong is found before a file is made.
    let params = server(args)?;
    let (ca_key, key) = (generate()?, generate()?);
    let ca = sign_authority(&ca_key)?;
    let certificate = issue(&params, &key, &ca_key)?;
    secret(&place.ca_key, &ca_key)?;
    write(&place.ca, &ca.pem())?;
    secret(&place.key, &key)?;
    write(&place.certificate, &certificate.pem())?;
    for (path, mode) in [
        (&place.directory, 0o755),
        (&place.ca, 0o644),
        (&place.certificate, 0o644),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| unwritable(path, &error))?;
    }
    let given = give(config, &place.key);
    if is_json {
        let value = json!({
            "Certificate": place.certificate, "Key": place.key, "Authority": place.ca, "AuthorityKey": place.ca_key,
        });
        println!("{value}");
        return Ok(());
    }
    println!(
        "Made {ca} for clients (AWS_CA_BUNDLE={ca}), and {key} with its certificate.\n\
         Into kmsd's configuration:\n\n\
         [tls]\nlisten = [\"0.0.0.0:8443\"]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\n\
         Whoever has {ca_key} can pretend to be kmsd: move it off this host if it is not needed for `kmsd tls renew`.",
        ca = place.ca.display(),
        key = place.key.display(),
        certificate = place.certificate.display(),
        ca_key = place.ca_key.display(),
    );
    if let Err(error) = given {
        println!(
            "The user of kmsd cannot read {} yet ({error}): chown it.",
            place.key.display()
        );
    }
    Ok(())
}

fn renew(args: &ServerArgs, is_json: bool) -> Result<(), Failure> {
    let place = Place::of(&args.place);
    let params = server(args)?;
    let (ca_key, key) = (load(&place.ca_key)?, load(&place.key)?);
    let certificate = issue(&params, &key, &ca_key)?;
    // In one step: kmsd may look at any time.
    let new = place.directory.join("server.crt.new");
    let placed = fs::write(&new, certificate.pem())
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&new, &place.certificate));
    placed.map_err(|error| unwritable(&place.certificate, &error))?;
    if is_json {
        println!("{}", json!({"Certificate": place.certificate}));
    } else {
        println!(
            "Made {} anew; a running kmsd takes it within a second or two.",
            place.certificate.display()
        );
    }
    Ok(())
}

fn client(args: &ClientArgs, is_json: bool) -> Result<(), Failure> {
    let place = Place::of(&args.place);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if args.name.is_empty() || args.name.starts_with('.') || !args.name.bytes().all(plain) {
        return Err(Failure::local(
            "--name",
            &"a client's name has letters, digits and characters of ._-",
            "Choose another name.",
        ));
    }
    let ca_key = load(&place.ca_key)?;
    let key = generate()?;
    let mut params = dated(CertificateParams::default(), args.place.days);
    params
        .distinguished_name
        .push(DnType::CommonName, args.name.as_str());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let certificate = issue(&params, &key, &ca_key)?;
    let paths = ["key", "crt"].map(|end| place.directory.join(format!("{}.{end}", args.name)));
    let [key_path, path] = &paths;
    secret(key_path, &key)?;
    write(path, &certificate.pem())?;
    if is_json {
        println!("{}", json!({"Certificate": path, "Key": key_path}));
    } else {
        println!(
            "Made {} and {} for the client; with `client_ca = {:?}` in [tls] kmsd asks for it.",
            path.display(),
            key_path.display(),
            place.ca
        );
    }
    Ok(())
}

/// The files.
struct Place {
    directory: PathBuf,
    ca: PathBuf,
    ca_key: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Place {
    fn of(args: &PlaceArgs) -> Self {
        // Absolute, since that is what the configuration needs.
        let directory =
            std::path::absolute(&args.directory).unwrap_or_else(|_| args.directory.clone());
        let file = |name| directory.join(name);
        Self {
            ca: file("ca.crt"),
            ca_key: file("ca.key"),
            certificate: file("server.crt"),
            key: file("server.key"),
            directory,
        }
    }
}

fn server(args: &ServerArgs) -> Result<CertificateParams, Failure> {
    let params = CertificateParams::new(args.names.clone()).map_err(|error| {
        Failure::local(
            "--name",
            &error,
            "Give names of hosts in ASCII (xn--… for others) and addresses.",
        )
    })?;
    let mut params = dated(params, args.place.days);
    let first = params.subject_alt_names.first().map(|name| match name {
        SanType::IpAddress(address) => address.to_string(),
        _ => args.names.first().cloned().unwrap_or_default(),
    });
    params
        .distinguished_name
        .push(DnType::CommonName, first.unwrap_or_default());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The authority as certificates name it: by its key, so that the key alone is enough to issue more.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = dated(CertificateParams::default(), AUTHORITY_DAYS);
    let digest = kms_crypto::sha256(&[key.der_bytes()]);
    let name = HEXLOWER.encode(digest.get(..8).unwrap_or_default());
    params
        .distinguished_name
        .push(DnType::CommonName, format!("kmsd authority {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn sign_authority(key: &KeyPair) -> Result<Certificate, Failure> {
    authority(key).self_signed(key).map_err(|e| failed(&e))
}

fn issue(
    params: &CertificateParams,
    key: &KeyPair,
    ca_key: &KeyPair,
) -> Result<Certificate, Failure> {
    let ca = authority(ca_key);
    params
        .signed_by(key, &Issuer::from_params(&ca, ca_key))
        .map_err(|e| failed(&e))
}

/// Good from yesterday, since clocks differ, for so many days.
fn dated(mut params: CertificateParams, days: u32) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    let day = |from_today: i64| {
        let text = time::format((now + from_today * 86_400) * 1000);
        let number = |range| {
            text.get(range)
                .and_then(|part: &str| part.parse::<u16>().ok())
        };
        let (year, month, day) = (number(0..4), number(4..6), number(6..8));
        let small = |number: Option<u16>| u8::try_from(number.unwrap_or(1)).unwrap_or(1);
        date_time_ymd(i32::from(year.unwrap_or(1970)), small(month), small(day))
    };
    params.not_before = day(-1);
    params.not_after = day(i64::from(days));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn generate() -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(|e| failed(&e))
}

fn load(path: &Path) -> Result<KeyPair, Failure> {
    let next = "Make an authority and a first certificate with `kmsd tls init --name HOST`, or bring the file back.";
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::local(path.display(), &error, next))?;
    KeyPair::from_pem(&text).map_err(|error| Failure::local(path.display(), &error, next))
}

fn secret(path: &Path, key: &KeyPair) -> Result<(), Failure> {
    let text = Zeroizing::new(key.serialize_pem());
    write_secret(path, text.as_bytes(), "the private key").map(|_| ())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| unwritable(path, &error))
}

/// Lets the user that owns the store, which is kmsd's, read the key.
fn give(config: &Config, key: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let store = fs::metadata(&config.store.directory)?;
    chown(key, Some(store.uid()), Some(store.gid()))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(
        path.display(),
        error,
        "Run it as a user who may write there, or name another --directory.",
    )
}

fn failed(error: &rcgen::Error) -> Failure {
    Failure::local(
        "the certificate",
        error,
        "Look at the names and the number of days.",
    )
}
