//! One statement of a policy.

use super::action::Actions;
use super::condition::Condition;
use super::error::PolicyError;
use super::json::Json;
use super::key::ConditionKey;
use super::operator::Operator;
use super::pattern::{Syntax, Template};
use super::principal::{Found, Named, Names, Principals};
use super::value::{Context, Values};
use super::{PolicyKind, Query, Truth};

/// Somebody of whom nothing is known.
struct Nobody;

impl Context for Nobody {
    fn get(&self, _: ConditionKey<'_>) -> Values<'_> {
        Values::Unknown
    }
}

/// What a statement does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Allows it, unless something denies it.
    Allow,
    /// Denies it, whatever allows it.
    Deny,
}

/// A statement. Actions, resources and principals are given as the document writes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    index: usize,
    sid: Option<String>,
    effect: Effect,
    principals: Option<Principals>,
    actions: Option<Actions>,
    resources: Option<Resources>,
    conditions: Vec<Condition>,
}

/// The element `Resource` or `NotResource`.
#[derive(Clone, Debug, PartialEq)]
struct Resources {
    inverted: bool,
    /// None: every resource.
    patterns: Option<Vec<Template>>,
    texts: Vec<String>,
}

impl Statement {
    /// Its place in the document, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its `Sid`, if it has one.
    pub fn sid(&self) -> Option<&str> {
        self.sid.as_deref()
    }

    /// Its effect.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// `Principal` or `NotPrincipal`; nothing in policies of identities and guard rails.
    pub fn principals(&self) -> &[String] {
        self.principals.as_ref().map_or(&[], |p| &p.texts)
    }

    /// Whether it is `NotPrincipal`.
    pub fn not_principal(&self) -> bool {
        self.principals
            .as_ref()
            .is_some_and(Principals::is_inverted)
    }

    /// Whether it names everyone.
    pub fn is_for_anyone(&self) -> bool {
        self.principals.as_ref().is_some_and(Principals::is_anyone)
    }

    /// The accounts it delegates to.
    pub fn accounts(&self) -> &[String] {
        self.principals.as_ref().map_or(&[], |p| p.accounts())
    }

    /// `Action` or `NotAction`.
    pub fn actions(&self) -> &[String] {
        self.actions.as_ref().map_or(&[], |a| &a.texts)
    }

    /// Whether it is `NotAction`.
    pub fn not_action(&self) -> bool {
        self.actions.as_ref().is_some_and(Actions::is_inverted)
    }

    /// `Resource` or `NotResource`.
    pub fn resources(&self) -> &[String] {
        self.resources.as_ref().map_or(&[], |r| &r.texts)
    }

    /// Whether it is `NotResource`.
    pub fn not_resource(&self) -> bool {
        self.resources.as_ref().is_some_and(|r| r.inverted)
    }

    /// Whether it has any condition.
    pub fn is_conditional(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Its conditions: operator, key and values as the document writes them.
    pub fn conditions(&self) -> impl Iterator<Item = (&str, ConditionKey<'_>, &[String])> {
        self.conditions
            .iter()
            .map(|c| (c.name.as_str(), c.key(), c.texts.as_slice()))
    }

    /// See [`Condition::turns`]; of all its conditions, and of its resources.
    pub(crate) fn turns(&self) -> Option<Vec<i64>> {
        let of_time = |key| matches!(key, ConditionKey::CurrentTime | ConditionKey::EpochTime);
        let resources = self.resources.iter().flat_map(|r| &r.patterns).flatten();
        if resources.flat_map(Template::keys).any(of_time) {
            return None;
        }
        let turns = self.conditions.iter().map(Condition::turns);
        Some(turns.collect::<Option<Vec<_>>>()?.concat())
    }

    /// Every condition key that it may ask for, those of policy variables included.
    pub fn condition_keys(&self) -> impl Iterator<Item = ConditionKey<'_>> {
        let conditions = self
            .conditions
            .iter()
            .flat_map(|c| std::iter::once(c.key()).chain(c.variables()));
        let resources = self.resources.iter().flat_map(|r| &r.patterns).flatten();
        conditions.chain(resources.flat_map(Template::keys))
    }

    /// Whether it is about an action, whatever its case.
    pub fn is_about(&self, action: &str) -> bool {
        self.actions.as_ref().is_some_and(|a| a.contain(action))
    }

    /// Whether it can match any request at all: it has both actions and resources.
    pub fn has_effect(&self) -> bool {
        self.actions.is_some() && self.resources.is_some()
    }

    /// Whether it is about every resource that a pattern could name.
    pub fn is_for_every_resource(&self) -> bool {
        self.resources
            .as_ref()
            .is_some_and(|r| r.patterns.is_none() && !r.inverted)
    }

    /// Whether it can be about a resource: policy variables in its patterns count as whatever fits.
    pub fn may_cover(&self, resource: &str) -> bool {
        self.resources
            .as_ref()
            .is_some_and(|resources| resources.contain(resource, &Nobody) != Truth::False)
    }

    /// How it names the caller.
    pub(crate) fn name(&self, found: &Found, account: &str) -> Named {
        match &self.principals {
            Some(principals) => principals.name(found, account),
            None => Named::Principal,
        }
    }

    /// Whether resource and conditions hold.
    pub(crate) fn holds(&self, query: &Query<'_>) -> Truth {
        let Some(resources) = &self.resources else {
            return Truth::False;
        };
        match resources.contain(query.resource, query.context) {
            Truth::False => Truth::False,
            resource => {
                let conditions = self.conditions.iter().map(|c| c.holds(query.context));
                Truth::all(std::iter::once(resource).chain(conditions))
            }
        }
    }

    /// The first key that it asks for and that could not be established.
    pub(crate) fn lacking<'s>(&'s self, context: &dyn Context) -> Option<ConditionKey<'s>> {
        self.condition_keys()
            .find(|key| context.get(*key).is_open())
    }

    /// Compiles `Statement[index]`.
    pub(crate) fn parse(
        index: usize,
        value: Json,
        kind: PolicyKind,
        variables: bool,
        names: &mut Names,
    ) -> Result<Self, PolicyError> {
        let path = format!("Statement[{index}]");
        let refuse = |reason: &str| Err(PolicyError::new(path.clone(), reason));
        let mut statement = Self {
            index,
            sid: None,
            effect: Effect::Deny,
            principals: None,
            actions: None,
            resources: None,
            conditions: Vec::new(),
        };
        let mut effect = None;
        for (name, value) in value.members(&path)? {
            let path = format!("{path}.{name}");
            let twice = |is: bool, other: &str| match is {
                true => Err(PolicyError::new(
                    path.clone(),
                    format!("stands beside {other}: only one of the two may"),
                )),
                false => Ok(()),
            };
            match name.as_str() {
                "Sid" => statement.sid = Some(value.text(&path)?),
                "Effect" => effect = Some(read_effect(&path, value)?),
                "Principal" | "NotPrincipal" => {
                    twice(statement.principals.is_some(), "(Not)Principal")?;
                    if kind != PolicyKind::Key {
                        let reason = "belongs into key policies only: this policy is about \
                                      whoever it is attached to";
                        return Err(PolicyError::new(path, reason));
                    }
                    let inverted = name == "NotPrincipal";
                    let parsed = Principals::parse(&path, value, inverted, names)?;
                    statement.principals = Some(parsed);
                }
                "Action" | "NotAction" => {
                    twice(statement.actions.is_some(), "(Not)Action")?;
                    let texts = value.texts(&path)?;
                    statement.actions = Some(Actions::parse(&path, texts, name == "NotAction")?);
                }
                "Resource" | "NotResource" => {
                    twice(statement.resources.is_some(), "(Not)Resource")?;
                    let inverted = name == "NotResource";
                    statement.resources =
                        Some(Resources::parse(&path, value, inverted, variables)?);
                }
                "Condition" => statement.conditions = conditions(&path, value, variables)?,
                _ => return Err(PolicyError::new(path, "is not an element of a statement")),
            }
        }
        let Some(effect) = effect else {
            return refuse("has no Effect");
        };
        statement.effect = effect;
        match kind {
            PolicyKind::Key if statement.principals.is_none() => {
                return refuse("has neither Principal nor NotPrincipal");
            }
            PolicyKind::Key => {}
            PolicyKind::Identity | PolicyKind::GuardRail => {
                if statement.actions.is_none() {
                    return refuse("has neither Action nor NotAction");
                }
                if statement.resources.is_none() {
                    return refuse("has neither Resource nor NotResource");
                }
            }
        }
        Ok(statement)
    }
}

impl Resources {
    fn parse(
        path: &str,
        value: Json,
        inverted: bool,
        variables: bool,
    ) -> Result<Self, PolicyError> {
        let texts = value.texts(path)?;
        if texts.is_empty() {
            return Err(PolicyError::new(path, "names no resource"));
        }
        let syntax = Syntax {
            wildcards: true,
            variables,
            arn: false,
        };
        let mut patterns = Vec::new();
        for text in &texts {
            if text != "*" && !text.starts_with("arn:") {
                let reason = format!("{text:?} is neither \"*\" nor the ARN of a key or an alias");
                return Err(PolicyError::new(path, reason));
            }
            let parsed = Template::parse(text, syntax);
            patterns.push(parsed.map_err(|reason| PolicyError::new(path, reason))?);
        }
        let every = patterns.iter().any(Template::is_anything);
        Ok(Self {
            inverted,
            patterns: (!every).then_some(patterns),
            texts,
        })
    }

    fn contain(&self, resource: &str, context: &dyn Context) -> Truth {
        let named = match &self.patterns {
            None => Truth::True,
            Some(patterns) => Truth::any(patterns.iter().map(|p| p.matches(resource, context))),
        };
        named.negated_if(self.inverted)
    }
}

fn read_effect(path: &str, value: Json) -> Result<Effect, PolicyError> {
    match value.text(path)?.as_str() {
        "Allow" => Ok(Effect::Allow),
        "Deny" => Ok(Effect::Deny),
        other => Err(PolicyError::new(
            path,
            format!("is {other:?}, and neither Allow nor Deny"),
        )),
    }
}

fn conditions(path: &str, value: Json, variables: bool) -> Result<Vec<Condition>, PolicyError> {
    let mut conditions = Vec::new();
    for (name, keys) in value.members(path)? {
        let path = format!("{path}.{name}");
        let operator =
            Operator::parse(&name).map_err(|reason| PolicyError::new(path.clone(), reason))?;
        for (key, values) in keys.members(&path)? {
            let path = format!("{path}.{key}");
            conditions.push(Condition::parse(
                &path, &name, operator, &key, values, variables,
            )?);
        }
    }
    Ok(conditions)
}
