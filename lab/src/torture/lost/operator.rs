//! The operator: `handover` as it is typed when something is lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use handover::event::Event;
use handover::plan::Plan;
use serde_json::Value;

use super::Fence;
use crate::torture::stand::{Answer, Heard, Stand, remove};

/// How long it may take until everything is healthy.
pub const HEALTHY: Duration = Duration::from_secs(60);

/// How much of a refusal is told.
const LONGEST: usize = 240;

/// The topology in which facilities are cut off by a firewall.
const ISOLATING: &str = "isolating.yaml";

/// What the topology of the lab says, and what stands there where a firewall cuts facilities off.
const FENCES: [(&str, &str); 3] = [
    ("[/srv/power, \"off\", ", "[/srv/power, isolate, "),
    ("[/srv/power, check, ", "[/srv/power, check-isolated, "),
    ("survives_power_on: false", "survives_power_on: true"),
];

/// Writes the topology in which facilities are cut off by a firewall.
///
/// # Errors
/// If the lab's own topology does not cut them off by their power.
pub fn isolating(stand: &Stand) -> Result<()> {
    let mut text = std::fs::read_to_string(stand.lab.directory().join("topology.yaml"))?;
    for (power, firewall) in FENCES {
        ensure!(text.matches(power).count() == super::FACILITIES.len(), "the topology lacks `{power}`");
        text = text.replace(power, firewall);
    }
    Ok(std::fs::write(stand.file(ISOLATING), text)?)
}

/// Publishes who is in charge, for servers that ask.
///
/// # Errors
/// If that does not succeed.
pub fn publish(stand: &Stand) -> Result<()> {
    let operator = Operator::new(stand, Fence::Off);
    let planned = operator.plan(&["--publish-epoch"])?;
    let Some((file, _)) = planned.plan else { bail!("no epoch can be published: {}", planned.why) };
    let answer = operator.apply_plan(&file)?;
    ensure!(answer.code == Some(0), "the epoch was not published: {}", why(&answer));
    Ok(())
}

/// Who types.
pub struct Operator<'a> {
    stand: &'a Stand,
    fence: Fence,
}

/// What `handover plan` came to.
pub struct Planned {
    /// Its exit status.
    pub code: Option<i32>,
    /// The plan, if there is one.
    pub plan: Option<(PathBuf, Plan)>,
    /// What stands against it.
    pub why: String,
}

impl<'a> Operator<'a> {
    /// Somebody whose topology has this fence.
    pub fn new(stand: &'a Stand, fence: Fence) -> Self {
        Self { stand, fence }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.stand.handover(arguments)?;
        if self.fence == Fence::Isolate {
            command.env("HANDOVER_TOPOLOGY", self.stand.file(ISOLATING));
        }
        Ok(command)
    }

    /// Makes a plan.
    ///
    /// # Errors
    /// If the command cannot be started, or leaves no plan that can be read.
    pub fn plan(&self, arguments: &[&str]) -> Result<Planned> {
        let file = self.stand.file("lost.yaml");
        remove(&file)?;
        let mut command = self.command(&[&["plan", "--format", "json"], arguments].concat())?;
        command.arg("--out").arg(&file);
        let answer = self.stand.run(command)?;
        let plan = match answer.code {
            Some(0) if file.exists() => Some((file.clone(), Plan::from_yaml(&std::fs::read_to_string(&file)?)?)),
            _ => None,
        };
        Ok(Planned { code: answer.code, plan, why: why(&answer) })
    }

    /// Applies a plan, or whatever else the arguments say.
    ///
    /// # Errors
    /// If the command cannot be started, or `heard` fails.
    pub fn apply(&self, arguments: &[&str], heard: impl FnMut(Heard<'_>) -> Result<()>) -> Result<Answer> {
        self.stand.end(self.command(&[&["apply", "--auto-approve", "--format", "json"], arguments].concat())?, heard)
    }

    /// Applies a plan that nobody disturbs.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub fn apply_plan(&self, plan: &Path) -> Result<Answer> {
        self.apply(&[&plan.to_string_lossy()], |_| Ok(()))
    }

    /// Asks how things are until all is healthy; else what is not.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub fn until_healthy(&self) -> Result<Result<(), String>> {
        let deadline = Instant::now() + HEALTHY;
        loop {
            let answer = self.stand.run(self.command(&["status"])?)?;
            if answer.code == Some(0) {
                return Ok(Ok(()));
            }
            if Instant::now() >= deadline {
                return Ok(Err(format!("status ends with {:?}:\n{}", answer.code, answer.lines.join("\n"))));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// True if a bare plan has nothing to do; else why not.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub fn nothing_to_do(&self) -> Result<Result<(), String>> {
        let planned = self.plan(&[])?;
        Ok(match (planned.code, planned.plan) {
            (Some(0), None) => Ok(()),
            (Some(0), Some((_, plan))) => {
                let titles: Vec<&str> = plan.steps.iter().map(|step| step.title.as_str()).collect();
                Err(format!("it would do: {}", titles.join("; ")))
            }
            (code, _) => Err(format!("it ended with {code:?}: {}", planned.why)),
        })
    }

    /// Asks a database member itself; one value.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn sql(&self, member: &str, sql: &str) -> Result<String> {
        let members = self.stand.topology.databases.values().flat_map(|database| {
            let here = database.members.get(member);
            here.map(|member| (database, member))
        });
        let Some((database, member)) = members.last() else { bail!("there is no member {member}") };
        let (ip, port) = crate::layout::socket(&member.target)?;
        let mut psql = self.stand.lab.command_in(super::HERE, "psql")?;
        psql.args(["-XAtq", "-U", member.target.settings.text("user").unwrap_or("handover"), "-c", sql]);
        psql.arg("-h").arg(ip.to_string()).arg("-p").arg(port.to_string()).arg("-d").arg(database.name.as_str());
        let password = crate::torture::watch::secret(&self.stand.lab.directory(), &member.target.settings)?;
        let output = psql.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5").output()?;
        ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// What a command says against what was wanted, or how its run ended, shortened.
pub fn why(answer: &Answer) -> String {
    let ended = answer.events.iter().filter_map(|event| match event {
        Event::RunEnded { summary, .. } => Some(summary.clone()),
        _ => None,
    });
    let answers = answer.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = answers.flat_map(|answer| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let refusals = answer.get("refusals").and_then(Value::as_array).cloned().unwrap_or_default();
        let stale = answer.get("stale").map(|_| "the plan is stale".to_owned());
        let whats = refusals.iter().filter_map(|refusal| text(refusal.get("what")?)).collect::<Vec<_>>();
        whats.into_iter().chain(answer.get("message").and_then(text)).chain(stale)
    });
    let all = ended.chain(told).collect::<Vec<_>>().join("; ").replace('\n', " ");
    match all.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &all[..end]),
        None => all,
    }
}
