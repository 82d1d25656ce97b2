//! JSON as it was written: members in order, and twice where they were given twice, so that the
//! parser of policies can refuse what an ordinary map would hide.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::PolicyError;

/// A JSON value. Its nesting is limited by serde_json (128 levels).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// Its text.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What the value is, for a message.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The members of an object, none of them given twice.
    pub(crate) fn members(self, path: &str) -> Result<Vec<(String, Self)>, PolicyError> {
        let Self::Object(members) = self else {
            let text = format!("is {}, not an object", self.what());
            return Err(PolicyError::new(path, text));
        };
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let twice = names.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(*a),
            _ => None,
        });
        match twice {
            Some(name) => Err(PolicyError::new(
                path,
                format!("has the member {name:?} twice"),
            )),
            None => Ok(members),
        }
    }

    /// The value itself, or the elements of a list.
    pub(crate) fn one_or_many(self) -> Vec<Self> {
        match self {
            Self::List(values) => values,
            other => vec![other],
        }
    }

    /// A string.
    pub(crate) fn text(self, path: &str) -> Result<String, PolicyError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(PolicyError::new(
                path,
                format!("is {}, not a string", other.what()),
            )),
        }
    }

    /// A string or a list of strings.
    pub(crate) fn texts(self, path: &str) -> Result<Vec<String>, PolicyError> {
        let list = matches!(self, Self::List(_));
        let values = self.one_or_many().into_iter().enumerate();
        values
            .map(|(at, value)| {
                if list {
                    value.text(&format!("{path}[{at}]"))
                } else {
                    value.text(path)
                }
            })
            .collect()
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = from.next_element()? {
                    values.push(value);
                }
                Ok(Json::List(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = from.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }
        from.deserialize_any(Any)
    }
}
