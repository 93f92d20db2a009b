//! Proxies.

use std::collections::BTreeMap;

use super::{Resolver, SERVICE, TargetParts};
use crate::model::{ForeignName, Proxy, ServiceName, TargetId, TargetKind};
use crate::topology::field::{Field, Key, Section};
use crate::topology::{syntax, words};

/// The port of HTTP.
const PORT: u16 = 80;

impl Resolver<'_, '_> {
    pub(super) fn proxies(&self, section: &Field<Section<syntax::Proxy>>) -> BTreeMap<String, Proxy> {
        let proxies = self.named(section).into_iter().filter_map(|(key, proxy)| {
            let whose = format!("proxy `{}`", key.text);
            let backends = self.backends(&proxy.backends);
            let target = self.target(TargetParts {
                kind: TargetKind::Proxy,
                id: TargetId::proxy(key.text),
                facility: self.facility(&proxy.facility, "facility", &whose, key.place),
                provider: self.provider(&proxy.provider, "haproxy", key.place),
                address: self.address(&proxy.address, &whose, key.place, Some(PORT)),
                host: &proxy.host,
                settings: self.settings(&proxy.settings, key.place),
            })?;
            Some((key.text.to_owned(), Proxy { target, backends }))
        });
        proxies.collect()
    }

    fn backends(&self, section: &Field<Section<String>>) -> BTreeMap<ServiceName, ForeignName> {
        let backends = self.reader.section(section).filter_map(|(Key { text, place }, backend)| {
            let known = self.known(text, place, SERVICE, &self.names.services);
            let (backend, place) = backend.placed()?;
            self.judged(words::foreign_name(&backend), place)?;
            known.then(|| (ServiceName::new(text), ForeignName::new(backend)))
        });
        backends.collect()
    }
}
