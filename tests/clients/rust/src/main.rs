//! The life of a key through the AWS SDK for Rust, with the environment that `kmsctl aws-config` prints.

use std::error::Error;

use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::operation::decrypt::DecryptError;
use aws_sdk_kms::operation::encrypt::EncryptError;
use aws_sdk_kms::operation::verify::VerifyError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{
    DataKeySpec, KeySpec, KeyState, KeyUsageType, MessageType, SigningAlgorithmSpec,
};
use aws_sdk_kms::{Client, Config};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

fn client() -> Result<Client, Box<dyn Error>> {
    let roots = std::fs::read(variable("AWS_CA_BUNDLE")?)?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(
            TlsContext::builder()
                .with_trust_store(TrustStore::empty().with_pem_certificate(roots))
                .build()?,
        )
        .build_https();
    let credentials = Credentials::new(
        variable("AWS_ACCESS_KEY_ID")?,
        variable("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "environment",
    );
    Ok(Client::from_conf(
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(variable("AWS_REGION")?))
            .endpoint_url(variable("AWS_ENDPOINT_URL_KMS")?)
            .credentials_provider(credentials)
            .http_client(http)
            .build(),
    ))
}

async fn symmetric_key(kms: &Client) -> Result<(), Box<dyn Error>> {
    let made = kms.create_key().description("Rust").send().await?;
    let key = made.key_metadata.ok_or("no metadata")?;
    let (id, arn) = (key.key_id, key.arn.ok_or("no ARN")?);
    assert_eq!(key.key_state, Some(KeyState::Enabled));
    kms.create_alias()
        .alias_name("alias/rust")
        .target_key_id(&id)
        .send()
        .await?;
    let sealed = kms
        .encrypt()
        .key_id("alias/rust")
        .plaintext(Blob::new("secret"))
        .encryption_context("purpose", "life")
        .send()
        .await?;
    let blob = sealed.ciphertext_blob.ok_or("no ciphertext")?;
    let decrypt = || {
        kms.decrypt()
            .ciphertext_blob(blob.clone())
            .encryption_context("purpose", "life")
            .send()
    };
    let opened = decrypt().await?;
    assert_eq!(opened.plaintext, Some(Blob::new("secret")));
    assert_eq!(opened.key_id.as_ref(), Some(&arn));
    let without_context = kms.decrypt().ciphertext_blob(blob.clone()).send().await;
    assert!(matches!(
        without_context.unwrap_err().into_service_error(),
        DecryptError::InvalidCiphertextException(_)
    ));
    let data_key = kms
        .generate_data_key()
        .key_id(&id)
        .key_spec(DataKeySpec::Aes256)
        .send()
        .await?;
    let again = kms
        .decrypt()
        .ciphertext_blob(data_key.ciphertext_blob.ok_or("no ciphertext")?)
        .send()
        .await?;
    assert_eq!(again.plaintext, data_key.plaintext);

    kms.rotate_key_on_demand().key_id(&id).send().await?;
    kms.disable_key().key_id(&id).send().await?;
    let DecryptError::DisabledException(disabled) = decrypt().await.unwrap_err().into_service_error()
    else {
        return Err("not a DisabledException".into());
    };
    assert_eq!(disabled.message(), Some(format!("{arn} is disabled.").as_str()));
    kms.enable_key().key_id(&id).send().await?;
    let planned = kms
        .schedule_key_deletion()
        .key_id(&id)
        .pending_window_in_days(7)
        .send()
        .await?;
    assert_eq!(planned.key_state, Some(KeyState::PendingDeletion));
    let pending = kms
        .encrypt()
        .key_id(&id)
        .plaintext(Blob::new("x"))
        .send()
        .await;
    assert!(matches!(
        pending.unwrap_err().into_service_error(),
        EncryptError::KmsInvalidStateException(_)
    ));
    kms.cancel_key_deletion().key_id(&id).send().await?;
    kms.enable_key().key_id(&id).send().await?;
    assert_eq!(decrypt().await?.plaintext, Some(Blob::new("secret")));
    let unknown = kms.describe_key().key_id("alias/nobody").send().await;
    assert!(unknown
        .unwrap_err()
        .into_service_error()
        .is_not_found_exception());
    Ok(())
}

async fn signing_key(kms: &Client) -> Result<(), Box<dyn Error>> {
    let made = kms
        .create_key()
        .key_spec(KeySpec::EccNistP256)
        .key_usage(KeyUsageType::SignVerify)
        .send()
        .await?;
    let id = made.key_metadata.ok_or("no metadata")?.key_id;
    let signed = kms
        .sign()
        .key_id(&id)
        .message(Blob::new("message"))
        .message_type(MessageType::Raw)
        .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
        .send()
        .await?;
    let verify = |message: &str| {
        kms.verify()
            .key_id(&id)
            .message(Blob::new(message))
            .set_signature(signed.signature.clone())
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
            .send()
    };
    assert!(verify("message").await?.signature_valid);
    assert!(matches!(
        verify("other").await.unwrap_err().into_service_error(),
        VerifyError::KmsInvalidSignatureException(_)
    ));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let kms = client()?;
    symmetric_key(&kms).await?;
    signing_key(&kms).await?;
    println!("the AWS SDK for Rust went through the life of 2 keys");
    Ok(())
}
