//! What the remote side runs, and its answer. Pure but for the number in a mark.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::{process, quote};

/// Runs a command remotely: marks its beginning on both outputs and its end on standard error, and ends it in time.
///
/// `$1` mark, `$2` and `$3` seconds to SIGTERM and from there to SIGKILL, `$4` the same in whole seconds, then the command. The marks
/// tell what the command wrote from what the login shell wrote, and its exit status 255 from the client's.
const WRAPPER: &str = r#"handover_mark=$1 handover_term=$2 handover_kill=$3 handover_whole=$4
shift 4
printf '%s\n' "$handover_mark"
printf '%s\n' "$handover_mark" >&2
if timeout -k 1 0.5 true 2>/dev/null; then timeout -k "$handover_kill" "$handover_term" "$@"
elif timeout -k 1 1 true 2>/dev/null; then timeout -k 1 "$handover_whole" "$@"
else "$@"
fi
handover_status=$?
printf '\n%s %s\n' "$handover_mark" "$handover_status" >&2
exit "$handover_status"
"#;

/// A mark that no other call of any program uses, and that no output holds by chance.
pub(super) fn mark() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("@handover-{}-{}@", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// After what time the remote side ends the command with SIGTERM, so that its answer is here before our own deadline.
pub(super) fn remote_time(left: Duration) -> Duration {
    left.saturating_sub(2 * process::grace(left))
}

/// What the login shell is told.
pub(super) fn remote_line(mark: &str, left: Duration, argv: &[&str]) -> String {
    let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64().max(0.001));
    let (term, kill) = (seconds(remote_time(left)), seconds(process::grace(left)));
    let whole = left.as_secs().max(1).to_string();
    let head = ["sh", "-c", WRAPPER, "sh", mark, &term, &kill, &whole];
    format!("exec {}", quote::line(head.into_iter().chain(argv.iter().copied())))
}

/// What came back from the [`WRAPPER`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// True once the command had begun.
    pub began: bool,
    /// Its exit status, once it had ended.
    pub status: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Answer {
    /// Reads both outputs.
    pub fn read(mark: &str, stdout: &[u8], stderr: &[u8]) -> Self {
        let begin = format!("{mark}\n");
        let after = |bytes: &[u8]| {
            let at = bytes.windows(begin.len()).position(|window| window == begin.as_bytes());
            at.map(|at| bytes[at + begin.len()..].to_vec())
        };
        let (out, err) = (after(stdout), after(stderr));
        let began = out.is_some() || err.is_some();
        let mut err = err.unwrap_or_else(|| stderr.to_vec());
        let end = format!("\n{mark} ");
        let status = process::rfind(&err, end.as_bytes()).and_then(|at| {
            let rest = process::text(&err[at + end.len()..]);
            let (status, later) = rest.split_once('\n')?;
            let status = status.parse().ok()?;
            err.truncate(at);
            err.extend_from_slice(later.as_bytes());
            Some(status)
        });
        Self { began, status, stdout: process::text(&out.unwrap_or_default()), stderr: process::text(&err) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_the_noise_around_it() {
        let answer = Answer::read("@m@", b"motd\n@m@\nout\n", b"noise\n@m@\nerr\n\n@m@ 255\n");
        assert_eq!(
            answer,
            Answer { began: true, status: Some(255), stdout: "out\n".to_owned(), stderr: "err\n".to_owned() }
        );
    }

    #[test]
    fn an_answer_without_its_end_has_no_status() {
        for stderr in [&b"@m@\nhalf"[..], b"@m@\n\n@m@ 2", b"@m@\n\n@m@ x\n"] {
            let answer = Answer::read("@m@", b"", stderr);
            assert!(answer.began && answer.status.is_none(), "{answer:?}");
        }
        let answer = Answer::read("@m@", b"", b"Connection refused");
        assert!(!answer.began && answer.status.is_none());
    }
}
