//! Hosts elsewhere that say which addresses they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Resolver;
use crate::diagnostic::Diagnostic;
use crate::model::{FacilityName, Host, HostName, ProviderName, Settings, Target, TargetId, TargetKind, TransportKind};
use crate::topology::field::{Field, Section};
use crate::topology::findings::Findings;
use crate::topology::{Topology, syntax};

impl Resolver<'_, '_> {
    /// The vantages. One that stands in the facility that it watches is well, as long as another one does not.
    pub(super) fn vantages(&self, section: &Field<Section<syntax::Vantage>>) -> BTreeMap<String, Arc<Target>> {
        let vantages = self.named(section).into_iter().filter_map(|(key, vantage)| {
            let whose = format!("vantage `{}`", key.text);
            let facility = self.facility(&vantage.facility, "facility", &whose, key.place);
            let transport_at = vantage.transport.place();
            let host = syntax::Host {
                transport: vantage.transport,
                address: vantage.address,
                user: vantage.user,
                port: vantage.port,
                ..syntax::Host::default()
            };
            let transport = self.transport(host, &whose, key.place)?;
            if transport == TransportKind::Local {
                let place = transport_at.unwrap_or(key.place);
                let message = format!("{whose} would be this machine, which sees nothing else than we do");
                self.reader.findings.add(
                    Diagnostic::error("invalid-value", place, message)
                        .help("name a host elsewhere, with `transport: ssh` and its `address`"),
                );
                return None;
            }
            let host = Host { name: HostName::new(key.text), transport, commands: BTreeMap::new() };
            let target = Target {
                id: TargetId::vantage(key.text),
                kind: TargetKind::Vantage,
                facility: facility?,
                provider: ProviderName::new("vantage"),
                address: String::new(),
                settings: Settings::default(),
                host: Some(Arc::new(host)),
            };
            Some((key.text.to_owned(), Arc::new(target)))
        });
        vantages.collect()
    }
}

/// Warns where nobody looks at a facility from elsewhere though vantages are declared.
pub(super) fn blind_spot(section: &Field<Section<syntax::Vantage>>, topology: &Topology, findings: &Findings) {
    let places: BTreeSet<&FacilityName> = topology.vantages.values().map(|target| &target.facility).collect();
    let (Field::Is(_, at), Some(only), 1) = (section, places.first(), places.len()) else { return };
    if topology.targets().any(|target| target.facility == **only) {
        let message = format!("all vantages stand in {only}: nobody says what is seen of {only} from elsewhere");
        let help = "add one in another facility; one that serves no users watches all the others";
        findings.add(Diagnostic::warning("blind-spot", *at, message).help(help));
    }
}
