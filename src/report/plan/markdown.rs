//! A plan for a pull request: GitHub flavoured Markdown. Whatever comes from files or people is escaped, so that it is shown and
//! never obeyed.

use super::super::text::{Text, duration, moment};
use super::{Detail, NumberedStage, describe, glance, kinds_of_steps, numbered};
use crate::plan::Plan;
use crate::report::text::count;

/// Characters that mean something to Markdown, or to the HTML that it may hold.
const SPECIAL: &str = "\\`*_{}[]()#~|$";

pub(super) fn plan(plan: &Plan, file: Option<&str>, detail: Detail) -> String {
    let stages = numbered(plan);
    let mut out = format!("## Plan {}: {}\n\n", escaped(&plan.id), escaped(&plan.intent.title()));
    if let Some(reason) = &plan.intent.reason {
        out += &format!("Reason: {}\n\n", escaped(reason));
    }
    for note in &plan.notes {
        out += &format!("> [!WARNING]\n> {}\n\n", escaped(note));
    }
    out += "| | |\n| --- | --- |\n";
    for (label, text) in glance(plan, &stages) {
        out += &row(&[&bold(label), &plain(&text)]);
    }
    let digest: String = plan.topology.digest.chars().take(12).collect();
    let made = format!("{} from topology {} ({digest})", moment(plan.created), plan.topology.name);
    out += &row(&[&bold("made"), &escaped(&made)]);
    out += &row(&[&bold("valid until"), &escaped(&format!("{}, for one run", moment(plan.expires)))]);
    let steps = format!("{}: {}", count(plan.steps.len(), "step"), kinds_of_steps(plan));
    out += &row(&[&bold("steps"), &escaped(&steps)]);
    out +=
        "\n### Stages\n\n| stage | what | steps | about | point of no return |\n| ---: | --- | ---: | ---: | --- |\n";
    for stage in &stages {
        let points = stage.points_of_no_return();
        let points = if points.is_empty() { String::new() } else { format!("⛔ **{}**", escaped(&points.join(", "))) };
        out += &row(&[
            &(stage.index + 1).to_string(),
            &escaped(stage.title),
            &stage.steps.len().to_string(),
            &duration(stage.expected()),
            &points,
        ]);
    }
    if detail == Detail::Full {
        stages.iter().for_each(|stage| out += &details(stage));
    }
    if let Some(file) = file {
        out += &format!("\nSaved as {}; to carry it out: {}\n", code(file), code(&format!("handover apply {file}")));
    }
    out
}

/// A sentence and a list.
pub(super) fn list(head: &str, lines: &[String]) -> String {
    let mut out = format!("{}\n", escaped(head));
    for (index, line) in lines.iter().enumerate() {
        out += if index == 0 { "\n" } else { "" };
        out += &format!("- {}\n", escaped(line));
    }
    out
}

/// A stage that opens when it is clicked.
fn details(stage: &NumberedStage<'_>) -> String {
    let mark = if stage.has_point_of_no_return() { " ⛔" } else { "" };
    // Markdown is not read within the summary.
    let title = html(&format!("Stage {}: {}", stage.index + 1, stage.title));
    let mut out = format!("\n<details>\n<summary>{title}{mark}</summary>\n\n");
    for line in stage.remains {
        out += &format!("- remains: {}\n", escaped(line));
    }
    if !stage.beside.is_empty() {
        let beside = crate::model::text::list(stage.beside.iter().map(|stage| stage + 1));
        out += &format!("- at the same time as stage {beside}\n");
    }
    out += "\n| step | does | undo | about |\n| ---: | --- | --- | ---: |\n";
    let mut section = None;
    for (number, _, group) in stage.in_order() {
        let step = group.step;
        if step.section.as_deref() != section {
            section = step.section.as_deref();
            let words = section.map(|section| stage.stalls.get(section).map_or("one section", String::as_str));
            let words = match words {
                Some(words) => format!("▼ {words}: these steps stand or fall together"),
                None => "▲ end of the section".to_owned(),
            };
            out += &row(&["", &format!("*{}*", escaped(&words)), "", ""]);
        }
        if step.point_of_no_return {
            out += &row(&["", "⛔ **POINT OF NO RETURN: from here on it only goes forward**", "", ""]);
        }
        let mut does = format!("**{}**", escaped(&group.title()));
        if group.steps.len() > 1 {
            does += &format!(" ({} at once)", group.steps.len());
        }
        let lines = describe::details(step).iter().map(plain).chain([escaped(&group.why())]).collect::<Vec<_>>();
        does += &lines.iter().map(|line| format!("<br>{line}")).collect::<String>();
        let undo = stage.way_back(step).unwrap_or_default();
        let undo = escaped(undo.strip_prefix("undo: ").unwrap_or(&undo));
        out += &row(&[&format!("{number} {}", code(super::mark(step).0)), &does, &undo, &duration(step.expected.0)]);
    }
    out + "\n</details>\n"
}

pub(in crate::report) fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn bold(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!("**{label}**") }
}

fn plain(text: &Text) -> String {
    escaped(&text.draw(false))
}

/// Text that is shown as it is, on one line: no mark, tag, link or cell boundary in it has an effect.
pub(in crate::report) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let text = one_line(text);
    let mut characters = text.chars().enumerate().peekable();
    while let Some((index, c)) = characters.next() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            c if SPECIAL.contains(c) => out.extend(['\\', c]),
            // Only at the beginning of a line do these make lists, headings and rules.
            '-' | '+' | '=' | '!' if index == 0 => out.extend(['\\', c]),
            '.' if characters.peek().is_none_or(|(_, next)| *next == ' ')
                && out.chars().all(|c| c.is_ascii_digit()) =>
            {
                out.extend(['\\', c]);
            }
            c => out.push(c),
        }
    }
    out
}

/// Text within HTML.
fn html(text: &str) -> String {
    one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text in typewriter letters; the fence is longer than any within, and a bar would end a table's cell.
fn code(text: &str) -> String {
    let text = one_line(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

    use super::*;

    /// What a reader of a cell sees, and everything in it that is not text.
    fn shown(cell: &str) -> (String, Vec<String>) {
        let table = format!("| a | b |\n| --- | --- |\n| {cell} | end |\n");
        let (mut text, mut marks, mut cells) = (String::new(), Vec::new(), 0);
        let mut body = false;
        for event in
            Parser::new_ext(&table, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_MATH)
        {
            match event {
                Event::Start(Tag::TableRow) => body = true,
                Event::End(TagEnd::TableCell) => cells += usize::from(body),
                Event::Text(part) if body && cells == 0 => text += &part,
                Event::Start(Tag::Table(_) | Tag::TableHead | Tag::TableCell) | Event::End(_) => {}
                Event::Text(_) => {}
                other => marks.push(format!("{other:?}")),
            }
        }
        assert_eq!(cells, 2, "{table}");
        (text, marks)
    }

    proptest! {
        #[test]
        fn any_text_is_shown_and_never_obeyed(text in "[ -~éü→\n]{0,60}|(<[a-z/]{1,3}>|[|*_`\\[\\]()!#~$@:&;\\\\]|&lt;|https?://|a){0,12}") {
            prop_assume!(!one_line(&text).is_empty());
            let (seen, marks) = shown(&escaped(&text));
            prop_assert_eq!(seen, one_line(&text));
            prop_assert_eq!(marks, Vec::<String>::new());
        }

        #[test]
        fn lists_stay_lists(text in "[ -~]{1,40}|[0-9]{1,3}[.)] a|[-+*=#>]{1,4} a|---|===|```|    a") {
            prop_assume!(!one_line(&text).is_empty());
            let list = list("head", std::slice::from_ref(&text));
            let mut seen = String::new();
            for event in Parser::new_ext(&list, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
                match event {
                    Event::Text(part) => seen += &part,
                    Event::Start(Tag::Paragraph | Tag::List(None) | Tag::Item) | Event::End(_) => {}
                    other => prop_assert!(false, "{:?} in {}", other, list),
                }
            }
            prop_assert_eq!(seen, format!("head{}", one_line(&text)));
        }
    }
}
