//! The state file, from which a proxy takes its weights when it starts.

use super::*;

fn saved(observed: &Observed<Facts>) -> Saved {
    observed.known().unwrap_or_else(|| panic!("{observed:?}")).proxy().unwrap().saved.clone()
}

#[tokio::test]
async fn what_is_set_survives_a_restart_where_a_state_file_is_configured() {
    let mut proxy = Proxy::start().await;
    let (provider, target, permit) = (provider(), proxy.with_file("state"), common::permit().await);
    let scope = Scope::Backends(["web".into()].into());
    let before = provider.observe(&target, &scope, soon()).await;
    assert!(before.known().unwrap().proxy().unwrap().capabilities.persistent);
    assert_eq!(saved(&before), Saved::Outdated("its state file is empty or not there".to_owned()));

    let shift = set("web", [("a", ready(50), drain(0)), ("b", ready(50), ready(100))]);
    assert_eq!(provider.apply(&target, &shift, &permit, soon()).await, Outcome::Applied);
    let file = proxy.directory.path().join("state");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
    let is = are([("a", drain(0)), ("b", ready(100))]);
    let facts = provider.verify(&target, &is, soon()).await;
    assert_eq!((saved(&facts), is.holds(facts.known().unwrap())), (Saved::Yes, Ok(())));

    proxy.restart().await;
    let facts = super::provider().observe(&target, &scope, soon()).await;
    assert_eq!((is.holds(facts.known().unwrap()), saved(&facts)), (Ok(()), Saved::Yes));

    // Somebody sets another weight and saves nothing: that is seen, and can be made good by saving alone.
    let by_hand = set("web", [("b", ready(100), ready(70))]);
    assert_eq!(super::provider().apply(&proxy.target(), &by_hand, &permit, soon()).await, Outcome::Applied);
    let outdated = super::provider().observe(&target, &scope, soon()).await;
    let differs = "its state file has web/b with weight 100, now it has weight 70";
    assert_eq!(saved(&outdated), Saved::Outdated(differs.to_owned()));
    let args = BTreeMap::from([("backends".to_owned(), vec!["web".to_owned()])]);
    let save = Action::Native { verb: SAVE_STATE.to_owned(), args: args.clone() };
    let done = Condition::Native { verb: SAVE_STATE.to_owned(), args, done: true };
    assert!(done.holds(outdated.known().unwrap()).is_err());
    assert_eq!(provider.apply(&target, &save, &permit, soon()).await, Outcome::Applied);
    let facts = super::provider().verify(&target, &done, soon()).await;
    assert_eq!(done.holds(facts.known().unwrap()), Ok(()));
    proxy.restart().await;
    let is = are([("a", drain(0)), ("b", ready(70))]);
    let facts = super::provider().observe(&target, &scope, soon()).await;
    assert_eq!(is.holds(facts.known().unwrap()), Ok(()));
}

#[tokio::test]
async fn a_state_that_cannot_be_saved_is_told_and_keeps_nothing_from_being_set() {
    let proxy = Proxy::start().await;
    let permit = common::permit().await;
    let scope = Scope::Backends(["web".into()].into());
    let nowhere = proxy.with_file("no/such/folder/state");
    let mut homeless = proxy.with_file("state");
    homeless.host = None;
    // A host that accepts and never answers costs a part of the time only.
    let mut silent = proxy.with_file("state");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(listener.local_addr().unwrap().port());
    let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port };
    silent.host = Some(Arc::new(Host { name: "mute".into(), transport, commands: BTreeMap::new() }));
    let (mut from, mut weight) = (ready(50), 50);
    for (target, words) in [
        (nowhere, ["its folder is not there", "let the host's login write the file"]),
        (homeless, ["has no host", "give west-lb1 a `host`"]),
        (silent, ["no connection within", "check the host"]),
    ] {
        weight += 1;
        let provider = HaProxy::new(Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()])));
        let to = ready(weight);
        let began = Instant::now();
        let outcome = provider.apply(&target, &set("web", [("a", from, to)]), &permit, soon()).await;
        assert_eq!(outcome, Outcome::Applied);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let facts = provider.verify(&target, &are([("a", to)]), soon()).await;
        let Saved::Unknown(why) = saved(&facts) else { panic!("{facts:?}") };
        for word in words {
            assert!(why.to_string().contains(word), "{why}");
        }
        // The next program that looks finds out by itself.
        let deadline = Instant::now() + Duration::from_secs(2);
        let seen = HaProxy::new(Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()])));
        let seen = saved(&seen.observe(&target, &scope, deadline).await);
        assert!(matches!(seen, Saved::Unknown(_) | Saved::Outdated(_)), "{seen:?}");
        from = to;
    }
}
