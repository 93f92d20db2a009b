//! Words for a POSIX shell (POSIX.1-2017, Shell Command Language §2.2.2): what is quoted here comes out of the shell byte for byte.

/// `word` in single quotes: nothing in it means anything to the shell.
pub(super) fn word(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `words` as one line of quoted words.
pub(super) fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(word).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use proptest::prelude::*;

    /// What a shell makes of the line: its words, each ended by a NUL.
    fn through_a_shell(words: &[String]) -> Vec<String> {
        let script = format!("printf '%s\\0' {}", super::line(words.iter().map(String::as_str)));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.strip_suffix('\0').unwrap().split('\0').map(str::to_owned).collect()
    }

    #[test]
    fn hostile_words_come_out_as_they_went_in() {
        let words = [
            "", " ", "'", "''", "\\", "\\'", "\"", "$HOME", "$(id)", "`id`", "-n", "--", "\n", "a\nb\n", "a'b'c", "*",
            "~", "!!", "#", ";", "&&", "|", "\t", "é", "\u{1}",
        ]
        .map(str::to_owned);
        assert_eq!(through_a_shell(&words), words);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn any_words_come_out_as_they_went_in(words in prop::collection::vec("[^\0]{0,20}|['\"\\\\$`!\n -]{0,20}", 1..6)) {
            prop_assert_eq!(through_a_shell(&words), words);
        }
    }
}
