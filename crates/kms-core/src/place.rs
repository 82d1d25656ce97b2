//! Places: the accounts and Regions of one store as small numbers, so that a key's id says where the key is.
//!
//! The home place is the account and Region that the store was made for; its rows name no place. Every other place is
//! named in the rows by its account and Region (`ID@ACCOUNT:REGION`). The numbers are this process's own: they are in no row
//! and in no message.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use kms_api::{Caller, Scope};
use parking_lot::RwLock;

use crate::ids::BadId;
use crate::snapshot::Snapshot;

/// An account and a Region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);

#[derive(Default)]
struct Known {
    scopes: Vec<Arc<Scope>>,
    numbers: HashMap<Arc<Scope>, Place>,
}

static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

impl Place {
    /// The account and Region that the store was made for.
    pub const HOME: Self = Self(0);

    /// The place of that name, which must not be the home's.
    pub(crate) fn elsewhere(scope: &Scope) -> Self {
        if let Some(known) = Self::known(scope) {
            return known;
        }
        let mut known = KNOWN.write();
        if let Some(place) = known.numbers.get(scope) {
            return *place;
        }
        let scope = Arc::new(scope.clone());
        known.scopes.push(Arc::clone(&scope));
        let place = Self(u32::try_from(known.scopes.len()).unwrap_or(u32::MAX));
        known.numbers.insert(scope, place);
        place
    }

    /// The same, if anything here ever named it.
    pub(crate) fn known(scope: &Scope) -> Option<Self> {
        KNOWN.read().numbers.get(scope).copied()
    }

    /// Account and Region; none for the home place, which each store says for itself.
    pub fn scope(self) -> Option<Arc<Scope>> {
        let at = usize::try_from(self.0).ok()?.checked_sub(1)?;
        KNOWN.read().scopes.get(at).cloned()
    }

    /// Whether it is the home place.
    pub fn is_home(self) -> bool {
        self == Self::HOME
    }

    /// A name of this place as rows have it: `NAME`, or `NAME@ACCOUNT:REGION`.
    pub(crate) fn row_name(self, name: &impl fmt::Display) -> String {
        match self.scope() {
            None => name.to_string(),
            Some(_) => format!("{name}@{self}"),
        }
    }

    /// The inverse of [`Self::row_name`].
    pub(crate) fn of_row_name(text: &str) -> Result<(Self, &str), BadId> {
        match text.split_once('@') {
            None => Ok((Self::HOME, text)),
            Some((name, place)) => Ok((place.parse()?, name)),
        }
    }
}

/// `ACCOUNT:REGION`; nothing for the home place.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope() {
            Some(scope) => write!(f, "{}:{}", scope.account, scope.region),
            None => Ok(()),
        }
    }
}

impl FromStr for Place {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (account, region) = text.split_once(':').ok_or(BadId)?;
        let scope = Scope::new(account, region).ok_or(BadId)?;
        Ok(Self::elsewhere(&scope))
    }
}

/// Where the names in a request are looked up.
#[derive(Clone, Debug)]
pub struct At {
    /// The account and Region that the request is for.
    pub scope: Arc<Scope>,
    /// Their place.
    pub place: Place,
    /// Whether the request may name keys of other accounts, by their ARNs.
    pub crosses: bool,
    /// Whether a service asks on behalf of a user.
    pub for_user: bool,
}

impl At {
    /// The place that a caller's request is for.
    pub(crate) fn of(snapshot: &Snapshot, caller: &Caller) -> Self {
        let scope = caller.scope.as_ref().unwrap_or_else(|| snapshot.home());
        Self {
            place: snapshot.place(scope),
            scope: Arc::clone(scope),
            crosses: false,
            for_user: caller.via.is_some(),
        }
    }

    /// The home place.
    pub(crate) fn home(snapshot: &Snapshot) -> Self {
        Self {
            scope: Arc::clone(snapshot.home()),
            place: Place::HOME,
            crosses: false,
            for_user: false,
        }
    }
}

impl AsRef<Self> for At {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The accounts and Regions that one kmsd serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Accounts besides the home's.
    pub accounts: Vec<String>,
    /// Regions besides the home's.
    pub regions: Vec<String>,
    /// Whether every Region is served, whatever it is called.
    pub any_region: bool,
}

impl Served {
    /// Whether requests for this Region are answered.
    pub fn has_region(&self, home: &Scope, region: &str) -> bool {
        let listed = || self.regions.iter().any(|known| known == region);
        region == home.region || self.any_region && Scope::is_region(region) || listed()
    }

    /// Whether requests of this account are answered.
    pub fn has_account(&self, home: &Scope, account: &str) -> bool {
        account == home.account || self.accounts.iter().any(|known| known == account)
    }

    /// Whether requests for this account and Region are answered.
    pub fn has(&self, home: &Scope, scope: &Scope) -> bool {
        self.has_account(home, &scope.account) && self.has_region(home, &scope.region)
    }

    /// The accounts, the home's first.
    pub fn all_accounts(&self, home: &Scope) -> Vec<String> {
        let others = self.accounts.iter().filter(|one| **one != home.account);
        std::iter::once(&home.account)
            .chain(others)
            .cloned()
            .collect()
    }

    /// The Regions that are known by name, the home's first.
    pub fn all_regions(&self, home: &Scope) -> Vec<String> {
        let others = self.regions.iter().filter(|one| **one != home.region);
        std::iter::once(&home.region)
            .chain(others)
            .cloned()
            .collect()
    }
}
