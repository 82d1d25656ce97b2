//! Records in the form of AWS CloudTrail, event version 1.11.
//!
//! What CloudTrail has a member for is there; what only this host knows (user and group ids, process, unit, executable,
//! the statement that decided) is under `additionalEventData`.

use serde_json::{Map, Value, json};

use super::{Actor, Kind, Line, Record, Recorded};
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
    put("eventTime", json!(iso(record.time)));
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

/// A moment in the calendar (proleptic Gregorian, UTC).
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    fn of(ms: i64) -> Self {
        let seconds = ms.div_euclid(1000);
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        // Counted in years from 1 March, so that a leap day is a year's last: 400 years are 146,097 days.
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

/// `2025-05-20T20:45:00Z`, from milliseconds since 1970-01-01 UTC.
pub fn iso(ms: i64) -> String {
    let Moment {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Moment::of(ms);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `May 21, 2025, 5:47:45 AM`, as CloudTrail writes times inside of members.
fn spoken(ms: i64) -> String {
    let moment = Moment::of(ms);
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
