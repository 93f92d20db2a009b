//! Secrets are read at use and told to nobody (`docs/safety.md` S11).
#![allow(clippy::disallowed_methods, reason = "tests write files")]

use std::fs;

use handover::secret::{Reference, SecretReader};

const SECRET: &str = "correct-horse";

fn told(value: &impl std::fmt::Debug) -> String {
    format!("{value:?} {value:#?}")
}

#[tokio::test]
async fn a_secret_is_read_at_use_and_shown_by_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let reader = SecretReader::new(folder.path());
    let file = Reference::File("tsig".into());
    let missing = reader.read(&file).await.unwrap_err();
    assert!(missing.to_string().starts_with("the secret in file tsig cannot be read: "), "{missing}");

    fs::write(folder.path().join("tsig"), format!("{SECRET}\n")).unwrap();
    let secret = reader.read(&file).await.unwrap();
    assert_eq!(secret.expose(), SECRET);
    assert!(!told(&secret).contains(SECRET), "{secret:?}");
    assert!(!told(&reader).contains(SECRET));
}

#[tokio::test]
async fn errors_name_the_reference_and_hold_nothing_of_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let reader = SecretReader::new(folder.path());
    let script = |script: &str| Reference::Command(["sh", "-c", script].map(str::to_owned).into());
    let good = reader.read(&script(&format!("echo {SECRET}"))).await.unwrap();
    assert_eq!(good.expose(), SECRET);

    let bytes = [SECRET.as_bytes(), b"\xff"].concat();
    fs::write(folder.path().join("binary"), bytes).unwrap();
    for reference in [
        script(&format!("echo {SECRET}; echo {SECRET} >&2; exit 3")),
        Reference::File("binary".into()),
        script("true"),
        Reference::Env("HANDOVER_TEST_SECRET_THAT_IS_NOT_SET".to_owned()),
    ] {
        let error = reader.read(&reference).await.unwrap_err();
        let all = format!("{error} {}", told(&error));
        assert!(error.to_string().contains(&reference.to_string()), "{error}");
        assert!(!all.contains(SECRET), "{all}");
    }
}
