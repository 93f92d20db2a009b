//! The command line as users meet it: help, findings, refusals and exit codes in `tests/cmd`, and every `console` block of the README.

#[test]
fn commands_answer_as_written_down() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd").case("README.md");
}
