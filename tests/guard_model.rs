//! A model of who acts on a critical section: the process that carries the run out, its guard, and an operator who goes on with the run.
//! Each may die at every moment; what it has said may be carried out long after its death. All states are visited.
//!
//! What is modelled is the protocol of `docs/safety.md`, "Who acts": the lock's token and the number of each permit, death before a
//! take-over, words that are called off, a second look. Where one of them is left out the model finds what goes wrong.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Who {
    Run,
    Guard,
    Operator,
}

/// What is said to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Word {
    Pause,
    Fence,
    Promote,
    Withdraw,
    Unfence,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Absent,
    Lives,
    /// Killed: what it was doing may still happen.
    Dying,
    Dead,
}

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// The run before its section; the guard and the operator before they take over.
    Begin,
    /// About to record that the section is begun.
    Open,
    /// About to call off what was said to a member before.
    CallOff(Place),
    Observe,
    Say(Word),
    Await(Word),
    /// About to record the intent to promote.
    Intend,
    /// Waits until nothing can come late any more, and looks again.
    Look,
    /// About to record the section's end.
    End,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    life: Life,
    at: At,
    /// Of its permit.
    number: u8,
    /// It promotes, and does not go back.
    forward: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Old,
    Candidate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Primary,
    Replica,
    Stopped,
}

/// A member and what happens on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Member {
    role: Role,
    /// Words below this number are void; a fence also with it.
    void: u8,
    /// The one call that holds the lock.
    at_work: Option<(Word, u8)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    processes: [Process; 3],
    armed: bool,
    /// How often an operator may still go on with the run.
    operators: u8,
    /// The journal: who holds the lock, the last number, and what is recorded.
    holder: Who,
    number: u8,
    open: bool,
    committed: bool,
    /// Whether all of it was done.
    ended: Option<bool>,
    paused: bool,
    old: Member,
    candidate: Member,
    wire: BTreeSet<(Word, u8)>,
}

/// What is left out of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The guard acts as soon as it has killed, and does not wait for the end.
    DoesNotWaitForTheEnd,
    /// The guard takes the lock from whoever holds it.
    TakesAnyLock,
    /// Members do what they are told, however old it is.
    NothingIsCalledOff,
    /// What has been undone is not looked at again.
    DoesNotLookAgain,
    /// The end is recorded before it was looked again.
    RecordsTheEndFirst,
    /// After the intent, a candidate that is no primary is taken for one that was not promoted.
    GoesBackWithoutWithdrawing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Act(Who),
    GiveUp(Who),
    /// Delivered; on a machine it begins.
    Arrive(Word, u8),
    /// What is at work on a machine ends.
    Ends(Place),
    Dies(Who),
    Kill,
    Gone,
    Goes,
}

struct Protocol(Flaw);

impl World {
    fn of(&self, who: Who) -> &Process {
        &self.processes[who as usize]
    }

    fn of_mut(&mut self, who: Who) -> &mut Process {
        &mut self.processes[who as usize]
    }

    fn dead(&self, who: Who) -> bool {
        self.of(who).life == Life::Dead
    }

    /// It may do something to targets or journal.
    fn acts(&self, who: Who) -> bool {
        let process = self.of(who);
        let begun = who == Who::Run || process.at != At::Begin;
        matches!(process.life, Life::Lives | Life::Dying) && begun && process.at != At::Finished
    }

    fn member(&mut self, place: Place) -> &mut Member {
        match place {
            Place::Old => &mut self.old,
            Place::Candidate => &mut self.candidate,
        }
    }

    /// What was said has been answered, and has had its effect.
    fn answered(&self, word: Word, number: u8) -> bool {
        let over = !self.wire.contains(&(word, number))
            && [self.old, self.candidate].iter().all(|member| member.at_work != Some((word, number)));
        over && match word {
            Word::Pause => self.paused,
            Word::Fence => self.old.role == Role::Stopped,
            Word::Promote => self.candidate.role == Role::Primary,
            Word::Withdraw => self.candidate.role == Role::Stopped,
            Word::Unfence => self.old.role == Role::Primary,
            Word::Resume => !self.paused,
        }
    }
}

/// Where a word is carried out on a machine, one at a time.
fn place(word: Word) -> Option<Place> {
    match word {
        Word::Fence | Word::Unfence => Some(Place::Old),
        Word::Withdraw => Some(Place::Candidate),
        Word::Pause | Word::Promote | Word::Resume => None,
    }
}

impl Protocol {
    /// The next step of a process; false if it waits.
    fn act(&self, world: &mut World, who: Who) -> bool {
        let flaw = self.0;
        let process = *world.of(who);
        let number = process.number;
        let at = match process.at {
            At::Begin if who == Who::Run => {
                world.armed = true;
                At::Open
            }
            At::Begin => {
                if world.ended.is_some() {
                    At::Finished
                } else if world.dead(world.holder) || flaw == Flaw::TakesAnyLock || flaw == Flaw::DoesNotWaitForTheEnd {
                    // The guard takes it from the one that it has watched over, and from nobody else.
                    let taken = who == Who::Operator || world.holder == Who::Run || flaw == Flaw::TakesAnyLock;
                    if taken {
                        world.holder = who;
                        if world.open { At::Open } else { At::Finished }
                    } else {
                        At::Finished
                    }
                } else if world.holder == Who::Run || who == Who::Operator {
                    return false;
                } else {
                    At::Finished
                }
            }
            // Whoever has lost the lock gets no permit.
            At::Open | At::Intend | At::End if world.holder != who => At::Finished,
            At::Open => {
                world.number += 1;
                world.open = true;
                world.of_mut(who).number = world.number;
                match who {
                    Who::Run => At::Say(Word::Pause),
                    _ if world.committed => At::CallOff(Place::Old),
                    _ => At::Say(Word::Unfence),
                }
            }
            At::CallOff(place) => {
                let member = world.member(place);
                if member.at_work.is_some() {
                    return false;
                }
                member.void = number;
                if place == Place::Old { At::CallOff(Place::Candidate) } else { At::Observe }
            }
            At::Observe => match (world.candidate.role, world.old.role) {
                (Role::Primary, _) => {
                    world.of_mut(who).forward = true;
                    At::Say(Word::Resume)
                }
                (Role::Replica, Role::Stopped) if flaw != Flaw::GoesBackWithoutWithdrawing => At::Say(Word::Promote),
                (Role::Replica, _) if flaw == Flaw::GoesBackWithoutWithdrawing => At::Say(Word::Unfence),
                _ => At::Say(Word::Withdraw),
            },
            At::Say(word) => {
                world.wire.insert((word, number));
                At::Await(word)
            }
            At::Await(word) => {
                if !world.answered(word, number) {
                    return false;
                }
                match word {
                    Word::Pause => At::Say(Word::Fence),
                    Word::Fence => At::Intend,
                    Word::Promote => {
                        world.of_mut(who).forward = true;
                        At::Say(Word::Resume)
                    }
                    Word::Withdraw => At::Say(Word::Unfence),
                    Word::Unfence => At::Say(Word::Resume),
                    Word::Resume if world.ended.is_some() => At::Finished,
                    Word::Resume if who == Who::Run || flaw == Flaw::DoesNotLookAgain => At::End,
                    Word::Resume if flaw == Flaw::RecordsTheEndFirst => At::End,
                    Word::Resume => At::Look,
                }
            }
            At::Intend => {
                world.committed = true;
                At::Say(Word::Promote)
            }
            At::Look => {
                // What was on the wire when its sender died has come, or never will.
                if world.wire.iter().any(|(word, _)| *word == Word::Pause) {
                    return false;
                }
                match (world.paused, world.ended) {
                    (true, _) => At::Say(Word::Resume),
                    (false, None) => At::End,
                    (false, Some(_)) => At::Finished,
                }
            }
            At::End => {
                world.ended = Some(process.forward);
                if who == Who::Run {
                    world.armed = false;
                }
                if who != Who::Run && flaw == Flaw::RecordsTheEndFirst { At::Look } else { At::Finished }
            }
            At::Finished => return false,
        };
        world.of_mut(who).at = at;
        true
    }

    /// What follows when an answer does not come in time.
    fn give_up(world: &mut World, who: Who) -> bool {
        let process = *world.of(who);
        let At::Await(word) = process.at else { return false };
        let next = match word {
            // Its own session ends it.
            Word::Pause if !world.wire.contains(&(word, process.number)) => Word::Unfence,
            Word::Fence => Word::Unfence,
            Word::Promote => Word::Withdraw,
            // Said until it is so.
            _ => return false,
        };
        world.of_mut(who).at = At::Say(next);
        true
    }

    fn arrive(&self, world: &mut World, word: Word, number: u8) -> bool {
        match (place(word), word) {
            (Some(place), _) => {
                let heeded = self.0 != Flaw::NothingIsCalledOff;
                let member = world.member(place);
                if member.at_work.is_some() {
                    return false;
                }
                let void = number < member.void || (word == Word::Fence && number <= member.void);
                if !(void && heeded) {
                    if word == Word::Unfence {
                        member.void = number;
                    }
                    member.at_work = Some((word, number));
                }
            }
            (None, Word::Pause) => world.paused = true,
            (None, Word::Promote) if world.candidate.role == Role::Replica => world.candidate.role = Role::Primary,
            (None, Word::Promote) => {}
            (None, _) => world.paused = false,
        }
        world.wire.remove(&(word, number))
    }

    fn ends(world: &mut World, place: Place) -> bool {
        let Some((word, _)) = world.member(place).at_work.take() else { return false };
        let role = if word == Word::Unfence { Role::Primary } else { Role::Stopped };
        world.member(place).role = role;
        if word == Word::Withdraw {
            // The sessions of a server end with it.
            world.wire.retain(|(word, _)| *word != Word::Promote);
        }
        true
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let process = |life| Process { life, at: At::Begin, number: 0, forward: false };
        let member = |role| Member { role, void: 0, at_work: None };
        vec![World {
            processes: [process(Life::Lives), process(Life::Lives), process(Life::Absent)],
            armed: false,
            operators: 2,
            holder: Who::Run,
            number: 0,
            open: false,
            committed: false,
            ended: None,
            paused: false,
            old: member(Role::Primary),
            candidate: member(Role::Replica),
            wire: BTreeSet::new(),
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let possible = |step: &Step| self.next_state(world, *step).is_some();
        let all = [Who::Run, Who::Guard, Who::Operator];
        let mut candidates: Vec<Step> = Vec::new();
        for who in all {
            candidates.extend([Step::Act(who), Step::GiveUp(who), Step::Dies(who)]);
        }
        candidates.extend(world.wire.iter().map(|(word, number)| Step::Arrive(*word, *number)));
        candidates.extend([Step::Ends(Place::Old), Step::Ends(Place::Candidate), Step::Kill, Step::Gone, Step::Goes]);
        steps.extend(candidates.into_iter().filter(possible));
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        let able = |world: &World, who: Who| {
            let process = world.of(who);
            match who {
                // It may be stopped (SIGSTOP) between any two steps: that is the same as being slow.
                Who::Run => matches!(process.life, Life::Lives | Life::Dying),
                // It does something only in place of one that it has ended, or found ended.
                Who::Guard => {
                    let ended = match self.0 {
                        Flaw::DoesNotWaitForTheEnd => world.of(Who::Run).life != Life::Lives,
                        _ => world.dead(Who::Run),
                    };
                    process.life == Life::Lives && world.armed && ended
                }
                Who::Operator => process.life == Life::Lives,
            }
        };
        let done = match step {
            Step::Act(who) => able(&world, who) && self.act(&mut world, who),
            Step::GiveUp(who) => able(&world, who) && Self::give_up(&mut world, who),
            Step::Arrive(word, number) => self.arrive(&mut world, word, number),
            Step::Ends(place) => Self::ends(&mut world, place),
            Step::Dies(who) => {
                let process = world.of_mut(who);
                let may = process.life == Life::Lives && process.at != At::Finished;
                process.life = Life::Dead;
                may
            }
            // The guard takes silence for death, rightly or not.
            Step::Kill => {
                let guard = world.of(Who::Guard).life == Life::Lives;
                let run = world.of_mut(Who::Run);
                let may = guard && run.life == Life::Lives && run.at != At::Finished;
                run.life = Life::Dying;
                may && world.armed
            }
            Step::Gone => {
                let run = world.of_mut(Who::Run);
                let may = run.life == Life::Dying;
                run.life = Life::Dead;
                may
            }
            // Somebody goes on with a run whose holder is certainly dead.
            Step::Goes => {
                let may = world.operators > 0
                    && world.open
                    && world.ended.is_none()
                    && world.dead(world.holder)
                    && matches!(world.of(Who::Operator).life, Life::Absent | Life::Dead);
                world.operators = world.operators.saturating_sub(1);
                *world.of_mut(Who::Operator) = Process { life: Life::Lives, at: At::Begin, number: 0, forward: false };
                may
            }
        };
        done.then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two primaries", |_, world: &World| {
                !(world.old.role == Role::Primary && world.candidate.role == Role::Primary)
            }),
            Property::always("never two who act", |_, world: &World| {
                [Who::Run, Who::Guard, Who::Operator].iter().filter(|who| world.acts(**who)).count() <= 1
            }),
            Property::always("what is undone is never promoted, what is done is never undone", |_, world: &World| {
                match world.ended {
                    Some(true) => world.candidate.role == Role::Primary && world.old.role == Role::Stopped,
                    Some(false) => world.candidate.role != Role::Primary,
                    None => true,
                }
            }),
            Property::always("in the end nobody waits, if anybody who could help lives", |model, world: &World| {
                let mut steps = Vec::new();
                model.actions(world, &mut steps);
                // Whoever ended the section answers for it; if that one has died, the next one does.
                let nobody = world.operators == 0 && world.dead(world.holder);
                let primary = world.old.role == Role::Primary || world.candidate.role == Role::Primary;
                !steps.is_empty() || nobody || (!world.paused && primary)
            }),
            Property::sometimes("a guard completes", |_, world: &World| {
                world.ended == Some(true) && world.holder == Who::Guard
            }),
            Property::sometimes("a guard undoes", |_, world: &World| {
                world.ended == Some(false) && world.holder == Who::Guard
            }),
            Property::sometimes("an operator goes on after both have died", |_, world: &World| {
                world.ended.is_some() && world.holder == Who::Operator && world.dead(Who::Guard)
            }),
        ]
    }
}

/// The properties that do not hold.
fn broken(flaw: Flaw) -> BTreeSet<&'static str> {
    let checker = Protocol(flaw).checker();
    let checker = if flaw == Flaw::None { checker } else { checker.finish_when(HasDiscoveries::AnyFailures) };
    let checker = checker.spawn_bfs().join();
    let found = checker.discoveries();
    let wanted = |property: &Property<Protocol>| {
        let found = found.contains_key(property.name);
        if property.expectation == stateright::Expectation::Sometimes { !found } else { found }
    };
    println!("{flaw:?}: {} states", checker.unique_state_count());
    for (name, path) in &found {
        if flaw == Flaw::None && !["a guard", "an oper"].iter().any(|begin| name.starts_with(begin)) {
            println!("{name}: {:#?}", path.clone().into_actions());
        }
    }
    Protocol(flaw).properties().iter().filter(|property| wanted(property)).map(|property| property.name).collect()
}

#[test]
fn one_acts_at_a_time_and_nobody_is_left_waiting() {
    assert_eq!(broken(Flaw::None), BTreeSet::new());
}

#[test]
fn every_part_of_the_protocol_is_needed() {
    for (flaw, lost) in [
        (Flaw::DoesNotWaitForTheEnd, "never two who act"),
        (Flaw::TakesAnyLock, "never two who act"),
        (Flaw::NothingIsCalledOff, "in the end nobody waits, if anybody who could help lives"),
        (Flaw::DoesNotLookAgain, "in the end nobody waits, if anybody who could help lives"),
        (Flaw::RecordsTheEndFirst, "in the end nobody waits, if anybody who could help lives"),
        (Flaw::GoesBackWithoutWithdrawing, "never two primaries"),
    ] {
        let broken = broken(flaw);
        assert!(broken.contains(lost), "{flaw:?} breaks only {broken:?}");
    }
}
