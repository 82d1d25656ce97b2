//! Aliases by place and name.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::place::Place;
use crate::rows::AliasRow;

/// The aliases of every place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aliases {
    places: BTreeMap<Place, BTreeMap<String, Arc<AliasRow>>>,
}

impl Aliases {
    /// The alias of that name, with its `alias/` prefix.
    pub(crate) fn get(&self, place: Place, name: &str) -> Option<&Arc<AliasRow>> {
        self.places.get(&place)?.get(name)
    }

    /// The aliases of a place in the order of their names, beginning after `after`.
    pub(crate) fn of(
        &self,
        place: Place,
        after: Option<String>,
    ) -> impl Iterator<Item = &Arc<AliasRow>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.places
            .get(&place)
            .into_iter()
            .flat_map(move |names| names.range((start.clone(), Bound::Unbounded)))
            .map(|(_, row)| row)
    }

    /// Every alias.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<AliasRow>> {
        self.places.values().flat_map(BTreeMap::values)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.values().map(BTreeMap::len).sum()
    }

    pub(super) fn put(&mut self, row: AliasRow) {
        let names = self.places.entry(row.key.place()).or_default();
        names.insert(row.name.clone(), Arc::new(row));
    }

    pub(super) fn remove(&mut self, place: Place, name: &str) -> Option<Arc<AliasRow>> {
        self.places.get_mut(&place)?.remove(name)
    }
}
