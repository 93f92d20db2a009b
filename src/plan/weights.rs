//! From shares to weights and back. Pure.

use std::collections::BTreeMap;

use crate::model::{Admission, FacilityName, ForeignName, Percent, Rate, ServerSetting};

/// A server that takes part in a share.
#[derive(Clone, Debug, PartialEq)]
pub struct Participant {
    /// Its facility.
    pub facility: FacilityName,
    /// What it can serve, where known: the facility's share is divided in this proportion, evenly where any is unknown.
    pub capacity: Option<Rate>,
}

/// Largest weight that is tried first, because people read it as a percentage.
const READABLE: u32 = 100;

/// How far a facility's share may be off before finer weights are used, in hundredths of a percent.
const TOLERANCE: u32 = 50;

/// Weights by which each facility's servers get its share, none above `max_weight`. A facility whose share is above zero gets at least
/// weight 1 for each server; one whose share is zero gets 0.
pub fn weights(
    shares: &BTreeMap<FacilityName, Percent>,
    servers: &BTreeMap<ForeignName, Participant>,
    max_weight: u32,
) -> BTreeMap<ForeignName, u32> {
    let totals = totals(servers);
    let parts: BTreeMap<&ForeignName, f64> =
        servers.iter().map(|(name, server)| (name, part(shares, &totals, server))).collect();
    let readable = scaled(&parts, READABLE.min(max_weight));
    let off = |weights: &BTreeMap<ForeignName, u32>| {
        let real = facility_shares(servers, weights);
        shares.iter().map(|(facility, share)| real.get(facility).copied().unwrap_or_default().distance(*share)).max()
    };
    if off(&readable).unwrap_or_default().basis_points() <= TOLERANCE { readable } else { scaled(&parts, max_weight) }
}

/// A facility's servers together.
struct Total {
    servers: u32,
    /// Of all of them, where each is known.
    capacity: Option<u64>,
}

fn totals(servers: &BTreeMap<ForeignName, Participant>) -> BTreeMap<&FacilityName, Total> {
    let mut totals: BTreeMap<&FacilityName, Total> = BTreeMap::new();
    for server in servers.values() {
        let total = totals.entry(&server.facility).or_insert(Total { servers: 0, capacity: Some(0) });
        total.servers += 1;
        total.capacity = total.capacity.zip(server.capacity).map(|(sum, rate)| sum + rate.0);
    }
    totals
}

/// The part of all requests that a server should get, in any unit.
fn part(
    shares: &BTreeMap<FacilityName, Percent>,
    totals: &BTreeMap<&FacilityName, Total>,
    server: &Participant,
) -> f64 {
    let share = shares.get(&server.facility).copied().unwrap_or_default().fraction();
    match (totals.get(&server.facility), server.capacity) {
        (Some(Total { capacity: Some(total), .. }), Some(capacity)) if *total > 0 => {
            share * capacity.0 as f64 / *total as f64
        }
        (Some(total), _) => share / f64::from(total.servers),
        (None, _) => 0.0,
    }
}

fn scaled(parts: &BTreeMap<&ForeignName, f64>, max_weight: u32) -> BTreeMap<ForeignName, u32> {
    let largest = parts.values().copied().fold(0.0, f64::max);
    parts
        .iter()
        .map(|(name, part)| {
            let weight =
                if *part <= 0.0 { 0 } else { ((part / largest * f64::from(max_weight)).round() as u32).max(1) };
            ((*name).clone(), weight)
        })
        .collect()
}

fn facility_shares(
    servers: &BTreeMap<ForeignName, Participant>,
    weights: &BTreeMap<ForeignName, u32>,
) -> BTreeMap<FacilityName, Percent> {
    let settings = weights
        .iter()
        .map(|(name, weight)| (name.clone(), ServerSetting { weight: *weight, admission: Admission::Ready }));
    effective(servers, &settings.collect())
}

/// The share of requests that each facility gets by the settings of its servers at one proxy: all zero if no server gets any.
pub fn effective(
    servers: &BTreeMap<ForeignName, Participant>,
    settings: &BTreeMap<ForeignName, ServerSetting>,
) -> BTreeMap<FacilityName, Percent> {
    let mut sums: BTreeMap<&FacilityName, u64> = BTreeMap::new();
    for (name, server) in servers {
        let weight = match settings.get(name) {
            Some(ServerSetting { weight, admission: Admission::Ready }) => u64::from(*weight),
            _ => 0,
        };
        *sums.entry(&server.facility).or_default() += weight;
    }
    let total = sums.values().sum();
    sums.into_iter().map(|(facility, sum)| (facility.clone(), Percent::ratio(sum, total))).collect()
}

/// The shares at a stage on the way: `progress` of the difference between `from` and `to` is behind us.
pub fn between(
    from: &BTreeMap<FacilityName, Percent>,
    to: &BTreeMap<FacilityName, Percent>,
    progress: Percent,
) -> BTreeMap<FacilityName, Percent> {
    let at =
        |map: &BTreeMap<FacilityName, Percent>, facility: &FacilityName| map.get(facility).copied().unwrap_or_default();
    from.keys()
        .chain(to.keys())
        .map(|facility| {
            let (from, to) = (at(from, facility), at(to, facility));
            let step = progress.of(from.distance(to)).basis_points();
            let share = if to >= from { from.basis_points() + step } else { from.basis_points() - step };
            (facility.clone(), Percent::from_basis_points(share))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(list: &[(&str, &str, u64)]) -> BTreeMap<ForeignName, Participant> {
        list.iter()
            .map(|(name, facility, rps)| {
                let capacity = (*rps > 0).then_some(Rate(*rps));
                ((*name).into(), Participant { facility: (*facility).into(), capacity })
            })
            .collect()
    }

    fn shares(list: &[(&str, u32)]) -> BTreeMap<FacilityName, Percent> {
        list.iter().map(|(facility, percent)| ((*facility).into(), Percent::whole(*percent))).collect()
    }

    #[test]
    fn even_shares_are_even_weights() {
        let servers = servers(&[("w1", "west", 0), ("w2", "west", 0), ("e1", "east", 0), ("e2", "east", 0)]);
        let weights = weights(&shares(&[("west", 50), ("east", 50)]), &servers, 256);
        assert!(weights.values().all(|weight| *weight == 100), "{weights:?}");
    }

    #[test]
    fn a_facility_without_share_weighs_nothing_and_unequal_servers_divide_by_capacity() {
        let servers = servers(&[("w1", "west", 100), ("e1", "east", 300), ("e2", "east", 100)]);
        let weights = weights(&shares(&[("west", 0), ("east", 100)]), &servers, 256);
        assert_eq!(weights[&ForeignName::from("w1")], 0);
        assert_eq!((weights[&ForeignName::from("e1")], weights[&ForeignName::from("e2")]), (100, 33));
    }

    proptest! {
        #[test]
        fn shares_come_out_within_one_percent(west in 0u32..=100, capacities in prop::collection::vec(50u64..200, 2..8)) {
            let list: Vec<(String, &str, u64)> = capacities.iter().enumerate()
                .map(|(i, rps)| (format!("s{i}"), if i % 2 == 0 { "west" } else { "east" }, *rps)).collect();
            let list: Vec<(&str, &str, u64)> = list.iter().map(|(name, facility, rps)| (name.as_str(), *facility, *rps)).collect();
            let (servers, shares) = (servers(&list), shares(&[("west", west), ("east", 100 - west)]));
            let real = facility_shares(&servers, &weights(&shares, &servers, 256));
            for (facility, share) in &shares {
                prop_assert!(real[facility].distance(*share) <= Percent::whole(1), "{facility}: {} for {share}", real[facility]);
            }
        }

        #[test]
        fn stages_go_from_one_end_to_the_other(west in 0u32..=100, progress in 0u32..=100) {
            let (from, to) = (shares(&[("west", west), ("east", 100 - west)]), shares(&[("west", 0), ("east", 100)]));
            prop_assert_eq!(&between(&from, &to, Percent::ZERO), &from);
            prop_assert_eq!(&between(&from, &to, Percent::FULL), &to);
            let sum: u32 = between(&from, &to, Percent::whole(progress)).values().map(|share| share.basis_points()).sum();
            prop_assert!(sum.abs_diff(10_000) <= 1);
        }
    }
}
