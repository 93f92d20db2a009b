//! Who takes over the share of a facility that is out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{FacilityName, Percent, Rate};
use crate::plan::Shares;

/// By what the share of facilities that are out was given to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Nothing had to be given away.
    AsWished,
    /// The shares of those that remain.
    Proportion,
    /// Those that remain have no share in the wish (a flag or a hold): by their shares in the file.
    Declared,
    /// They have none in the file either: by what their servers can serve.
    Capacity,
    /// Nor is that known: equally.
    Equal,
}

/// The shares of a service whose wish is `wish`, with only the facilities `serving`: each of them gets its part of the whole in
/// proportion. None if none of the service's facilities serves.
///
/// Sums to 100 % exactly. Each share is off its exact proportion by less than 0.01 %; what rounding leaves over goes to those that
/// lost most by it, and among equals to the first by name.
pub(super) fn distribute(
    wish: &Shares,
    declared: &Shares,
    capacities: &BTreeMap<FacilityName, Option<Rate>>,
    serving: &BTreeSet<FacilityName>,
) -> Option<(Shares, Basis)> {
    let here: Vec<&FacilityName> = declared.keys().filter(|facility| serving.contains(*facility)).collect();
    if here.is_empty() {
        return None;
    }
    let by = |part: &dyn Fn(&FacilityName) -> u64| -> BTreeMap<&FacilityName, u64> {
        here.iter().map(|facility| (*facility, part(facility))).collect()
    };
    let of = |shares: &Shares, facility: &FacilityName| {
        u64::from(shares.get(facility).copied().unwrap_or_default().basis_points())
    };
    let known = here.iter().all(|facility| capacities.get(*facility).copied().flatten().is_some());
    let capacity = |facility: &FacilityName| match capacities.get(facility) {
        Some(Some(rate)) if known => rate.0,
        _ => 0,
    };
    let candidates = [
        (Basis::Proportion, by(&|facility| of(wish, facility))),
        (Basis::Declared, by(&|facility| of(declared, facility))),
        (Basis::Capacity, by(&capacity)),
        (Basis::Equal, by(&|_| 1)),
    ];
    let (basis, parts) = candidates.into_iter().find(|(_, parts)| parts.values().any(|part| *part > 0))?;
    let mut shares: Shares = declared.keys().map(|facility| (facility.clone(), Percent::ZERO)).collect();
    shares.extend(in_proportion(&parts));
    let same = |facility: &FacilityName| of(wish, facility) == of(&shares, facility);
    let basis = if shares.keys().chain(wish.keys()).all(same) { Basis::AsWished } else { basis };
    Some((shares, basis))
}

/// The whole divided by parts that are not all zero: by the largest remainder.
fn in_proportion(parts: &BTreeMap<&FacilityName, u64>) -> Shares {
    let whole: u128 = parts.values().map(|part| u128::from(*part)).sum();
    let points = u128::from(Percent::FULL.basis_points());
    let exact = |part: u64| (u128::from(part) * points / whole.max(1), u128::from(part) * points % whole.max(1));
    let given: u128 = parts.values().map(|part| exact(*part).0).sum();
    let mut by_loss: Vec<(&FacilityName, u128)> =
        parts.iter().map(|(facility, part)| (*facility, exact(*part).1)).collect();
    // Stable: among equals the first by name.
    by_loss.sort_by_key(|(_, remainder)| std::cmp::Reverse(*remainder));
    let left = usize::try_from(points.saturating_sub(given)).unwrap_or(0);
    let lucky: BTreeSet<&FacilityName> = by_loss.into_iter().take(left).map(|(facility, _)| facility).collect();
    parts
        .iter()
        .map(|(facility, part)| {
            let share = exact(*part).0 + u128::from(lucky.contains(facility));
            ((*facility).clone(), Percent::from_basis_points(u32::try_from(share).unwrap_or(u32::MAX)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(list: &[(&str, u32)]) -> Shares {
        list.iter().map(|(facility, percent)| ((*facility).into(), Percent::whole(*percent))).collect()
    }

    fn names(list: &[&str]) -> BTreeSet<FacilityName> {
        list.iter().map(|name| (*name).into()).collect()
    }

    fn rates(list: &[(&str, Option<u64>)]) -> BTreeMap<FacilityName, Option<Rate>> {
        list.iter().map(|(name, rate)| ((*name).into(), rate.map(Rate))).collect()
    }

    #[test]
    fn the_share_of_a_drained_facility_goes_to_the_others_in_proportion() {
        let declared = shares(&[("a", 50), ("b", 30), ("c", 20)]);
        let spread =
            |wish: &Shares, serving: &[&str]| distribute(wish, &declared, &BTreeMap::new(), &names(serving)).unwrap();
        assert_eq!(spread(&declared, &["a", "b", "c"]), (declared.clone(), Basis::AsWished));
        assert_eq!(spread(&declared, &["b", "c"]), (shares(&[("a", 0), ("b", 60), ("c", 40)]), Basis::Proportion));
        assert_eq!(spread(&declared, &["c"]), (shares(&[("a", 0), ("b", 0), ("c", 100)]), Basis::Proportion));
        // A hold counts before the file.
        let held = shares(&[("a", 20), ("b", 20), ("c", 60)]);
        assert_eq!(spread(&held, &["b", "c"]), (shares(&[("a", 0), ("b", 25), ("c", 75)]), Basis::Proportion));
        // Those that remain have nothing in the hold: the file decides.
        let all = shares(&[("a", 100), ("b", 0), ("c", 0)]);
        assert_eq!(spread(&all, &["b", "c"]), (shares(&[("a", 0), ("b", 60), ("c", 40)]), Basis::Declared));
        assert_eq!(distribute(&all, &declared, &BTreeMap::new(), &names(&["d"])), None);
    }

    #[test]
    fn facilities_without_any_share_take_over_by_capacity_and_else_equally() {
        let declared = shares(&[("a", 100), ("b", 0), ("c", 0)]);
        let by = |rates| distribute(&declared, &declared, &rates, &names(&["b", "c"])).unwrap();
        let known = rates(&[("a", None), ("b", Some(300)), ("c", Some(100))]);
        assert_eq!(by(known), (shares(&[("a", 0), ("b", 75), ("c", 25)]), Basis::Capacity));
        let unknown = rates(&[("b", Some(300)), ("c", None)]);
        assert_eq!(by(unknown), (shares(&[("a", 0), ("b", 50), ("c", 50)]), Basis::Equal));
    }

    #[test]
    fn what_rounding_leaves_over_goes_to_those_that_lost_most() {
        let declared = shares(&[("a", 40), ("b", 20), ("c", 20), ("d", 20)]);
        let (spread, _) = distribute(&declared, &declared, &BTreeMap::new(), &names(&["b", "c", "d"])).unwrap();
        let points: Vec<u32> = spread.values().map(|share| share.basis_points()).collect();
        assert_eq!(points, [0, 3_334, 3_333, 3_333]);
    }

    prop_compose! {
        fn shares_of_some()(parts in prop::collection::vec(0u64..50, 2..7)) -> Shares {
            let names: Vec<FacilityName> = (0..parts.len()).map(|index| FacilityName::new(format!("f{index}"))).collect();
            let mut parts: BTreeMap<&FacilityName, u64> = names.iter().zip(parts).collect();
            if parts.values().all(|part| *part == 0) {
                parts.values_mut().for_each(|part| *part = 1);
            }
            in_proportion(&parts)
        }
    }

    proptest! {
        #[test]
        fn shares_sum_to_the_whole_and_keep_their_proportion(
            declared in shares_of_some(),
            wish in shares_of_some(),
            out in any::<u8>(),
            capacities in prop::collection::vec(prop::option::of(0u64..1_000), 7),
        ) {
            let serving: BTreeSet<FacilityName> = declared
                .keys()
                .enumerate()
                .filter(|(index, _)| out & (1 << index) == 0)
                .map(|(_, facility)| facility.clone())
                .collect();
            let capacities = declared.keys().cloned().zip(capacities.into_iter().map(|rate| rate.map(Rate))).collect();
            let spread = distribute(&wish, &declared, &capacities, &serving);
            prop_assert_eq!(&spread, &distribute(&wish, &declared, &capacities, &serving));
            let Some((shares, basis)) = spread else { prop_assert!(serving.is_empty()); return Ok(()) };
            let sum: u32 = shares.values().map(|share| share.basis_points()).sum();
            prop_assert_eq!(sum, 10_000);
            let (of, other) = match basis {
                Basis::AsWished | Basis::Proportion => (&wish, &declared),
                Basis::Declared => (&declared, &declared),
                Basis::Capacity | Basis::Equal => return Ok(()),
            };
            for facility in other.keys() {
                prop_assert!(serving.contains(facility) || shares[facility] == Percent::ZERO);
            }
            let part = |facility: &FacilityName| f64::from(of.get(facility).copied().unwrap_or_default().basis_points());
            let whole: f64 = serving.iter().map(part).sum();
            for facility in &serving {
                let exact = part(facility) / whole * 10_000.0;
                prop_assert!((f64::from(shares[facility].basis_points()) - exact).abs() < 1.0, "{facility}: {shares:?}");
            }
        }
    }
}
