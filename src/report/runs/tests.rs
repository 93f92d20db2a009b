use super::sample::{FATES, Fate, journal, plan, run};
use super::*;
use crate::event::StepOutcome;
use crate::journal::{Entry, Record, RunEnd, RunSummary};
use crate::plan::StepId;
use crate::report::text::Style;

fn told(fate: Fate) -> Story {
    Story::new(&run(), &journal(&plan("chiller 2 is replaced"), fate), false).unwrap()
}

#[test]
fn the_stories_of_runs_read_well() {
    for fate in FATES {
        let text = story(&told(fate), Style::plain(100));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        insta::assert_snapshot!(format!("story_{fate:?}").to_lowercase(), text);
    }
}

#[test]
fn what_clients_felt_is_told_from_the_journal() {
    let done = told(Fate::Done);
    assert_eq!((done.state, done.stalls.len(), done.without_redundancy.len()), (State::Done, 2, 2));
    for (stall, window) in done.stalls.iter().zip(&done.without_redundancy) {
        assert_eq!(stall.max_ms, Some(2_000));
        assert!(stall.took_ms() > 0 && !stall.is_too_long(), "{stall:?}");
        assert!(window.from_ms > stall.from_ms && window.to_ms.unwrap() > stall.to_ms, "{window:?} {stall:?}");
    }
    assert!(done.steps.iter().all(|step| step.outcome == StepOutcome::Done && step.attempts.len() == 1));

    let undone = told(Fate::Retreat);
    assert_eq!((undone.state, undone.stalls.len()), (State::Undone, 0));
    assert!(undone.steps.iter().any(|step| step.outcome == StepOutcome::Undone && step.undo.is_some()));

    // Twice tried, twice undone: two stalls, and the windows end with them.
    let stopped = told(Fate::Stopped);
    assert_eq!(
        (stopped.state, stopped.stalls.iter().filter(|stall| stall.database.as_str() == "accounts").count()),
        (State::Stopped, 2)
    );
    let fence = stopped.steps.iter().find(|step| step.step.0 == "db.accounts.fence").unwrap();
    assert_eq!(fence.attempts.len(), 2, "{fence:#?}");
    assert!(fence.attempts.iter().all(|attempt| attempt.why.is_some() && attempt.outcome == StepOutcome::Undone));
    assert!(stopped.without_redundancy.iter().all(|window| window.to_ms.is_some()), "{:?}", stopped.without_redundancy);

    let stuck = told(Fate::Stuck);
    let open: Vec<_> = stuck.without_redundancy.iter().filter(|window| window.to_ms.is_none()).collect();
    assert_eq!((stuck.state, open[0].database.as_str()), (State::Stuck, "accounts"));

    let died = told(Fate::Died);
    assert_eq!((died.state, &died.summary), (State::Died, &None));
    let promote = died.steps.iter().find(|step| step.step.0 == "db.accounts.promote").unwrap();
    assert_eq!((promote.outcome, promote.attempts[0].to_ms), (StepOutcome::Unknown, None));
    assert!(died.ways_on.iter().any(|way| way.command.as_deref() == Some("handover plan --drain west")));
}

#[test]
fn a_journal_can_be_cut_anywhere() {
    let plan = plan("x");
    for fate in FATES {
        let entries = journal(&plan, fate);
        for length in 1..=entries.len() {
            let told = Story::of(&run(), &entries[..length], length % 2 == 0, Some(&plan)).unwrap();
            assert_eq!(told.records.len(), length);
            assert!(!story(&told, Style::plain(80)).is_empty());
        }
    }
    assert_eq!(Story::new(&run(), &[], false), None);
}

#[test]
fn an_old_journal_without_the_plan_is_told_too() {
    let mut entries = journal(&plan("x"), Fate::Stopped);
    if let Record::RunStarted { document, title, .. } = &mut entries[0].record {
        (*document, *title) = (None, String::new());
    }
    let told = Story::new(&run(), &entries, false).unwrap();
    assert_eq!(told.title, plan("x").id);
    insta::assert_snapshot!("without_plan", story(&told, Style::plain(80)));
}

/// The process dies after the soak of the first stage, and another one goes on an hour later, whose clock begins anew.
#[test]
fn what_another_process_did_comes_after_what_the_first_one_did() {
    let mut entries = journal(&plan("x"), Fate::Done);
    let cut = entries
        .iter()
        .position(|entry| matches!(&entry.record, Record::GateJudged { step, .. } if step.0.contains("soak")))
        .unwrap();
    let died_ms = entries[cut].elapsed_ms;
    let rest: Vec<Entry> = entries.drain(cut..).collect();
    let hour = jiff::SignedDuration::from_hours(1);
    let later = |entry: Entry| Entry { at: entry.at + hour, elapsed_ms: entry.elapsed_ms - died_ms, ..entry };
    entries.extend(rest.into_iter().map(later));
    let told = Story::new(&run(), &entries, false).unwrap();
    assert!((3_600_000..3_900_000).contains(&told.total_ms), "{}", told.total_ms);
    let times: Vec<u64> = told.records.iter().map(|line| line.at_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(told.state, State::Done);
}

fn summaries() -> Vec<RunSummary> {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_795_414_503 + seconds).unwrap();
    let summary = |name: &str, began: i64, title: &str, end| RunSummary {
        run: crate::journal::RunId(name.to_owned()),
        plan: format!("plan-of-{name}"),
        started: at(began),
        operator: "ada@ops pid 4711".to_owned(),
        end,
        title: title.to_owned(),
        last: at(began + 98),
        leased_until: None,
    };
    let mut running = summary("20261123-091503-x2bb", 10_800, "restore west with its primaries", None);
    running.leased_until = Some(at(11_000));
    vec![
        running,
        summary("20261123-071503-9s3k", 3_600, "restore west", None),
        summary("20261123-061503-k3f9", 0, "drain west", Some(RunEnd::Stopped)),
        summary("20261122-061503-aaaa", -86_400, "", Some(RunEnd::Done)),
        summary(
            "20261121-061503-bbbb",
            -172_800,
            "drain west, move the primary of accounts to east-pg1, share orderform west:20%,east:80%",
            Some(RunEnd::Stuck),
        ),
    ]
}

#[test]
fn the_list_says_who_does_what_now() {
    let now = jiff::Timestamp::from_second(1_795_414_503 + 10_900).unwrap();
    let lines: Vec<RunLine> = summaries().iter().map(|run| RunLine::new(run, now, |end| end as u8)).collect();
    insta::assert_snapshot!("list", runs(&lines, Style::plain(100)));
    insta::assert_snapshot!("list_json", runs_json(&lines));
    insta::assert_snapshot!("list_empty", runs(&[], Style::plain(100)));
    let stay = [(&lines[2].run, "it stopped midway, and can be gone on with")];
    insta::assert_snapshot!("prunable", prunable(&lines[3..], &stay, Style::plain(100)));
    insta::assert_snapshot!("pruned_json", pruned_json(&[lines[3].run.clone()], &[], &stay));
}

#[test]
fn records_are_told_on_a_line_each_and_never_with_the_plan() {
    let mut titles = Titles::default();
    let run = run();
    let mut text = String::new();
    for entry in &journal(&plan("two\nlines"), Fate::Stopped) {
        titles.learn(&entry.record);
        let line = RecordLine { run: &run, entry };
        text += &line.text(&titles);
        let json: serde_json::Value = serde_json::from_str(&line.json()).unwrap();
        assert_eq!((&json["result"], &json["sequence"]), (&"record".into(), &entry.sequence.into()));
        assert!(json["record"].get("document").is_none(), "{json}");
    }
    insta::assert_snapshot!("records", text);
}

#[test]
fn the_story_for_programs_has_every_record() {
    let told = told(Fate::Stuck);
    let json: serde_json::Value = serde_json::from_str(&story_json(&told, Some(6))).unwrap();
    assert_eq!((&json["result"], &json["state"], &json["exit_code"]), (&"run".into(), &"stuck".into(), &6.into()));
    assert_eq!(json["records"].as_array().unwrap().len(), told.records.len());
    let ids: Vec<&str> = json["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), told.steps.len());
    assert!(
        told.failures().any(|(step, _)| step.step == StepId("db.accounts.resume.west-pool1".to_owned()))
            || told.failures().count() == 1
    );
}

/// Everything before the records: they are told by `records`.
fn before_records<'a>(text: &'a str, heading: &str) -> &'a str {
    text.split(heading).next().unwrap()
}

#[test]
fn the_reports_of_runs_read_well() {
    for fate in FATES {
        let text = story_markdown(&told(fate));
        let text = before_records(&text, "## Appendix");
        insta::assert_snapshot!(format!("report_{fate:?}").to_lowercase(), text);
    }
    let page = story_html(&told(Fate::Stopped));
    let (_, body) = page.split_once("</style>").unwrap();
    let body = before_records(body, "<h2>Appendix");
    insta::assert_snapshot!("report_html", body.replace("><", ">\n<"));
}

/// Names and texts that would do something if they were not escaped.
const HOSTILE: &str =
    "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> ]]> | `x` **b** [l](javascript:a) </svg>\u{202e}txt";

fn hostile(fate: Fate) -> Story {
    let mut plan = plan(HOSTILE);
    for step in &mut plan.steps {
        step.title = format!("{HOSTILE} {}", step.title);
    }
    for stage in &mut plan.stages {
        stage.title = HOSTILE.to_owned();
    }
    let mut entries = journal(&plan, fate);
    for entry in &mut entries {
        match &mut entry.record {
            Record::GateJudged { measured, .. } => *measured = HOSTILE.to_owned(),
            Record::StepFailed { why, .. } => *why = HOSTILE.to_owned(),
            Record::StepDone { verified, .. } => *verified = HOSTILE.to_owned(),
            Record::RunEnded { summary, .. } => *summary = HOSTILE.to_owned(),
            Record::RunStarted { operator, title, .. } => {
                (*operator, *title) = (HOSTILE.to_owned(), HOSTILE.to_owned());
            }
            Record::Told { text } => *text = HOSTILE.to_owned(),
            _ => {}
        }
    }
    Story::new(&run(), &entries, false).unwrap()
}

#[test]
fn a_page_runs_nothing_loads_nothing_and_shows_hostile_text_as_it_is() {
    for fate in FATES {
        let page = story_html(&hostile(fate));
        for forbidden in ["<script", "<img", "javascript:a)<", "\u{202e}", "src=x o\"", "<link", "@import", "url("] {
            assert!(!page.contains(forbidden), "{fate:?} has {forbidden}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &quot;"), "{fate:?}");
        // Nothing from elsewhere but the name of SVG's own namespace, which nobody fetches.
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"), "{fate:?}");
        balanced(&page);
    }
}

/// Every tag is closed by its own, and every identity is there once.
fn balanced(page: &str) {
    let (mut open, mut ids) = (Vec::new(), std::collections::BTreeSet::new());
    for tag in page.split('<').skip(1).map(|part| part.split('>').next().unwrap()) {
        let name = tag.split_whitespace().next().unwrap();
        if let Some(id) = tag.split(" id=\"").nth(1) {
            assert!(ids.insert(id.split('"').next().unwrap().to_owned()), "{tag}");
        }
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed.to_owned())),
            None if ["!DOCTYPE", "meta", "br"].contains(&name) => {}
            None => open.push(name.to_owned()),
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn hostile_text_does_nothing_in_markdown() {
    use pulldown_cmark::{Event, Options, Parser, Tag};
    for fate in FATES {
        let text = story_markdown(&hostile(fate));
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            let acts = matches!(
                event,
                Event::Html(_)
                    | Event::InlineHtml(_)
                    | Event::Code(_)
                    | Event::Start(Tag::Link { .. } | Tag::Image { .. })
            );
            assert!(!acts, "{fate:?}: {event:?}");
        }
    }
}

#[test]
fn everything_in_a_picture_stands_within_it() {
    for fate in FATES {
        let told = told(fate);
        let pictures = std::iter::once(timeline::whole(&told))
            .chain(told.stalls.iter().map(|stall| timeline::enlarged(&told, stall)));
        for picture in pictures {
            for bar in picture.rows.iter().flat_map(|row| &row.bars) {
                assert!(bar.x >= picture.left && bar.x + bar.width <= timeline::WIDTH, "{bar:?}");
                assert!(bar.y >= timeline::TOP && bar.y + bar.height <= picture.height, "{bar:?}");
            }
            let tops: Vec<f64> = picture.rows.iter().map(|row| row.y).collect();
            assert!(tops.is_sorted() && !tops.is_empty() && picture.ticks.len() <= 12, "{picture:?}");
        }
    }
}
