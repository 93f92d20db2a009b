//! The way back: what happened is over, the facility's servers start, what is owed is done, and the facility serves again.

use std::process::Stdio;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use handover::event::Event;
use handover::journal::Store;
use handover::plan::{HoldKind, Plan};
use handover::store::SqliteStore;

use super::operator::{Planned, why};
use super::play::{AGAIN, Course};
use super::{Disaster, HERE, Over, Start};
use crate::torture::stand::{Answer, Heard};
use crate::{OPERATOR, Selection, ServerStatus};

/// How long the way back may take, each half of it.
const BACK: Duration = Duration::from_secs(150);

/// How long a server that asks whether it may start waits for an answer.
const ASKS_FOR: &str = "2s";

impl Course<'_> {
    /// What happened is over, before or while something is done about it.
    pub fn is_over(&mut self) -> Result<()> {
        self.over = true;
        let (lab, case) = (&self.stand.lab, self.case);
        if case.disaster != Disaster::Power {
            return lab.uncut(case.facility, "all").map(drop);
        }
        // Once the old primaries are cut off somebody else takes over, at any moment.
        let taken = matches!(case.over, Over::Fenced | Over::Promoted);
        lab.power_on(case.facility, !taken || case.start == Start::Unasked)?;
        if taken { self.start_servers(true) } else { Ok(()) }
    }

    /// The facility comes back, whatever it was cut off by.
    pub fn come_back(&mut self) -> Result<()> {
        let (lab, case) = (&self.stand.lab, self.case);
        let status = lab.status()?;
        let listed = |names: &[String]| names.iter().any(|name| name == case.facility);
        let (off, isolated, taken) = (listed(&status.off), listed(&status.isolated), !self.promises.is_empty());
        let unasked = case.start == Start::Unasked;
        if isolated && taken {
            // The firewall lets in who runs `handover`, and nobody else before the old primaries are fenced.
            lab.cut(case.facility, "all")?;
            lab.uncut(case.facility, HERE)?;
            self.closed = true;
            if unasked || !self.powered_off() {
                self.writing = self.promises.values().map(|promise| promise.from.clone()).collect();
            }
        } else {
            lab.uncut(case.facility, "all")?;
            lab.uncut(HERE, "all")?;
        }
        if off {
            lab.power_on(case.facility, !taken || (unasked && isolated))?;
        }
        if isolated {
            lab.isolate(case.facility, false)?;
        }
        self.start_servers(taken)
    }

    /// Starts what does not run, as the case says; whoever might be a primary beside another one only if it asks.
    fn start_servers(&mut self, taken: bool) -> Result<()> {
        let lab = &self.stand.lab;
        if !taken {
            return lab.start_servers(&Selection::Facility(self.case.facility.to_owned())).map(drop);
        }
        match self.case.start {
            Start::Asking => self.knock(),
            Start::ByHand | Start::Unasked => {
                let down = self.down()?;
                let mut others = down.into_iter().filter(|server| server.kind != "postgres");
                others.try_for_each(|server| lab.start_servers(&Selection::Target(server.name)).map(drop))
            }
        }
    }

    /// Servers of the facility that do not run.
    fn down(&self) -> Result<Vec<ServerStatus>> {
        let servers = self.stand.lab.status()?.servers.into_iter();
        Ok(servers.filter(|server| server.place == self.case.facility && server.pid.is_none()).collect())
    }

    /// Everything that does not run and was not yet let in asks whether it may start, as a unit with `ExecCondition=` does, and starts if so.
    fn knock(&mut self) -> Result<()> {
        let (stand, facility) = (self.stand, self.case.facility);
        let mut down = self.down()?;
        down.retain(|server| !server.targets.is_empty() && !self.admitted.contains(&server.name));
        let ask = |server: &ServerStatus| -> Result<bool> {
            let mut admit = stand.lab.command_in(facility, &stand.script.handover)?;
            admit.arg("admit").args(server.targets.first()).args(["--timeout", ASKS_FOR, "--topology"]);
            admit.arg(stand.lab.topology_path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let admitted = admit.status()?.success();
            if admitted {
                stand.lab.start_servers(&Selection::Target(server.name.clone()))?;
            }
            Ok(admitted)
        };
        let answers = std::thread::scope(|scope| {
            let asking: Vec<_> = down.iter().map(|server| scope.spawn(|| ask(server))).collect();
            let join = |thread: ScopedJoinHandle<'_, Result<bool>>| {
                thread.join().map_err(|_| anyhow::anyhow!("who asks whether it may start panicked"))?
            };
            asking.into_iter().map(join).collect::<Result<Vec<bool>>>()
        })?;
        let admitted = down.iter().zip(answers).filter(|(_, admitted)| *admitted);
        self.admitted.extend(admitted.map(|(server, _)| server.name.clone()));
        Ok(())
    }

    /// A name server that is kept down is started by hand once: what is owed there cannot be done else (docs/admit.md).
    fn start_name_servers(&mut self) -> Result<()> {
        for server in self.down()?.into_iter().filter(|server| server.kind == "named") {
            self.played.did(format!("{} was not admitted, and is started by hand", server.name));
            self.stand.lab.start_servers(&Selection::Target(server.name))?;
        }
        Ok(())
    }

    /// Does what is owed, brings the facility back into service, and looks whether everything is as it was; true if so.
    pub fn make_whole(&mut self) -> Result<bool> {
        if !self.settle_owed()? || !self.restore()? {
            return Ok(false);
        }
        if let Err(why) = self.operator.until_healthy()? {
            self.played.problem(why);
            return Ok(false);
        }
        if let Err(why) = self.operator.nothing_to_do()? {
            self.played.problem(format!("a plan of the result is not empty: {why}"));
            return Ok(false);
        }
        let differences = self.stand.differences_in_any_history(super::START)?;
        let whole = differences.is_empty();
        differences.into_iter().for_each(|difference| self.played.problem(difference));
        Ok(whole)
    }

    /// Makes bare plans and applies them until nothing is owed.
    fn settle_owed(&mut self) -> Result<bool> {
        let deadline = Instant::now() + BACK;
        let mut applied = false;
        loop {
            self.open_between()?;
            if self.case.start == Start::Asking && !self.promises.is_empty() {
                self.knock()?;
                // That plan has told the others that the facility may start.
                if applied {
                    self.start_name_servers()?;
                }
            }
            let planned = self.operator.plan(&[])?;
            if planned.code == Some(0) && planned.plan.is_none() && self.held(is_lost)?.is_empty() {
                if self.closed {
                    self.stand.lab.uncut(self.case.facility, OPERATOR)?;
                }
                return Ok(true);
            }
            applied |= self.apply(planned, "a bare plan")?;
            if Instant::now() >= deadline {
                let holds = self.held(is_lost)?;
                self.played.problem(format!("what is owed was not done: {}", holds.join("; ")));
                return Ok(false);
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Brings the facility back into service, with its primaries.
    fn restore(&mut self) -> Result<bool> {
        let deadline = Instant::now() + BACK;
        while !self.held(|_| true)?.is_empty() {
            let planned = self.operator.plan(&["--restore", self.case.facility, "--failback"])?;
            if !self.apply(planned, "a restore")? {
                // What a run has left in the middle is put right by a bare plan.
                let planned = self.operator.plan(&[])?;
                self.apply(planned, "a bare plan")?;
            }
            if Instant::now() >= deadline {
                let holds = self.held(|_| true)?;
                self.played.problem(format!("it was not brought back: {}", holds.join("; ")));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Applies a plan if there is one; true if that succeeded.
    fn apply(&mut self, planned: Planned, what: &str) -> Result<bool> {
        let Some((file, plan)) = planned.plan else {
            if planned.code != Some(0) {
                self.played.did(format!("{what}: {:?} {}", planned.code, planned.why));
            }
            return Ok(false);
        };
        let answer = self.apply_fencing(&file, &plan)?;
        self.played.did(format!("{what}: {:?} {}", answer.code, why(&answer)));
        if answer.code == Some(6) || answer.code.is_none() {
            self.played.problem(format!("{what} ended with {:?}: {}", answer.code, why(&answer)));
        }
        Ok(answer.code == Some(0))
    }

    /// Applies a plan; once it has fenced the old primaries, servers of the facility are let through to the others.
    fn apply_fencing(&mut self, file: &std::path::Path, plan: &Plan) -> Result<Answer> {
        if self.writing.is_empty() {
            return self.operator.apply_plan(file);
        }
        let fences: Vec<(String, String)> = plan
            .steps
            .iter()
            .filter(|step| step.id.0.contains(".quarantine."))
            .filter_map(|step| Some((step.id.0.clone(), step.id.0.rsplit('.').next()?.to_owned())))
            .collect();
        let operator = super::operator::Operator::new(self.stand, self.case.fence);
        operator.apply(&[&file.to_string_lossy()], |heard| {
            let Heard::Event(Event::StepDone { step, .. }) = heard else { return Ok(()) };
            let fenced = fences.iter().find(|(id, _)| *id == step.0);
            if fenced.is_some_and(|(_, member)| self.writing.remove(member)) { self.open_between() } else { Ok(()) }
        })
    }

    /// Servers of the facility reach all others again, where nobody there takes writes any more; clients do not yet.
    fn open_between(&self) -> Result<()> {
        if !self.closed || !self.writing.is_empty() {
            return Ok(());
        }
        let places = self.stand.topology.facilities.keys().map(|place| place.as_str());
        let mut others = places.filter(|place| *place != self.case.facility);
        others.try_for_each(|place| self.stand.lab.uncut(self.case.facility, place).map(drop))
    }

    /// The holds of a kind that are in force, in words.
    fn held(&self, kind: impl Fn(&HoldKind) -> bool) -> Result<Vec<String>> {
        let store = SqliteStore::open(&self.stand.state(), &self.stand.topology.name)?;
        let holds = crate::torture::within(async { store.holds().await })?;
        Ok(holds.into_iter().filter(|hold| kind(&hold.kind)).map(|hold| hold.kind.what()).collect())
    }
}

fn is_lost(kind: &HoldKind) -> bool {
    matches!(kind, HoldKind::Lost { .. })
}
