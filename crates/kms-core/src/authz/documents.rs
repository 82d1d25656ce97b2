//! Compiled policy documents, where a decision finds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use crate::policy::{ConditionKey, Effect, Policy, PolicyError, PolicyKind, StatementRef};
use crate::rows::{IdentityKind, identity_policy_id};

/// A document with its compiled form.
#[derive(Debug, PartialEq)]
pub struct Document {
    /// As it was given.
    pub text: String,
    /// Compiled; the error for one that was stored by another version and cannot be read.
    pub policy: Result<Policy, PolicyError>,
    /// Whether it has an Allow statement: a guard rail that has permits nothing else.
    pub(crate) allows: bool,
    /// The principals of systemd units that it names: somebody whose unit is not known may be one of them.
    pub(crate) units: Vec<Arc<str>>,
    /// When it may come to say something else by itself; `None`: at any time.
    turns: Option<Vec<i64>>,
}

impl Document {
    /// Compiles a document.
    pub fn compile(text: &str, kind: PolicyKind) -> Self {
        let policy = Policy::parse(text, kind);
        let allows = policy
            .as_ref()
            .is_ok_and(|policy| policy.statements().any(|s| s.effect() == Effect::Allow));
        let mut units = Vec::new();
        for statement in policy.iter().flat_map(Policy::statements) {
            let named = statement.principals().iter();
            units.extend(
                named
                    .filter(|name| is_unit(name))
                    .map(|name| Arc::from(name.as_str())),
            );
        }
        Self {
            text: text.to_owned(),
            allows,
            units,
            turns: policy.as_ref().map_or(Some(Vec::new()), Policy::turns),
            policy,
        }
    }

    /// For how many milliseconds from `now_ms` it says the same for sure; `None`: until it is replaced.
    fn holds_ms(&self, now_ms: i64) -> Option<u64> {
        let Some(turns) = &self.turns else {
            return Some(0);
        };
        let next = turns.get(turns.partition_point(|turn| *turn <= now_ms))?;
        u64::try_from(next.saturating_sub(now_ms)).ok()
    }

    /// The Sid of a statement, or its index where it has none.
    pub(crate) fn name_of(statement: StatementRef<'_>) -> String {
        match statement.sid {
            Some(sid) if !sid.is_empty() => sid.to_owned(),
            _ => statement.index.to_string(),
        }
    }

    fn asks_for(&self, key: ConditionKey<'_>) -> bool {
        self.policy
            .as_ref()
            .is_ok_and(|policy| policy.mentions(key))
    }
}

/// Whether an ARN is a systemd unit's role or session.
fn is_unit(principal: &str) -> bool {
    principal.contains(":assumed-role/unit/") || principal.contains(":role/unit/")
}

/// Key policies, each text compiled once: most keys have the default one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interned {
    known: HashMap<Box<str>, (Arc<Document>, usize)>,
    /// How many of them ask for the caller's executable, and for its hash: they take time to find out.
    exes: usize,
    exe_hashes: usize,
}

impl Interned {
    /// One more key has this policy.
    pub(crate) fn take(&mut self, text: &str) -> Arc<Document> {
        if let Some((document, users)) = self.known.get_mut(text) {
            *users += 1;
            return Arc::clone(document);
        }
        let document = Arc::new(Document::compile(text, PolicyKind::Key));
        self.exes += usize::from(document.asks_for(ConditionKey::Exe));
        self.exe_hashes += usize::from(document.asks_for(ConditionKey::ExeSha256));
        self.known.insert(text.into(), (Arc::clone(&document), 1));
        document
    }

    /// One key less has it.
    pub(crate) fn release(&mut self, text: &str) {
        let Some((document, users)) = self.known.get_mut(text) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.exes -= usize::from(document.asks_for(ConditionKey::Exe));
            self.exe_hashes -= usize::from(document.asks_for(ConditionKey::ExeSha256));
            self.known.remove(text);
        }
    }

    fn ask_for(&self, key: ConditionKey<'_>) -> bool {
        match key {
            ConditionKey::Exe => self.exes > 0,
            ConditionKey::ExeSha256 => self.exe_hashes > 0,
            key => self
                .known
                .values()
                .any(|(document, _)| document.asks_for(key)),
        }
    }
}

/// Identity policies and guard rails by what they are attached to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    /// For each kind of identity: name of the identity, then of the policy.
    identities: [HashMap<String, BTreeMap<String, Arc<Document>>>; 4],
    guard_rails: BTreeMap<String, Arc<Document>>,
}

fn place(kind: IdentityKind) -> usize {
    match kind {
        IdentityKind::User => 0,
        IdentityKind::Group => 1,
        IdentityKind::Unit => 2,
        IdentityKind::Role => 3,
    }
}

/// Every kind of identity.
pub(crate) const KINDS: [IdentityKind; 4] = [
    IdentityKind::User,
    IdentityKind::Group,
    IdentityKind::Unit,
    IdentityKind::Role,
];

impl Attached {
    pub(crate) fn put_identity(
        &mut self,
        kind: IdentityKind,
        identity: &str,
        name: &str,
        document: Document,
    ) {
        if let Some(map) = self.identities.get_mut(place(kind)) {
            map.entry(identity.to_owned())
                .or_default()
                .insert(name.to_owned(), Arc::new(document));
        }
    }

    pub(crate) fn remove_identity(&mut self, kind: IdentityKind, identity: &str, name: &str) {
        if let Some(map) = self.identities.get_mut(place(kind))
            && let Some(policies) = map.get_mut(identity)
        {
            policies.remove(name);
            if policies.is_empty() {
                map.remove(identity);
            }
        }
    }

    pub(crate) fn put_guard_rail(&mut self, name: &str, document: Document) {
        self.guard_rails.insert(name.to_owned(), Arc::new(document));
    }

    pub(crate) fn remove_guard_rail(&mut self, name: &str) {
        self.guard_rails.remove(name);
    }

    /// The policies of one identity, in order of their names.
    pub(crate) fn of(
        &self,
        kind: IdentityKind,
        identity: &str,
    ) -> impl Iterator<Item = (&str, &Arc<Document>)> {
        let map = self.identities.get(place(kind));
        map.filter(|map| !map.is_empty())
            .and_then(|map| map.get(identity))
            .into_iter()
            .flatten()
            .map(|(name, document)| (name.as_str(), document))
    }

    /// Every identity policy: kind, identity, name, document.
    pub(crate) fn identities(
        &self,
    ) -> impl Iterator<Item = (IdentityKind, &str, &str, &Arc<Document>)> {
        KINDS
            .into_iter()
            .zip(&self.identities)
            .flat_map(|(kind, map)| {
                map.iter().flat_map(move |(identity, policies)| {
                    policies.iter().map(move |(name, document)| {
                        (kind, identity.as_str(), name.as_str(), document)
                    })
                })
            })
    }

    /// The guard rails, in order of their names.
    pub(crate) fn guard_rails(&self) -> impl Iterator<Item = (&str, &Arc<Document>)> {
        self.guard_rails
            .iter()
            .map(|(name, document)| (name.as_str(), document))
    }

    /// For how long all of them say the same.
    fn holds_ms(&self, now_ms: i64) -> Option<u64> {
        let identities = self.identities().map(|(.., document)| document);
        let rails = self.guard_rails().map(|(_, document)| document);
        let each = identities.chain(rails);
        each.filter_map(|document| document.holds_ms(now_ms)).min()
    }

    pub(crate) fn guard_rail(&self, name: &str) -> Option<&Arc<Document>> {
        self.guard_rails.get(name)
    }

    fn ask_for(&self, key: ConditionKey<'_>) -> bool {
        let identities = self.identities().map(|(.., document)| document);
        let rails = self.guard_rails().map(|(_, document)| document);
        identities
            .chain(rails)
            .any(|document| document.asks_for(key))
    }
}

/// The identity policies and guard rails of root-owned files, as one set: it is replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct FilePolicies {
    pub(crate) attached: Attached,
}

impl FilePolicies {
    /// Adds a policy of an identity.
    ///
    /// # Errors
    /// The document is not an identity policy.
    pub fn add_identity_policy(
        &mut self,
        kind: IdentityKind,
        identity: &str,
        name: &str,
        text: &str,
    ) -> Result<(), PolicyError> {
        let document = Document::compile(text, PolicyKind::Identity);
        if let Err(error) = &document.policy {
            return Err(error.clone());
        }
        self.attached.put_identity(kind, identity, name, document);
        Ok(())
    }

    /// Adds a guard rail.
    ///
    /// # Errors
    /// The document is not a guard rail.
    pub fn add_guard_rail(&mut self, name: &str, text: &str) -> Result<(), PolicyError> {
        let document = Document::compile(text, PolicyKind::GuardRail);
        if let Err(error) = &document.policy {
            return Err(error.clone());
        }
        self.attached.put_guard_rail(name, document);
        Ok(())
    }

    /// Number of identity policies, and of guard rails.
    pub fn count(&self) -> (usize, usize) {
        (
            self.attached.identities().count(),
            self.attached.guard_rails().count(),
        )
    }

    /// Whether both sets say the same.
    pub fn same(&self, other: &Self) -> bool {
        let texts = |set: &Self| {
            let identities = set.attached.identities().map(|(kind, identity, name, d)| {
                (identity_policy_id(kind, identity, name), d.text.clone())
            });
            let rails = set
                .attached
                .guard_rails()
                .map(|(name, d)| (name.to_owned(), d.text.clone()));
            identities.chain(rails).collect::<BTreeMap<_, _>>()
        };
        texts(self) == texts(other)
    }
}

/// Name of the identity policy that members of the administrators' group have.
pub(crate) const ADMINISTRATOR: &str = "built-in/AdministratorAccess";
/// Name of the identity policy that configured services have for themselves.
pub(crate) const SERVICE: &str = "built-in/ServiceAccess";

/// Everything, as far as key policies hand decisions to identity policies.
pub(crate) const ADMINISTRATOR_TEXT: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"Everything","Effect":"Allow","Action":["kms:*","kmsd:*"],"Resource":"*"}]}"#;

/// What kmsfs needs to keep its volumes open: the registry, leases, and the data keys that are bound to a volume.
pub(crate) const SERVICE_TEXT: &str = r#"{"Version":"2012-10-17","Statement":[
{"Sid":"Registry","Effect":"Allow","Action":["kmsd:CreateVolume","kmsd:DescribeVolume","kmsd:ListVolumes","kmsd:CreatePolicy","kmsd:GetPolicy","kmsd:RotatePolicy","kmsd:ReportPolicyUse","kmsd:GetStatus","kmsd:AcquireLease","kmsd:WaitForEpoch","kmsd:AcknowledgeEpoch","kmsd:ReleaseLease"],"Resource":"*"},
{"Sid":"Describe","Effect":"Allow","Action":["kms:DescribeKey","kms:ListAliases"],"Resource":"*"},
{"Sid":"DataKeysOfVolumes","Effect":"Allow","Action":["kms:Decrypt","kms:GenerateDataKey","kms:GenerateDataKeyWithoutPlaintext"],"Resource":"*","Condition":{"Null":{"kms:EncryptionContext:kmsfs:volume":"false"}}}]}"#;

static ADMINISTRATOR_POLICY: LazyLock<Arc<Document>> =
    LazyLock::new(|| Arc::new(Document::compile(ADMINISTRATOR_TEXT, PolicyKind::Identity)));
static SERVICE_POLICY: LazyLock<Arc<Document>> =
    LazyLock::new(|| Arc::new(Document::compile(SERVICE_TEXT, PolicyKind::Identity)));

/// The policy that comes with a role, with its name.
pub(crate) fn built_in(
    role: kms_api::CallerRole,
) -> Option<(&'static str, &'static Arc<Document>)> {
    use kms_api::CallerRole as R;
    match role {
        R::Admin => Some((ADMINISTRATOR, &*ADMINISTRATOR_POLICY)),
        R::Service => Some((SERVICE, &*SERVICE_POLICY)),
        R::Root | R::User | R::Internal => None,
    }
}

/// Every policy that comes with a role: who has it, its name, the document.
pub(crate) fn built_ins() -> [(&'static str, &'static str, &'static Arc<Document>); 2] {
    [
        (
            "members of the administrators' group",
            ADMINISTRATOR,
            &*ADMINISTRATOR_POLICY,
        ),
        ("the configured services", SERVICE, &*SERVICE_POLICY),
    ]
}

/// For how many milliseconds the documents that decide about a key say the same, unless one is replaced.
pub(crate) fn hold_ms<'a>(
    keys: impl Iterator<Item = &'a Arc<Document>>,
    catalogue: &Attached,
    files: &FilePolicies,
    now_ms: i64,
) -> Option<u64> {
    let keys = keys.filter_map(|document| document.holds_ms(now_ms)).min();
    let attached = [catalogue, &files.attached];
    let attached = attached.into_iter().filter_map(|set| set.holds_ms(now_ms));
    attached.chain(keys).min()
}

/// Whether any document in force asks for this fact about a caller.
pub(crate) fn ask_for(
    key: ConditionKey<'_>,
    keys: &Interned,
    catalogue: &Attached,
    files: &FilePolicies,
) -> bool {
    keys.ask_for(key) || catalogue.ask_for(key) || files.attached.ask_for(key)
}
