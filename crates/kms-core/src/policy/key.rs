//! The condition keys: what a policy may ask about a request.

use std::borrow::Cow;

/// What the values of a condition key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// Text.
    Text,
    /// An ARN.
    Arn,
    /// A number.
    Number,
    /// True or false.
    Bool,
    /// A time.
    Date,
    /// An address.
    Ip,
}

macro_rules! keys {
    (
        plain { $( $name:ident = $text:literal, $type:ident, $multi:literal; )* }
        named { $( $with:ident = $prefix:literal; )* }
        elsewhere { $( $other:literal, )* }
    ) => {
        /// A condition key. Names are case-insensitive in documents; here they are values.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the variants are AWS's names and the product's own")]
        pub enum ConditionKey<'a> {
            $( $name, )*
            $( $with(&'a str), )*
            /// A global key of AWS that no request to this service has.
            Elsewhere(&'static str),
        }

        const PLAIN: &[(&str, ConditionKey<'static>)] =
            &[ $( ($text, ConditionKey::$name), )* ];
        const NAMED: &[(&str, ConditionKey<'static>)] =
            &[ $( ($prefix, ConditionKey::$with("")), )* ];
        const ELSEWHERE: &[&str] = &[ $( $other, )* ];

        impl<'a> ConditionKey<'a> {
            /// The name as AWS's documentation writes it.
            pub fn name(self) -> Cow<'static, str> {
                match self {
                    $( Self::$name => Cow::Borrowed($text), )*
                    $( Self::$with(of) => Cow::Owned(format!(concat!($prefix, "{}"), of)), )*
                    Self::Elsewhere(name) => Cow::Borrowed(name),
                }
            }

            /// What its values are.
            pub fn value_type(self) -> KeyType {
                match self {
                    $( Self::$name => KeyType::$type, )*
                    $( Self::$with(_) => KeyType::Text, )*
                    Self::Elsewhere(_) => KeyType::Text,
                }
            }

            /// Whether a request may have several values of it.
            pub fn is_multi_valued(self) -> bool {
                match self {
                    $( Self::$name => $multi, )*
                    $( Self::$with(_) => false, )*
                    Self::Elsewhere(_) => false,
                }
            }

            /// The same kind of key for another name of context member or tag.
            fn of(self, parameter: &str) -> ConditionKey<'_> {
                match self {
                    $( Self::$name => ConditionKey::$name, )*
                    $( Self::$with(_) => ConditionKey::$with(parameter), )*
                    Self::Elsewhere(name) => ConditionKey::Elsewhere(name),
                }
            }
        }
    };
}

keys! {
    plain {
        CallerAccount = "kms:CallerAccount", Text, false;
        ViaService = "kms:ViaService", Text, false;
        EncryptionContextKeys = "kms:EncryptionContextKeys", Text, true;
        EncryptionAlgorithm = "kms:EncryptionAlgorithm", Text, false;
        SigningAlgorithm = "kms:SigningAlgorithm", Text, false;
        MessageType = "kms:MessageType", Text, false;
        MacAlgorithm = "kms:MacAlgorithm", Text, false;
        KeyAgreementAlgorithm = "kms:KeyAgreementAlgorithm", Text, false;
        DataKeyPairSpec = "kms:DataKeyPairSpec", Text, false;
        KeySpec = "kms:KeySpec", Text, false;
        KeyUsage = "kms:KeyUsage", Text, false;
        CustomerMasterKeySpec = "kms:CustomerMasterKeySpec", Text, false;
        CustomerMasterKeyUsage = "kms:CustomerMasterKeyUsage", Text, false;
        KeyOrigin = "kms:KeyOrigin", Text, false;
        MultiRegion = "kms:MultiRegion", Bool, false;
        MultiRegionKeyType = "kms:MultiRegionKeyType", Text, false;
        RequestAlias = "kms:RequestAlias", Text, false;
        ResourceAliases = "kms:ResourceAliases", Text, true;
        GrantIsForAwsResource = "kms:GrantIsForAWSResource", Bool, false;
        GrantOperations = "kms:GrantOperations", Text, true;
        GranteePrincipal = "kms:GranteePrincipal", Text, false;
        RetiringPrincipal = "kms:RetiringPrincipal", Text, false;
        GranteeServicePrincipal = "kms:GranteeServicePrincipal", Text, false;
        RetiringServicePrincipal = "kms:RetiringServicePrincipal", Text, false;
        GrantConstraintType = "kms:GrantConstraintType", Text, false;
        GrantConstraintSourceArn = "kms:GrantConstraintSourceArn", Arn, false;
        ReEncryptOnSameKey = "kms:ReEncryptOnSameKey", Bool, false;
        ExpirationModel = "kms:ExpirationModel", Text, false;
        ValidTo = "kms:ValidTo", Date, false;
        WrappingAlgorithm = "kms:WrappingAlgorithm", Text, false;
        WrappingKeySpec = "kms:WrappingKeySpec", Text, false;
        BypassPolicyLockoutSafetyCheck = "kms:BypassPolicyLockoutSafetyCheck", Bool, false;
        RotationPeriodInDays = "kms:RotationPeriodInDays", Number, false;
        ScheduleKeyDeletionPendingWindowInDays =
            "kms:ScheduleKeyDeletionPendingWindowInDays", Number, false;
        TrailingDaysWithoutKeyUsage = "kms:TrailingDaysWithoutKeyUsage", Number, false;
        PrimaryRegion = "kms:PrimaryRegion", Text, false;
        ReplicaRegion = "kms:ReplicaRegion", Text, false;
        PolicyName = "kms:PolicyName", Text, false;

        CurrentTime = "aws:CurrentTime", Date, false;
        EpochTime = "aws:EpochTime", Date, false;
        PrincipalArn = "aws:PrincipalArn", Arn, false;
        PrincipalAccount = "aws:PrincipalAccount", Text, false;
        PrincipalType = "aws:PrincipalType", Text, false;
        PrincipalIsAwsService = "aws:PrincipalIsAWSService", Bool, false;
        UserName = "aws:username", Text, false;
        UserId = "aws:userid", Text, false;
        SourceArn = "aws:SourceArn", Arn, false;
        SourceAccount = "aws:SourceAccount", Text, false;
        SourceIp = "aws:SourceIp", Ip, false;
        SecureTransport = "aws:SecureTransport", Bool, false;
        TagKeys = "aws:TagKeys", Text, true;
        ResourceAccount = "aws:ResourceAccount", Text, false;
        ViaAwsService = "aws:ViaAWSService", Bool, false;
        CalledVia = "aws:CalledVia", Text, true;
        CalledViaFirst = "aws:CalledViaFirst", Text, false;
        CalledViaLast = "aws:CalledViaLast", Text, false;
        RequestedRegion = "aws:RequestedRegion", Text, false;

        User = "kmsd:User", Text, false;
        Uid = "kmsd:Uid", Number, false;
        Gid = "kmsd:Gid", Number, false;
        Groups = "kmsd:Groups", Text, true;
        GroupIds = "kmsd:GroupIds", Number, true;
        Unit = "kmsd:Unit", Text, false;
        Cgroup = "kmsd:Cgroup", Text, false;
        InvocationId = "kmsd:InvocationId", Text, false;
        Exe = "kmsd:Exe", Text, false;
        ExeSha256 = "kmsd:ExeSha256", Text, false;
        SecurityLabel = "kmsd:SecurityLabel", Text, false;
        BootId = "kmsd:BootId", Text, false;
    }
    named {
        EncryptionContext = "kms:EncryptionContext:";
        RecipientAttestation = "kms:RecipientAttestation:";
        ResourceTag = "aws:ResourceTag/";
        RequestTag = "aws:RequestTag/";
        PrincipalTag = "aws:PrincipalTag/";
    }
    elsewhere {
        "aws:AssumedRoot",
        "aws:ChatbotSourceArn",
        "aws:Ec2InstanceSourcePrivateIPv4",
        "aws:Ec2InstanceSourceVpc",
        "aws:FederatedProvider",
        "aws:MultiFactorAuthAge",
        "aws:MultiFactorAuthPresent",
        "aws:PrincipalOrgID",
        "aws:PrincipalOrgPaths",
        "aws:PrincipalServiceName",
        "aws:PrincipalServiceNamesList",
        "aws:referer",
        "aws:ResourceOrgID",
        "aws:ResourceOrgPaths",
        "aws:SourceIdentity",
        "aws:SourceOrgID",
        "aws:SourceOrgPaths",
        "aws:SourceVpc",
        "aws:SourceVpcArn",
        "aws:SourceVpce",
        "aws:TokenIssueTime",
        "aws:UserAgent",
        "aws:VpceAccount",
        "aws:VpceOrgID",
        "aws:VpceOrgPaths",
        "aws:VpcSourceIp",
    }
}

impl ConditionKey<'_> {
    /// Every key that needs no further name, as documents write it.
    pub fn plain() -> impl Iterator<Item = ConditionKey<'static>> {
        PLAIN.iter().map(|(_, key)| *key)
    }

    /// Every prefix that a name of a context member, a tag or a measurement follows.
    pub fn prefixes() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(prefix, _)| *prefix)
    }

    /// The global keys of AWS that are accepted and that no request has.
    pub fn elsewhere() -> impl Iterator<Item = &'static str> {
        ELSEWHERE.iter().copied()
    }
}

/// A key as a compiled policy holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKey {
    key: ConditionKey<'static>,
    parameter: Box<str>,
}

impl StoredKey {
    /// Reads a name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let plain = |key| Self {
            key,
            parameter: Box::default(),
        };
        if let Some((_, key)) = PLAIN.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return Ok(plain(*key));
        }
        for (prefix, key) in NAMED {
            let Some((head, parameter)) = name.split_at_checked(prefix.len()) else {
                continue;
            };
            if head.eq_ignore_ascii_case(prefix) {
                if parameter.is_empty() {
                    return Err(format!("{prefix} needs a name after it"));
                }
                return Ok(Self {
                    key: *key,
                    parameter: parameter.into(),
                });
            }
        }
        if let Some(name) = ELSEWHERE.iter().find(|n| n.eq_ignore_ascii_case(name)) {
            return Ok(plain(ConditionKey::Elsewhere(name)));
        }
        match name.split_once(':') {
            Some((prefix, _))
                if ["kms", "aws", "kmsd"].contains(&prefix.to_ascii_lowercase().as_str()) =>
            {
                Err(format!("there is no condition key {name}"))
            }
            _ => Err(format!(
                "{name} has none of the prefixes kms:, aws: and kmsd: of the condition keys here"
            )),
        }
    }

    /// The key, to ask a context for it.
    pub(crate) fn key(&self) -> ConditionKey<'_> {
        self.key.of(&self.parameter)
    }
}
