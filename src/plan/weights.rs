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

/// Weights by which each facility's servers get its share, none above `max_weight`; a facility without a share gets 0 for each.
///
/// Shares come out within one percentage point, whatever the servers' number and capacities: always where they are whole percents, and
/// otherwise where at most two facilities ask for less than 0.4 %. Every server of a facility with a share gets weight 1 or more where
/// that allows it. Where it does not (1 % over ten servers, beside one server with 99 %), some servers get 0, those with the least
/// capacity first.
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
    let near = |weights: &BTreeMap<ForeignName, u32>| off(weights).unwrap_or_default().basis_points() <= TOLERANCE;
    if near(&readable) {
        return readable;
    }
    let fine = scaled(&parts, max_weight);
    if near(&fine) { fine } else { apportioned(shares, servers, &parts, max_weight) }
}

/// Weights that give each facility its share first, then each of its servers its part of that (Hamilton's method, twice). The sum of
/// all is as large as the heaviest server allows, 255 or more: a facility is off by less than one of them.
fn apportioned(
    shares: &BTreeMap<FacilityName, Percent>,
    servers: &BTreeMap<ForeignName, Participant>,
    parts: &BTreeMap<&ForeignName, f64>,
    max_weight: u32,
) -> BTreeMap<ForeignName, u32> {
    let heaviest = parts.values().copied().fold(0.0, f64::max);
    if heaviest <= 0.0 {
        return servers.keys().map(|name| (name.clone(), 0)).collect();
    }
    // One less than the largest weight: its facility may be rounded up.
    let sum = (f64::from(max_weight.saturating_sub(1).max(1)) / heaviest).floor();
    let present = |facility: &FacilityName| servers.values().any(|server| server.facility == *facility);
    let wanted: BTreeMap<&FacilityName, f64> = shares
        .iter()
        .filter(|(facility, share)| **share > Percent::ZERO && present(facility))
        .map(|(facility, share)| (facility, share.fraction()))
        .collect();
    // A share that is asked for is never rounded to nothing.
    let (tiny, others): (BTreeMap<_, _>, BTreeMap<_, _>) = wanted.into_iter().partition(|(_, share)| share * sum < 1.0);
    let rest = (sum as u32).saturating_sub(tiny.len() as u32);
    let mut sums = apportion(&others, rest);
    sums.extend(tiny.into_keys().map(|facility| (facility, 1)));
    let mut weights: BTreeMap<ForeignName, u32> = servers.keys().map(|name| (name.clone(), 0)).collect();
    for (facility, sum) in sums {
        let own =
            parts.iter().filter(|(name, _)| servers.get(**name).is_some_and(|server| server.facility == *facility));
        let own: BTreeMap<&ForeignName, f64> = own.map(|(name, part)| (*name, *part)).collect();
        weights.extend(apportion(&own, sum).into_iter().map(|(name, weight)| (name.clone(), weight)));
    }
    weights
}

/// Divides `seats` in proportion to `parts`: each gets the whole part of its quota, the largest remainders get what is left. Of equal
/// ones the first in order gets more.
fn apportion<K: Ord + Copy>(parts: &BTreeMap<K, f64>, seats: u32) -> BTreeMap<K, u32> {
    let whole: f64 = parts.values().sum();
    let quota = |part: f64| if whole > 0.0 { f64::from(seats) * part / whole } else { 0.0 };
    let mut given: BTreeMap<K, u32> = parts.iter().map(|(key, part)| (*key, quota(*part).floor() as u32)).collect();
    let left = seats.saturating_sub(given.values().sum());
    let mut remainders: Vec<(K, f64)> = parts.iter().map(|(key, part)| (*key, quota(*part).fract())).collect();
    remainders.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for (key, _) in remainders.into_iter().take(left as usize) {
        *given.entry(key).or_default() += 1;
    }
    given
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

/// The shares that come out of the weights for the wanted ones.
pub fn nearest(
    participants: &BTreeMap<ForeignName, Participant>,
    wanted: &BTreeMap<FacilityName, Percent>,
    max_weight: u32,
) -> BTreeMap<FacilityName, Percent> {
    let ready = |(name, weight)| (name, ServerSetting { weight, admission: Admission::Ready });
    effective(participants, &weights(wanted, participants, max_weight).into_iter().map(ready).collect())
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

    #[test]
    fn a_share_too_small_for_all_its_servers_is_served_by_the_largest_of_them() {
        let west: Vec<(String, u64)> = (0..10).map(|n| (format!("w{n}"), 100 + n)).collect();
        let mut list: Vec<(&str, &str, u64)> = west.iter().map(|(name, rps)| (name.as_str(), "west", *rps)).collect();
        list.push(("e1", "east", 5_000));
        let servers = servers(&list);
        let (wanted, mut given) = (shares(&[("west", 1), ("east", 99)]), Vec::new());
        let weights = weights(&wanted, &servers, 256);
        given.extend(weights.iter().filter(|(_, weight)| **weight > 0).map(|(name, weight)| (name.as_str(), *weight)));
        assert_eq!(
            given,
            [("e1", 254), ("w8", 1), ("w9", 1), ("w7", 1)]
                .into_iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }

    /// Facilities with their shares, in hundredths of a percent that sum to 10,000, and the capacities of their servers (0: unknown).
    fn layouts(step: u32) -> impl Strategy<Value = (Vec<u32>, Vec<Vec<u64>>)> {
        (2usize..=5).prop_flat_map(move |count| {
            let capacity = prop_oneof![9 => 1u64..20_000, 1 => Just(0)];
            let cuts = prop::collection::vec(0..=10_000 / step, count - 1);
            (cuts, prop::collection::vec(prop::collection::vec(capacity, 1..=12), count)).prop_map(
                move |(mut cuts, servers)| {
                    cuts.sort_unstable();
                    let ends = cuts.iter().copied().chain([10_000 / step]);
                    let begins = [0].into_iter().chain(cuts.iter().copied());
                    (begins.zip(ends).map(|(from, to)| (to - from) * step).collect(), servers)
                },
            )
        })
    }

    /// What each facility gets, and the largest weight.
    fn outcome(wanted: &[u32], capacities: &[Vec<u64>]) -> (Vec<(Percent, Percent)>, u32) {
        let facility = |index: usize| FacilityName::new(format!("f{index}"));
        let servers: BTreeMap<ForeignName, Participant> = capacities
            .iter()
            .enumerate()
            .flat_map(|(index, list)| list.iter().enumerate().map(move |(number, rps)| (index, number, *rps)))
            .map(|(index, number, rps)| {
                let capacity = (rps > 0).then_some(Rate(rps));
                (ForeignName::new(format!("f{index}-s{number}")), Participant { facility: facility(index), capacity })
            })
            .collect();
        let shares: BTreeMap<_, _> = wanted
            .iter()
            .enumerate()
            .map(|(index, points)| (facility(index), Percent::from_basis_points(*points)))
            .collect();
        let weights = weights(&shares, &servers, 256);
        let real = facility_shares(&servers, &weights);
        let pairs = shares.iter().map(|(facility, share)| (*share, real[facility])).collect();
        (pairs, weights.values().copied().max().unwrap_or_default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn shares_come_out_within_one_percentage_point((wanted, capacities) in layouts(100)) {
            let (pairs, largest) = outcome(&wanted, &capacities);
            prop_assert!((1..=256).contains(&largest), "{largest}");
            for (wanted, real) in pairs {
                prop_assert!(real.distance(wanted) <= Percent::ONE, "{real} for {wanted}");
                prop_assert_eq!(real == Percent::ZERO, wanted == Percent::ZERO, "{} for {}", real, wanted);
            }
        }

        #[test]
        fn so_do_finer_shares_where_at_most_two_are_tiny((wanted, capacities) in layouts(1)) {
            prop_assume!(wanted.iter().filter(|points| (1..40).contains(*points)).count() <= 2);
            for (wanted, real) in outcome(&wanted, &capacities).0 {
                prop_assert!(real.distance(wanted) <= Percent::ONE, "{real} for {wanted}");
                prop_assert_eq!(real == Percent::ZERO, wanted == Percent::ZERO, "{} for {}", real, wanted);
            }
        }
    }

    proptest! {
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
