//! The epoch: published, raised, never lowered.

use handover::model::{Charge, Epoch};
use handover::provider::rfc2136;

use super::*;

crate::contract!(Epochs);

/// A server that publishes an epoch already.
struct Epochs(Bind);

fn epoch(number: u64, lost: &[&str], member: &str, timeline: u32) -> Epoch {
    let charge = Charge { member: member.to_owned(), system: "7312345678901234567".to_owned(), timeline };
    Epoch {
        number,
        lost: lost.iter().copied().map(FacilityName::new).collect(),
        lost_targets: [TargetId::proxy("east-lb2")].into(),
        databases: [("accounts".into(), charge)].into(),
    }
}

fn before() -> Epoch {
    epoch(7, &[], "west-pg1", 5)
}

fn after() -> Epoch {
    epoch(8, &["west"], "east-pg1", 6)
}

fn raise(from: Option<Epoch>, to: Option<Epoch>) -> Action {
    Action::SetEpoch { zone: ZoneName::new(ZONE), epoch: Box::new(FromTo { from, to }) }
}

fn publishes(epoch: Epoch) -> Condition {
    Condition::Epoch { epoch: Some(epoch) }
}

#[async_trait]
impl Subject for Epochs {
    async fn start() -> Self {
        let bind = Bind::primary().await;
        common::taken(&bind.apply(&bind.target(), &raise(None, Some(before()))).await);
        Self(bind)
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.0.provider()
    }

    fn target(&self) -> Target {
        self.0.target()
    }

    fn nobody(&self) -> Target {
        self.0.nobody()
    }

    fn scope(&self) -> Scope {
        self.0.scope()
    }

    fn action(&self) -> Action {
        raise(Some(before()), Some(after()))
    }

    fn condition(&self) -> Condition {
        publishes(after())
    }

    fn undo(&self) -> Action {
        raise(Some(after()), Some(Epoch { number: 9, ..before() }))
    }

    fn undone(&self) -> Condition {
        publishes(Epoch { number: 9, ..before() })
    }

    fn stale(&self) -> Option<Action> {
        Some(raise(Some(epoch(7, &[], "west-pg1", 4)), Some(after())))
    }

    async fn hang(&self) {
        self.0.hang().await;
    }

    async fn unhang(&self) {
        self.0.unhang().await;
    }

    fn comparable(&self, facts: &Facts) -> String {
        let facts = facts.name_server().unwrap();
        // The number tells that it was taken back.
        let epoch = facts.epoch.clone().map(|epoch| Epoch { number: 0, ..epoch });
        format!("{:#?} {epoch:#?} {:?}", facts.sets, facts.epoch_fault)
    }
}

#[tokio::test]
async fn no_word_lowers_it_or_takes_it_away() {
    let Epochs(bind) = Epochs::start().await;
    let why = |outcome| match outcome {
        Outcome::NotApplied(why) => why.why,
        other => panic!("{other:?}"),
    };
    let same = Epoch { number: 7, ..after() };
    for to in [Some(Epoch { number: 6, ..after() }), Some(same), None] {
        let action = raise(Some(before()), to);
        let impossible = bind.provider().impossible(&bind.target(), &action).unwrap().why;
        assert!(impossible.contains("an epoch is never lowered"), "{impossible}");
        assert_eq!(why(bind.apply(&bind.target(), &action).await), impossible);
    }
    // Who believes that there is none is told what there is.
    let unaware = why(bind.apply(&bind.target(), &raise(None, Some(after()))).await);
    let found =
        "it publishes epoch 7: proxy/east-lb2 is lost; accounts: west-pg1 from timeline 5 on, not no epoch as planned";
    assert!(unaware.contains(found), "{unaware}");
    assert_eq!(bind.observe(&[]).await.unwrap().epoch, Some(before()));
}

#[tokio::test]
async fn of_two_who_raise_it_at_once_one_wins() {
    let Epochs(bind) = Epochs::start().await;
    let raised = |member| Epoch { number: 8, ..epoch(8, &[], member, 6) };
    let (one, other) =
        (raise(Some(before()), Some(raised("east-pg1"))), raise(Some(before()), Some(raised("east-pg2"))));
    let target = bind.target();
    let (one, other) = tokio::join!(bind.apply(&target, &one), bind.apply(&target, &other));
    assert_eq!(u8::from(one.taken()) + u8::from(other.taken()), 1, "{one:?} {other:?}");
    let winner = if one.taken() { "east-pg1" } else { "east-pg2" };
    assert_eq!(bind.observe(&[]).await.unwrap().epoch.unwrap().databases["accounts"].member, winner);
}

#[tokio::test]
async fn it_is_read_without_a_secret_and_what_is_none_is_told() {
    let bind = Bind::run(|dir| {
        let texts = "_handover IN TXT \"v=1 epoch=3\" \"lost=west\"\n";
        write(dir, "zone.db", &format!("{RECORDS}{texts}"));
        format!("zone \"{ZONE}\" {{ type primary; file \"zone.db\"; }};")
    })
    .await;
    let target = target(&bind.target().address, "handover-key", "missing");
    let epoch = rfc2136::epoch(&target, soon()).await.unwrap().unwrap();
    assert_eq!((epoch.number, epoch.lost), (3, [FacilityName::new("west")].into()));

    let bind = Bind::run(|dir| {
        write(dir, "zone.db", &format!("{RECORDS}_handover IN TXT \"v=1 epoch=3 maybe\"\n"));
        format!("zone \"{ZONE}\" {{ type primary; file \"zone.db\"; update-policy {{ grant handover-key zonesub ANY; }}; }};")
    })
    .await;
    let unreadable = rfc2136::epoch(&bind.target(), soon()).await.unwrap_err().to_string();
    assert!(unreadable.contains("its epoch cannot be read: it begins with `v=1 epoch=3 maybe`"), "{unreadable}");
    // The rest of the zone is known all the same, and nobody overwrites what stands there.
    assert_eq!(bind.observe(&[pay()]).await.unwrap().sets[&pay()], all_of_pay());
    let outcome = bind.apply(&bind.target(), &raise(None, Some(after()))).await;
    assert!(
        matches!(&outcome, Outcome::NotApplied(why) if why.why.contains("in the epoch's place cannot be read")),
        "{outcome:?}"
    );
    let nothing = rfc2136::epoch(&Bind::primary().await.target(), soon()).await;
    assert_eq!(nothing, Ok(None));
}
