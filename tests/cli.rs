//! The command line as users meet it: help, findings, refusals and exit codes in `tests/cmd`, every `console` block of the README,
//! completions and manual pages.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

#[test]
fn commands_answer_as_written_down() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd").case("README.md");
}

fn handover(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_handover")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A program that reads `input`.
fn fed(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn completions_are_scripts_that_complete() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = String::from_utf8(handover(&["completions", shell])).unwrap();
        for word in ["lint", "status", "plan", "show", "apply", "drain", "detailed-exitcode"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let mut script = handover(&["completions", "bash"]);
    let checked = fed("bash", &["-n"], &script);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    // What bash does when somebody presses the tabulator after `handover plan --dr`.
    script.extend(
        b"COMP_WORDS=(handover plan --dr) COMP_CWORD=2; _handover handover --dr plan; echo \"completed: ${COMPREPLY[*]}\"\n",
    );
    let completed = fed("bash", &["--norc", "-s"], &script);
    let shown = String::from_utf8_lossy(&completed.stdout).into_owned();
    assert!(shown.contains("completed: --drain\n"), "{shown} {}", String::from_utf8_lossy(&completed.stderr));
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    handover(&["man", "--dir", folder.path().to_str().unwrap()]);
    let help = String::from_utf8(handover(&["--help"])).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Lines that are indented further go on with the description of the one before.
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    let commands: Vec<&str> = names.collect();
    assert!(commands.contains(&"plan") && commands.len() > 7, "{commands:?}");
    let groff = Command::new("man").arg("--version").output().is_ok_and(|output| output.status.success());
    let pages = commands.iter().filter(|command| **command != "help").map(|command| format!("handover-{command}"));
    for page in std::iter::once("handover".to_owned()).chain(pages) {
        let file = folder.path().join(format!("{page}.1"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!(".TH {page} 1")), "{page} has no title");
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(text.contains(&format!(".SH {heading}")), "{page} has no {heading}");
        }
        if groff {
            let shown = Command::new("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(&file).output().unwrap();
            assert!(shown.status.success() && shown.stderr.is_empty(), "{page}: {shown:?}");
            assert!(String::from_utf8_lossy(&shown.stdout).contains("SYNOPSIS"), "{page}");
        }
    }
    assert_eq!(handover(&["man"]), fs::read(folder.path().join("handover.1")).unwrap());
}
