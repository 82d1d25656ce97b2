//! The grants of a store in memory, indexed the way requests ask for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use kms_api::GrantOperation;

use super::{Context, sees_context, sees_source};
use crate::clock::Now;
use crate::ids::KeyId;
use crate::rows::GrantRow;

/// Every grant of a store.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    keys: BTreeMap<KeyId, OfKey>,
    /// By retiring principal.
    retiring: BTreeMap<String, BTreeSet<(KeyId, String)>>,
    /// Grants that end, by either clock.
    by_wall: BTreeSet<(i64, KeyId, String)>,
    by_elapsed: BTreeSet<(u64, KeyId, String)>,
}

/// The grants on one key.
#[derive(Clone, Debug, Default)]
struct OfKey {
    rows: BTreeMap<String, Arc<GrantRow>>,
    names: HashMap<String, Rows>,
    /// By grantee, operation and source ARN (empty for grants without that constraint).
    uses: HashMap<String, HashMap<GrantOperation, HashMap<String, Bucket>>>,
}

/// Grants to one grantee for one operation, by their constraint on the encryption context.
#[derive(Clone, Debug, Default)]
struct Bucket {
    free: Rows,
    equals: HashMap<Context, Rows>,
    /// Under one of their pairs: a request that has all of them has this one.
    subset: HashMap<String, HashMap<String, Rows>>,
}

type Rows = Vec<Arc<GrantRow>>;

impl Grants {
    /// A grant.
    pub fn get(&self, key: KeyId, id: &str) -> Option<&Arc<GrantRow>> {
        self.keys.get(&key)?.rows.get(id)
    }

    /// The grants on a key whose ids come after `after`, in the order of their ids.
    pub fn of_key<'a>(
        &'a self,
        key: KeyId,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<GrantRow>> + use<'a> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.keys
            .get(&key)
            .map(|of_key| of_key.rows.range::<str, _>((start, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .map(|(_, row)| row)
    }

    /// Every grant.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<GrantRow>> {
        self.keys.values().flat_map(|of_key| of_key.rows.values())
    }

    /// Number of grants on a key.
    pub fn count(&self, key: KeyId) -> usize {
        self.keys.get(&key).map_or(0, |of_key| of_key.rows.len())
    }

    /// The grants on a key that have this name.
    pub fn named(&self, key: KeyId, name: &str) -> impl Iterator<Item = &Arc<GrantRow>> {
        self.keys
            .get(&key)
            .and_then(|of_key| of_key.names.get(name))
            .into_iter()
            .flatten()
    }

    /// The grants that a principal may retire by being named in them, in the order of key and id,
    /// beginning after `after`.
    pub fn retirable(
        &self,
        principal: &str,
        after: Option<(KeyId, String)>,
    ) -> impl Iterator<Item = &Arc<GrantRow>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.retiring
            .get(principal)
            .into_iter()
            .flat_map(move |places| places.range((start.clone(), Bound::Unbounded)))
            .filter_map(|(key, id)| self.get(*key, id))
    }

    /// Grants that are over by either clock and still here.
    pub fn ended(&self, now: Now) -> Vec<Arc<GrantRow>> {
        let wall = self
            .by_wall
            .iter()
            .take_while(|(at, _, _)| *at <= now.wall_ms)
            .map(|(_, key, id)| (*key, id.as_str()));
        let elapsed = self
            .by_elapsed
            .iter()
            .take_while(|(at, _, _)| *at <= now.elapsed_ms)
            .map(|(_, key, id)| (*key, id.as_str()));
        let places: BTreeSet<(KeyId, &str)> = wall.chain(elapsed).collect();
        places
            .into_iter()
            .filter_map(|(key, id)| self.get(key, id).cloned())
            .collect()
    }

    /// Grants to `grantee` that may allow the operation: none that would is left out, and
    /// [`super::allows`] or [`super::covers`] decides about each.
    pub(super) fn candidates<'a, 'q>(
        &'a self,
        key: KeyId,
        grantee: &str,
        operation: GrantOperation,
        contexts: &'q [&'q Context],
        source_arn: Option<&'q str>,
    ) -> impl Iterator<Item = &'a Arc<GrantRow>> + use<'a, 'q> {
        let sources = self
            .keys
            .get(&key)
            .and_then(|of_key| of_key.uses.get(grantee)?.get(&operation));
        let wanted = [Some(""), source_arn.filter(|source| !source.is_empty())];
        wanted
            .into_iter()
            .flatten()
            .filter_map(move |source| sources?.get(source))
            .flat_map(move |bucket| bucket.candidates(contexts))
    }

    pub(crate) fn put(&mut self, row: Arc<GrantRow>) {
        self.remove(row.key, &row.id);
        let place = (row.key, row.id.clone());
        if let Some(principal) = &row.retiring {
            let places = self.retiring.entry(principal.clone()).or_default();
            places.insert(place.clone());
        }
        if let Some(ends) = row.ends {
            let (key, id) = place;
            self.by_wall.insert((ends.wall_ms, key, id.clone()));
            self.by_elapsed.insert((ends.elapsed_ms, key, id));
        }
        self.keys.entry(row.key).or_default().put(row);
    }

    pub(crate) fn remove(&mut self, key: KeyId, id: &str) {
        let Some(of_key) = self.keys.get_mut(&key) else {
            return;
        };
        let Some(row) = of_key.remove(id) else {
            return;
        };
        if of_key.rows.is_empty() {
            self.keys.remove(&key);
        }
        let place = (key, id.to_owned());
        if let Some(principal) = &row.retiring
            && let Some(places) = self.retiring.get_mut(principal)
        {
            places.remove(&place);
            if places.is_empty() {
                self.retiring.remove(principal);
            }
        }
        if let Some(ends) = row.ends {
            let (key, id) = place;
            self.by_wall.remove(&(ends.wall_ms, key, id.clone()));
            self.by_elapsed.remove(&(ends.elapsed_ms, key, id));
        }
    }
}

impl OfKey {
    fn put(&mut self, row: Arc<GrantRow>) {
        if let Some(name) = &row.name {
            let named = self.names.entry(name.clone()).or_default();
            named.push(Arc::clone(&row));
        }
        let operations = self.uses.entry(row.grantee.clone()).or_default();
        for operation in operations_of(&row) {
            let sources = operations.entry(operation).or_default();
            let bucket = sources
                .entry(source_of(&row, operation).to_owned())
                .or_default();
            bucket.put(&row, operation);
        }
        self.rows.insert(row.id.clone(), row);
    }

    fn remove(&mut self, id: &str) -> Option<Arc<GrantRow>> {
        let row = self.rows.remove(id)?;
        if let Some(name) = &row.name
            && let Some(named) = self.names.get_mut(name)
        {
            drop_row(named, id);
            if named.is_empty() {
                self.names.remove(name);
            }
        }
        if let Some(operations) = self.uses.get_mut(&row.grantee) {
            for operation in operations_of(&row) {
                let source = source_of(&row, operation);
                if let Some(sources) = operations.get_mut(&operation) {
                    if let Some(bucket) = sources.get_mut(source) {
                        bucket.remove(&row);
                        if bucket.is_empty() {
                            sources.remove(source);
                        }
                    }
                    if sources.is_empty() {
                        operations.remove(&operation);
                    }
                }
            }
            if operations.is_empty() {
                self.uses.remove(&row.grantee);
            }
        }
        Some(row)
    }
}

impl Bucket {
    fn candidates<'a, 'q>(
        &'a self,
        contexts: &'q [&'q Context],
    ) -> impl Iterator<Item = &'a Arc<GrantRow>> + use<'a, 'q> {
        let constrained = contexts.iter().flat_map(move |context| {
            let equal = self.equals.get(*context).into_iter().flatten();
            let part = context
                .iter()
                .filter_map(move |(name, value)| self.subset.get(name)?.get(value))
                .flatten();
            equal.chain(part)
        });
        self.free.iter().chain(constrained)
    }

    fn put(&mut self, row: &Arc<GrantRow>, operation: GrantOperation) {
        let subset = row.context_subset.as_ref().filter(|some| !some.is_empty());
        let rows = match (&row.context_equals, subset) {
            _ if !sees_context(operation) => &mut self.free,
            (Some(all), _) => self.equals.entry(all.clone()).or_default(),
            (None, Some(some)) => {
                // Under the rarest of its pairs, so that a pair which all grants have in common does
                // not bring all of them up.
                let rarest = some
                    .iter()
                    .min_by_key(|(name, value)| self.subset_rows(name, value).map_or(0, Vec::len));
                match rarest {
                    Some((name, value)) => {
                        let values = self.subset.entry(name.clone()).or_default();
                        values.entry(value.clone()).or_default()
                    }
                    None => &mut self.free,
                }
            }
            (None, None) => &mut self.free,
        };
        rows.push(Arc::clone(row));
    }

    fn subset_rows(&self, name: &str, value: &str) -> Option<&Rows> {
        self.subset.get(name)?.get(value)
    }

    fn remove(&mut self, row: &GrantRow) {
        drop_row(&mut self.free, &row.id);
        if let Some(all) = &row.context_equals
            && let Some(rows) = self.equals.get_mut(all)
        {
            drop_row(rows, &row.id);
            if rows.is_empty() {
                self.equals.remove(all);
            }
        }
        for (name, value) in row.context_subset.iter().flatten() {
            if let Some(values) = self.subset.get_mut(name) {
                if let Some(rows) = values.get_mut(value) {
                    drop_row(rows, &row.id);
                    if rows.is_empty() {
                        values.remove(value);
                    }
                }
                if values.is_empty() {
                    self.subset.remove(name);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.equals.is_empty() && self.subset.is_empty()
    }
}

fn operations_of(row: &GrantRow) -> BTreeSet<GrantOperation> {
    row.operations
        .iter()
        .filter_map(|name| GrantOperation::from_wire(name))
        .collect()
}

fn source_of(row: &GrantRow, operation: GrantOperation) -> &str {
    match &row.source_arn {
        Some(source) if sees_source(operation) => source,
        _ => "",
    }
}

fn drop_row(rows: &mut Rows, id: &str) {
    if let Some(at) = rows.iter().position(|row| row.id == id) {
        rows.swap_remove(at);
    }
}
