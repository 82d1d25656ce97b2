//! Texts of a policy: literal, with wildcards, with policy variables.
//!
//! Wildcards are compiled to the literal stretches between the stars. Each stretch is looked for once,
//! leftmost first, so that no pattern makes matching exponential.

use std::borrow::Cow;

use super::Truth;
use super::key::{ConditionKey, StoredKey};
use super::value::{Context, Values};

/// A part of a text as the policy has it.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    /// `*`.
    Star,
    /// `?`.
    One,
    /// `${key}` or `${key, 'default'}`.
    Variable(StoredKey, Option<String>),
}

/// A stretch without stars.
#[derive(Clone, Debug, PartialEq)]
enum Stretch {
    Literal(String),
    /// Characters; none stands for `?`.
    Mixed(Vec<Option<char>>),
}

/// A text with wildcards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Glob {
    /// What the text begins with; all of it when there is no star.
    head: Stretch,
    /// After at least one star: what must come in between, in this order, and what the text ends with.
    rest: Option<(Vec<Stretch>, Stretch)>,
}

impl Stretch {
    fn of(atoms: Vec<Option<char>>) -> Self {
        match atoms.iter().copied().collect::<Option<String>>() {
            Some(literal) => Self::Literal(literal),
            None => Self::Mixed(atoms),
        }
    }

    /// Its characters; none stands for `?`.
    fn chars(&self) -> impl Iterator<Item = Option<char>> {
        let (literal, mixed): (&str, &[Option<char>]) = match self {
            Self::Literal(literal) => (literal, &[]),
            Self::Mixed(atoms) => ("", atoms),
        };
        literal.chars().map(Some).chain(mixed.iter().copied())
    }

    /// What follows the stretch when `text` begins with it.
    fn strip_prefix<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text.strip_prefix(literal.as_str()),
            Self::Mixed(atoms) => {
                let mut chars = text.chars();
                for atom in atoms {
                    let c = chars.next()?;
                    if atom.is_some_and(|wanted| wanted != c) {
                        return None;
                    }
                }
                Some(chars.as_str())
            }
        }
    }

    fn is_suffix_of(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => text.ends_with(literal.as_str()),
            Self::Mixed(atoms) => {
                let mut chars = text.chars().rev();
                atoms.iter().rev().all(|atom| match chars.next() {
                    Some(c) => atom.is_none_or(|wanted| wanted == c),
                    None => false,
                })
            }
        }
    }

    /// What follows the first place where the stretch is found.
    fn find_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text
                .find(literal.as_str())
                .and_then(|at| text.get(at + literal.len()..)),
            Self::Mixed(_) => text
                .char_indices()
                .find_map(|(at, _)| self.strip_prefix(text.get(at..)?)),
        }
    }
}

impl Glob {
    fn of<'p>(pieces: impl Iterator<Item = Resolved<'p>>) -> Self {
        let mut stretches: Vec<Vec<Option<char>>> = vec![Vec::new()];
        let mut starred = false;
        for piece in pieces {
            if matches!(piece, Resolved::Star) {
                stretches.push(Vec::new());
                starred = true;
                continue;
            }
            let Some(last) = stretches.last_mut() else {
                continue;
            };
            match piece {
                Resolved::Literal(text) => last.extend(text.chars().map(Some)),
                Resolved::One => last.push(None),
                Resolved::Star => {}
            }
        }
        let tail = if starred { stretches.pop() } else { None };
        let mut stretches = stretches.into_iter();
        let head = Stretch::of(stretches.next().unwrap_or_default());
        Self {
            head,
            rest: tail.map(|tail| {
                let middle = stretches.filter(|stretch| !stretch.is_empty());
                (middle.map(Stretch::of).collect(), Stretch::of(tail))
            }),
        }
    }

    /// Whether some text that begins with `beginning` matches.
    fn may_begin(&self, beginning: &str) -> bool {
        let mut wanted = self.head.chars();
        for c in beginning.chars() {
            match wanted.next() {
                Some(Some(wanted)) if wanted != c => return false,
                Some(_) => {}
                // From the first star on anything goes: what must follow may follow after the beginning.
                None => return self.rest.is_some(),
            }
        }
        true
    }

    /// Whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(mut text) = self.head.strip_prefix(text) else {
            return false;
        };
        let Some((middle, tail)) = &self.rest else {
            return text.is_empty();
        };
        for stretch in middle {
            match stretch.find_in(text) {
                Some(rest) => text = rest,
                None => return false,
            }
        }
        tail.is_suffix_of(text)
    }
}

/// A part of a text once its variables have values.
enum Resolved<'p> {
    Literal(Cow<'p, str>),
    Star,
    One,
}

/// What the wildcards and variables of a text mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Syntax {
    /// `*` and `?` are wildcards.
    pub(crate) wildcards: bool,
    /// `${…}` is a variable (policies of version 2012-10-17).
    pub(crate) variables: bool,
    /// Each of the six parts of an ARN is matched by itself.
    pub(crate) arn: bool,
}

/// A text of a policy, compiled as far as it can be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    compiled: Compiled,
}

#[derive(Clone, Debug, PartialEq)]
enum Compiled {
    /// No wildcard, no variable.
    Literal(String),
    Glob(Glob),
    Arn(Box<[Glob; ARN_PARTS]>),
    /// Has variables, so it is put together for each request.
    Variable(Vec<Piece>, Syntax),
}

/// `arn:partition:service:region:account:resource`.
const ARN_PARTS: usize = 6;

/// Why a variable has no value.
enum Missing {
    Absent,
    Unknown,
}

impl Template {
    /// Reads a text.
    pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let pieces = split(text, syntax)?;
        let variable = pieces.iter().any(|p| matches!(p, Piece::Variable(..)));
        if syntax.arn && !variable && !is_arn_pattern(&pieces) {
            return Err(format!("{text:?} is not an ARN"));
        }
        let compiled = if variable {
            Compiled::Variable(pieces, syntax)
        } else {
            compile(pieces.iter().filter_map(fixed).collect(), syntax)
        };
        Ok(Self { compiled })
    }

    /// The keys of its variables.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ConditionKey<'_>> {
        let pieces = match &self.compiled {
            Compiled::Variable(pieces, _) => pieces.as_slice(),
            _ => &[],
        };
        pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(key, _) => Some(key.key()),
            _ => None,
        })
    }

    /// Whether every text matches.
    pub(crate) fn is_anything(&self) -> bool {
        match &self.compiled {
            Compiled::Glob(glob) => match &glob.rest {
                Some((middle, tail)) => {
                    let empty = |s: &Stretch| matches!(s, Stretch::Literal(l) if l.is_empty());
                    empty(&glob.head) && middle.is_empty() && empty(tail)
                }
                None => false,
            },
            _ => false,
        }
    }

    /// Whether `text` matches. A variable without a value matches nothing.
    pub(crate) fn matches(&self, text: &str, context: &dyn Context) -> Truth {
        self.matches_with(text, context, false)
    }

    /// As [`Template::matches`], upper and lower case being the same; not for wildcards.
    pub(crate) fn matches_ignoring_case(&self, text: &str, context: &dyn Context) -> Truth {
        self.matches_with(text, context, true)
    }

    /// Whether some text that begins with `beginning` matches.
    pub(crate) fn may_begin(&self, beginning: &str, context: &dyn Context) -> bool {
        self.resolved(context, |compiled| compiled.may_begin(beginning))
            .unwrap_or_else(|missing| matches!(missing, Missing::Unknown))
    }

    /// The same, upper and lower case being the same.
    pub(crate) fn may_begin_ignoring_case(&self, beginning: &str, context: &dyn Context) -> bool {
        let may = |compiled: &Compiled| match compiled {
            Compiled::Literal(literal) => literal
                .get(..beginning.len())
                .is_some_and(|head| equal_ignoring_case(head, beginning)),
            _ => false,
        };
        self.resolved(context, may)
            .unwrap_or_else(|missing| matches!(missing, Missing::Unknown))
    }

    /// Asks what is compiled, once variables have their values.
    fn resolved<T>(
        &self,
        context: &dyn Context,
        ask: impl FnOnce(&Compiled) -> T,
    ) -> Result<T, Missing> {
        match &self.compiled {
            Compiled::Variable(pieces, syntax) => {
                let resolved = pieces.iter().map(|p| resolve(p, context));
                let resolved = resolved.collect::<Result<Vec<_>, _>>()?;
                Ok(ask(&compile(resolved, *syntax)))
            }
            fixed => Ok(ask(fixed)),
        }
    }

    fn matches_with(&self, text: &str, context: &dyn Context, ignore_case: bool) -> Truth {
        match self.resolved(context, |compiled| compiled.matches(text, ignore_case)) {
            Ok(matches) => matches.into(),
            Err(Missing::Absent) => Truth::False,
            Err(Missing::Unknown) => Truth::Unknown,
        }
    }
}

impl Compiled {
    fn matches(&self, text: &str, ignore_case: bool) -> bool {
        match self {
            Self::Literal(literal) if ignore_case => equal_ignoring_case(literal, text),
            Self::Literal(literal) => literal == text,
            Self::Glob(glob) => glob.matches(text),
            Self::Arn(globs) => {
                let mut parts = text.splitn(ARN_PARTS, ':');
                globs
                    .iter()
                    .all(|glob| parts.next().is_some_and(|part| glob.matches(part)))
            }
            Self::Variable(..) => false,
        }
    }

    fn may_begin(&self, beginning: &str) -> bool {
        match self {
            Self::Literal(literal) => literal.starts_with(beginning),
            Self::Glob(glob) => glob.may_begin(beginning),
            Self::Arn(globs) => {
                let mut parts = beginning.splitn(ARN_PARTS, ':').peekable();
                globs.iter().all(|glob| match parts.next() {
                    // Whatever comes after the beginning may be what is looked for.
                    None => true,
                    Some(part) if parts.peek().is_none() => glob.may_begin(part),
                    Some(part) => glob.matches(part),
                })
            }
            Self::Variable(..) => true,
        }
    }
}

fn equal_ignoring_case(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    let lower = |text: &str| {
        text.chars()
            .flat_map(char::to_lowercase)
            .collect::<String>()
    };
    lower(a) == lower(b)
}

fn fixed(piece: &Piece) -> Option<Resolved<'_>> {
    match piece {
        Piece::Literal(text) => Some(Resolved::Literal(Cow::Borrowed(text))),
        Piece::Star => Some(Resolved::Star),
        Piece::One => Some(Resolved::One),
        Piece::Variable(..) => None,
    }
}

/// A variable's value is literal: its own `*` and `?` are characters like all others.
fn resolve<'p>(piece: &'p Piece, context: &'p dyn Context) -> Result<Resolved<'p>, Missing> {
    let Piece::Variable(key, default) = piece else {
        return fixed(piece).ok_or(Missing::Absent);
    };
    match context.get(key.key()) {
        Values::One(value) => Ok(Resolved::Literal(Cow::Owned(value.text().into_owned()))),
        Values::Names(names) => match names.known.first() {
            Some(first) => Ok(Resolved::Literal(Cow::Owned(first.to_string()))),
            None => Err(Missing::Unknown),
        },
        Values::Absent => match default {
            Some(text) => Ok(Resolved::Literal(Cow::Borrowed(text))),
            None => Err(Missing::Absent),
        },
        // Variables are for keys with one value; several cannot be put into a text.
        Values::Unknown | Values::Texts(_) | Values::Many(_) => Err(Missing::Unknown),
    }
}

fn compile(pieces: Vec<Resolved<'_>>, syntax: Syntax) -> Compiled {
    if syntax.arn {
        return compile_arn(pieces);
    }
    let literal = pieces
        .iter()
        .map(|piece| match piece {
            Resolved::Literal(text) => Some(text.as_ref()),
            _ => None,
        })
        .collect::<Option<String>>();
    match literal {
        Some(literal) => Compiled::Literal(literal),
        None => Compiled::Glob(Glob::of(pieces.into_iter())),
    }
}

/// Cuts the pieces at the first five colons; `*` alone is every ARN.
fn compile_arn(pieces: Vec<Resolved<'_>>) -> Compiled {
    if matches!(pieces.as_slice(), [Resolved::Star]) {
        return Compiled::Glob(Glob::of(pieces.into_iter()));
    }
    let mut parts: [Vec<Resolved<'_>>; ARN_PARTS] = Default::default();
    let mut at = 0;
    for piece in pieces {
        match piece {
            Resolved::Literal(text) => {
                let mut first = true;
                for part in text.splitn(ARN_PARTS - at, ':') {
                    at += usize::from(!first);
                    first = false;
                    if let Some(pieces) = parts.get_mut(at) {
                        pieces.push(Resolved::Literal(Cow::Owned(part.to_owned())));
                    }
                }
            }
            wildcard => {
                if let Some(pieces) = parts.get_mut(at) {
                    pieces.push(wildcard);
                }
            }
        }
    }
    Compiled::Arn(Box::new(parts.map(|part| Glob::of(part.into_iter()))))
}

fn is_arn_pattern(pieces: &[Piece]) -> bool {
    let colons = pieces.iter().map(|piece| match piece {
        Piece::Literal(text) => text.matches(':').count(),
        _ => 0,
    });
    let begins = match pieces.first() {
        Some(Piece::Literal(text)) => text.starts_with("arn:"),
        _ => false,
    };
    pieces == [Piece::Star] || (begins && colons.sum::<usize>() + 1 >= ARN_PARTS)
}

/// Splits a text at its wildcards and variables.
fn split(text: &str, syntax: Syntax) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let wildcard = match c {
            '*' if syntax.wildcards => Some(Piece::Star),
            '?' if syntax.wildcards => Some(Piece::One),
            _ => None,
        };
        if let Some(wildcard) = wildcard {
            flush(&mut literal, &mut pieces);
            pieces.push(wildcard);
            rest = after;
        } else if let Some(inner) = rest.strip_prefix("${").filter(|_| syntax.variables) {
            let (name, after) = inner
                .split_once('}')
                .ok_or_else(|| format!("the policy variable in {text:?} has no end"))?;
            match name {
                "*" | "?" | "$" => literal.push_str(name),
                _ => {
                    flush(&mut literal, &mut pieces);
                    pieces.push(variable(name)?);
                }
            }
            rest = after;
        } else {
            literal.push(c);
            rest = after;
        }
    }
    flush(&mut literal, &mut pieces);
    Ok(pieces)
}

fn flush(literal: &mut String, pieces: &mut Vec<Piece>) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(std::mem::take(literal)));
    }
}

/// `key` or `key, 'default'`.
fn variable(text: &str) -> Result<Piece, String> {
    let (name, default) = match text.split_once(',') {
        None => (text, None),
        Some((name, default)) => {
            let default = default.trim();
            let inner = default
                .strip_prefix('\'')
                .and_then(|d| d.strip_suffix('\''))
                .ok_or_else(|| format!("the default of ${{{text}}} is not in single quotes"))?;
            (name, Some(inner.to_owned()))
        }
    };
    let key = StoredKey::parse(name.trim())?;
    if key.key().is_multi_valued() {
        return Err(format!(
            "{} has several values and cannot be a policy variable",
            key.key().name()
        ));
    }
    Ok(Piece::Variable(key, default))
}
