//! Policy and store.

use super::{Resolver, SERVICE};
use crate::diagnostic::Diagnostic;
use crate::model::{Freeze, GateLimits, Operator, Percent, Place, Policy, ServiceName, Span, Window};
use crate::topology::StoreKind;
use crate::topology::field::{Field, Items};
use crate::topology::syntax::{self, DayOfWeek};
use crate::topology::words;

/// What holds where the file decides nothing.
fn usual() -> Policy {
    Policy {
        min_active_facilities: 1,
        headroom: Percent::whole(20),
        stages: vec![Percent::whole(10), Percent::whole(50), Percent::FULL],
        soak: Span::secs(30),
        gates: GateLimits {
            max_error_rate: Percent::whole(1),
            max_replication_lag: Span::secs(1),
            max_queue: 50,
            min_sample: 20,
        },
        drain_deadline: Span::secs(600),
        drain_then: crate::model::DrainThen::Leave,
        max_write_stall: Span::secs(2),
        max_transaction_age: Span::secs(5),
        dns_recovery_target: Span::secs(300),
        hold_down: Span::secs(15),
        settle: Span::secs(600),
        plan_expiry: Span::secs(86_400),
        parallel_switchovers: 3,
        windows: Vec::new(),
        freezes: Vec::new(),
        shed: Vec::new(),
    }
}

impl Resolver<'_, '_> {
    /// The policy; `facilities` is how many there are.
    pub(super) fn policy(&self, field: &Field<syntax::Policy>, facilities: usize) -> Option<Policy> {
        let usual = usual();
        let policy = match field {
            Field::Is(policy, _) => policy,
            Field::Absent | Field::Empty(_) => return Some(usual),
            Field::Wrong => return None,
        };
        let active = self.at_least_one(&policy.min_active_facilities, usual.min_active_facilities);
        if let Field::Is(least, place) = policy.min_active_facilities
            && usize::try_from(least).is_ok_and(|least| least > facilities)
        {
            self.error("invalid-value", place, format!("there are only {facilities} facilities"));
        }
        let (shift, gates) = (policy.shift.as_ref().get(), policy.gates.as_ref().get());
        let deadline = policy.drain_deadline.as_ref().get();
        let limits = GateLimits {
            max_error_rate: or(gates.map(|gates| &gates.max_error_rate), usual.gates.max_error_rate),
            max_replication_lag: or(gates.map(|gates| &gates.max_replication_lag), usual.gates.max_replication_lag),
            max_queue: or(gates.map(|gates| &gates.max_queue), usual.gates.max_queue),
            min_sample: or(gates.map(|gates| &gates.min_sample), usual.gates.min_sample),
        };
        Some(Policy {
            min_active_facilities: active,
            headroom: or(Some(&policy.headroom), usual.headroom),
            stages: shift.and_then(|shift| self.stages(&shift.stages)).unwrap_or(usual.stages),
            soak: or(shift.map(|shift| &shift.soak), usual.soak),
            gates: limits,
            drain_deadline: or(deadline.map(|deadline| &deadline.after), usual.drain_deadline),
            drain_then: or(deadline.map(|deadline| &deadline.then), usual.drain_then),
            max_write_stall: self.some_time(&policy.max_write_stall, usual.max_write_stall),
            max_transaction_age: or(Some(&policy.max_transaction_age), usual.max_transaction_age),
            dns_recovery_target: self.some_time(&policy.dns_recovery_target, usual.dns_recovery_target),
            hold_down: or(Some(&policy.hold_down), usual.hold_down),
            settle: or(Some(&policy.settle), usual.settle),
            plan_expiry: self.some_time(&policy.plan_expiry, usual.plan_expiry),
            parallel_switchovers: self.at_least_one(&policy.parallel_switchovers, usual.parallel_switchovers),
            windows: self.windows(&policy.windows),
            freezes: self.freezes(&policy.freezes),
            shed: self.shed(&policy.shed),
        })
    }

    fn at_least_one(&self, field: &Field<u32>, usual: u32) -> u32 {
        if let Field::Is(0, place) = field {
            self.error("invalid-value", *place, "this must be at least 1");
        }
        or(Some(field), usual)
    }

    fn some_time(&self, field: &Field<Span>, usual: Span) -> Span {
        if let Field::Is(Span(std::time::Duration::ZERO), place) = field {
            self.error("invalid-value", *place, "this must be longer than nothing");
        }
        or(Some(field), usual)
    }

    /// The stages of a shift: ascending, the last 100 %.
    fn stages(&self, field: &Field<Items<Percent>>) -> Option<Vec<Percent>> {
        let Field::Is(_, at) = field else { return None };
        let stages = self.reader.list(field);
        let mut before = Percent::ZERO;
        for (stage, place) in &stages {
            if *stage <= before {
                let message = format!("stages ascend, but {stage} comes after {before}");
                self.error("invalid-value", *place, message);
            }
            before = *stage;
        }
        match stages.last() {
            None if !self.reader.is_empty(field) => {}
            None => self.error("missing-value", *at, "there is no stage here"),
            Some((Percent::FULL, _)) => {}
            Some((last, place)) => self.reader.findings.add(
                Diagnostic::error("invalid-value", *place, format!("the last stage is {last}, not 100%"))
                    .help("a shift ends with the whole share moved"),
            ),
        }
        Some(stages.into_iter().map(|(stage, _)| stage).collect())
    }

    fn freezes(&self, field: &Field<Items<syntax::Freeze>>) -> Vec<Freeze> {
        let freeze = |(freeze, at): (syntax::Freeze, Place)| {
            let findings = self.reader.findings;
            let whose = "this freeze";
            let from = freeze.from.as_ref().required("from", whose, at, findings);
            let to = freeze.to.as_ref().required("to", whose, at, findings);
            let reason = freeze.reason.required("reason", whose, at, findings);
            let (from, to) = (from?.0, to?.0);
            if let (true, Some(place)) = (to <= from, freeze.to.place()) {
                self.error("invalid-value", place, "this freeze ends before it begins");
            }
            Some(Freeze { from, to, reason: reason? })
        };
        self.reader.list(field).into_iter().filter_map(freeze).collect()
    }

    fn shed(&self, field: &Field<Items<String>>) -> Vec<ServiceName> {
        let mut services = self.reader.list(field);
        services.retain(|(name, place)| self.known(name, *place, SERVICE, &self.names.services));
        services.into_iter().map(|(name, _)| ServiceName::new(name)).collect()
    }

    /// Where runs are started.
    pub(super) fn operator(&self, field: &Field<syntax::Operator>) -> Option<Operator> {
        let Field::Is(operator, at) = field else { return None };
        let runs_in = self.facility(&operator.runs_in, "runs_in", "the operator", *at);
        let needs = self.reader.section(&operator.needs).filter_map(|(key, facility)| {
            self.judged(words::name(key.text), key.place)?;
            let facility = self.facility(&facility, key.text, "what the operator needs", key.place)?;
            Some((key.text.to_owned(), facility))
        });
        let needs = needs.collect();
        Some(Operator { runs_in: runs_in?, needs })
    }

    fn windows(&self, field: &Field<Items<syntax::Window>>) -> Vec<Window> {
        self.reader.list(field).into_iter().filter_map(|(window, at)| self.window(&window, at)).collect()
    }

    fn window(&self, window: &syntax::Window, at: Place) -> Option<Window> {
        let findings = self.reader.findings;
        let whose = "this window";
        let days = window.days.as_ref().required("days", whose, at, findings);
        if let Field::Is(_, place) = &window.days
            && self.reader.is_empty(&window.days)
        {
            self.error("missing-value", *place, "there is no day here");
        }
        let from = window.from.as_ref().required("from", whose, at, findings);
        let to = window.to.as_ref().required("to", whose, at, findings);
        let zone = window.zone.as_ref().required("zone", whose, at, findings).and_then(|name| {
            // The zones that are built in: the same file means the same on every machine.
            let zone = jiff::tz::TimeZoneDatabase::bundled().get(name);
            zone.map_err(|_| {
                let (_, place) = window.zone.as_ref().placed().unwrap_or((name, at));
                self.reader.findings.add(
                    Diagnostic::error("unknown-value", place, format!("there is no time zone `{name}`"))
                        .help("use a name of the IANA database, such as `America/Boise`"),
                );
            })
            .ok()
        });
        days?;
        let days = self.reader.list(&window.days).into_iter().map(|(day, _)| weekday(day)).collect();
        let (from, to) = (from?.0, to?.0);
        if let (true, Field::Is(_, place)) = (from == to, &window.to) {
            self.error("invalid-value", *place, "this window ends when it begins");
        }
        Some(Window { days, from, to, zone: zone? })
    }

    pub(super) fn store(&self, field: &Field<syntax::Store>) -> Option<StoreKind> {
        let embedded = match field {
            Field::Is(store, _) => &store.embedded,
            Field::Absent | Field::Empty(_) => return Some(StoreKind::default()),
            Field::Wrong => return None,
        };
        let directory = embedded.as_ref().get().map(|embedded| &embedded.directory);
        if let Some(Field::Is(path, place)) = directory
            && (path.is_empty() || path.contains('\0'))
        {
            self.error("invalid-value", *place, "this is no path of a directory");
        }
        let directory = directory.and_then(|directory| directory.as_ref().get()).cloned();
        Some(StoreKind::Embedded { directory })
    }
}

fn or<T: Copy>(field: Option<&Field<T>>, usual: T) -> T {
    field.and_then(|field| field.as_ref().get().copied()).unwrap_or(usual)
}

fn weekday(day: DayOfWeek) -> jiff::civil::Weekday {
    use jiff::civil::Weekday;
    match day {
        DayOfWeek::Mon => Weekday::Monday,
        DayOfWeek::Tue => Weekday::Tuesday,
        DayOfWeek::Wed => Weekday::Wednesday,
        DayOfWeek::Thu => Weekday::Thursday,
        DayOfWeek::Fri => Weekday::Friday,
        DayOfWeek::Sat => Weekday::Saturday,
        DayOfWeek::Sun => Weekday::Sunday,
    }
}
