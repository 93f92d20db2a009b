//! A plan's graph of steps in Mermaid: stages and sections as boxes, steps that are alike as one.

use std::collections::{BTreeMap, BTreeSet};

use super::{NumberedStage, mark, numbered};
use crate::plan::{Plan, StepId, Work};

/// Beyond this many steps nobody looks at every arrow, and finding those that follow from others takes long.
const MOST: usize = 2_000;

pub(super) fn plan(plan: &Plan) -> String {
    let stages = numbered(plan);
    let title = format!("{}: {}", plan.id, plan.intent.title());
    let mut out = format!("---\ntitle: \"{}\"\n---\nflowchart TB\n", plain(&title));
    for stage in &stages {
        out += &format!(
            "  subgraph s{}[\"{}\"]\n",
            stage.index + 1,
            label(&format!("{}. {}", stage.index + 1, stage.title))
        );
        out += &boxes(stage);
        out += "  end\n";
    }
    for (from, to) in arrows(plan, &stages) {
        out += &format!("  {from} --> {to}\n");
    }
    out + "  classDef section fill:#fff3cd,stroke:#b58900,color:#000\n  \
           classDef noreturn fill:#c0392b,stroke:#641e16,stroke-width:3px,color:#fff\n"
}

/// A graph that only says something.
pub(super) fn message(text: &str) -> String {
    format!("flowchart TB\n  nothing[\"{}\"]\n", label(text))
}

fn boxes(stage: &NumberedStage<'_>) -> String {
    let mut sections: BTreeMap<Option<&str>, String> = BTreeMap::new();
    for (number, index, group) in stage.in_order() {
        let step = group.step;
        let mut text = format!("{number} {} {}", mark(step).0, group.title());
        if step.point_of_no_return {
            text = format!("POINT OF NO RETURN: {text}");
        }
        let (open, close) = match step.work {
            Work::Gate { .. } => ("{{", "}}"),
            Work::Wait { .. } => ("([", "])"),
            Work::Verify => ("(", ")"),
            Work::Act { .. } | Work::Release { .. } => ("[", "]"),
        };
        let class = if step.point_of_no_return { ":::noreturn" } else { "" };
        let line = format!("{}{open}\"{}\"{close}{class}\n", node(stage, index), label(&text));
        *sections.entry(step.section.as_deref()).or_default() += &line;
    }
    let mut out = String::new();
    for (number, (section, lines)) in sections.into_iter().enumerate() {
        let Some(section) = section else {
            lines.lines().for_each(|line| out += &format!("    {line}\n"));
            continue;
        };
        let words = stage.stalls.get(section).map_or("one section", String::as_str);
        let id = format!("s{}x{number}", stage.index + 1);
        out += &format!("    subgraph {id}[\"{}\"]\n", label(&format!("{words}: these steps stand or fall together")));
        lines.lines().for_each(|line| out += &format!("      {line}\n"));
        out += &format!("    end\n    class {id} section\n");
    }
    out
}

fn node(stage: &NumberedStage<'_>, group: usize) -> String {
    format!("n{}_{group}", stage.index + 1)
}

/// From each group to those that need it, but for the arrows that follow from others.
fn arrows(plan: &Plan, stages: &[NumberedStage<'_>]) -> BTreeSet<(String, String)> {
    let mut nodes = Vec::new();
    let mut node_of: BTreeMap<&StepId, usize> = BTreeMap::new();
    for stage in stages {
        for (index, group) in stage.groups.iter().enumerate() {
            node_of.extend(group.steps.iter().map(|step| (&step.id, nodes.len())));
            nodes.push(node(stage, index));
        }
    }
    let mut needs: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for step in &plan.steps {
        let Some(to) = node_of.get(&step.id) else { continue };
        let from = step.needs.iter().filter_map(|need| node_of.get(need)).filter(|from| *from != to);
        needs.entry(*to).or_default().extend(from);
    }
    let direct = |to: usize| -> BTreeSet<usize> {
        let all = needs.get(&to).cloned().unwrap_or_default();
        if nodes.len() > MOST {
            return all;
        }
        let mut indirect = BTreeSet::new();
        let mut open: Vec<usize> = all.iter().filter_map(|from| needs.get(from)).flatten().copied().collect();
        while let Some(node) = open.pop() {
            if indirect.insert(node) {
                open.extend(needs.get(&node).into_iter().flatten());
            }
        }
        // Where groups need each other in a circle, nothing is left out.
        if indirect.contains(&to) { all } else { all.difference(&indirect).copied().collect() }
    };
    let named = |node: usize| nodes.get(node).cloned().unwrap_or_default();
    let arrows = needs.keys().flat_map(|to| direct(*to).into_iter().map(|from| (named(from), named(*to))));
    arrows.collect()
}

/// A label in quotes: what could end it, or begin a mark, a tag or a directive, is written as its code point.
fn label(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " .,:/_-=+?!~()→×".contains(c) => out.push(c),
            c if c.is_whitespace() || c.is_control() => out.push(' '),
            c => out += &format!("#{};", u32::from(c)),
        }
    }
    out
}

/// The title is YAML in quotes; names and facilities need no more than this.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric() || " .,:/_-=%()→".contains(*c)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_label_holds_nothing_that_mermaid_reads(text in ".{0,40}") {
            let label = label(&text);
            let marks = ['"', '<', '>', '`', '[', ']', '{', '}', '%', '&', '|', '\n', '\\'];
            prop_assert!(!label.contains(marks), "{}", label);
            // What is written as a code point reads back.
            let mut read = String::new();
            for (index, part) in label.split('#').enumerate() {
                let (code, rest) = if index == 0 { ("", part) } else { part.split_once(';').unwrap() };
                read.extend(code.parse().ok().and_then(char::from_u32));
                read += rest;
            }
            let expected: String = text.chars().map(|c| if c.is_whitespace() || c.is_control() { ' ' } else { c }).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
