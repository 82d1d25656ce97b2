//! A second evaluator, written from AWS's documentation ("IAM JSON policy elements", "Condition
//! operators", "Multivalued context keys", "Variables") and as slow and as plain as possible. It
//! interprets the document each time and shares no code with the compiled one.
//!
//! `None` is "unknown": an Allow that comes to it does not apply, a Deny does.

use serde_json::Value as Json;

use crate::request::{Fact, Request, Typed, Verdict};

pub(crate) fn decide(document: &Json, request: &Request) -> Verdict {
    let variables = document["Version"] == "2012-10-17";
    let statements = list(&document["Statement"]);
    let mut best = Verdict::NoMatch;
    for statement in &statements {
        let Some(verdict) = whom(statement, request) else {
            continue;
        };
        if !about(statement, &request.action) {
            continue;
        }
        let holds = and([
            resource(statement, request, variables),
            conditions(statement, request, variables),
        ]);
        match (statement["Effect"].as_str().unwrap(), holds) {
            ("Deny", Some(true) | None) => return Verdict::Deny,
            ("Allow", Some(true)) => best = best.max(verdict),
            _ => {}
        }
    }
    // A Deny further down wins over every Allow before it, and was returned above.
    best
}

fn list(value: &Json) -> Vec<Json> {
    match value {
        Json::Array(values) => values.clone(),
        other => vec![other.clone()],
    }
}

fn and(values: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let values: Vec<_> = values.into_iter().collect();
    if values.contains(&Some(false)) {
        Some(false)
    } else if values.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn or(values: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let negated = values.into_iter().map(|v| v.map(|b| !b));
    and(negated).map(|b| !b)
}

/// The best that an Allow can come to for this caller; none where it is not meant.
fn whom(statement: &Json, request: &Request) -> Option<Verdict> {
    let names = |element: &Json| -> Vec<String> {
        match element {
            Json::String(text) => vec![text.clone()],
            Json::Object(kinds) => kinds
                .values()
                .flat_map(list)
                .map(|v| v.as_str().unwrap().to_owned())
                .collect(),
            _ => vec![],
        }
    };
    let root = |text: &str| match text.len() {
        12 => format!("arn:aws:iam::{text}:root"),
        _ => text.to_owned(),
    };
    if let Some(element) = statement.get("NotPrincipal") {
        let excepted = names(element)
            .iter()
            .any(|name| name == "*" || request.principals.contains(&root(name)));
        return (!excepted).then_some(Verdict::AllowPrincipal);
    }
    let Some(element) = statement.get("Principal") else {
        return Some(Verdict::AllowPrincipal);
    };
    let mut best = None;
    for name in names(element) {
        let name = root(&name);
        if name == "*" || request.principals.contains(&name) {
            best = best.max(Some(Verdict::AllowPrincipal));
        } else if name == format!("arn:aws:iam::{}:root", request.account) {
            best = best.max(Some(Verdict::AllowAccount));
        }
    }
    best
}

fn about(statement: &Json, action: &str) -> bool {
    let named = |element: &Json| {
        list(element).iter().any(|pattern| {
            let pattern = pattern.as_str().unwrap().to_lowercase();
            glob(&wild(&pattern), &action.to_lowercase())
        })
    };
    match (statement.get("Action"), statement.get("NotAction")) {
        (Some(element), _) => named(element),
        (_, Some(element)) => !named(element),
        _ => false,
    }
}

fn resource(statement: &Json, request: &Request, variables: bool) -> Option<bool> {
    let named = |element: &Json| {
        or(list(element).iter().map(|pattern| {
            match expand(pattern.as_str().unwrap(), request, true, variables) {
                Expanded::Text(tokens) => Some(glob(&tokens, &request.resource)),
                Expanded::Null => Some(false),
                Expanded::Unknown => None,
            }
        }))
    };
    match (statement.get("Resource"), statement.get("NotResource")) {
        (Some(element), _) => named(element),
        (_, Some(element)) => named(element).map(|b| !b),
        _ => Some(false),
    }
}

fn conditions(statement: &Json, request: &Request, variables: bool) -> Option<bool> {
    let Some(Json::Object(operators)) = statement.get("Condition") else {
        return Some(true);
    };
    let mut all = vec![];
    for (operator, keys) in operators {
        for (key, values) in keys.as_object().unwrap() {
            all.push(condition(operator, key, &list(values), request, variables));
        }
    }
    and(all)
}

fn condition(
    operator: &str,
    key: &str,
    wanted: &[Json],
    request: &Request,
    variables: bool,
) -> Option<bool> {
    let (quantifier, operator) = operator.split_once(':').unwrap_or(("", operator));
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let values = match fact(request, key) {
        Some(Fact::Unknown) => return None,
        None => vec![],
        Some(Fact::One(value)) => vec![value],
        Some(Fact::Many(values)) => values,
    };
    if operator == "Null" {
        let absent = values.is_empty();
        return Some(wanted.iter().any(|w| text_of(w) == absent.to_string()));
    }
    let negated = operator.contains("Not");
    if values.is_empty() {
        return Some(match quantifier {
            _ if if_exists => true,
            "ForAllValues" => true,
            "ForAnyValue" => false,
            _ => negated,
        });
    }
    let positive = operator.replace("Not", "");
    // Does this value of the request agree with any value of the policy?
    let agrees = |value: &Typed| {
        or(wanted
            .iter()
            .map(|wanted| compare(&positive, value, &text_of(wanted), request, variables)))
    };
    let flip = |truth: Option<bool>| truth.map(|b| b != negated);
    match quantifier {
        "ForAllValues" => and(values.iter().map(|value| flip(agrees(value)))),
        "ForAnyValue" => or(values.iter().map(|value| flip(agrees(value)))),
        // "StringNotEquals" without a set operator: none of them is equal.
        _ => flip(or(values.iter().map(agrees))),
    }
}

fn fact(request: &Request, key: &str) -> Option<Fact> {
    let mut facts = request.facts.iter();
    facts
        .find(|(name, _)| name.to_lowercase() == key.to_lowercase())
        .map(|(_, fact)| fact.clone())
}

fn text_of(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn as_text(value: &Typed) -> String {
    match value {
        Typed::Text(text) => text.clone(),
        Typed::Number(number) => number.to_string(),
        Typed::Bool(value) => value.to_string(),
        Typed::Time(ms) => {
            let (mut days, secs) = (ms / 86_400_000, ms % 86_400_000 / 1000);
            let mut year = 1970;
            while days >= year_days(year) {
                days -= year_days(year);
                year += 1;
            }
            let mut month = 1;
            while days >= month_days(year, month) {
                days -= month_days(year, month);
                month += 1;
            }
            format!(
                "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z",
                days + 1,
                secs / 3600,
                secs / 60 % 60,
                secs % 60
            )
        }
        Typed::Ip(address) => address.to_string(),
    }
}

fn compare(
    operator: &str,
    value: &Typed,
    wanted: &str,
    request: &Request,
    variables: bool,
) -> Option<bool> {
    let text = as_text(value);
    let tokens = |wildcards| match expand(wanted, request, wildcards, variables) {
        Expanded::Text(tokens) => Ok(tokens),
        Expanded::Null => Err(Some(false)),
        Expanded::Unknown => Err(None),
    };
    let order = |value: Option<i64>, wanted: Option<i64>, how: &str| {
        let (Some(value), Some(wanted)) = (value, wanted) else {
            return Some(false);
        };
        Some(match how {
            "Equals" => value == wanted,
            "LessThan" => value < wanted,
            "LessThanEquals" => value <= wanted,
            "GreaterThan" => value > wanted,
            "GreaterThanEquals" => value >= wanted,
            other => panic!("{other}"),
        })
    };
    match operator {
        "StringEquals" => match tokens(false) {
            Ok(tokens) => Some(plain(&tokens) == text),
            Err(truth) => truth,
        },
        "StringEqualsIgnoreCase" => match tokens(false) {
            Ok(tokens) => Some(plain(&tokens).to_lowercase() == text.to_lowercase()),
            Err(truth) => truth,
        },
        "StringLike" => match tokens(true) {
            Ok(tokens) => Some(glob(&tokens, &text)),
            Err(truth) => truth,
        },
        "ArnEquals" | "ArnLike" => match tokens(true) {
            Ok(tokens) => Some(arn_like(&tokens, &text)),
            Err(truth) => truth,
        },
        "Bool" => Some(text.to_lowercase() == wanted.to_lowercase()),
        "BinaryEquals" => {
            let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).ok();
            Some(decode(&text).is_some() && decode(&text) == decode(wanted))
        }
        "IpAddress" => Some(in_network(&text, wanted)),
        _ => {
            if let Some(how) = operator.strip_prefix("Numeric") {
                // Micro-units are enough for what the tests write.
                let micro = |text: &str| {
                    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
                    let whole: i64 = whole.parse().ok()?;
                    Some(whole * 1_000_000 + format!("{fraction:0<6}").parse::<i64>().ok()?)
                };
                order(micro(&text), micro(wanted), how)
            } else if let Some(how) = operator.strip_prefix("Date") {
                let value = match value {
                    Typed::Number(secs) => Some(*secs),
                    _ => date(&text),
                };
                order(value, date(wanted), how)
            } else {
                panic!("{operator}")
            }
        }
    }
}

/// A character of a pattern.
#[derive(Clone, Copy, PartialEq)]
enum Token {
    Char(char),
    Any,
    Star,
}

enum Expanded {
    Text(Vec<Token>),
    /// A variable has no value.
    Null,
    Unknown,
}

fn wild(text: &str) -> Vec<Token> {
    text.chars()
        .map(|c| match c {
            '*' => Token::Star,
            '?' => Token::Any,
            c => Token::Char(c),
        })
        .collect()
}

fn plain(tokens: &[Token]) -> String {
    tokens
        .iter()
        .map(|token| match token {
            Token::Char(c) => *c,
            _ => panic!("a wildcard in a plain text"),
        })
        .collect()
}

fn expand(text: &str, request: &Request, wildcards: bool, variables: bool) -> Expanded {
    let literal = |text: &str| text.chars().map(Token::Char).collect::<Vec<_>>();
    let part = |text: &str| if wildcards { wild(text) } else { literal(text) };
    let mut tokens = vec![];
    let mut rest = text;
    while let Some(at) = rest.find("${").filter(|_| variables) {
        tokens.extend(part(&rest[..at]));
        let end = at + rest[at..].find('}').unwrap();
        let inside = &rest[at + 2..end];
        rest = &rest[end + 1..];
        if ["*", "?", "$"].contains(&inside) {
            tokens.extend(literal(inside));
            continue;
        }
        let (name, default) = match inside.split_once(',') {
            Some((name, default)) => (name, Some(default.trim().trim_matches('\''))),
            None => (inside, None),
        };
        match (fact(request, name), default) {
            (Some(Fact::One(value)), _) => tokens.extend(literal(&as_text(&value))),
            (Some(_), _) => return Expanded::Unknown,
            (None, Some(default)) => tokens.extend(literal(default)),
            (None, None) => return Expanded::Null,
        }
    }
    tokens.extend(part(rest));
    Expanded::Text(tokens)
}

fn glob(pattern: &[Token], text: &str) -> bool {
    fn go(pattern: &[Token], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(Token::Star), None) => go(&pattern[1..], text),
            (Some(Token::Star), Some(_)) => go(&pattern[1..], text) || go(pattern, &text[1..]),
            (Some(Token::Any), Some(_)) => go(&pattern[1..], &text[1..]),
            (Some(Token::Char(p)), Some(c)) => p == c && go(&pattern[1..], &text[1..]),
            (Some(_), None) => false,
        }
    }
    go(pattern, &text.chars().collect::<Vec<_>>())
}

/// "Each of the six colon-delimited components of the ARN is checked separately."
fn arn_like(pattern: &[Token], text: &str) -> bool {
    if pattern == [Token::Star] {
        return true;
    }
    let patterns: Vec<_> = pattern
        .splitn(6, |token| *token == Token::Char(':'))
        .collect();
    let texts: Vec<_> = text.splitn(6, ':').collect();
    patterns.len() == 6 && texts.len() == 6 && patterns.iter().zip(texts).all(|(p, t)| glob(p, t))
}

fn in_network(text: &str, wanted: &str) -> bool {
    let (network, bits) = match wanted.split_once('/') {
        Some((network, bits)) => (network, bits.parse().unwrap()),
        None => (wanted, 128),
    };
    let bits_of = |text: &str| -> Option<String> {
        let address: std::net::IpAddr = text.parse().ok()?;
        Some(match address {
            std::net::IpAddr::V4(ip) => format!("4{:032b}", ip.to_bits()),
            std::net::IpAddr::V6(ip) => format!("6{:0128b}", ip.to_bits()),
        })
    };
    match (bits_of(text), bits_of(network)) {
        (Some(ip), Some(net)) => {
            let length = net.len().min(bits + 1);
            ip.len() == net.len() && ip[..length] == net[..length]
        }
        _ => false,
    }
}

fn year_days(year: i64) -> i64 {
    (1..=12).map(|month| month_days(year, month)).sum()
}

fn month_days(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Seconds; only what the tests write: `2026-11-25`, `2026-11-25T20:40:37Z`, seconds since 1970.
fn date(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        if text.len() != 4 {
            return Some(number);
        }
        // Four digits are a year.
        let after = (1970..number).map(year_days).sum::<i64>();
        let before = (number..1970).map(year_days).sum::<i64>();
        return Some((after - before) * 86_400);
    }
    let day = text.get(..10)?;
    let [year, month, day]: [i64; 3] = day
        .split('-')
        .map(|part| part.parse().ok())
        .collect::<Option<Vec<_>>>()?
        .try_into()
        .ok()?;
    let days: i64 = (1970..year).map(year_days).sum::<i64>()
        + (1..month).map(|m| month_days(year, m)).sum::<i64>()
        + day
        - 1;
    let secs = match text.get(10..)? {
        "" => 0,
        clock => {
            let [hour, minute, sec]: [i64; 3] = clock
                .strip_prefix('T')?
                .strip_suffix('Z')?
                .split(':')
                .map(|part| part.parse().ok())
                .collect::<Option<Vec<_>>>()?
                .try_into()
                .ok()?;
            hour * 3600 + minute * 60 + sec
        }
    };
    Some(days * 86_400 + secs)
}
