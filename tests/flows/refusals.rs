//! What is refused: exit status 3 (or 64, 65 where the input is at fault), the target and the remedy named, nothing changed.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use handover::plan::Plan;
use jiff::{Timestamp, ToSpan};
use lab::Selection;

use super::world::{World, until};

/// `plan --drain west` on a topology is refused with these words.
#[track_caller]
fn refuses(world: &World, topology: &Path, words: &[&str]) {
    let answer = world.handover_on(topology, &["plan", "--drain", "west"]).code(3).says(words);
    assert!(answer.out.contains("nothing was changed"), "{}", answer.out);
}

#[test]
fn what_cannot_be_done_safely_is_refused_and_nothing_changes() {
    let world = World::start();
    let before = world.facts();
    for_programs(&world);
    wishes(&world);
    targets(&world);
    plans(&world);
    stale(&world);
    saving(&world);
    world.unchanged(&before);
    assert!(!world.path("plans").exists(), "refused plans are not saved");
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    world.handover(&["status"]).code(0);
    world.end();
}

/// The same answers for programs.
fn for_programs(world: &World) {
    let told = |args: &[&str], code: i32| -> serde_json::Value {
        let out = world.handover(args).code(code).out;
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).unwrap()
    };
    let status = told(&["status", "--format", "json"], 0);
    assert_eq!(status["verdict"], "healthy", "{status}");
    assert!(status["targets"].as_array().unwrap().iter().all(|target| target["reachable"] == true), "{status}");
    let accounts =
        status["databases"].as_array().unwrap().iter().find(|database| database["name"] == "accounts").unwrap();
    assert_eq!((&accounts["primary"], &accounts["primaries"]), (&"west-pg1".into(), &1.into()), "{accounts}");
    for service in status["services"].as_array().unwrap() {
        for at in service["facilities"].as_array().unwrap() {
            assert_eq!((&at["share_percent"], &at["desired_share_percent"]), (&50.0.into(), &50.0.into()), "{service}");
        }
    }
    let metrics = world.handover(&["status", "--format", "prometheus"]).code(0).out;
    assert!(metrics.contains("\nhandover_status_code{topology=\"clickbank\"} 0\n"), "{metrics}");
    assert_eq!(metrics.matches("\nhandover_target_up{").count(), status["targets"].as_array().unwrap().len());

    let nothing = told(&["plan", "--format", "json"], 0);
    assert_eq!((&nothing["format"], &nothing["result"]), (&1.into(), &"nothing".into()), "{nothing}");
    let refused = told(&["plan", "--format", "json", "--drain", "west", "--drain", "east"], 3);
    assert_eq!((&refused["result"], &refused["exit_code"]), (&"refused".into(), &3.into()), "{refused}");
    assert!(refused["refusals"][0]["advice"].is_string(), "{refused}");
}

/// Wishes that contradict each other, the policy or the file.
fn wishes(world: &World) {
    let plain = world.topology();
    world.handover(&["plan", "--drain", "wset"]).code(64).says(&["no facility `wset`", "did you mean `west`?"]);
    let both = ["plan", "--drain", "west", "--drain", "east"];
    world.handover(&both).code(3).says(&["no facility would serve", "at least 1 active"]);
    let at_once = ["plan", "--drain", "west", "--restore", "west"];
    world.handover(&at_once).code(3).says(&["west is to be drained and restored at once", "choose one"]);
    world
        .handover(&["plan", "--topology", "nowhere.yaml"])
        .code(65)
        .says(&["cannot read nowhere.yaml", "HANDOVER_TOPOLOGY"]);

    let drained = world.edited("drained.yaml", &[("state: active", "state: drained")]);
    let line = fs::read_to_string(&drained).unwrap().lines().position(|line| line.contains("state: drained")).unwrap();
    world.handover_on(&drained, &["plan", "--restore", "west"]).code(3).says(&[
        &format!("drained.yaml:{}:", line + 1),
        "the topology itself takes west out of service",
        "change it to `active`",
    ]);
    let two = world.edited("two.yaml", &[("min_active_facilities: 1", "min_active_facilities: 2")]);
    refuses(world, &two, &["east would serve", "at least 2 active facilities"]);
    let peak = world.edited("peak.yaml", &[("peak: {rate: 1200 rps", "peak: {rate: 1300 rps")]);
    refuses(world, &peak, &["too little would remain: orderform", "1600 rps", "1300 rps", "20%", "needs 1625 rps"]);

    // The file is right again, and so is the plan.
    world.plan(&plain, "fine.yaml", &["--drain", "west"]);
}

/// Targets that are not fit for it.
fn targets(world: &World) {
    let plain = world.topology();
    fs::write(world.path("tsig"), "bm90IHRoZSBrZXkgb2YgdGhlIGxhYiwgYnV0IGxvbmc=\n").unwrap();
    let key = world.edited("key.yaml", &[("secret: {file: /srv/secrets/tsig}", "secret: {file: tsig}")]);
    refuses(world, &key, &["west-ns1 does not accept our key", "east-ns1 does not accept our key"]);

    let server = r#"west-app9: {facility: west, address: "10.10.0.91:8080", capacity: 800 rps}"#;
    let first = r#"west-app1: {facility: west, address: "10.10.0.91:8080", capacity: 800 rps}"#;
    let missing = world.edited("missing.yaml", &[(first, &format!("{first}\n      {server}"))]);
    refuses(world, &missing, &["backend orderform of west-lb1 lacks west-app9", "add them there"]);

    weak_proxy(world);

    world.lab.kill(&Selection::Target("east-lb2".to_owned())).unwrap();
    refuses(world, &plain, &["no answer from proxy/east-lb2", "10.20.0.81:9999", "repair it"]);
    let plan = world.path("fine.yaml");
    world.apply(&plain, &plan).code(3).says(&["the plan is stale", "east-lb2", "no answer"]);
    world.lab.start_servers(&Selection::Target("east-lb2".to_owned())).unwrap();
    until("the proxy serves again", || world.handover(&["status"]).code == 0);

    world.sql("east-pg1", "select pg_wal_replay_pause()");
    refuses(world, &plain, &["replay is paused at east-pg1", "pg_wal_replay_resume()"]);
    world.sql("east-pg1", "select pg_wal_replay_resume()");

    let conninfo = world.sql("east-pg1", "show primary_conninfo");
    world.sql("east-pg1", "alter system set primary_conninfo = ''");
    world.sql("east-pg1", "select pg_reload_conf()");
    let streams = || world.sql("west-pg1", "select count(*) from pg_stat_replication where state = 'streaming'") == "1";
    until("the replica does not stream", || !streams());
    refuses(world, &plain, &["no member of accounts can take over: east-pg1 does not stream", "repair replication"]);
    world.sql("east-pg1", &format!("alter system set primary_conninfo = '{conninfo}'"));
    world.sql("east-pg1", "select pg_reload_conf()");
    until("the replica streams again", streams);

    world.console("east-pool1", "SET pool_mode = 'session'");
    refuses(world, &plain, &["east-pool1 lends accounts for whole sessions", "pool_mode = transaction"]);
    world.console("east-pool1", "SET pool_mode = 'transaction'");
}

/// A proxy whose runtime API lets us look and not act.
fn weak_proxy(world: &World) {
    world.shell(
        "west",
        "sed 's/stats socket .*/stats socket ipv4@10.10.0.80:9998 level operator/; s/bind 10.10.0.80:80/bind 10.10.0.80:8888/' \
         /srv/west-lb1/haproxy.cfg >/srv/west-lb1/weak.cfg",
    );
    let mut command = world.lab.command_in("west", "/usr/sbin/haproxy").unwrap();
    command.args(["-db", "-f", "/srv/west-lb1/weak.cfg"]).stdin(Stdio::null());
    let mut proxy = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the proxy listens", || {
        world.lab.connect("10.10.0.80:9998".parse().unwrap(), std::time::Duration::from_secs(1)).is_ok()
    });
    let weak = world.edited("weak.yaml", &[("tcp://10.10.0.80:9999", "tcp://10.10.0.80:9998")]);
    refuses(world, &weak, &["west-lb1", "level admin"]);
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

/// Plans that must not be applied, whatever the targets say.
fn plans(world: &World) {
    let plain = world.topology();
    let plan = world.path("fine.yaml");
    world.handover(&["apply", &plan.to_string_lossy()]).code(64).says(&["no terminal to ask on", "--auto-approve"]);

    let text = fs::read_to_string(&plan).unwrap();
    let changed = |name: &str, text: &str| {
        fs::write(world.path(name), text).unwrap();
        world.apply(&plain, &world.path(name))
    };
    changed("newer.yaml", &text.replacen("format: 1", "format: 2", 1))
        .code(65)
        .says(&["it has format 2", "or newer, or make the plan again"]);
    changed("cut.yaml", &text[..text.len() / 2]).code(65).says(&[
        "cut.yaml",
        "cut short",
        "fetch the whole file again",
    ]);
    changed("renamed.yaml", &text.replacen("id: gate.switchable.accounts", "id: gate.switchable.nothing", 1))
        .code(65)
        .says(&["it was edited since it was made", "handover plan"]);
    // Still a plan, and not the one that was reviewed.
    changed("longer.yaml", &text.replacen("expires: 2", "expires: 3", 1))
        .code(65)
        .says(&["it was edited since it was made"]);
    changed("empty.yaml", "").code(65);
    world.apply(&plain, Path::new("no-such-plan.yaml")).code(65).says(&["cannot read the plan no-such-plan.yaml"]);

    let file = world.edited("later.yaml", &[]);
    let early = world.plan(&file, "early.yaml", &["--drain", "west"]);
    fs::write(&file, fs::read_to_string(&file).unwrap() + "# a remark\n").unwrap();
    world.apply(&file, &early).code(3).says(&["the topology was edited after the plan was made", "make a new plan"]);

    let brief = world.edited("brief.yaml", &[("plan_expiry: 24h", "plan_expiry: 1s")]);
    let brief_plan = world.plan(&brief, "brief-plan.yaml", &["--drain", "west"]);
    let expires = Plan::from_yaml(&fs::read_to_string(&brief_plan).unwrap()).unwrap().expires;
    until("the plan expires", || Timestamp::now() > expires);
    world.apply(&brief, &brief_plan).code(3).says(&["the plan expired at", "make a new one"]);

    let away = Timestamp::now().checked_add(72.hours()).unwrap().strftime("%a").to_string().to_lowercase();
    let window = format!("windows: [{{days: [{away}], from: \"02:00\", to: \"05:00\", zone: America/Boise}}]");
    let closed = world.edited("closed.yaml", &[("windows: []", &window)]);
    let outside = world.plan(&closed, "outside.yaml", &["--drain", "west"]);
    world.apply(&closed, &outside).code(3).says(&["no maintenance window", "it fits at", "--override GATE"]);
}

/// Plans that cannot be saved: nothing is overwritten, and no part of one is left.
fn saving(world: &World) {
    let plan = world.path("fine.yaml");
    let before = fs::read_to_string(&plan).unwrap();
    let path = plan.to_string_lossy();
    world.handover(&["plan", "--drain", "west", "--out", &path]).code(1).says(&[
        "fine.yaml",
        "never overwritten",
        "--out",
    ]);
    assert_eq!(fs::read_to_string(&plan).unwrap(), before);
    let json = ["plan", "--drain", "west", "--out", &path, "--format", "json"];
    let answer: serde_json::Value = serde_json::from_str(&world.handover(&json).code(1).out).unwrap();
    assert_eq!((&answer["result"], &answer["exit_code"]), (&"error".into(), &1.into()), "{answer}");

    let mounted = |options: &str| {
        world.script(&format!(
            "unshare --mount --propagation private sh -c 'mkdir -p place && mount -t tmpfs -o {options} tmpfs place || exit 99
             \"$HANDOVER\" plan --drain west --out place/deeper/plan.yaml; code=$?; find place -type f; exit $code'"
        ))
    };
    let full = mounted("size=16k").code(1).says(&["place/deeper/plan.yaml: No space left", "free some space", "--out"]);
    assert!(!full.out.contains("place/"), "something was left behind: {}", full.out);
    mounted("ro").code(1).says(&["place/deeper/plan.yaml: Read-only file system", "nothing was changed", "--out"]);
}

/// Plans about a world that is no more.
fn stale(world: &World) {
    let plain = world.topology();
    let plan = world.plan(&plain, "stale.yaml", &["--drain", "west"]);

    world.proxy("west-lb1", "set server orderform/west-app1 weight 50");
    world.apply(&plain, &plan).code(3).says(&["the plan is stale", "west-lb1", "west-app1", "weight 50"]);
    world.proxy("west-lb1", "set server orderform/west-app1 weight 100");

    let update = |server: &str, change: &str| {
        let key = "$(cat /srv/secrets/tsig)";
        let text = format!("server {server}\\n{change}\\nsend\\n");
        world.shell(lab::OPERATOR, &format!("printf '{text}' | nsupdate -y hmac-sha256:handover-key:{key}"));
    };
    update("10.20.0.53", "update add pay.clickbank.example 2 A 10.20.0.99");
    world.apply(&plain, &plan).code(3).says(&[
        "the plan is stale",
        "east-ns1",
        "pay.clickbank.example A",
        "10.20.0.99",
    ]);
    update("10.20.0.53", "update delete pay.clickbank.example A 10.20.0.99");
    until("the secondary follows", || world.published("east-ns2", "pay").len() == 4);

    world.console("west-pool1", "PAUSE products");
    refuses(world, &plain, &["products is paused at west-pool1 already", "RESUME"]);
    world.console("west-pool1", "RESUME products");
}
