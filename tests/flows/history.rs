//! What the journal tells of a run afterwards: the same that was heard while it lasted, and no secret.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handover::event::Event;
use lab::OPERATOR;
use serde_json::Value;

use super::world::{Running, World};

fn names<'a>(steps: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    steps.map(str::to_owned).collect()
}

/// The last run, as `runs`, `runs show` and `report` tell it, is the one that was watched.
#[track_caller]
pub fn told_as_it_was(world: &World, run: &Running, state: &str) {
    let told = world.handover(&["runs", "show", "last", "--format", "json"]).code(0);
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let list = |key: &str| told[key].as_array().unwrap().iter();
    assert_eq!(told["state"], state, "{}", run.story());
    let listed = world.handover(&["runs", "--format", "json"]).code(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!((&listed["runs"][0]["run"], &listed["runs"][0]["state"]), (&told["run"], &told["state"]));

    let ended_as = |outcome: &str| {
        names(list("steps").filter(|step| step["outcome"] == outcome).map(|step| step["step"].as_str().unwrap()))
    };
    let heard = |wanted: fn(&Event) -> Option<&str>| names(run.seen.iter().filter_map(wanted));
    let done = heard(|event| match event {
        Event::StepDone { step, .. } => Some(step.0.as_str()),
        _ => None,
    });
    let undone = heard(|event| match event {
        Event::UndoDone { step, .. } => Some(step.0.as_str()),
        _ => None,
    });
    assert_eq!(ended_as("done"), done.difference(&undone).cloned().collect(), "{}", run.story());
    assert_eq!(ended_as("undone"), undone, "{}", run.story());

    // Stalls and gates, to the millisecond and to the letter.
    let stalls: Vec<(String, u64)> = list("stalls")
        .map(|stall| {
            (
                stall["database"].as_str().unwrap().to_owned(),
                stall["to_ms"].as_u64().unwrap() - stall["from_ms"].as_u64().unwrap(),
            )
        })
        .collect();
    let waited: Vec<(String, u64)> = run
        .seen
        .iter()
        .filter_map(|event| match event {
            Event::WritesResumed { database, write_stall, .. } => {
                Some((database.to_string(), write_stall.as_millis() as u64))
            }
            _ => None,
        })
        .collect();
    assert_eq!(stalls.len(), waited.len(), "{stalls:?} {waited:?}");
    for (name, heard) in &waited {
        // Both ends are cut to whole milliseconds, each for itself.
        assert!(
            stalls.iter().any(|(told, stall)| told == name && stall.abs_diff(*heard) <= 1),
            "{stalls:?} {waited:?}"
        );
    }
    for event in &run.seen {
        let Event::GateJudged { step, verdict, measured, .. } = event else { continue };
        let gate = list("steps").find(|told| told["step"] == step.0.as_str()).unwrap();
        let attempts = gate["attempts"].as_array().unwrap();
        let same = |attempt: &Value| attempt["verdict"] == verdict.word() && attempt["measured"] == measured.as_str();
        assert!(attempts.iter().any(same), "{step}: {measured}\n{gate:#}");
    }
    if state == "done" {
        assert!(list("without_redundancy").all(|window| window["to_ms"].as_u64().is_some()), "{told:#}");
        assert_eq!(told["without_redundancy"].as_array().unwrap().len(), stalls.len());
    }

    let page = world.path("report.html");
    world.handover(&["report", "--out", &page.to_string_lossy()]).code(0);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg ").count(), 1 + stalls.len());
    world.handover(&["report"]).code(0).says(&[&format!(": {state}"), "## Appendix: every record"]);
}

/// The values of the lab's secrets, which are random.
fn secrets(world: &World) -> BTreeSet<String> {
    let files = world.shell(OPERATOR, "cat /srv/secrets/*");
    let words = files.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64);
    let secrets: BTreeSet<String> = words.map(str::to_owned).collect();
    assert!(secrets.len() >= 4, "{} secrets", secrets.len());
    secrets
}

/// Every command line that is seen on this machine while it watches.
pub struct Processes {
    stop: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<BTreeSet<String>>,
}

impl Processes {
    /// Looks every few milliseconds.
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
                let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
                seen.extend(lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            seen
        });
        Self { stop, watching }
    }

    /// None of them held a secret.
    #[track_caller]
    pub fn show_no_secret(self, world: &World) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.watching.join().unwrap();
        assert!(seen.iter().any(|line| line.contains("handover apply")), "{seen:#?}");
        let secrets = secrets(world);
        let telling: Vec<&String> = seen.iter().filter(|line| secrets.iter().any(|it| line.contains(it))).collect();
        assert_eq!(telling, [""; 0]);
    }
}

/// The values of the lab's secrets: none is in anything that is told of any run, nor in the state directory.
#[track_caller]
pub fn tells_no_secret(world: &World) {
    let secrets = secrets(world);
    let listed = world.handover(&["runs", "--format", "json"]).code(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let runs: Vec<&str> = listed["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert!(!runs.is_empty());
    let mut told = vec![listed.to_string()];
    for run in runs {
        for arguments in [
            &["runs", "show", run][..],
            &["runs", "show", run, "--format", "json"],
            &["report", run],
            &["report", run, "--format", "html"],
        ] {
            let answer = world.handover(arguments).code(0);
            told.extend([answer.out, answer.err]);
        }
    }
    let state = world.path("state");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for file in std::fs::read_dir(&state).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        told.push(String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned());
    }
    for secret in secrets {
        assert!(told.iter().all(|text| !text.contains(&secret)), "a secret is told");
    }
}
