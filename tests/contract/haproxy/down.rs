//! For how long a server has been down.

use super::*;

#[tokio::test]
async fn for_how_long_a_server_is_down_is_told_and_never_more_than_that() {
    let directory = tempfile::tempdir().unwrap();
    let (front, control, b) = (free_address(), free_address(), free_address());
    let a = application("a").await;
    let dying = serving(b, "b").await;
    let proxy = Proxy::of_two(directory, front, control, [a, b]).await;
    let down_for = async |server: &str| {
        let facts = proxy.facts().await;
        let found = &facts.backends["web"].as_ref().unwrap().servers[server];
        (found.operational, found.down_for)
    };
    assert_eq!(down_for("b").await, (Operational::Up, None));
    let (stopped, deadline) = (Instant::now(), soon());
    dying.abort();
    loop {
        let (operational, time) = down_for("b").await;
        match operational {
            Operational::Down => {
                let time = time.expect("HAProxy tells");
                assert!(time <= stopped.elapsed(), "down for {time:?}, stopped for {:?}", stopped.elapsed());
                if time >= Duration::from_secs(2) {
                    break;
                }
            }
            _ => assert_eq!(time, None),
        }
        assert!(Instant::now() < deadline, "{operational:?}, down for {time:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(down_for("a").await, (Operational::Up, None));
    // Up again: what was before is forgotten.
    serving(b, "b").await;
    proxy.up().await;
    assert_eq!(down_for("b").await, (Operational::Up, None));
}
