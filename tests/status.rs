//! `handover status` for programs and on terminals. Its targets are ports of this machine where nobody listens: nothing answers, and
//! that is soon known.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Exit code of a status in which nothing answers.
const DEGRADED: i32 = 11;

/// A topology whose addresses are all of this machine, in a folder of its own.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd/small.yaml");
    // Nobody listens on port 1 (tcpmux).
    let text = fs::read_to_string(small).unwrap();
    let text = text.replace("facility: west, address: 10.10.0.53", "facility: west, address: \"127.0.0.1:1\"");
    let text = text.replace("facility: east, address: 10.20.0.53", "facility: east, address: \"127.0.0.2:1\"");
    let text = text.replace("facility: west, address: 10.10.0.80", "facility: west, address: \"127.0.0.1:2\"");
    let text = text.replace("facility: east, address: 10.20.0.80", "facility: east, address: \"127.0.0.2:2\"");
    let text = text
        .replace("tcp://10.10.0.80:9999", "tcp://127.0.0.1:1")
        .replace("tcp://10.20.0.80:9999", "tcp://127.0.0.2:1");
    let text = text.replace("10.10.0.91:8080", "127.0.0.1:3").replace("10.20.0.91:8080", "127.0.0.2:3");
    fs::create_dir(folder.path().join("secrets")).unwrap();
    fs::write(folder.path().join("secrets/tsig"), "bm90IGEgc2VjcmV0\n").unwrap();
    fs::write(folder.path().join("topology.yaml"), text).unwrap();
    folder
}

fn handover(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
    command.args(["status", "--timeout", "1s"]).args(arguments).current_dir(folder.path());
    command.env("HANDOVER_STATE_DIR", folder.path().join("state")).env("TERM", "xterm").stdin(Stdio::null());
    command.env_remove("HANDOVER_TOPOLOGY");
    command
}

fn told(folder: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let output = handover(folder, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn json_tells_everything_in_one_object() {
    let folder = folder();
    let (code, out, _) = told(&folder, &["--format", "json"]);
    assert_eq!((code, out.lines().count()), (DEGRADED, 1), "{out}");
    let status: Value = serde_json::from_str(&out).unwrap();
    for (key, value) in [
        ("format", Value::from(1)),
        ("result", "status".into()),
        ("verdict", "degraded".into()),
        ("exit_code", DEGRADED.into()),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
    let targets = status["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 6);
    for target in targets {
        assert_eq!(target["reachable"], false);
        assert!(
            !target["why"].as_str().unwrap().is_empty() && !target["tried"].as_str().unwrap().is_empty(),
            "{target}"
        );
    }
    let orders = &status["services"][0];
    assert_eq!((&orders["name"], &orders["basis"]), (&"orders".into(), &"unknown".into()));
    assert_eq!(orders["facilities"][0]["desired_share_percent"], 50.0);
    assert_eq!(orders["facilities"][0]["share_percent"], Value::Null);
}

#[test]
fn metrics_are_written_whole_into_a_file() {
    let folder = folder();
    let file = folder.path().join("handover.prom");
    fs::write(&file, "old\n").unwrap();
    let (code, out, err) = told(&folder, &["--format", "prometheus", "--out", "handover.prom"]);
    assert_eq!((code, out.as_str()), (DEGRADED, ""), "{err}");
    let metrics = fs::read_to_string(&file).unwrap();
    assert!(metrics.contains("\nhandover_status_code{topology=\"shop\"} 11\n"), "{metrics}");
    assert!(metrics.contains(
        "handover_target_up{topology=\"shop\",target=\"proxy/west-lb1\",kind=\"proxy\",facility=\"west\"} 0\n"
    ));
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["handover.prom", "secrets", "state", "topology.yaml"]);

    let (code, _, err) = told(&folder, &["--format", "prometheus", "--out", "no/such/folder/handover.prom"]);
    assert_eq!(code, 1);
    assert!(err.contains("cannot write no/such/folder/handover.prom"), "{err}");
    let (code, _, err) = told(&folder, &["--format", "prometheus", "--watch"]);
    assert_eq!(code, 64);
    assert!(err.contains("--out FILE"), "{err}");
    let (code, _, err) = told(&folder, &["--watch", "0s"]);
    assert_eq!(code, 64);
    assert!(err.contains("at least 100ms"), "{err}");
}

#[test]
fn watching_tells_a_line_of_json_for_each_state_until_it_is_stopped() {
    let folder = folder();
    let mut child =
        handover(&folder, &["--format", "json", "--watch", "150ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut times: Vec<jiff::Timestamp> = Vec::new();
    for _ in 0..4 {
        let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(status["verdict"], "degraded");
        times.push(status["observed_at"].as_str().unwrap().parse().unwrap());
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    signal(&child, "-TERM");
    assert!(lines.all(|line| serde_json::from_str::<Value>(&line.unwrap()).is_ok()), "a line is cut");
    assert_eq!(child.wait().unwrap().code(), Some(DEGRADED), "the last state's");
}

#[test]
fn watching_ends_when_nobody_reads_any_more() {
    let folder = folder();
    let mut child = handover(&folder, &["--watch", "100ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut first).unwrap();
    assert!(first.contains("UTC, every 100ms"), "{first}");
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(DEGRADED));
}

#[test]
fn watching_draws_on_the_second_screen_of_a_terminal_and_gives_the_first_one_back() {
    let folder = folder();
    // Without `noflsh`, the kernel drops output after it has sent the signal: what was just written to leave the screen, if it is unlucky.
    let watch = format!(
        "stty noflsh rows 60 cols 100; exec {} status --timeout 1s --watch 100ms",
        env!("CARGO_BIN_EXE_handover")
    );
    // `script` makes a terminal; what is typed there goes through it, Ctrl-C included.
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &watch, "/dev/null"]).current_dir(folder.path());
    command
        .env("SHELL", "/bin/sh")
        .env("HANDOVER_STATE_DIR", folder.path().join("state"))
        .env("TERM", "xterm")
        .env_remove("HANDOVER_TOPOLOGY");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // Two frames at least, each drawn from the upper left corner.
    while String::from_utf8_lossy(&seen).matches("\u{1b}[H").count() < 3 {
        let read = out.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended early: {}", String::from_utf8_lossy(&seen));
        seen.extend(&buffer[..read]);
    }
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    out.read_to_end(&mut seen).unwrap();
    // `script` may drop what was on its way when Ctrl-C was typed, in the midst of a character if need be.
    let seen = String::from_utf8_lossy(&seen).into_owned();
    drop(keyboard);
    assert_eq!(child.wait().unwrap().code(), Some(DEGRADED), "{seen:?}");
    let enter = seen.find("\u{1b}[?1049h").expect("it does not enter the second screen");
    let leave = seen.find("\u{1b}[?1049l").expect("it does not leave the second screen");
    assert!(enter < leave && seen.matches("\u{1b}[?1049").count() == 2, "{seen:?}");
    assert!(seen.rfind("\u{1b}[?25l") < seen.rfind("\u{1b}[?25h"), "the cursor stays hidden: {seen:?}");
    let (screen, after) = seen.split_at(leave);
    assert!(!screen[enter..].contains("\u{1b}[2J\u{1b}[2J"), "{screen:?}");
    assert!(after.contains("DEGRADED"), "the last state is not on the first screen: {after:?}");
}
