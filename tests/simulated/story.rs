//! A random case: a topology, the state that it is in, and what an operator wishes.

use std::fmt;
use std::sync::Arc;

use handover::model::Action;
use handover::plan::{HoldKind, Intent, Plan, Planned, Work, make};
use handover::rehearse::sim::World;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::carry_out::{act, holds_after};
use crate::generated::{Quirk, Sketch, Wish, disturb, quirks, sketches, wishes};
use crate::healthy::read;

/// A topology, what was wished there before, what is not as it should be, and what is wished now, one after the other.
#[derive(Clone)]
pub struct Story {
    sketch: Sketch,
    before: Vec<Wish>,
    quirks: Vec<Quirk>,
    pub wishes: Vec<Wish>,
    /// For choices that need not shrink.
    pub seed: u64,
}

/// Stories of so many wishes.
pub fn stories(most: usize) -> impl Strategy<Value = Story> {
    let quirks = prop_oneof![2 => Just(Vec::new()), 1 => vec(quirks(), 1..=3)];
    let parts = (sketches(), vec(wishes(), 0..=2), quirks, vec(wishes(), 1..=most), any::<u64>());
    parts.prop_map(|(sketch, before, quirks, wishes, seed)| Story { sketch, before, quirks, wishes, seed })
}

/// A moment of a story: the world, and what is held in it.
pub struct Scene {
    pub world: World,
    pub holds: Vec<HoldKind>,
    /// What is not as it should be.
    quirks: Vec<String>,
}

impl Story {
    /// Whether name servers publish who is in charge: in a third of the cases.
    fn told(&self) -> bool {
        self.seed.is_multiple_of(3)
    }

    /// How things are before the wishes.
    pub fn scene(&self) -> Result<Scene, String> {
        let topology = Arc::new(read(&self.sketch.text()));
        let world = World::healthy(topology).map_err(|refusals| format!("no healthy world: {refusals:?}"))?;
        let mut scene = Scene { world, holds: Vec::new(), quirks: Vec::new() };
        // Whom members follow and how many confirm is as the file says only once a plan has seen to it.
        scene.settle(&Intent::default())?;
        if self.told() {
            scene.settle(&Intent { publish_epoch: true, ..Intent::default() })?;
        }
        for wish in &self.before {
            let intent = wish.intent(&scene.world.topology);
            scene.settle(&intent)?;
        }
        scene.quirks = self.quirks.iter().filter_map(|quirk| disturb(&mut scene.world, quirk)).collect();
        Ok(scene)
    }
}

/// A moment of planning.
fn now() -> jiff::Timestamp {
    "2026-11-23T06:15:00Z".parse().unwrap_or_default()
}

impl Scene {
    /// A plan of what is there now.
    pub fn planned(&self, intent: &Intent) -> Planned {
        make(&self.world.topology, intent, &self.holds, &self.world.live, now())
    }

    /// Carries a wish out, if it can be had, in the plan's own order.
    fn settle(&mut self, intent: &Intent) -> Result<(), String> {
        if let Planned::Plan(plan) = self.planned(intent) {
            plan.steps.iter().try_for_each(|step| act(&mut self.world, step))?;
            self.ends(&plan);
        }
        Ok(())
    }

    /// A run of this plan has ended well.
    pub fn ends(&mut self, plan: &Plan) {
        self.holds = holds_after(&self.holds, &plan.holds, &plan.releases);
    }

    /// Nothing is left to do.
    pub fn is_settled(&self) -> Result<(), String> {
        settled(&self.planned(&Intent::default()))
    }
}

/// How many plans may follow by themselves: no switchover waits until a member that was stopped is rebuilt, and whom the file wants under
/// another member gets there from the new primary.
pub const LATER: usize = 2;

/// Whether members become replicas anew.
pub fn rebuilds(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step.work, Work::Act { action: Action::Rebuild { .. }, .. }))
}

/// Nothing was found to do.
pub fn settled(planned: &Planned) -> Result<(), String> {
    match planned {
        Planned::Nothing(_) => Ok(()),
        Planned::Plan(plan) => {
            let steps: Vec<String> = plan.steps.iter().map(|step| format!("{}: {}", step.id, step.title)).collect();
            Err(format!("there is more to do: {steps:#?}, holds {:?}, releases {:?}", plan.holds, plan.releases))
        }
        Planned::Refused(refusals) => Err(format!("the next plan is refused: {refusals:#?}")),
    }
}

/// As an operator would tell it.
impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.sketch.text();
        writeln!(f, "{text}")?;
        let topology = read(&text);
        let title = |wish: &Wish| wish.intent(&topology).title();
        writeln!(f, "told who is in charge: {}", self.told())?;
        writeln!(f, "before: {:?}", self.before.iter().map(title).collect::<Vec<_>>())?;
        match self.scene() {
            Ok(scene) => writeln!(f, "state: {:?}, holds {:?}", scene.quirks, scene.holds)?,
            Err(why) => writeln!(f, "state: {why}")?,
        }
        writeln!(f, "wishes: {:?}", self.wishes.iter().map(title).collect::<Vec<_>>())?;
        write!(f, "seed: {}", self.seed)
    }
}
