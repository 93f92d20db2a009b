//! Typed names: a facility's name cannot be passed where a database's is expected. Names of up to 23 bytes lie where they are used, in
//! the nodes of a map: comparing them reads no other memory, which is most of what planning for a large topology does.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, format_smolstr};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(SmolStr);

        impl $name {
            /// Makes a name from its text as written in the topology.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(SmolStr::new(text))
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A data centre.
    FacilityName;
    /// What users reach by one hostname.
    ServiceName;
    /// A replicated cluster.
    DatabaseName;
    /// A DNS zone, in lower case without the final dot.
    ZoneName;
    /// A machine on which commands run.
    HostName;
    /// A cron job or queue worker.
    JobName;
    /// A provider, such as `rfc2136`.
    ProviderName;
    /// A server as its proxies call it, a database as its poolers call it, and other names that belong to a target.
    ForeignName;
}

/// What kind of thing a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// An authoritative DNS server for one zone.
    NameServer,
    /// A load-balancing proxy.
    Proxy,
    /// An application server for one service.
    Server,
    /// A database server.
    Member,
    /// A connection pooler in front of databases.
    Pooler,
    /// A job that writes to databases.
    Job,
    /// What runs on a host under one name, as the host's own commands stop and start it.
    Unit,
    /// What cuts a machine or a facility off, or its addresses.
    Fence,
    /// A host elsewhere that says which addresses it reaches.
    Vantage,
}

impl TargetKind {
    /// The word that begins a [`TargetId`].
    pub fn word(self) -> &'static str {
        match self {
            Self::NameServer => "dns",
            Self::Proxy => "proxy",
            Self::Server => "app",
            Self::Member => "member",
            Self::Pooler => "pooler",
            Self::Job => "job",
            Self::Unit => "unit",
            Self::Vantage => "vantage",
            Self::Fence => "fence",
        }
    }
}

/// The identity of a target: `kind/scope/name` or `kind/name`, such as `dns/clickbank.example/west-ns1`, `proxy/west-lb1`
/// or `member/accounts/west-pg1`. It appears in plans and journals, so its form is stable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetId(SmolStr);

impl TargetId {
    /// The authoritative server `name` of `zone`.
    pub fn name_server(zone: &ZoneName, name: &str) -> Self {
        Self::make(TargetKind::NameServer, Some(zone.as_str()), name)
    }

    /// The proxy `name`.
    pub fn proxy(name: &str) -> Self {
        Self::make(TargetKind::Proxy, None, name)
    }

    /// The application server `name` of `service`.
    pub fn server(service: &ServiceName, name: &str) -> Self {
        Self::make(TargetKind::Server, Some(service.as_str()), name)
    }

    /// The member `name` of `database`.
    pub fn member(database: &DatabaseName, name: &str) -> Self {
        Self::make(TargetKind::Member, Some(database.as_str()), name)
    }

    /// The pooler `name`.
    pub fn pooler(name: &str) -> Self {
        Self::make(TargetKind::Pooler, None, name)
    }

    /// The job `name`.
    pub fn job(name: &JobName) -> Self {
        Self::make(TargetKind::Job, None, name.as_str())
    }

    /// What runs on `host` under this name.
    pub fn unit(host: &HostName, name: &str) -> Self {
        Self::make(TargetKind::Unit, Some(host.as_str()), name)
    }

    /// What cuts off the facility of this name.
    pub fn facility_fence(facility: &FacilityName) -> Self {
        Self::make(TargetKind::Fence, Some("facility"), facility.as_str())
    }

    /// What cuts off the machine of this name.
    pub fn host_fence(host: &HostName) -> Self {
        Self::make(TargetKind::Fence, Some("host"), host.as_str())
    }

    /// What takes the addresses of the facility of this name off the Internet.
    pub fn withdrawal(facility: &FacilityName) -> Self {
        Self::make(TargetKind::Fence, Some("addresses"), facility.as_str())
    }

    /// The host elsewhere of this name, which says which addresses it reaches.
    pub fn vantage(name: &str) -> Self {
        Self::make(TargetKind::Vantage, None, name)
    }

    fn make(kind: TargetKind, scope: Option<&str>, name: &str) -> Self {
        let word = kind.word();
        Self(match scope {
            Some(scope) => format_smolstr!("{word}/{scope}/{name}"),
            None => format_smolstr!("{word}/{name}"),
        })
    }

    /// An identity from its text; none where the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let kinds = [
            TargetKind::NameServer,
            TargetKind::Proxy,
            TargetKind::Server,
            TargetKind::Member,
            TargetKind::Pooler,
            TargetKind::Job,
            TargetKind::Unit,
            TargetKind::Vantage,
            TargetKind::Fence,
        ];
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = |part: &&str| !part.is_empty() && part.chars().all(plain);
        let known = kinds.iter().any(|kind| parts.first() == Some(&kind.word()));
        (known && matches!(parts.len(), 2 | 3) && parts.iter().all(named)).then(|| Self(SmolStr::new(text)))
    }

    /// The whole identity.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The target's own name, without kind and scope: what operators call it.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The zone, service or database that the target belongs to, where it has one.
    pub fn scope(&self) -> Option<&str> {
        let mut parts = self.0.splitn(3, '/');
        let (_, scope, name) = (parts.next(), parts.next(), parts.next());
        name.and(scope)
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_ids_take_apart_what_they_were_made_from() {
        let id = TargetId::member(&"accounts".into(), "west-pg1");
        assert_eq!(id.as_str(), "member/accounts/west-pg1");
        assert_eq!((id.name(), id.scope()), ("west-pg1", Some("accounts")));
        let id = TargetId::proxy("west-lb1");
        assert_eq!((id.name(), id.scope()), ("west-lb1", None));
    }
}
