//! A plan as text: for somebody who has to say yes or no to it, perhaps for the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod answer;
mod markdown;
mod mermaid;

pub use answer::{Form, PlanAnswer, answer, stale};
pub(super) use markdown::{escaped, row};

use super::describe;
use super::layout::{Group, Tree, layout};
use super::text::{Page, Style, Text, Tone, command, count, duration, moment};
use crate::model::text::list;
use crate::model::{Action, TargetId};
use crate::plan::{Plan, Step, StepId, Undo, Work};

/// How much of a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What it is about, and a line for each stage.
    Brief,
    /// Every step.
    Full,
}

/// A plan for people; `file` is where it was saved.
fn text(plan: &Plan, file: Option<&str>, detail: Detail, style: Style) -> String {
    let mut page = Page::new(style);
    let stages = numbered(plan);
    head(&mut page, plan);
    page.blank();
    for (label, text) in glance(plan, &stages) {
        page.item(Text::of(Tone::Dim, format!("  {label:<11}")), text);
    }
    match detail {
        Detail::Brief => {
            page.blank();
            stages.iter().for_each(|stage| stage.outline(&mut page));
        }
        Detail::Full => {
            legend(&mut page);
            for stage in &stages {
                page.blank();
                stage.draw(&mut page, stages.len());
            }
        }
    }
    page.blank();
    foot(&mut page, plan, file);
    page.finish()
}

/// A stage with its groups and the number of each: their position when read from top to bottom.
struct NumberedStage<'a> {
    index: usize,
    title: &'a str,
    remains: &'a [String],
    steps: Vec<&'a Step>,
    /// Stages that run at the same time.
    beside: Vec<usize>,
    groups: Vec<Group<'a>>,
    tree: Tree,
    numbers: BTreeMap<usize, usize>,
    stalls: BTreeMap<&'a str, String>,
}

fn numbered(plan: &Plan) -> Vec<NumberedStage<'_>> {
    fn walk(tree: &Tree, numbers: &mut BTreeMap<usize, usize>) {
        match tree {
            Tree::Leaf(group) => {
                numbers.insert(*group, numbers.len() + 1);
            }
            Tree::Series(trees) | Tree::Parallel(trees) => trees.iter().for_each(|tree| walk(tree, numbers)),
        }
    }
    let before = stages_before(plan);
    let with_steps = plan.stages.iter().enumerate().map(|(stage, heading)| {
        let steps: Vec<&Step> = plan.steps.iter().filter(|step| step.stage == stage).collect();
        (stage, heading, steps)
    });
    with_steps
        .map(|(index, heading, steps)| {
            let (groups, tree) = layout(&steps);
            let mut numbers = BTreeMap::new();
            walk(&tree, &mut numbers);
            let stalls =
                steps.iter().filter_map(|step| Some((step.section.as_deref()?, stall_of(plan, step)?))).collect();
            let apart = |other: &usize| {
                let comes_before = |a: usize, b: usize| before.get(&b).is_some_and(|stages| stages.contains(&a));
                *other != index && !comes_before(*other, index) && !comes_before(index, *other)
            };
            let beside = before.keys().copied().filter(apart).collect();
            NumberedStage {
                beside,
                index,
                title: &heading.title,
                remains: &heading.remains,
                steps,
                groups,
                tree,
                numbers,
                stalls,
            }
        })
        .collect()
}

/// For each stage the stages that must have made some progress before it.
fn stages_before(plan: &Plan) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut of_steps: BTreeMap<&StepId, BTreeSet<usize>> = BTreeMap::new();
    let mut of_stages: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for step in &plan.steps {
        let needed = step.needs.iter().filter_map(|need| of_steps.get(need));
        let mut stages: BTreeSet<usize> = needed.flatten().copied().collect();
        of_stages.entry(step.stage).or_default().extend(&stages);
        stages.insert(step.stage);
        of_steps.insert(&step.id, stages);
    }
    of_stages
}

/// What a step's section costs its database's writers.
fn stall_of(plan: &Plan, step: &Step) -> Option<String> {
    let section = step.section.as_deref()?;
    let moved = plan
        .primaries
        .iter()
        .find(|moved| section.split(['.', '/', ' ']).any(|part| part == moved.database.as_str()))?;
    Some(format!(
        "writers of {} wait from here, about {}, at most {}",
        moved.database,
        duration(moved.expected_stall.0),
        duration(moved.max_stall.0)
    ))
}

fn head(page: &mut Page, plan: &Plan) {
    page.item(
        "",
        Text::from("Plan ").with(Tone::Strong, plan.id.as_str()).and(": ").with(Tone::Strong, plan.intent.title()),
    );
    let digest: String = plan.topology.digest.chars().take(12).collect();
    page.item(
        "",
        Text::of(
            Tone::Dim,
            format!(
                "Made {} from topology {} ({digest}). It can be applied once, until {}.",
                moment(plan.created),
                plan.topology.name,
                moment(plan.expires)
            ),
        ),
    );
    if let Some(reason) = &plan.intent.reason {
        page.item("Reason: ", reason.as_str());
    }
    for note in &plan.notes {
        page.item(Text::of(Tone::Warn, "! "), note.as_str());
    }
}

/// What matters before reading on; a line without a label goes on with the one before.
fn glance(plan: &Plan, stages: &[NumberedStage<'_>]) -> Vec<(&'static str, Text)> {
    let mut rows = Vec::new();
    let mut time = Text::of(Tone::Strong, format!("about {}", duration(plan.expected.0)));
    let waits: Vec<String> =
        describe::waits(&plan.steps).iter().map(|(what, time)| format!("{} {what}", duration(*time))).collect();
    if !waits.is_empty() {
        time = time.and(format!(", waiting included: {}", waits.join(", ")));
    }
    rows.push(("takes", time));
    for (index, moved) in plan.primaries.iter().enumerate() {
        let text = Text::of(Tone::Strong, moved.database.as_str())
            .and(format!(": primary {} → {}; writers wait ", moved.from.name(), moved.to.name()))
            .with(Tone::Strong, format!("about {}", duration(moved.expected_stall.0)))
            .and(format!(", at most {} or it is undone", duration(moved.max_stall.0)));
        rows.push((if index == 0 { "databases" } else { "" }, text));
    }
    for (index, failover) in plan.failovers.iter().enumerate() {
        let label = if index == 0 && plan.primaries.is_empty() { "databases" } else { "" };
        let tone = if failover.loss.is_nothing() { Tone::Good } else { Tone::Bad };
        let text = Text::of(Tone::Strong, failover.database.as_str())
            .and(format!(": {} is lost, {} takes over; ", failover.from.name(), failover.to.name()))
            .with(tone, failover.loss.to_string());
        rows.push((label, text));
    }
    for (index, repair) in plan.splits.iter().enumerate() {
        let fenced: Vec<&str> =
            repair.discards.iter().filter(|it| it.takes_writes).map(|it| it.member.name()).collect();
        let fenced = if fenced.is_empty() { String::new() } else { format!(", fenced first: {}", list(&fenced)) };
        let text = Text::of(Tone::Strong, repair.database.as_str())
            .and(format!(": {} survives{fenced}; ", repair.survivor.name()))
            .with(Tone::Bad, repair.to_string());
        rows.push((if index == 0 { "databases" } else { "" }, text));
    }
    if plan.primaries.is_empty() && plan.failovers.is_empty() && plan.splits.is_empty() {
        rows.push(("databases", "no primary moves; writers notice nothing".into()));
    }
    rows.push(("touches", touches(plan).into()));
    let points: Vec<String> = stages.iter().flat_map(NumberedStage::points_of_no_return).collect();
    let rebuilds = |step: &&Step| matches!(&step.work, Work::Act { action: Action::Rebuild { .. }, .. });
    let rebuilt = plan.steps.iter().filter(rebuilds).count();
    let text = match points.as_slice() {
        [] if rebuilt > 0 => Text::from("what is rebuilt is not undone; ").with(Tone::Bad, count(rebuilt, "member")),
        [] if !fences(plan) => Text::of(Tone::Good, "every step can be undone"),
        [] => Text::from("everything else can be undone"),
        [one] => {
            Text::from("everything can be undone until step ").with(Tone::Bad, format!("{one}, the point of no return"))
        }
        many => {
            let points = format!("{}, the points of no return", list(many));
            Text::from("everything can be undone until steps ").with(Tone::Bad, points)
        }
    };
    let text = if fences(plan) { text.with(Tone::Bad, "; what is cut off stays cut off") } else { text };
    rows.push(("way back", text));
    // What a run both makes and releases is there only in case that it is cut short.
    let releases = plan.releases.iter().filter(|hold| !plan.holds.contains(hold));
    for (index, hold) in releases.enumerate() {
        rows.push((if index == 0 { "releases" } else { "" }, format!("the hold: {}", hold.what()).into()));
    }
    let holds = plan.holds.iter().filter(|hold| !plan.releases.contains(hold));
    for (index, hold) in holds.enumerate() {
        let text = format!("{} until {}", hold.what(), command(&hold.ended_by()));
        rows.push((if index == 0 { "leaves" } else { "" }, text.into()));
    }
    rows
}

/// The targets that it changes.
fn touched(plan: &Plan) -> impl Iterator<Item = &TargetId> {
    plan.steps.iter().filter_map(|step| match &step.work {
        Work::Act { target, .. } => Some(target),
        _ => None,
    })
}

/// True where something is cut off, or kept down, that no undo brings back.
fn fences(plan: &Plan) -> bool {
    let cuts = |step: &Step| {
        let fence =
            matches!(&step.work, Work::Act { action: Action::Fence { .. } | Action::Keep { .. } | Action::Stop, .. });
        fence && matches!(step.undo, Undo::Impossible { .. })
    };
    plan.steps.iter().any(cuts)
}

fn touches(plan: &Plan) -> String {
    match describe::kinds(touched(plan)) {
        nothing if nothing == "nothing" => "nothing; it only checks".to_owned(),
        kinds => kinds,
    }
}

fn legend(page: &mut Page) {
    page.blank();
    let marks = [
        ("~", Tone::Change, "changes"),
        ("+", Tone::Good, "starts"),
        ("-", Tone::Bad, "stops"),
        ("?", Tone::Warn, "gate (go, hold or retreat)"),
        (".", Tone::Dim, "waits"),
        ("=", Tone::Good, "checks"),
        ("!", Tone::Bad, "point of no return"),
    ];
    let mut text = Text::new();
    for (index, (mark, tone, words)) in marks.into_iter().enumerate() {
        let before = if index > 0 { " │ " } else { "" };
        text = text.with(Tone::Dim, before).with(tone, mark).and(format!("\u{a0}{}", words.replace(' ', "\u{a0}")));
    }
    page.item("  ", text);
}

impl NumberedStage<'_> {
    fn draw(&self, page: &mut Page, stages: usize) {
        let title = Text::of(Tone::Strong, format!("Stage {} of {stages}: {}", self.index + 1, self.title));
        page.ends(title, Text::of(Tone::Dim, format!("about {}", duration(self.expected()))));
        page.line(Text::of(Tone::Dim, "─".repeat(page.width())));
        if !self.beside.is_empty() {
            let stages = if self.beside.len() == 1 { "stage" } else { "stages" };
            let numbers = list(self.beside.iter().map(|stage| stage + 1));
            let verb = if self.beside.len() == 1 { "runs" } else { "run" };
            page.item(Text::of(Tone::Dim, "  beside:  "), format!("{stages} {numbers} {verb} at the same time"));
        }
        for (index, line) in self.remains.iter().enumerate() {
            let label = if index == 0 { "  remains: " } else { "           " };
            page.item(Text::of(Tone::Dim, label), line.as_str());
        }
        page.within("  ".into(), |page| self.tree(page, &self.tree, None));
    }

    /// The stage in one line.
    fn outline(&self, page: &mut Page) {
        let title = Text::from(format!("  {:>2}. {}", self.index + 1, self.title));
        page.ends(title, Text::of(Tone::Dim, format!("about {}", duration(self.expected()))));
    }

    /// The longest way through the stage.
    fn expected(&self) -> Duration {
        let mut ends: BTreeMap<&StepId, Duration> = BTreeMap::new();
        for step in &self.steps {
            let begins = step.needs.iter().filter_map(|need| ends.get(need)).max().copied().unwrap_or_default();
            ends.insert(&step.id, begins + step.expected.0);
        }
        ends.into_values().max().unwrap_or_default()
    }

    /// Its groups with their numbers, in the order in which they are read.
    fn in_order(&self) -> Vec<(String, usize, &Group<'_>)> {
        let mut groups: Vec<(usize, usize, &Group<'_>)> = self
            .numbers
            .iter()
            .filter_map(|(index, number)| Some((*number, *index, self.groups.get(*index)?)))
            .collect();
        groups.sort_by_key(|(number, ..)| *number);
        let numbered = |(number, index, group)| (format!("{}.{number}", self.index + 1), index, group);
        groups.into_iter().map(numbered).collect()
    }

    /// The numbers of the steps behind which there is no way back.
    fn points_of_no_return(&self) -> Vec<String> {
        let groups = self.in_order().into_iter();
        groups.filter(|(_, _, group)| group.step.point_of_no_return).map(|(number, ..)| number).collect()
    }

    /// What is said of how a step is taken back, where that needs saying.
    fn way_back(&self, step: &Step) -> Option<String> {
        match step.undo {
            Undo::Nothing => None,
            Undo::Act { .. } => Some(format!("undo: {}", describe::undo(step))),
            // Behind the point of no return it goes without saying.
            Undo::Impossible { .. } if !step.point_of_no_return && self.has_point_of_no_return() => None,
            Undo::Impossible { .. } => Some(describe::undo(step)),
        }
    }

    fn has_point_of_no_return(&self) -> bool {
        self.steps.iter().any(|step| step.point_of_no_return)
    }

    /// Draws a tree that stands in the frame of the section `inside`.
    fn tree(&self, page: &mut Page, tree: &Tree, inside: Option<&str>) {
        match tree {
            Tree::Leaf(group) => self.series(page, &[Tree::Leaf(*group)], inside),
            Tree::Series(trees) => self.series(page, trees, inside),
            Tree::Parallel(lanes) => {
                page.line(Text::of(Tone::Dim, "┌ at the same time"));
                for (index, lane) in lanes.iter().enumerate() {
                    if index > 0 {
                        page.line(Text::of(Tone::Dim, "├"));
                    }
                    page.within(Text::of(Tone::Dim, "│ "), |page| self.tree(page, lane, inside));
                }
                page.line(Text::of(Tone::Dim, "└"));
            }
        }
    }

    /// Trees one after the other; those of one section stand in a frame.
    fn series(&self, page: &mut Page, trees: &[Tree], inside: Option<&str>) {
        let mut rest = trees;
        while let Some(first) = rest.first() {
            let section = self.section(first);
            let length = rest.iter().take_while(|tree| self.section(tree) == section).count();
            let (part, after) = rest.split_at(length);
            rest = after;
            match section {
                _ if section == inside => part.iter().for_each(|tree| self.one(page, tree, inside)),
                None => part.iter().for_each(|tree| self.one(page, tree, None)),
                Some(section) => {
                    let text = self.stalls.get(section).map_or("one section", String::as_str);
                    page.framed(
                        Text::of(Tone::Warn, "╔ "),
                        Text::of(Tone::Warn, "║ "),
                        Text::of(Tone::Warn, format!("{text}: these steps stand or fall together")),
                    );
                    let steps = |page: &mut Page| part.iter().for_each(|tree| self.one(page, tree, Some(section)));
                    page.within(Text::of(Tone::Warn, "║ "), steps);
                    page.line(Text::of(Tone::Warn, "╚"));
                }
            }
        }
    }

    fn one(&self, page: &mut Page, tree: &Tree, inside: Option<&str>) {
        match tree {
            Tree::Leaf(group) => self.group(page, *group),
            other => self.tree(page, other, inside),
        }
    }

    /// The section that a whole tree belongs to.
    fn section(&self, tree: &Tree) -> Option<&str> {
        match tree {
            Tree::Leaf(group) => self.groups.get(*group)?.step.section.as_deref(),
            Tree::Series(trees) | Tree::Parallel(trees) => {
                let first = self.section(trees.first()?)?;
                trees.iter().all(|tree| self.section(tree) == Some(first)).then_some(first)
            }
        }
    }

    fn group(&self, page: &mut Page, index: usize) {
        let (Some(group), Some(number)) = (self.groups.get(index), self.numbers.get(&index)) else { return };
        let step = group.step;
        if step.point_of_no_return {
            let text = " POINT OF NO RETURN: from here on it only goes forward ";
            let rule = "━".repeat(page.width().saturating_sub(text.len() + 3));
            page.item("", Text::of(Tone::Bad, format!("━━!{text}{rule}")));
        }
        let (symbol, tone) = mark(step);
        let mark =
            Text::of(Tone::Dim, format!("{:>5} ", format!("{}.{number}", self.index + 1))).with(tone, symbol).and(" ");
        let mut title = Text::of(Tone::Strong, group.title());
        if group.steps.len() > 1 {
            title = title.with(Tone::Dim, format!("  ({} at once)", group.steps.len()));
        }
        page.ends_item(mark, title, Text::of(Tone::Dim, duration(step.expected.0)));
        for line in describe::details(step) {
            page.item("        ", line);
        }
        page.item("        ", Text::of(Tone::Dim, group.why()));
        if let Some(way_back) = self.way_back(step) {
            let tone = if matches!(step.undo, Undo::Impossible { .. }) { Tone::Bad } else { Tone::Dim };
            page.item("        ", Text::of(tone, way_back));
        }
    }
}

/// "24 changes, 5 gates and 3 checks".
fn kinds_of_steps(plan: &Plan) -> String {
    let kinds = |kind: fn(&Work) -> bool| plan.steps.iter().filter(|step| kind(&step.work)).count();
    let acts = kinds(|work| matches!(work, Work::Act { .. } | Work::Release { .. }));
    let gates = kinds(|work| matches!(work, Work::Gate { .. }));
    let waits = kinds(|work| matches!(work, Work::Wait { .. }));
    let checks = kinds(|work| matches!(work, Work::Verify));
    let parts = [(acts, "change"), (gates, "gate"), (waits, "wait"), (checks, "check")];
    list(parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(*number, what)))
}

/// The symbol that a step has in every form.
fn mark(step: &Step) -> (&'static str, Tone) {
    if step.point_of_no_return { ("!", Tone::Bad) } else { describe::symbol(step) }
}

fn foot(page: &mut Page, plan: &Plan, file: Option<&str>) {
    let parts = kinds_of_steps(plan);
    let steps = Text::of(Tone::Strong, count(plan.steps.len(), "step"));
    page.item("", steps.and(format!(": {parts}; about {}.", duration(plan.expected.0))));
    if let Some(file) = file {
        page.item(
            "",
            Text::from("Saved as ")
                .and(file)
                .and("; a plan touches nothing until it is applied. To carry it out: ")
                .with(Tone::Strong, format!("handover\u{a0}apply\u{a0}{file}")),
        );
    }
}

#[cfg(test)]
mod tests;
