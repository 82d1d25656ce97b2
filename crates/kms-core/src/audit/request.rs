//! What a record keeps of a request and its response: CloudTrail's choice, by CloudTrail's names.

use std::sync::Arc;

use kms_api::{ApiError, Request, Response, Timestamp};
use serde_json::{Value, json};

use super::record::{
    Actor, Authorization, Failure, KMS_SOURCE, Kind, LOCAL_SOURCE, Record, Recorded,
};
use crate::authz::Verdict;

impl Record {
    /// What is known of a request when it arrives. Its outcome is not: see [`Self::decided`] and [`Self::answered`].
    pub fn request(
        event_id: String,
        request_id: String,
        time_ms: i64,
        request: &Request,
        caller: Arc<Actor>,
    ) -> Self {
        let source = if request.prefix() == kms_api::AWS_PREFIX {
            KMS_SOURCE
        } else {
            LOCAL_SOURCE
        };
        let mut record = Self::service(event_id, time_ms, source, request.operation());
        record.caller = Some(caller);
        record.kind = Kind::Api;
        record.parameters = parameters(request);
        record.read_only = request.is_read_only();
        record.request_id = Some(request_id);
        record
    }

    /// Whether the request was allowed, and by what; `keys` are the ARNs it is about.
    pub fn decided(&mut self, verdict: &Verdict, keys: Vec<String>, epoch: u64) {
        self.authorization = Authorization::of(verdict);
        self.keys = keys;
        self.epoch = epoch;
    }

    /// What was answered.
    pub fn answered(&mut self, result: Result<&Response, &ApiError>) {
        match result {
            Err(error) => self.error = Some(Failure::from(error)),
            Ok(response) => {
                self.error = None;
                if self.keys.is_empty()
                    && let Some(key) = response.key()
                {
                    self.keys.push(key.to_owned());
                }
                self.response = elements(response);
                if !self.read_only
                    && !self.response.contains_key("keyMetadata")
                    && (self.source == KMS_SOURCE || self.operation == "CreateTemporaryGrant")
                    && let Some(key) = self.keys.first()
                {
                    // As AWS does, also where the reply has no such member.
                    self.response
                        .entry("keyId".to_owned())
                        .or_insert_with(|| json!(key));
                }
                self.details.extend(details(response));
            }
        }
        // As AWS does: the key that was used, by its ARN, where the request did not name it.
        if self.operation == "Decrypt"
            && !self.parameters.contains_key("keyId")
            && let Some(key) = self.keys.first()
        {
            self.parameters.insert("keyId".to_owned(), json!(key));
        }
    }
}

/// Members of a request, with the defaults that CloudTrail always shows.
fn parameters(request: &Request) -> Recorded {
    let mut members = request.recorded();
    let mut default = |name: &str, value: Value| {
        members.entry(name.to_owned()).or_insert(value);
    };
    let symmetric = || json!("SYMMETRIC_DEFAULT");
    match request {
        Request::Encrypt(_) | Request::Decrypt(_) => default("encryptionAlgorithm", symmetric()),
        Request::ReEncrypt(_) => {
            default("sourceEncryptionAlgorithm", symmetric());
            default("destinationEncryptionAlgorithm", symmetric());
        }
        Request::Sign(_) | Request::Verify(_) => default("messageType", json!("RAW")),
        Request::CreateKey(request) => {
            default("keySpec", json!(request.spec()));
            default("customerMasterKeySpec", json!(request.spec()));
            default("keyUsage", json!("ENCRYPT_DECRYPT"));
            default("origin", json!("AWS_KMS"));
            default("multiRegion", json!(false));
            default("bypassPolicyLockoutSafetyCheck", json!(false));
        }
        _ => {}
    }
    members
}

/// Members of a response that CloudTrail has under `responseElements`. Everything else a response holds is secret or
/// said elsewhere: an operation that is not listed here has none.
fn elements(response: &Response) -> Recorded {
    let pairs = match response {
        Response::CreateKey(response) => {
            let key = &response.key_metadata;
            let mut metadata = json!({
                "AWSAccountId": key.aws_account_id,
                "arn": key.arn,
                "creationDate": millis(key.creation_date),
                "description": key.description,
                "enabled": key.enabled,
                "keyId": key.key_id,
                "keyManager": key.key_manager,
                "keySpec": key.key_spec,
                "keyState": key.key_state,
                "keyUsage": key.key_usage,
                "multiRegion": key.multi_region,
                "origin": key.origin,
            });
            if let Value::Object(members) = &mut metadata {
                let lists = [
                    ("encryptionAlgorithms", json!(key.encryption_algorithms)),
                    ("signingAlgorithms", json!(key.signing_algorithms)),
                    ("macAlgorithms", json!(key.mac_algorithms)),
                    (
                        "keyAgreementAlgorithms",
                        json!(key.key_agreement_algorithms),
                    ),
                    (
                        "encapsulationAlgorithms",
                        json!(key.encapsulation_algorithms),
                    ),
                ];
                for (name, list) in lists {
                    if list != json!([]) {
                        members.insert(name.to_owned(), list);
                    }
                }
                if let Some(spec) = key.customer_master_key_spec {
                    members.insert("customerMasterKeySpec".to_owned(), json!(spec));
                }
                if let Some(id) = &key.current_key_material_id {
                    members.insert("currentKeyMaterialId".to_owned(), json!(id));
                }
            }
            vec![("keyMetadata", metadata)]
        }
        Response::ScheduleKeyDeletion(response) => {
            let mut pairs = vec![
                ("keyId", json!(response.key_id)),
                ("keyState", json!(response.key_state)),
            ];
            if let Some(date) = response.deletion_date {
                pairs.push(("deletionDate", json!(millis(date))));
            }
            if let Some(days) = response.pending_window_in_days {
                pairs.push(("pendingWindowInDays", json!(days)));
            }
            pairs
        }
        Response::CancelKeyDeletion(response) => vec![("keyId", json!(response.key_id))],
        Response::CreateAccessKey(response) => vec![(
            "accessKey",
            json!({
                "accessKeyId": response.access_key_id,
                "createDate": millis(response.create_date),
                "principalArn": response.principal_arn,
                "status": response.status,
            }),
        )],
        Response::ImportKeyMaterial(response) => {
            material(&response.key_id, &response.key_material_id)
        }
        Response::DeleteImportedKeyMaterial(response) => {
            material(&response.key_id, &response.key_material_id)
        }
        Response::CreateGrant(response) => vec![("grantId", json!(response.grant_id))],
        Response::CreateTemporaryGrant(response) => vec![
            ("grantId", json!(response.grant_id)),
            ("endDate", json!(millis(response.end_date))),
        ],
        Response::CreateVolume(response) => vec![("volumeId", json!(response.volume_id))],
        Response::CreatePolicy(response) | Response::RotatePolicy(response) => vec![
            ("policyId", json!(response.policy_id)),
            ("keyArn", json!(response.key_arn)),
            ("contentMode", json!(response.content_mode)),
            ("generation", json!(response.generation)),
        ],
        _ => Vec::new(),
    };
    named(pairs)
}

/// Key and material that a reply names.
fn material(key: &Option<String>, material: &Option<String>) -> Vec<(&'static str, Value)> {
    let pairs = [("keyId", key), ("keyMaterialId", material)];
    let known = pairs.into_iter().filter(|(_, value)| value.is_some());
    known.map(|(name, value)| (name, json!(value))).collect()
}

/// Members of a response that CloudTrail has under `additionalEventData`.
fn details(response: &Response) -> Recorded {
    let pairs = match response {
        Response::Decrypt(response) => vec![("keyMaterialId", &response.key_material_id)],
        Response::GenerateDataKey(response) => vec![("keyMaterialId", &response.key_material_id)],
        Response::GenerateDataKeyWithoutPlaintext(response) => {
            vec![("keyMaterialId", &response.key_material_id)]
        }
        Response::GenerateDataKeyPair(response) => {
            vec![("keyMaterialId", &response.key_material_id)]
        }
        Response::GenerateDataKeyPairWithoutPlaintext(response) => {
            vec![("keyMaterialId", &response.key_material_id)]
        }
        Response::ReEncrypt(response) => vec![
            ("sourceKeyMaterialId", &response.source_key_material_id),
            (
                "destinationKeyMaterialId",
                &response.destination_key_material_id,
            ),
        ],
        _ => return Recorded::new(),
    };
    let known = pairs
        .into_iter()
        .filter_map(|(name, value)| Some((name, json!(value.as_ref()?))));
    named(known.collect())
}

fn named(pairs: Vec<(&str, Value)>) -> Recorded {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Times in records are whole milliseconds: no number has two spellings.
fn millis(time: Timestamp) -> i64 {
    time.millis()
}
