//! Keys, secrets and clocks.

use super::*;

#[tokio::test]
async fn rejected_signatures_touch_nothing_and_name_the_remedy() {
    let bind = Bind::primary().await;
    let address = bind.target().address;
    let bad_secret = refusal(bind.apply(&target(&address, "handover-key", "wrong"), &drained_pay()).await);
    assert!(bad_secret.contains("another secret for the key handover-key (BADSIG)"), "{bad_secret}");
    let bad_key = refusal(bind.apply(&target(&address, "someone-else", "tsig"), &drained_pay()).await);
    assert!(bad_key.contains("does not know the key someone-else"), "{bad_key}");
    let no_file = refusal(bind.apply(&target(&address, "handover-key", "missing"), &drained_pay()).await);
    assert!(no_file.contains("the secret in file missing cannot be read"), "{no_file}");
    let not_base64 = refusal(bind.apply(&target(&address, "handover-key", "named.conf"), &drained_pay()).await);
    assert!(not_base64.contains("is not usable: it is not base64"), "{not_base64}");
    let facts = bind.observe(&[pay()]).await.unwrap();
    assert_eq!((facts.serial, &facts.sets[&pay()]), (1, &all_of_pay()));
}

#[tokio::test]
async fn a_reading_proves_the_key_and_does_not_depend_on_it() {
    let bind = Bind::primary().await;
    let (provider, address) = (bind.provider(), bind.target().address);
    for (key, secret, why) in [
        ("handover-key", "tsig", None),
        ("handover-key", "wrong", Some("has another secret for the key handover-key (BADSIG)")),
        ("someone-else", "tsig", Some("does not know the key someone-else")),
        ("handover-key", "missing", Some("the secret in file missing cannot be read")),
    ] {
        let facts = observe(&provider, &target(&address, key, secret), &[pay()]).await.unwrap();
        assert_eq!(facts.sets[&pay()], all_of_pay());
        match (why, facts.rejects_key) {
            (None, None) => {}
            (Some(why), Some(rejected)) => assert!(rejected.why.contains(why), "{rejected}"),
            (_, rejected) => panic!("{key} {secret}: {rejected:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_changes_only_what_it_was_granted() {
    let bind = Bind::primary().await;
    let beyond = change([(a("hop"), None, Some(set(30, &["10.20.0.80"])))]);
    let refused = refusal(bind.apply(&bind.target(), &beyond).await);
    assert!(refused.contains("refuses to change clickbank.test for the key handover-key (REFUSED)"), "{refused}");
    assert!(refused.contains("check `allow-update` or `update-policy` there"), "{refused}");
    assert_eq!(bind.observe(&[a("hop")]).await.unwrap().sets[&a("hop")], None);
}

/// What a program sees whose machine's clock is ten minutes ahead. (libfaketime cannot be used: it and BIND's allocator wait for each
/// other.)
const AHEAD: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
  int result = syscall(SYS_clock_gettime, id, t);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += 600;
  return result;
}
";

#[tokio::test]
async fn a_clock_that_is_off_is_told_before_anything_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("ahead.so").display().to_string();
    write(folder.path(), "ahead.c", AHEAD);
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o", &library]).arg(folder.path().join("ahead.c")).status();
    assert!(built.expect("this test needs a C compiler, as Rust itself does").success());
    let zone = |dir: &Path| {
        write(dir, "zone.db", RECORDS);
        format!("zone \"{ZONE}\" {{ type primary; file \"zone.db\"; allow-update {{ key handover-key; }}; }};")
    };
    let bind = Bind::run_by(&["env", &format!("LD_PRELOAD={library}"), "/usr/sbin/named"], zone).await;
    let facts = bind.observe(&[pay()]).await.unwrap();
    let rejected = facts.rejects_key.unwrap().to_string();
    assert!(rejected.contains("s ahead of this machine's (BADTIME)"), "{rejected}");
    assert!(rejected.contains("set the clocks of both machines by NTP"), "{rejected}");
    let refused = refusal(bind.apply(&bind.target(), &drained_pay()).await);
    assert!(refused.contains("(BADTIME)"), "{refused}");
    assert_eq!(bind.observe(&[pay()]).await.unwrap().sets[&pay()], all_of_pay());
}
