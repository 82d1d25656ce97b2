//! Reads the members of a request body, with AWS's rules for what is wrong with them.
//!
//! A member of the wrong JSON type ends decoding with `SerializationException`. A missing member or one
//! that breaks a constraint is collected, and all of them are reported together in AWS's words:
//! `2 validation errors detected: Value null at 'keyId' failed to satisfy constraint: …; Value …`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::blob::Blob;
use crate::enums::WireEnum;
use crate::error::{ApiError, ErrorCode};
use crate::id::ResourceId;
use crate::request::Tag;
use crate::timestamp::Timestamp;

#[cfg(test)]
pub(crate) mod seen;

/// Longest value repeated in an error text, in characters.
const MAX_ECHO: usize = 256;

/// A pattern: its name in AWS's notation, and what every character must fulfil.
type Pattern = (&'static str, fn(char) -> bool);

/// Constraints on a text: length in characters, and a pattern with its name in AWS's notation.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) pattern: Option<Pattern>,
}

impl Text {
    /// A text of `min` to `max` characters.
    pub(crate) const fn len(min: usize, max: usize) -> Self {
        Self {
            min,
            max,
            pattern: None,
        }
    }

    /// The same, of characters for which `test` holds; `name` is the pattern as AWS prints it.
    pub(crate) const fn matching(self, name: &'static str, test: fn(char) -> bool) -> Self {
        Self {
            pattern: Some((name, test)),
            ..self
        }
    }
}

/// A request that can be read from its members.
pub(crate) trait FromMembers: Sized {
    /// Reads every member; constraint failures are left in `members` for [`Members::finish`].
    fn from_members(members: &mut Members) -> Result<Self, ApiError>;
}

/// The top-level object of a request body.
pub(crate) struct Members {
    map: Map<String, Value>,
    violations: Vec<String>,
}

impl Members {
    /// Parses `body`; anything but one JSON object is a `SerializationException`.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self {
                map,
                violations: Vec::new(),
            }),
            Ok(_) | Err(_) => Err(serialization()),
        }
    }

    /// Reports what was collected.
    pub(crate) fn finish(&self) -> Result<(), ApiError> {
        let count = self.violations.len();
        if count == 0 {
            return Ok(());
        }
        let noun = if count == 1 { "error" } else { "errors" };
        let list = self.violations.join("; ");
        Err(ApiError::validation(format!(
            "{count} validation {noun} detected: {list}"
        )))
    }

    /// Whether the member is there (and not null).
    pub(crate) fn has(&self, name: &str) -> bool {
        #[cfg(test)]
        seen::member(name);
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// The members of an object inside another.
    pub(crate) fn of(map: Map<String, Value>) -> Self {
        Self {
            map,
            violations: Vec::new(),
        }
    }

    /// How many constraints are broken so far.
    pub(crate) fn violations(&self) -> usize {
        self.violations.len()
    }

    /// Takes over what was collected about the members of the object at `at`.
    pub(crate) fn adopt(&mut self, inner: &Self, at: &str) {
        let moved = inner
            .violations
            .iter()
            .map(|text| text.replacen(" at '", &format!(" at '{at}."), 1));
        self.violations.extend(moved);
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        seen::member(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn violate(&mut self, value: &str, at: &str, constraint: &str) {
        let value = if value.is_empty() {
            String::new()
        } else {
            format!(" {value}")
        };
        self.violations.push(format!(
            "Value{value} at '{at}' failed to satisfy constraint: {constraint}"
        ));
    }

    pub(crate) fn missing(&mut self, name: &str) {
        self.violate("null", &lower_first(name), "Member must not be null");
    }

    fn check_text(&mut self, text: &str, at: &str, rule: Text) {
        let length = text.chars().count();
        let shown = quoted(text);
        if length < rule.min {
            let limit = format!(
                "Member must have length greater than or equal to {}",
                rule.min
            );
            self.violate(&shown, at, &limit);
        }
        if length > rule.max {
            let limit = format!("Member must have length less than or equal to {}", rule.max);
            self.violate(&shown, at, &limit);
        }
        if let Some((pattern, test)) = rule.pattern
            && !text.chars().all(test)
        {
            let limit = format!("Member must satisfy regular expression pattern: {pattern}");
            self.violate(&shown, at, &limit);
        }
    }

    /// An optional text.
    pub(crate) fn opt_text(&mut self, name: &str, rule: Text) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                self.check_text(&text, &lower_first(name), rule);
                Ok(Some(text))
            }
            Some(_) => Err(serialization()),
        }
    }

    /// A required text.
    pub(crate) fn text(&mut self, name: &str, rule: Text) -> Result<String, ApiError> {
        let text = self.opt_text(name, rule)?;
        if text.is_none() {
            self.missing(name);
        }
        Ok(text.unwrap_or_default())
    }

    /// An optional text that fulfils `test` as a whole; `pattern` is what AWS prints for it.
    pub(crate) fn opt_whole(
        &mut self,
        name: &str,
        rule: Text,
        pattern: &str,
        test: fn(&str) -> bool,
    ) -> Result<Option<String>, ApiError> {
        let text = self.opt_text(name, rule)?;
        if let Some(text) = text.as_deref().filter(|text| !test(text)) {
            let limit = format!("Member must satisfy regular expression pattern: {pattern}");
            self.violate(&quoted(text), &lower_first(name), &limit);
        }
        Ok(text)
    }

    /// An optional blob of `min` to `max` bytes. Its content is never repeated in an error.
    pub(crate) fn opt_blob(
        &mut self,
        name: &str,
        min: usize,
        max: usize,
    ) -> Result<Option<Blob>, ApiError> {
        let mut text = match self.take(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(serialization()),
        };
        let blob = Blob::from_base64(&text);
        text.zeroize();
        let blob = blob.ok_or_else(serialization)?;
        if blob.len() < min {
            let limit = format!("Member must have length greater than or equal to {min}");
            self.violate("", &lower_first(name), &limit);
        }
        if blob.len() > max {
            let limit = format!("Member must have length less than or equal to {max}");
            self.violate("", &lower_first(name), &limit);
        }
        Ok(Some(blob))
    }

    /// A required blob.
    pub(crate) fn blob(&mut self, name: &str, min: usize, max: usize) -> Result<Blob, ApiError> {
        let blob = self.opt_blob(name, min, max)?;
        if blob.is_none() {
            self.missing(name);
        }
        Ok(blob.unwrap_or_default())
    }

    /// An optional integer between `min` and `max`.
    pub(crate) fn opt_int(
        &mut self,
        name: &str,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, ApiError> {
        let value = match self.take(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_i64().ok_or_else(serialization)?,
            Some(_) => return Err(serialization()),
        };
        // The model's integers have 32 bits: what does not fit is not an integer to AWS.
        let value = i32::try_from(value).map_err(|_| serialization())?;
        let at = lower_first(name);
        let shown = format!("'{value}'");
        if i64::from(value) < i64::from(min) {
            let limit = format!("Member must have value greater than or equal to {min}");
            self.violate(&shown, &at, &limit);
        }
        if i64::from(value) > i64::from(max) {
            let limit = format!("Member must have value less than or equal to {max}");
            self.violate(&shown, &at, &limit);
        }
        Ok(u32::try_from(value).ok().or(Some(0)))
    }

    /// A required integer of up to 63 bits, not negative.
    pub(crate) fn long(&mut self, name: &str) -> Result<u64, ApiError> {
        let value = self.opt_long(name)?;
        if value.is_none() {
            self.missing(name);
        }
        Ok(value.unwrap_or_default())
    }

    /// An integer of up to 63 bits, not negative, that may be absent.
    pub(crate) fn opt_long(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let value = number.as_i64().ok_or_else(serialization)?;
                Ok(Some(u64::try_from(value).unwrap_or_else(|_| {
                    let limit = "Member must have value greater than or equal to 0";
                    self.violate(&format!("'{value}'"), &lower_first(name), limit);
                    0
                })))
            }
            Some(_) => Err(serialization()),
        }
    }

    /// An optional moment, in seconds since 1970 with fractions.
    pub(crate) fn opt_timestamp(&mut self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value @ Value::Number(_)) => serde_json::from_value(value)
                .map(Some)
                .map_err(|_| serialization()),
            Some(_) => Err(serialization()),
        }
    }

    /// A flag, false when absent.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(serialization()),
        }
    }

    /// A flag that may be left as it is.
    pub(crate) fn opt_flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(serialization()),
        }
    }

    /// An optional value of an enumeration.
    pub(crate) fn opt_enum<T: WireEnum>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        #[cfg(test)]
        seen::values(T::WIRE);
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                let value = T::from_wire(&text);
                if value.is_none() {
                    let set = enum_set::<T>();
                    self.violate(&quoted(&text), &lower_first(name), &set);
                }
                Ok(value)
            }
            Some(_) => Err(serialization()),
        }
    }

    /// A required value of an enumeration; `default` stands in for a reported failure.
    pub(crate) fn required_enum<T: WireEnum>(
        &mut self,
        name: &str,
        default: T,
    ) -> Result<T, ApiError> {
        if !self.has(name) {
            self.missing(name);
        }
        Ok(self.opt_enum(name)?.unwrap_or(default))
    }

    /// A list of values of an enumeration, empty when absent.
    pub(crate) fn enums<T: WireEnum>(&mut self, name: &str) -> Result<Vec<T>, ApiError> {
        let texts = self.strings(name)?;
        Ok(self.values(&texts, &lower_first(name)))
    }

    fn values<T: WireEnum>(&mut self, texts: &[String], at: &str) -> Vec<T> {
        #[cfg(test)]
        seen::values(T::WIRE);
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match T::from_wire(text) {
                Some(value) => values.push(value),
                None => {
                    let limit = format!("Member must satisfy constraint: [{}]", enum_set::<T>());
                    self.violate(&format!("'[{}]'", echo(text)), at, &limit);
                }
            }
        }
        values
    }

    /// A list of `min` to `max` values of an enumeration, empty when absent.
    pub(crate) fn enums_of<T: WireEnum>(
        &mut self,
        name: &str,
        min: usize,
        max: usize,
    ) -> Result<Vec<T>, ApiError> {
        let there = self.has(name);
        let texts = self.strings(name)?;
        let shown = format!("'[{}]'", echo(&texts.join(", ")));
        let at = lower_first(name);
        if there && texts.len() < min {
            let limit = format!("Member must have length greater than or equal to {min}");
            self.violate(&shown, &at, &limit);
        }
        if texts.len() > max {
            let limit = format!("Member must have length less than or equal to {max}");
            self.violate(&shown, &at, &limit);
        }
        Ok(self.values(&texts, &at))
    }

    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(serialization()),
        };
        let text = |item| match item {
            Value::String(text) => Ok(text),
            _ => Err(serialization()),
        };
        items.into_iter().map(text).collect()
    }

    /// A map of texts to texts, empty when absent.
    pub(crate) fn context(&mut self, name: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let map = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(serialization()),
        };
        let pair = |(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            _ => Err(serialization()),
        };
        map.into_iter().map(pair).collect()
    }

    /// `Tags` where they are required.
    pub(crate) fn required_tags(&mut self, name: &str) -> Result<Vec<Tag>, ApiError> {
        if !self.has(name) {
            self.missing(name);
        }
        self.tags(name)
    }

    /// `TagKeys`, which are required.
    pub(crate) fn tag_keys(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        if !self.has(name) {
            self.missing(name);
        }
        let keys = self.strings(name)?;
        if keys
            .iter()
            .any(|key| !(1..=128).contains(&key.chars().count()))
        {
            let shown = format!("'[{}]'", echo(&keys.join(", ")));
            self.violate(
                &shown,
                &lower_first(name),
                "Member must satisfy constraint: [Member must have length less than or equal to \
                 128, Member must have length greater than or equal to 1]",
            );
        }
        Ok(keys)
    }

    /// A list of up to a thousand names of 1 to 255 characters, empty when absent.
    pub(crate) fn names(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let names = self.strings(name)?;
        let fit = |name: &String| (1..=255).contains(&name.chars().count());
        if names.len() > 1000 || !names.iter().all(fit) {
            let shown = format!("'[{}]'", echo(&names.join(", ")));
            let limit = "Member must have at most 1000 entries of 1 to 255 characters";
            self.violate(&shown, &lower_first(name), limit);
        }
        Ok(names)
    }

    /// `Tags`, empty when absent.
    pub(crate) fn tags(&mut self, name: &str) -> Result<Vec<Tag>, ApiError> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(serialization()),
        };
        let mut tags = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let Value::Object(map) = item else {
                return Err(serialization());
            };
            let mut inner = Self {
                map,
                violations: Vec::new(),
            };
            let key = inner.take("TagKey");
            let value = inner.take("TagValue");
            let mut part = |member: &str, given: Option<Value>, min, max| {
                let at = format!("{}.{}.member.{member}", lower_first(name), index + 1);
                match given {
                    None => {
                        self.violate("null", &at, "Member must not be null");
                        Ok(String::new())
                    }
                    Some(Value::String(text)) => {
                        self.check_text(&text, &at, Text::len(min, max));
                        Ok(text)
                    }
                    Some(_) => Err(serialization()),
                }
            };
            let tag_key = part("tagKey", key, 1, 128)?;
            let tag_value = part("tagValue", value, 0, 256)?;
            tags.push(Tag { tag_key, tag_value });
        }
        Ok(tags)
    }

    /// A required identifier of 32 hex digits.
    pub(crate) fn id(&mut self, name: &str) -> Result<ResourceId, ApiError> {
        let nothing = ResourceId([0; 16]);
        match self.take(name) {
            None => {
                self.missing(name);
                Ok(nothing)
            }
            Some(Value::String(text)) => Ok(text.parse().unwrap_or_else(|_| {
                let limit = "Member must satisfy regular expression pattern: ^[0-9a-f]{32}$";
                self.violate(&quoted(&text), &lower_first(name), limit);
                nothing
            })),
            Some(_) => Err(serialization()),
        }
    }

    /// `Recipient` asks for the answer to be encrypted to an attested enclave. kmsd knows no attestation
    /// documents, and answering in the clear instead would be wrong, so the member is refused.
    pub(crate) fn no_recipient(&mut self) -> Result<(), ApiError> {
        if self.has("Recipient") {
            return Err(ApiError::validation(
                "Recipient is not supported: kmsd checks no attestation documents of Nitro Enclaves or NitroTPM. \
                 Send the request without this member.",
            ));
        }
        Ok(())
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        // A plaintext may be left when decoding ended early.
        for value in self.map.values_mut() {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

/// `SerializationException`, which carries no text.
pub(crate) fn serialization() -> ApiError {
    ApiError::bare(ErrorCode::Serialization)
}

fn enum_set<T: WireEnum>() -> String {
    format!(
        "Member must satisfy enum value set: [{}]",
        T::WIRE.join(", ")
    )
}

pub(crate) fn echo(text: &str) -> String {
    match text.char_indices().nth(MAX_ECHO) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", echo(text))
}

pub(crate) fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
