//! From what was declared and observed to what is shown: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::observer::{MIN_RATE, Observer};
use crate::journal::Hold;
use crate::model::{FacilityName, Live, TargetId, Unreachable, text::list};
use crate::plan::lost::known::Known;
use crate::plan::split::{self, Split};
use crate::report::text::duration;
use crate::topology::Topology;

/// How bad it is; each has an exit code of `handover status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitLevel {
    /// Everything answers and is as it should be (0).
    Healthy,
    /// Everything works, but something is not as the topology and the holds say (10).
    Drift,
    /// Something does not answer or is sick, or redundancy is missing (11).
    Degraded,
    /// Two sides of what should be one go on by themselves (12).
    Split,
}

impl ExitLevel {
    /// The exit code of `handover status`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Drift => 10,
            Self::Degraded => 11,
            Self::Split => 12,
        }
    }
}

/// How a line of a cell is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// As it should be.
    Good,
    /// Neither good nor bad.
    Plain,
    /// Expected, for example in a drained facility.
    Quiet,
    /// Worth a look.
    Note,
    /// Wrong.
    Bad,
}

/// The lines of a cell.
pub type Cell = Vec<(Mark, String)>;

/// A facility.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub facility: FacilityName,
    /// What it does: "serving", "drained (held)".
    pub state: String,
    /// True if it should be drained.
    pub drained: bool,
    /// True if a hold keeps it drained.
    pub held: bool,
    /// True if it serves users.
    pub serving: bool,
}

/// One tier, or one service or database of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `dns`, `edge`, `app`, `data`, `poolers` or `jobs`.
    pub tier: &'static str,
    /// Zone, service or database; empty where the tier has one row.
    pub name: String,
    /// One cell for each column.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Tier and name.
    pub fn label(&self) -> String {
        format!("{} {}", self.tier, self.name).trim_end().to_owned()
    }

    /// True if the cell of this column says anything.
    pub fn has(&self, column: usize) -> bool {
        self.cells.get(column).is_some_and(|cell| !cell.is_empty())
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad.
    pub level: ExitLevel,
    /// What, as a fragment.
    pub text: String,
}

/// A hold in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldView {
    /// The hold.
    #[serde(flatten)]
    pub hold: Hold,
    /// True if somebody should have looked at it by now.
    pub overdue: bool,
}

/// Everything that `handover status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusView {
    /// The facilities, in the topology's order.
    pub columns: Vec<Column>,
    /// The tiers.
    pub rows: Vec<Row>,
    /// How the shares were found.
    pub share_basis: String,
    /// Targets that did not answer.
    pub unreachable: Vec<(TargetId, Unreachable)>,
    /// What is known of those from before, as fragments: "last answered 3m ago".
    pub last_seen: BTreeMap<TargetId, String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is split; each is among the problems as well.
    pub splits: Vec<Split>,
    /// What differs from desired, one line each.
    pub drift: Vec<String>,
    /// Holds in force.
    pub holds: Vec<HeldView>,
    /// What is not wrong and yet worth knowing.
    pub notes: Vec<String>,
    /// All in all.
    pub level: ExitLevel,
}

impl StatusView {
    /// Judges what was observed. `drift` are the differences between live and desired, one line each.
    pub fn new(topology: &Topology, live: &Live, holds: &[Hold], drift: Vec<String>, now: Timestamp) -> Self {
        let splits = split::find(topology, live);
        let mut observer = Observer::new(topology, live, holds);
        observer
            .problems
            .extend(splits.iter().map(|split| Problem { level: ExitLevel::Split, text: split.what.clone() }));
        let mut rows = observer.dns();
        rows.extend(observer.edge());
        rows.extend(observer.apps());
        rows.extend(observer.data());
        rows.extend(observer.poolers());
        rows.extend(observer.jobs());
        let unreachable = observer.unreachable();
        let columns = observer.columns();
        let Observer { problems, notes, measured, by_weight, .. } = observer;
        let share_basis = match (measured.is_empty(), by_weight.is_empty()) {
            (_, true) if measured.is_empty() => String::new(),
            (_, true) => "Shares: requests of the last second, counted by the proxies.".to_owned(),
            (true, false) => {
                format!("Shares: by the proxies' weights (fewer than {MIN_RATE} requests in the last second).")
            }
            (false, false) => format!(
                "Shares: requests of the last second, counted by the proxies; of {} by weights (fewer than {MIN_RATE} requests).",
                list(&by_weight)
            ),
        };
        let worst = problems.iter().map(|problem| problem.level).max().unwrap_or(ExitLevel::Healthy);
        let level = if drift.is_empty() { worst } else { worst.max(ExitLevel::Drift) };
        let held = |hold: &Hold| HeldView { hold: hold.clone(), overdue: hold.is_overdue(now) };
        Self {
            columns,
            rows,
            share_basis,
            unreachable,
            last_seen: BTreeMap::new(),
            problems,
            splits,
            drift,
            holds: holds.iter().map(held).collect(),
            notes,
            level,
        }
    }

    /// Adds what is known from before of those that are silent.
    pub fn remember(&mut self, known: &Known) {
        for (id, _) in &self.unreachable {
            let Some(age) = known.before.answered.get(id) else { continue };
            let mut told = format!("last answered {} ago", duration(*age));
            if let Some(seen) = known.members.get(id) {
                told += &format!(", as {} of timeline {} at {}", seen.role, seen.lineage.timeline, seen.position);
            }
            self.last_seen.insert(id.clone(), told);
        }
    }
}
