//! Resource ids: parsed once, compared without case, printed in canonical spelling.
//!
//! ARM compares ids without regard to case but answers with the canonical `resourceGroups` and
//! the casing a resource was created with (PROTOCOL 0.8). [`ResourceId::key`] is the only thing
//! that may be compared or used as a map key.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a resource id.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum IdError {
    /// The text does not begin with `/`.
    #[error("a resource id begins with `/`, this one is `{0}`")]
    NoLeadingSlash(String),
    /// A segment is empty, for example `//`.
    #[error("`{0}` has an empty segment")]
    EmptySegment(String),
    /// A `subscriptions`, `resourceGroups` or type segment has no name after it.
    #[error("`{0}` ends after a type; a name is missing")]
    MissingName(String),
    /// A segment where `subscriptions`, `resourceGroups` or `providers` was expected.
    #[error("`{id}` has `{segment}` where `subscriptions`, `resourceGroups` or `providers` belongs")]
    Unexpected {
        /// The whole text.
        id: String,
        /// The segment that does not belong.
        segment: String,
    },
}

/// One `providers/{namespace}/{type}/{name}/...` block of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    namespace: String,
    /// (type segment, name) pairs, outermost first; never empty.
    path: Vec<(String, String)>,
}

/// The id of a subscription, resource group, resource, child resource or extension resource.
#[derive(Clone)]
pub struct ResourceId {
    subscription: Option<String>,
    group: Option<String>,
    blocks: Vec<Block>,
    text: String,
    key: String,
}

impl ResourceId {
    /// Parses an id such as `/subscriptions/s/resourceGroups/g/providers/N/t/name[/t2/name2]`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix('/').ok_or_else(|| IdError::NoLeadingSlash(text.to_owned()))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let segments: Vec<&str> = rest.split('/').collect();
        if segments.iter().any(|s| s.is_empty()) {
            return Err(IdError::EmptySegment(text.to_owned()));
        }
        let missing = || IdError::MissingName(text.to_owned());
        let mut at = 0;
        let (mut subscription, mut group, mut blocks) = (None, None, Vec::new());
        if segments[at].eq_ignore_ascii_case("subscriptions") {
            subscription = Some(segments.get(at + 1).ok_or_else(missing)?.to_string());
            at += 2;
            if segments.get(at).is_some_and(|s| s.eq_ignore_ascii_case("resourceGroups")) {
                group = Some(segments.get(at + 1).ok_or_else(missing)?.to_string());
                at += 2;
            }
        }
        while at < segments.len() {
            if !segments[at].eq_ignore_ascii_case("providers") {
                return Err(IdError::Unexpected { id: text.to_owned(), segment: segments[at].to_owned() });
            }
            let namespace = segments.get(at + 1).ok_or_else(missing)?.to_string();
            at += 2;
            let mut path = Vec::new();
            while at < segments.len() && !segments[at].eq_ignore_ascii_case("providers") {
                let name = segments.get(at + 1).ok_or_else(missing)?;
                path.push((segments[at].to_owned(), (*name).to_owned()));
                at += 2;
            }
            if path.is_empty() {
                return Err(missing());
            }
            blocks.push(Block { namespace, path });
        }
        Ok(Self::build(subscription, group, blocks))
    }

    fn build(subscription: Option<String>, group: Option<String>, blocks: Vec<Block>) -> Self {
        let mut text = String::new();
        if let Some(s) = &subscription {
            text.push_str("/subscriptions/");
            text.push_str(s);
        }
        if let Some(g) = &group {
            text.push_str("/resourceGroups/");
            text.push_str(g);
        }
        for b in &blocks {
            text.push_str("/providers/");
            text.push_str(&b.namespace);
            for (t, n) in &b.path {
                text.push('/');
                text.push_str(t);
                text.push('/');
                text.push_str(n);
            }
        }
        let key = text.to_lowercase();
        Self { subscription, group, blocks, text, key }
    }

    /// The id of a subscription.
    pub fn subscription_scope(subscription: &str) -> Self {
        Self::build(Some(subscription.to_owned()), None, Vec::new())
    }

    /// The id of a resource group.
    pub fn resource_group_scope(subscription: &str, group: &str) -> Self {
        Self::build(Some(subscription.to_owned()), Some(group.to_owned()), Vec::new())
    }

    /// Adds `providers/{namespace}/{type}/{name}` below this scope (also makes extension resources).
    pub fn provider(&self, namespace: &str, kind: &str, name: &str) -> Self {
        let mut blocks = self.blocks.clone();
        blocks.push(Block { namespace: namespace.to_owned(), path: vec![(kind.to_owned(), name.to_owned())] });
        Self::build(self.subscription.clone(), self.group.clone(), blocks)
    }

    /// Adds `/{kind}/{name}` to the last provider block; on a bare scope this returns the scope.
    pub fn child(&self, kind: &str, name: &str) -> Self {
        let mut blocks = self.blocks.clone();
        if let Some(b) = blocks.last_mut() {
            b.path.push((kind.to_owned(), name.to_owned()));
        }
        Self::build(self.subscription.clone(), self.group.clone(), blocks)
    }

    /// The id one level up: the parent resource, then its scope, then the subscription.
    pub fn parent(&self) -> Option<Self> {
        let mut blocks = self.blocks.clone();
        if let Some(b) = blocks.last_mut() {
            b.path.pop();
            if b.path.is_empty() {
                blocks.pop();
            }
            if blocks.is_empty() && self.subscription.is_none() {
                return None;
            }
            return Some(Self::build(self.subscription.clone(), self.group.clone(), blocks));
        }
        if self.group.is_some() {
            return Some(Self::build(self.subscription.clone(), None, Vec::new()));
        }
        None
    }

    /// The same id with the type's segments spelled as `kind` says, for example
    /// `Microsoft.Network/virtualNetworks/subnets`. Names keep their spelling.
    pub fn with_type_spelling(&self, kind: &str) -> Self {
        let mut blocks = self.blocks.clone();
        if let Some(b) = blocks.last_mut() {
            let mut parts = kind.split('/');
            if let Some(ns) = parts.next() {
                b.namespace = ns.to_owned();
            }
            for (slot, spelled) in b.path.iter_mut().zip(parts) {
                slot.0 = spelled.to_owned();
            }
        }
        Self::build(self.subscription.clone(), self.group.clone(), blocks)
    }

    /// Lower-cased text: the only thing to compare, hash or sort by.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The subscription segment, if the id lies in one.
    pub fn subscription(&self) -> Option<&str> {
        self.subscription.as_deref()
    }

    /// The resource group segment, if the id lies in one.
    pub fn resource_group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// `Microsoft.Network/virtualNetworks/subnets`; for scopes `Microsoft.Resources/subscriptions`
    /// or `Microsoft.Resources/resourceGroups`. Spelled as in this id.
    pub fn resource_type(&self) -> String {
        match self.blocks.last() {
            Some(b) => {
                let mut s = b.namespace.clone();
                for (t, _) in &b.path {
                    s.push('/');
                    s.push_str(t);
                }
                s
            }
            None if self.group.is_some() => "Microsoft.Resources/resourceGroups".to_owned(),
            None => "Microsoft.Resources/subscriptions".to_owned(),
        }
    }

    /// The provider namespace of the last block, for example `Microsoft.Network`.
    pub fn namespace(&self) -> Option<&str> {
        self.blocks.last().map(|b| b.namespace.as_str())
    }

    /// The last name in the id.
    pub fn name(&self) -> &str {
        match self.blocks.last().and_then(|b| b.path.last()) {
            Some((_, n)) => n,
            None => self.group.as_deref().or(self.subscription.as_deref()).unwrap_or_default(),
        }
    }

    /// The names of the last provider block, outermost first.
    pub fn names(&self) -> Vec<&str> {
        self.blocks.last().map(|b| b.path.iter().map(|(_, n)| n.as_str()).collect()).unwrap_or_default()
    }

    /// Whether `self` is `scope` or lies below it.
    pub fn is_within(&self, scope: &ResourceId) -> bool {
        self.key == scope.key
            || (self.key.starts_with(&scope.key) && self.key.as_bytes().get(scope.key.len()) == Some(&b'/'))
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl Eq for ResourceId {}
impl PartialOrd for ResourceId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ResourceId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}
impl std::hash::Hash for ResourceId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceId({})", self.text)
    }
}
impl Serialize for ResourceId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}
impl<'de> Deserialize<'de> for ResourceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casing_is_canonical_and_comparison_is_not() {
        let a = ResourceId::parse(
            "/subscriptions/S/resourcegroups/MyGroup/providers/microsoft.network/virtualNetworks/V/subnets/d",
        )
        .unwrap();
        let b = ResourceId::parse(
            "/SUBSCRIPTIONS/s/resourceGroups/mygroup/providers/Microsoft.Network/virtualnetworks/v/subnets/D",
        )
        .unwrap();
        assert_eq!(a, b);
        assert_eq!(a.resource_group(), Some("MyGroup"));
        assert_eq!(
            b.with_type_spelling("Microsoft.Network/virtualNetworks/subnets").as_str(),
            "/subscriptions/s/resourceGroups/mygroup/providers/Microsoft.Network/virtualNetworks/v/subnets/D"
        );
        assert_eq!(a.parent().unwrap().name(), "V");
        assert_eq!(a.parent().unwrap().parent().unwrap().as_str(), "/subscriptions/S/resourceGroups/MyGroup");
    }

    #[test]
    fn extension_resources_hang_under_resources() {
        let id = ResourceId::parse(
            "/subscriptions/s/resourceGroups/g/providers/A.B/c/d/providers/Microsoft.Authorization/locks/l",
        )
        .unwrap();
        assert_eq!(id.resource_type(), "Microsoft.Authorization/locks");
        assert_eq!(id.parent().unwrap().resource_type(), "A.B/c");
        assert!(id.is_within(&ResourceId::resource_group_scope("S", "G")));
        assert!(!id.is_within(&ResourceId::resource_group_scope("S", "G2")));
    }

    #[test]
    fn malformed_ids_say_why() {
        assert!(matches!(ResourceId::parse("subscriptions/x"), Err(IdError::NoLeadingSlash(_))));
        assert!(matches!(ResourceId::parse("/subscriptions//x"), Err(IdError::EmptySegment(_))));
        assert!(matches!(ResourceId::parse("/subscriptions"), Err(IdError::MissingName(_))));
        assert!(matches!(ResourceId::parse("/subscriptions/s/widgets/w"), Err(IdError::Unexpected { .. })));
    }
}
