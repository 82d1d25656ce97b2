//! One condition of a statement: an operator, a key and values.

use std::sync::Arc;

use super::Truth;
use super::error::PolicyError;
use super::json::Json;
use super::key::{ConditionKey, StoredKey};
use super::operator::{Family, Operator, Order, Quantifier};
use super::pattern::{Syntax, Template};
use super::value::{Context, Decimal, Names, Network, Value, Values, parse_bool, parse_time};

/// A compiled condition. The conditions of a statement must all hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    /// The operator as the document writes it.
    pub(crate) name: String,
    operator: Operator,
    key: StoredKey,
    operands: Operands,
    /// The values as the document writes them.
    pub(crate) texts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operands {
    Texts(Vec<Template>),
    TextsIgnoringCase(Vec<Template>),
    Numbers(Order, Vec<Decimal>),
    Times(Order, Vec<i64>),
    Bools(Vec<bool>),
    Bytes(Vec<Vec<u8>>),
    Networks(Vec<Network>),
    /// Whether the key must be absent.
    Null(Vec<bool>),
}

impl Condition {
    /// Compiles `name: { key: values }`. `path` is that of the key.
    pub(crate) fn parse(
        path: &str,
        name: &str,
        operator: Operator,
        key: &str,
        values: Json,
        variables: bool,
    ) -> Result<Self, PolicyError> {
        let key = StoredKey::parse(key).map_err(|reason| PolicyError::new(path, reason))?;
        if operator.quantifier == Quantifier::All {
            refuse_overly_permissive(path, key.key())?;
        }
        let texts = values
            .one_or_many()
            .into_iter()
            .map(|value| scalar(path, operator.family, value))
            .collect::<Result<Vec<_>, _>>()?;
        if texts.is_empty() {
            return Err(PolicyError::new(path, "has no values"));
        }
        let operands = Operands::parse(operator.family, &texts, variables)
            .map_err(|reason| PolicyError::new(path, reason))?;
        Ok(Self {
            name: name.to_owned(),
            operator,
            key,
            operands,
            texts,
        })
    }

    /// The key that it asks for.
    pub(crate) fn key(&self) -> ConditionKey<'_> {
        self.key.key()
    }

    /// The keys of the policy variables in its values.
    pub(crate) fn variables(&self) -> impl Iterator<Item = ConditionKey<'_>> {
        let templates = match &self.operands {
            Operands::Texts(templates) | Operands::TextsIgnoringCase(templates) => {
                templates.as_slice()
            }
            _ => &[],
        };
        templates.iter().flat_map(Template::keys)
    }

    /// At which times, in milliseconds since 1970, a condition on the time may begin or cease to hold; `None` when that
    /// cannot be said beforehand.
    pub(crate) fn turns(&self) -> Option<Vec<i64>> {
        /// Times are compared by whole seconds.
        const SECOND: i64 = 1000;
        let of_time = |key| matches!(key, ConditionKey::CurrentTime | ConditionKey::EpochTime);
        if self.variables().any(of_time) {
            return None;
        }
        if !of_time(self.key()) {
            return Some(Vec::new());
        }
        let times = match &self.operands {
            Operands::Times(_, times) => times.clone(),
            Operands::Null(_) => Vec::new(),
            _ => return None,
        };
        let after = |time: i64| [time, time.saturating_add(SECOND)];
        Some(times.into_iter().flat_map(after).collect())
    }

    /// Whether it holds for a request.
    pub(crate) fn holds(&self, context: &dyn Context) -> Truth {
        let values = context.get(self.key.key());
        let single;
        let (texts, values) = match &values {
            Values::Unknown => return Truth::Unknown,
            Values::Absent => (&[][..], &[][..]),
            Values::One(value) => {
                single = std::slice::from_ref(value);
                (&[][..], single)
            }
            Values::Texts(texts) => (*texts, &[][..]),
            Values::Many(values) => (&[][..], values.as_slice()),
            Values::Names(names) if names.are_all() => (names.known, &[][..]),
            Values::Names(names) => return self.holds_for(names, context),
        };
        let empty = texts.is_empty() && values.is_empty();
        if let Operands::Null(operands) = &self.operands {
            return operands.contains(&empty).into();
        }
        if empty {
            return match self.operator.quantifier {
                _ if self.operator.if_exists => Truth::True,
                Quantifier::Single => self.operator.negated.into(),
                Quantifier::All => Truth::True,
                Quantifier::Any => Truth::False,
            };
        }
        let texts = texts.iter().map(|text| Value::from(text.as_ref()));
        match self.operator.quantifier {
            Quantifier::Single => {
                let borrowed = values.iter().map(|value| self.any_operand(value, context));
                let owned = texts.map(|value| self.any_operand(&value, context));
                Truth::any(borrowed.chain(owned)).negated_if(self.operator.negated)
            }
            Quantifier::All => Truth::all(
                values
                    .iter()
                    .map(|value| self.one_value(value, context))
                    .chain(texts.map(|value| self.one_value(&value, context))),
            ),
            Quantifier::Any => Truth::any(
                values
                    .iter()
                    .map(|value| self.one_value(value, context))
                    .chain(texts.map(|value| self.one_value(&value, context))),
            ),
        }
    }

    /// Whether it holds for a caller that may have other names than the known ones: only if it does whichever of
    /// them the caller has.
    fn holds_for(&self, names: &Names<'_>, context: &dyn Context) -> Truth {
        if let Operands::Null(operands) = &self.operands {
            return operands.contains(&false).into();
        }
        let negated = self.operator.negated;
        let text = |name: &Arc<str>| self.any_operand(&Value::from(&**name), context);
        let known = names.known.iter().map(text);
        let mut possible = names.possible.iter().map(text);
        // Something that begins like this always can be something else, too.
        let begins = || {
            let mut beginnings = names.beginnings.iter();
            beginnings.any(|beginning| self.may_begin(beginning, context))
        };
        let open = !names.beginnings.is_empty();
        match self.operator.quantifier {
            Quantifier::Single => {
                let agrees = match Truth::any(known) {
                    Truth::False if possible.any(|t| t != Truth::False) || begins() => {
                        Truth::Unknown
                    }
                    other => other,
                };
                agrees.negated_if(negated)
            }
            Quantifier::Any => match Truth::any(known.map(|t| t.negated_if(negated))) {
                Truth::False => {
                    let agrees = possible.any(|t| t.negated_if(negated) != Truth::False);
                    let may = agrees || if negated { open } else { begins() };
                    if may { Truth::Unknown } else { Truth::False }
                }
                other => other,
            },
            Quantifier::All => match Truth::all(known.map(|t| t.negated_if(negated))) {
                Truth::True => {
                    let differs = possible.any(|t| t.negated_if(negated) != Truth::True);
                    let may = differs || if negated { begins() } else { open };
                    if may { Truth::Unknown } else { Truth::True }
                }
                other => other,
            },
        }
    }

    /// Whether a text that begins with `beginning` may agree with any value of the policy.
    fn may_begin(&self, beginning: &str, context: &dyn Context) -> bool {
        match &self.operands {
            Operands::Texts(templates) => templates.iter().any(|t| t.may_begin(beginning, context)),
            Operands::TextsIgnoringCase(templates) => templates
                .iter()
                .any(|t| t.may_begin_ignoring_case(beginning, context)),
            _ => false,
        }
    }

    fn one_value(&self, value: &Value<'_>, context: &dyn Context) -> Truth {
        self.any_operand(value, context)
            .negated_if(self.operator.negated)
    }

    /// Whether the value agrees with any value of the policy.
    fn any_operand(&self, value: &Value<'_>, context: &dyn Context) -> Truth {
        match &self.operands {
            Operands::Texts(templates) => {
                let text = value.text();
                Truth::any(templates.iter().map(|t| t.matches(&text, context)))
            }
            Operands::TextsIgnoringCase(templates) => {
                let text = value.text();
                let each = |t: &Template| t.matches_ignoring_case(&text, context);
                Truth::any(templates.iter().map(each))
            }
            Operands::Numbers(order, numbers) => value
                .decimal()
                .is_some_and(|value| numbers.iter().any(|n| order.holds(&value, n)))
                .into(),
            Operands::Times(order, times) => value
                .time()
                .is_some_and(|value| times.iter().any(|t| order.holds(&value, t)))
                .into(),
            Operands::Bools(bools) => value
                .boolean()
                .is_some_and(|value| bools.contains(&value))
                .into(),
            Operands::Bytes(bytes) => bytes.iter().any(|wanted| value.is_bytes(wanted)).into(),
            Operands::Networks(networks) => value
                .ip()
                .is_some_and(|ip| networks.iter().any(|network| network.contains(ip)))
                .into(),
            Operands::Null(_) => Truth::False,
        }
    }
}

impl Operands {
    fn parse(family: Family, texts: &[String], variables: bool) -> Result<Self, String> {
        let templates = |wildcards, arn| {
            let syntax = Syntax {
                wildcards,
                variables,
                arn,
            };
            let parsed = texts.iter().map(|text| Template::parse(text, syntax));
            parsed.collect::<Result<Vec<_>, _>>()
        };
        Ok(match family {
            Family::StringEquals => Self::Texts(templates(false, false)?),
            Family::StringEqualsIgnoreCase => Self::TextsIgnoringCase(templates(false, false)?),
            Family::StringLike => Self::Texts(templates(true, false)?),
            Family::Arn => Self::Texts(templates(true, true)?),
            Family::Numeric(order) => {
                Self::Numbers(order, each(texts, "a number", Decimal::parse)?)
            }
            Family::Date(order) => Self::Times(
                order,
                each(
                    texts,
                    "a time as ISO 8601 or in seconds since 1970",
                    parse_time,
                )?,
            ),
            Family::Bool => Self::Bools(each(texts, "true or false", parse_bool)?),
            Family::Null => Self::Null(each(texts, "true or false", parse_bool)?),
            Family::Binary => Self::Bytes(each(texts, "base64", |text| {
                data_encoding::BASE64.decode(text.as_bytes()).ok()
            })?),
            Family::Ip => Self::Networks(each(
                texts,
                "an IP address or a network such as 203.0.113.0/24",
                Network::parse,
            )?),
        })
    }
}

fn each<T>(
    texts: &[String],
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, String> {
    let parsed = texts
        .iter()
        .map(|text| parse(text).ok_or_else(|| format!("{text:?} is not {what}")));
    parsed.collect()
}

/// The text of a value. Numbers and booleans may be written without quotes where they are meant.
fn scalar(path: &str, family: Family, value: Json) -> Result<String, PolicyError> {
    match (family, value) {
        (_, Json::Text(text)) => Ok(text),
        (Family::Numeric(_) | Family::Date(_), Json::Number(text)) => Ok(text),
        (Family::Bool | Family::Null, Json::Bool(value)) => Ok(value.to_string()),
        (_, other) => Err(PolicyError::new(
            path,
            format!("has {} as a value", other.what()),
        )),
    }
}

/// `ForAllValues` also holds when the key is absent, so on a key with one value it allows what the
/// author meant to forbid.
fn refuse_overly_permissive(path: &str, key: ConditionKey<'_>) -> Result<(), PolicyError> {
    match key {
        ConditionKey::EncryptionContext(_) | ConditionKey::RequestTag(_) => {
            let text = format!(
                "OverlyPermissiveCondition: ForAllValues cannot be used with the single-valued \
                 condition key {}",
                key.name()
            );
            Err(PolicyError::new(path, text))
        }
        _ => Ok(()),
    }
}
