//! What weights do to requests.

use super::*;

/// The shares that weights make, counted at a real proxy: several servers of unequal capacity in each facility.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_share_comes_out_within_one_percentage_point() {
    const REQUESTS: u64 = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let (front, control) = (free_address(), free_address());
    let capacities =
        [("west", 800), ("west", 300), ("east", 500), ("east", 500), ("east", 170), ("south", 90), ("south", 400)];
    let mut config = format!(
        "global\n stats socket ipv4@{control} level admin\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n\
         frontend front\n bind {front}\n default_backend web\nbackend web\n balance roundrobin\n"
    );
    let mut servers: BTreeMap<ForeignName, Participant> = BTreeMap::new();
    for (index, (facility, capacity)) in capacities.into_iter().enumerate() {
        let name = format!("s{index}");
        config += &format!(" server {name} {} weight 1\n", application("ok").await);
        let participant = Participant { facility: facility.into(), capacity: Some(Rate(capacity)) };
        servers.insert(ForeignName::new(name), participant);
    }
    let process = run(&directory, &config);
    let proxy = Proxy { process, directory, front, control, operator: control };
    let (provider, permit) = (provider(), common::permit().await);
    let ready_at = |weight| ServerSetting { weight, admission: Admission::Ready };
    let one: BTreeMap<ForeignName, ServerSetting> = servers.keys().map(|name| (name.clone(), ready_at(1))).collect();
    let started = Condition::Servers { backends: BTreeMap::from([("web".into(), one.clone().into())]) };
    assert_eq!(started.holds(provider.verify(&proxy.target(), &started, soon()).await.known().unwrap()), Ok(()));
    let mut present = one;
    for shares in [
        [("west", 1), ("east", 99), ("south", 0)],
        [("west", 33), ("east", 67), ("south", 0)],
        [("west", 20), ("east", 30), ("south", 50)],
    ] {
        let wanted = shares.map(|(facility, share)| (facility.into(), Percent::whole(share))).into();
        let to: BTreeMap<ForeignName, ServerSetting> = weights::weights(&wanted, &servers, 256)
            .into_iter()
            .map(|(name, weight)| (name, ready_at(weight)))
            .collect();
        let change = |name: &ForeignName| (name.clone(), FromTo { from: present[name], to: to[name] });
        let changes: BTreeMap<_, _> = servers.keys().map(change).collect();
        let backends = BTreeMap::from([("web".into(), changes.into())]);
        let outcome = provider.apply(&proxy.target(), &Action::SetShare { backends }, &permit, soon()).await;
        assert_eq!(outcome, Outcome::Applied);
        present = to;
        let counted = async || -> BTreeMap<ForeignName, u64> {
            let facts = proxy.facts().await;
            let servers = &facts.backends["web"].as_ref().unwrap().servers;
            servers.iter().map(|(name, server)| (name.clone(), server.requests)).collect()
        };
        let before = counted().await;
        let clients = (0..8).map(|_| async {
            for _ in 0..REQUESTS / 8 {
                assert!(proxy.get("/").await.starts_with("HTTP/1.1 200"));
            }
        });
        futures_util::future::join_all(clients).await;
        let after = counted().await;
        for (facility, share) in shares {
            let of = |counts: &BTreeMap<ForeignName, u64>| -> u64 {
                counts
                    .iter()
                    .filter(|(name, _)| servers[*name].facility.as_str() == facility)
                    .map(|(_, count)| count)
                    .sum()
            };
            let (got, wanted) = (Percent::ratio(of(&after) - of(&before), REQUESTS), Percent::whole(share));
            assert!(got.distance(wanted) <= Percent::ONE, "{facility} got {got} instead of {wanted}");
            println!("{facility}: {got} for {wanted}");
        }
    }
}
