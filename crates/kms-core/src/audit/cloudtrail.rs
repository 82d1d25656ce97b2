//! Records in the form of AWS CloudTrail, event version 1.11.
//!
//! What CloudTrail has a member for is there; what only this host knows (user and group ids, process, unit, executable,
//! the statement that decided) is under `additionalEventData`.

use kms_api::civil::Civil;
use serde_json::{Map, Value, json};

use super::{Actor, Kind, Line, Record, Recorded};
use crate::events::seconds;
use crate::ids::Scope;

/// Members that are times: whole milliseconds in a record.
const DATES: [&str; 4] = ["creationDate", "deletionDate", "endDate", "validTo"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A line of the log as a CloudTrail record.
pub fn event(line: &Line, home: &Scope) -> Value {
    let record = &line.record;
    let scope = &record.scope(home);
    let service = record.kind == Kind::Service;
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| {
        event.insert(name.to_owned(), value);
    };
    put("eventVersion", json!("1.11"));
    put("userIdentity", identity(record, scope));
    put("eventTime", json!(seconds(record.time)));
    put("eventSource", json!(record.source));
    put("eventName", json!(record.operation));
    put("awsRegion", json!(scope.region));
    let via = record
        .caller
        .as_ref()
        .and_then(|caller| caller.via.as_ref());
    let network = record
        .caller
        .as_ref()
        .and_then(|caller| caller.network.as_ref());
    let (address, agent) = match (service, via, network) {
        (true, ..) => ("AWS Internal", "AWS Internal"),
        (false, Some(via), _) => (via.service.as_str(), via.service.as_str()),
        (false, None, Some(network)) => (
            network.address.as_str(),
            network.user_agent.as_deref().unwrap_or("unknown"),
        ),
        (false, None, None) => (
            // Requests come over a Unix socket.
            "127.0.0.1",
            record
                .caller
                .as_ref()
                .and_then(|caller| caller.exe.as_deref())
                .unwrap_or("unknown"),
        ),
    };
    put("sourceIPAddress", json!(address));
    put("userAgent", json!(agent));
    if let Some(error) = &record.error {
        // CloudTrail's name for it.
        let code = match error.code.as_str() {
            "AccessDeniedException" => "AccessDenied",
            code => code,
        };
        put("errorCode", json!(code));
        if let Some(message) = &error.message {
            put("errorMessage", json!(message));
        }
    }
    put("requestParameters", members(&record.parameters));
    put("responseElements", members(&record.response));
    let mut additional = Map::new();
    if service {
        put("serviceEventDetails", members(&record.details));
    } else {
        additional.extend(record.details.clone());
    }
    if let Some(caller) = &record.caller {
        additional.insert("localIdentity".to_owned(), local(caller));
    }
    if let Some(authorization) = &record.authorization {
        additional.insert("authorization".to_owned(), json!(authorization));
    }
    additional.insert("authorizationEpoch".to_owned(), json!(record.epoch));
    additional.insert("logSequence".to_owned(), json!(line.seq));
    put("additionalEventData", Value::Object(additional));
    if let Some(id) = &record.request_id {
        put("requestID", json!(id));
    }
    put("eventID", json!(record.event_id));
    put("readOnly", json!(record.read_only));
    if !record.keys.is_empty() {
        let resources: Vec<_> = record
            .keys
            .iter()
            .map(|arn| {
                let of = Scope::of_arn(arn);
                let account = of.as_ref().map_or(&scope.account, |of| &of.account);
                json!({"accountId": account, "type": "AWS::KMS::Key", "ARN": arn})
            })
            .collect();
        put("resources", Value::Array(resources));
    }
    put(
        "eventType",
        json!(if service {
            "AwsServiceEvent"
        } else {
            "AwsApiCall"
        }),
    );
    put("managementEvent", json!(true));
    put("recipientAccountId", json!(scope.account));
    put("eventCategory", json!("Management"));
    Value::Object(event)
}

fn identity(record: &Record, scope: &Scope) -> Value {
    let account = &scope.account;
    let Some(caller) = &record.caller else {
        return json!({"accountId": account, "invokedBy": "AWS Internal"});
    };
    let access_key = caller
        .network
        .as_ref()
        .and_then(|network| network.access_key_id.as_deref());
    let id = match (caller.uid, access_key) {
        (Some(uid), _) => format!("uid-{uid}"),
        (None, Some(key)) => key.to_owned(),
        (None, None) => "unknown".to_owned(),
    };
    let arn = caller.arn.as_str();
    let name = arn.rsplit('/').next().unwrap_or_default();
    let mut identity = match arn.split_once(":assumed-role/") {
        Some((_, rest)) => {
            let (role, session) = rest.split_once('/').unwrap_or((rest, ""));
            json!({
                "type": "AssumedRole",
                "principalId": format!("{id}:{session}"),
                "sessionContext": {"sessionIssuer": {
                    "type": "Role",
                    "principalId": id,
                    "arn": format!("arn:aws:iam::{account}:role/{role}"),
                    "accountId": account,
                    "userName": role,
                }},
            })
        }
        None if arn.ends_with(":root") => json!({"type": "Root", "principalId": account}),
        None => json!({"type": "IAMUser", "principalId": id, "userName": name}),
    };
    if let Value::Object(members) = &mut identity {
        members.insert("arn".to_owned(), json!(arn));
        members.insert("accountId".to_owned(), json!(account));
        if let Some(key) = access_key {
            members.insert("accessKeyId".to_owned(), json!(key));
        }
        if let Some(via) = &caller.via {
            members.insert("invokedBy".to_owned(), json!(via.service));
        }
    }
    identity
}

/// What only this host knows of a caller.
fn local(caller: &Actor) -> Value {
    let mut members = match json!(caller) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    members.remove("arn");
    Value::Object(members)
}

/// Members, or null where there are none; times as CloudTrail writes them.
fn members(members: &Recorded) -> Value {
    if members.is_empty() {
        return Value::Null;
    }
    let dated = |(name, value): (&String, &Value)| (name.clone(), dated(name, value));
    Value::Object(members.iter().map(dated).collect())
}

fn dated(name: &str, value: &Value) -> Value {
    match value {
        Value::Number(number) if DATES.contains(&name) => {
            number.as_i64().map_or(Value::Null, |ms| json!(spoken(ms)))
        }
        Value::Object(inner) if name == "keyMetadata" => Value::Object(
            inner
                .iter()
                .map(|(name, value)| (name.clone(), dated(name, value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// `May 21, 2025, 5:47:45 AM`, as CloudTrail writes times inside of members.
fn spoken(ms: i64) -> String {
    let moment = Civil::from_millis(ms);
    let month = usize::try_from(moment.month - 1)
        .ok()
        .and_then(|month| MONTHS.get(month))
        .unwrap_or(&"");
    let half = if moment.hour < 12 { "AM" } else { "PM" };
    let hour = match moment.hour % 12 {
        0 => 12,
        hour => hour,
    };
    format!(
        "{month} {}, {}, {hour}:{:02}:{:02} {half}",
        moment.day, moment.year, moment.minute, moment.second
    )
}
