//! Databases, poolers and jobs.

use std::collections::{BTreeMap, BTreeSet};

use super::{DATABASE, POOLER, Resolver, TargetParts};
use crate::diagnostic::Diagnostic;
use crate::model::{
    Database, DatabaseName, Direct, FacilityName, ForeignName, Job, JobName, Member, Place, Pooler, PrimaryPlace,
    ReplicationMode, Route, Settings, Span, TargetId, TargetKind,
};
use crate::topology::field::{Field, Key, Raw, Section};
use crate::topology::syntax;

/// Largest acceptable replication lag where the file names none.
const MAX_LAG: Span = Span::secs(1);
/// Priority of a member where the file names none.
const PRIORITY: u32 = 100;

/// What must differ between members of all databases.
#[derive(Default)]
struct Taken {
    /// By name, `_` counting as `-`: databases that allow no hyphens in names report `west_pg1` for `west-pg1`.
    names: BTreeMap<String, Place>,
    addresses: BTreeMap<String, Place>,
}

impl Resolver<'_, '_> {
    pub(super) fn databases(
        &self,
        section: &Field<Section<syntax::Database>>,
        proxies: bool,
    ) -> BTreeMap<DatabaseName, Database> {
        let mut taken = Taken::default();
        let databases = self.named(section).into_iter().filter_map(|(key, database)| {
            let name = DatabaseName::new(key.text);
            Some((name.clone(), self.database(name, key.place, database, proxies, &mut taken)?))
        });
        databases.collect()
    }

    fn database(
        &self,
        name: DatabaseName,
        at: Place,
        database: syntax::Database,
        proxies: bool,
        taken: &mut Taken,
    ) -> Option<Database> {
        let whose = format!("database `{name}`");
        let provider = self.provider(&database.provider, "postgresql", at);
        let common = self.settings(&database.settings, at);
        database.members.as_ref().required("members", &whose, at, self.reader.findings);
        if let Field::Is(_, place) = &database.members
            && self.reader.names(&database.members).next().is_none()
        {
            self.error("missing-value", *place, format!("{whose} has no member here"));
        }
        let primary = self.primary(&database, &whose, at);
        let members = self.named(&database.members).into_iter().filter_map(|(key, member)| {
            self.refuse_taken(key, &member, taken);
            let whose = format!("member `{}`", key.text);
            let target = self.target(TargetParts {
                kind: TargetKind::Member,
                id: TargetId::member(&name, key.text),
                facility: self.facility(&member.facility, "facility", &whose, key.place),
                provider: provider.clone(),
                address: self.address(&member.address, &whose, key.place, None),
                host: &member.host,
                settings: self.overlaid(&common, &member.settings, key.place),
            })?;
            let follows = self.follows(&database.members, key, &member.follows);
            let priority = member.priority.get().unwrap_or(PRIORITY);
            Some((key.text.to_owned(), Member { target, priority, follows }))
        });
        let members = members.collect();
        let poolers: BTreeSet<String> = self
            .references(&database.poolers, POOLER, &self.names.poolers)
            .into_iter()
            .map(|(pooler, _)| pooler)
            .collect();
        let has_poolers = !self.reader.is_empty(&database.poolers);
        let route = self.route(&name, &database.route, &whose, at, has_poolers, proxies);
        let direct = self.direct(&database, &whose);
        let replication = database.replication.get().unwrap_or_default();
        Some(Database {
            primary: primary?,
            members,
            confirmed_by: self.confirmed_by(&replication, self.reader.names(&database.members).count()),
            mode: replication.mode.get().unwrap_or_default(),
            max_lag: replication.max_lag.get().unwrap_or(MAX_LAG),
            poolers,
            direct,
            route: route?,
            failback: database.failback.get().unwrap_or_default(),
            name,
        })
    }

    /// How many replicas confirm each commit: no more than there are.
    fn confirmed_by(&self, replication: &syntax::Replication, members: usize) -> Option<usize> {
        let (count, place) = replication.confirmed_by.as_ref().placed()?;
        let count = usize::try_from(*count).unwrap_or(usize::MAX);
        let wrong = |message: String, help: &str| {
            self.reader.findings.add(Diagnostic::error("invalid-value", place, message).help(help));
            None
        };
        if replication.mode.as_ref().get().copied() != Some(ReplicationMode::Synchronous) {
            return wrong(
                "commits are confirmed by replicas only where replication is synchronous".to_owned(),
                "add `mode: synchronous`, or leave `confirmed_by` out",
            );
        }
        if count == 0 || count >= members {
            let message = format!("{count} replicas cannot confirm commits in a database of {members} members");
            return wrong(message, "at least one, and no more than there are members beside the primary");
        }
        Some(count)
    }

    /// Whom a member receives from: another member, and in the end the primary.
    fn follows(
        &self,
        members: &Field<Section<syntax::Member>>,
        key: Key<'_>,
        follows: &Field<String>,
    ) -> Option<String> {
        let (name, place) = follows.as_ref().placed()?;
        let names: BTreeSet<&str> = self.reader.names(members).collect();
        if !names.contains(name.as_str()) {
            let others = names.iter().copied().filter(|other| *other != key.text);
            let help = self.reader.findings.advice(name, "members", others);
            let message = format!("`{name}` is no member of this database");
            self.reader.findings.add(Diagnostic::error("unknown-name", place, message).help(help));
            return None;
        }
        let upstream = |name: &&str| self.reader.text_of(members, name, "follows");
        let mut chain = std::iter::successors(Some(name.as_str()), upstream).take(names.len());
        if chain.any(|name| name == key.text) {
            let message = format!("`{}` would receive from itself", key.text);
            self.reader.findings.add(
                Diagnostic::error("invalid-value", place, message)
                    .help("whoever is followed must in the end follow the primary: leave `follows` out there"),
            );
            return None;
        }
        Some(name.clone())
    }

    /// Where the primary should live: the name is a facility's or a member's.
    fn primary(&self, database: &syntax::Database, whose: &str, at: Place) -> Option<PrimaryPlace> {
        database.primary.as_ref().required("primary", whose, at, self.reader.findings)?;
        let (name, place) = database.primary.as_ref().placed()?;
        let members: BTreeSet<&str> = self.reader.names(&database.members).collect();
        let is_facility = self.names.facilities.contains(name.as_str());
        match (members.contains(name.as_str()), is_facility) {
            (true, true) => {
                let message = format!("`{name}` is both a facility and a member of {whose}");
                self.error("ambiguous-name", place, message);
                None
            }
            (true, false) => {
                let priority = self.reader.text_of(&database.members, name, "priority");
                if priority.is_some_and(|priority| priority == "0") {
                    let message = format!("`{name}` has priority 0: it never becomes primary");
                    self.error("invalid-value", place, message);
                }
                Some(PrimaryPlace::Member(name.clone()))
            }
            (false, true) => {
                if !self.reader.texts(&database.members, "facility").any(|facility| facility == name) {
                    self.error("unknown-name", place, format!("{whose} has no member in facility `{name}`"));
                    return None;
                }
                Some(PrimaryPlace::Facility(FacilityName::new(name)))
            }
            (false, false) => {
                let candidates = self.names.facilities.iter().chain(&members).copied();
                let help = self.reader.findings.advice(name, "facilities and members", candidates);
                let message = format!("`{name}` is neither a facility nor a member of {whose}");
                self.reader.findings.add(Diagnostic::error("unknown-name", place, message).help(help));
                None
            }
        }
    }

    /// Member names and addresses are unique across databases: replicas are known by their names alone, and two members at one
    /// address would be one server, fenced as the old primary and promoted as the new one.
    fn refuse_taken(&self, key: Key<'_>, member: &syntax::Member, taken: &mut Taken) {
        if let Some(first) = taken.names.insert(key.text.replace('_', "-"), key.place) {
            let message = format!("`{}` is the name of another member", key.text);
            self.reader.findings.add(
                Diagnostic::error("duplicate-name", key.place, message)
                    .related(first, "the other member")
                    .help("names of members are unique across databases; `-` and `_` count as the same"),
            );
        }
        if let Field::Is(address, place) = &member.address
            && let Some(first) = taken.addresses.insert(address.to_ascii_lowercase(), *place)
        {
            self.reader.findings.add(
                Diagnostic::error("duplicate-address", *place, format!("`{address}` is the address of another member"))
                    .related(first, "the other member"),
            );
        }
    }

    /// Clients that use no pooler: an item that says nothing would be all of them.
    fn direct(&self, database: &syntax::Database, whose: &str) -> Vec<Direct> {
        let items = self.reader.list(&database.direct).into_iter().filter_map(|(item, at)| {
            let direct =
                Direct { application: item.application_name.get(), user: item.user.get(), address: item.address.get() };
            if direct == (Direct { application: None, user: None, address: None }) {
                let message = format!("an item of `direct` of {whose} says nothing");
                let help = "name at least one of `application_name`, `user` and `address`";
                self.reader.findings.add(Diagnostic::error("missing-value", at, message).help(help));
                return None;
            }
            Some(direct)
        });
        items.collect()
    }

    /// How clients are led to the primary; by the poolers' entry of the same name where the file does not say.
    fn route(
        &self,
        name: &DatabaseName,
        field: &Field<syntax::Route>,
        whose: &str,
        at: Place,
        has_poolers: bool,
        proxies: bool,
    ) -> Option<Route> {
        let (route, at) = match field {
            Field::Is(route, at) => (route, *at),
            Field::Wrong => return None,
            Field::Absent | Field::Empty(_) if has_poolers => {
                return Some(Route::PoolerDatabase(ForeignName::new(name.as_str())));
            }
            Field::Absent | Field::Empty(_) => {
                self.reader.findings.add(
                    Diagnostic::error("missing-key", at, format!("{whose} has no `route`, and no poolers"))
                        .help("say how clients reach the primary: list `poolers`, or write `route: {backend: …}`"),
                );
                return None;
            }
        };
        match (&route.pooler_database, &route.backend) {
            (Field::Is(_, first), Field::Is(_, second)) => {
                let message = format!("{whose} has two routes");
                self.reader.findings.add(
                    Diagnostic::error("two-routes", *second.max(first), message)
                        .related(*first.min(second), "the first"),
                );
                None
            }
            (entry @ Field::Is(_, place), _) => {
                if !has_poolers {
                    self.error("missing-key", *place, format!("{whose} has no `poolers` for this route"));
                }
                self.foreign(entry).map(Route::PoolerDatabase)
            }
            (_, backend @ Field::Is(_, place)) => {
                if !proxies {
                    self.error("missing-key", *place, "there are no `proxies` for this route");
                }
                self.foreign(backend).map(Route::Backend)
            }
            (Field::Wrong, _) | (_, Field::Wrong) => None,
            _ => {
                self.error(
                    "missing-key",
                    at,
                    format!("the route of {whose} has neither `pooler_database` nor `backend`"),
                );
                None
            }
        }
    }

    pub(super) fn poolers(&self, section: &Field<Section<syntax::Pooler>>) -> BTreeMap<String, Pooler> {
        let poolers = self.named(section).into_iter().filter_map(|(key, pooler)| {
            let whose = format!("pooler `{}`", key.text);
            let target = self.target(TargetParts {
                kind: TargetKind::Pooler,
                id: TargetId::pooler(key.text),
                facility: self.facility(&pooler.facility, "facility", &whose, key.place),
                provider: self.provider(&pooler.provider, "pgbouncer", key.place),
                address: self.address(&pooler.address, &whose, key.place, None),
                host: &pooler.host,
                settings: self.settings(&pooler.settings, key.place),
            })?;
            let egress = self.reader.list(&pooler.egress).into_iter().map(|(network, _)| network).collect();
            Some((key.text.to_owned(), Pooler { target, egress }))
        });
        poolers.collect()
    }

    pub(super) fn jobs(&self, section: &Field<Section<syntax::Job>>) -> BTreeMap<JobName, Job> {
        let jobs = self.named(section).into_iter().filter_map(|(key, job)| {
            let whose = format!("job `{}`", key.text);
            let name = JobName::new(key.text);
            job.host.as_ref().required("host", &whose, key.place, self.reader.findings);
            let mut settings = Settings { place: key.place, ..Settings::default() };
            for (word, command) in [("stop", &job.stop), ("start", &job.start), ("check", &job.check)] {
                if let Field::Is(Raw(node), place) = command {
                    settings.entries.insert(word.to_owned(), (*place, self.reader.tree.setting(*node)));
                }
            }
            let target = self.target(TargetParts {
                kind: TargetKind::Job,
                id: TargetId::job(&name),
                facility: self.facility(&job.runs_in, "runs_in", &whose, key.place),
                provider: self.provider(&job.provider, "command", key.place),
                address: Some(String::new()),
                host: &job.host,
                settings,
            });
            let writes_to = self.references(&job.writes_to, DATABASE, &self.names.databases);
            let writes_to = writes_to.into_iter().map(|(name, _)| DatabaseName::new(name)).collect();
            Some((name.clone(), Job { target: target?, name, writes_to }))
        });
        jobs.collect()
    }
}
