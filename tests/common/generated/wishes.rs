//! Random wishes of the command line.

use handover::model::{Percent, PrimaryPlace, ServiceName};
use handover::plan::Intent;
use handover::topology::Topology;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{divided, pick};

/// What an operator asks for; indices count what there is.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    drain: Vec<usize>,
    restore: Vec<usize>,
    failback: bool,
    primary: Vec<(usize, Place)>,
    share: Vec<(usize, Option<Vec<u32>>)>,
    lower_ttl: Vec<usize>,
    raise_ttl: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    File,
    Facility(usize),
    Member(usize),
}

fn places() -> impl Strategy<Value = Place> {
    prop_oneof![(0usize..5).prop_map(Place::Member), (0usize..5).prop_map(Place::Facility), Just(Place::File),]
}

prop_compose! {
    fn several()(
        drain in vec(0usize..5, 0..=2),
        restore in vec(0usize..5, 0..=2),
        failback in any::<bool>(),
        primary in vec((0usize..3, places()), 0..=2),
        share in vec((0usize..3, prop::option::weighted(0.7, vec(0u32..=10, 4))), 0..=2),
        lower_ttl in vec(0usize..3, 0..=1),
        raise_ttl in vec(0usize..3, 0..=1),
    ) -> Wish {
        Wish { drain, restore, failback, primary, share, lower_ttl, raise_ttl }
    }
}

/// Any wish: mostly one at a time.
pub fn wishes() -> impl Strategy<Value = Wish> {
    let one = || vec(0usize..5, 1);
    prop_oneof![
        6 => one().prop_map(|drain| Wish { drain, ..Wish::default() }),
        4 => (one(), any::<bool>()).prop_map(|(restore, failback)| Wish { restore, failback, ..Wish::default() }),
        3 => vec((0usize..3, places()), 1).prop_map(|primary| Wish { primary, ..Wish::default() }),
        2 => vec((0usize..3, prop::option::weighted(0.7, vec(0u32..=10, 4))), 1)
            .prop_map(|share| Wish { share, ..Wish::default() }),
        1 => vec(0usize..3, 1).prop_map(|lower_ttl| Wish { lower_ttl, ..Wish::default() }),
        1 => Just(Wish::default()),
        3 => several(),
    ]
}

impl Wish {
    /// It, said of a topology.
    pub fn intent(&self, topology: &Topology) -> Intent {
        let facilities: Vec<_> = topology.facilities.keys().cloned().collect();
        let databases: Vec<_> = topology.databases.keys().cloned().collect();
        let services: Vec<ServiceName> = topology.services.keys().cloned().collect();
        let of = |wanted: &[usize]| wanted.iter().filter_map(|index| pick(&facilities, *index).cloned()).collect();
        let ttls = |wanted: &[usize]| wanted.iter().filter_map(|index| pick(&services, *index).cloned()).collect();
        let place = |database: &handover::model::DatabaseName, place: Place| match place {
            Place::File => None,
            Place::Facility(index) => pick(&facilities, index).cloned().map(PrimaryPlace::Facility),
            Place::Member(index) => {
                let members: Vec<&String> = topology.databases.get(database)?.members.keys().collect();
                pick(&members, index).map(|name| PrimaryPlace::Member((*name).clone()))
            }
        };
        let shares = |service: &ServiceName, parts: &[u32]| {
            let declared = topology.services.get(service).map(|service| &service.share).cloned().unwrap_or_default();
            let parts: Vec<u32> = declared.keys().zip(parts.iter().cycle()).map(|(_, part)| *part).collect();
            declared.into_keys().zip(divided(&parts).into_iter().map(Percent::from_basis_points)).collect()
        };
        let restore = of(&self.restore);
        Intent {
            drain: of(&self.drain),
            failback: self.failback && !self.restore.is_empty(),
            restore,
            primary: self
                .primary
                .iter()
                .filter_map(|(index, at)| {
                    let name = pick(&databases, *index)?.clone();
                    let at = place(&name, *at);
                    Some((name, at))
                })
                .collect(),
            share: self
                .share
                .iter()
                .filter_map(|(index, parts)| {
                    let name = pick(&services, *index)?.clone();
                    let shares = parts.as_ref().map(|parts| shares(&name, parts));
                    Some((name, shares))
                })
                .collect(),
            lower_ttl: ttls(&self.lower_ttl),
            raise_ttl: ttls(&self.raise_ttl),
            ..Intent::default()
        }
    }
}
