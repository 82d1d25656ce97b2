//! Readers of the members that only grants have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{GrantConstraints, MAX_CONSTRAINT_PAIRS, MAX_CONSTRAINT_VALUE};
use crate::enums::GrantOperation;
use crate::error::ApiError;
use crate::members::{Members, Text, echo, lower_first, serialization};

const SERVICE: &str = "^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$";
const SOURCE_ARN: &str = "^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$";

impl Members {
    /// `GrantTokens`: up to ten texts of 1 to 8192 characters, empty when absent.
    pub(crate) fn grant_tokens(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let tokens = self.strings(name)?;
        let at = lower_first(name);
        let shown = || format!("'[{}]'", echo(&tokens.join(", ")));
        if tokens.len() > 10 {
            self.violate(
                &shown(),
                &at,
                "Member must have length less than or equal to 10",
            );
        }
        if tokens
            .iter()
            .any(|token| !(1..=8192).contains(&token.chars().count()))
        {
            self.violate(
                &shown(),
                &at,
                "Member must satisfy constraint: [Member must have length less than or equal to \
                 8192, Member must have length greater than or equal to 1]",
            );
        }
        Ok(tokens)
    }

    /// A required list of operations.
    pub(crate) fn grant_operations(&mut self, name: &str) -> Result<Vec<GrantOperation>, ApiError> {
        let given = self.has(name);
        let before = self.violations();
        let operations = self.enums(name)?;
        if !given {
            self.missing(name);
        } else if operations.is_empty() && self.violations() == before {
            let limit = "Member must have length greater than or equal to 1";
            self.violate("'[]'", "operations", limit);
        }
        Ok(operations)
    }

    /// An optional name of a service.
    pub(crate) fn service_principal(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.opt_whole(name, Text::len(1, 128), SERVICE, |text| {
            let label = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            text.split('.').count() >= 3 && text.split('.').all(label)
        })
    }

    /// The optional constraints of a grant.
    pub(crate) fn grant_constraints(
        &mut self,
        name: &str,
    ) -> Result<Option<GrantConstraints>, ApiError> {
        let map = match self.take(name) {
            None => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(serialization()),
        };
        let mut inner = Self::of(map);
        let constraints = GrantConstraints {
            encryption_context_subset: inner.constraint("EncryptionContextSubset")?,
            encryption_context_equals: inner.constraint("EncryptionContextEquals")?,
            source_arn: inner.opt_whole("SourceArn", Text::len(20, 512), SOURCE_ARN, is_arn)?,
        };
        self.adopt(&inner, "constraints");
        Ok(Some(constraints))
    }

    fn constraint(&mut self, name: &str) -> Result<Option<BTreeMap<String, String>>, ApiError> {
        if !self.has(name) {
            return Ok(None);
        }
        let pairs = self.context(name)?;
        let at = lower_first(name);
        if pairs.len() > MAX_CONSTRAINT_PAIRS {
            let limit =
                format!("Member must have length less than or equal to {MAX_CONSTRAINT_PAIRS}");
            self.violate("", &at, &limit);
        }
        let too_long = |text: &String| text.chars().count() > MAX_CONSTRAINT_VALUE;
        if pairs
            .iter()
            .any(|(key, value)| too_long(key) || too_long(value))
        {
            let limit = format!(
                "Map value must satisfy constraint: [Member must have length less than or equal \
                 to {MAX_CONSTRAINT_VALUE}]"
            );
            self.violate("", &at, &limit);
        }
        Ok(Some(pairs))
    }
}

/// `arn:aws*:SERVICE:REGION:ACCOUNT:RESOURCE`, in the characters of [`SOURCE_ARN`].
fn is_arn(text: &str) -> bool {
    let lower = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts.as_slice() else {
        return false;
    };
    *arn == "arn"
        && partition.starts_with("aws")
        && lower(partition)
        && !service.is_empty()
        && lower(service)
        && lower(region)
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !resource.is_empty()
}
