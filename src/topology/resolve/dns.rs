//! Zones and their authoritative servers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Noun, Resolver, TargetParts};
use crate::diagnostic::Diagnostic;
use crate::model::{NameServer, Place, TargetId, TargetKind, Zone, ZoneName};
use crate::topology::field::{Field, Section};
use crate::topology::{syntax, words};

/// The port of DNS.
const PORT: u16 = 53;
const SERVER: Noun = Noun { one: "server of this zone", many: "servers of this zone" };

impl Resolver<'_, '_> {
    pub(super) fn zones(&self, section: &Field<Section<syntax::Zone>>) -> BTreeMap<ZoneName, Zone> {
        let mut zones = BTreeMap::new();
        let mut places: BTreeMap<ZoneName, Place> = BTreeMap::new();
        for (key, zone) in self.reader.section(section) {
            let name = self.judged(words::domain_name(key.text), key.place).map(ZoneName::new);
            if let Field::Empty(place) = zone {
                self.error("missing-value", place, format!("zone `{}` has no value", key.text));
            }
            let (Some(name), Some(zone)) = (name, zone.get()) else { continue };
            if let Some(first) = places.insert(name.clone(), key.place) {
                self.reader.findings.add(
                    Diagnostic::error("duplicate-name", key.place, format!("zone `{name}` stands here a second time"))
                        .related(first, "it stands here first"),
                );
                continue;
            }
            let zone = self.zone(&name, zone, key.place);
            zones.insert(name, zone);
        }
        zones
    }

    fn zone(&self, name: &ZoneName, zone: syntax::Zone, at: Place) -> Zone {
        let whose = format!("zone `{name}`");
        let provider = self.provider(&zone.provider, "rfc2136", at);
        let common = self.settings(&zone.settings, at);
        zone.servers.as_ref().required("servers", &whose, at, self.reader.findings);
        let entries = self.named(&zone.servers);
        let known: BTreeSet<&str> = self.reader.names(&zone.servers).collect();
        if let (Field::Is(_, place), true) = (&zone.servers, known.is_empty()) {
            self.error("missing-value", *place, format!("{whose} has no server here"));
        }
        if !entries.is_empty()
            && entries.len() == known.len()
            && !entries.iter().any(|(_, server)| matches!(server.updates, Field::Is(true, _) | Field::Wrong))
        {
            self.reader.findings.add(
                Diagnostic::error("no-updatable-server", at, format!("{whose} has no server where it can be changed"))
                    .help("write `updates: true` at each server that takes dynamic updates"),
            );
        }
        let mut sources: BTreeMap<&str, (&str, Place)> = BTreeMap::new();
        for (key, server) in &entries {
            if let Field::Is(source, place) = &server.transfers_from {
                if matches!(server.updates, Field::Is(true, _)) {
                    let message = format!("`{}` cannot both be changed and transfer the zone", key.text);
                    self.error("invalid-value", *place, message);
                } else if self.known(source, *place, SERVER, &known) {
                    sources.insert(key.text, (source, *place));
                }
            } else if matches!(server.updates, Field::Absent | Field::Empty(_) | Field::Is(false, _))
                && matches!(server.transfers_from, Field::Absent | Field::Empty(_))
            {
                let message =
                    format!("name server `{}` neither can be changed nor says where it gets the zone", key.text);
                self.reader.findings.add(
                    Diagnostic::error("missing-key", key.place, message)
                        .help("write `updates: true`, or `transfers_from:` with the name of another server"),
                );
            }
        }
        self.refuse_cycles(&sources);
        let servers = entries.into_iter().filter_map(|(key, server)| {
            let whose = format!("name server `{}`", key.text);
            let target = self.target(TargetParts {
                kind: TargetKind::NameServer,
                id: TargetId::name_server(name, key.text),
                facility: self.facility(&server.facility, "facility", &whose, key.place),
                provider: provider.clone(),
                address: self.address(&server.address, &whose, key.place, Some(PORT)),
                host: &server.host,
                settings: self.overlaid(&common, &server.settings, key.place),
            })?;
            let updates = server.updates.get().unwrap_or_default();
            let server = NameServer { target, updates, transfers_from: server.transfers_from.get() };
            Some((key.text.to_owned(), server))
        });
        Zone { name: name.clone(), servers: servers.collect() }
    }

    /// Servers that get the zone from each other in a ring would never get it at all.
    fn refuse_cycles(&self, sources: &BTreeMap<&str, (&str, Place)>) {
        let mut judged: BTreeSet<&str> = BTreeSet::new();
        for start in sources.keys().copied() {
            let mut path: Vec<&str> = Vec::new();
            let mut on_path: BTreeSet<&str> = BTreeSet::new();
            let mut server = start;
            while judged.insert(server) {
                path.push(server);
                on_path.insert(server);
                let Some((source, place)) = sources.get(server) else { break };
                if on_path.contains(source) {
                    let ring: Vec<&str> = path.iter().copied().skip_while(|name| name != source).collect();
                    let message = format!("a ring of transfers: {} → {source}", ring.join(" → "));
                    self.reader.findings.add(
                        Diagnostic::error("transfer-cycle", *place, message)
                            .help("let one of them transfer from a server with `updates: true`"),
                    );
                }
                server = source;
            }
        }
    }
}
