//! Clients: their sessions and connections end.

use super::*;

#[tokio::test]
async fn a_drain_lets_running_requests_finish_and_sends_no_new_ones() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.apply(&set("web", [("b", ready(50), maint(50))])).await, Outcome::Applied);
    let none_left = Condition::SessionsAtMost {
        backends: BTreeMap::from([("web".into(), BTreeSet::from(["a".into()]).into())]),
        limit: 0,
    };
    let drained = async {
        proxy.sessions("a", 1).await;
        let drain = set("web", [("a", ready(50), drain(50)), ("b", maint(50), ready(50))]);
        assert_eq!(proxy.apply(&drain).await, Outcome::Applied);
        for _ in 0..6 {
            assert!(proxy.get("/").await.ends_with('b'));
        }
        assert!(none_left.holds(&Facts::Proxy(proxy.facts().await)).is_err(), "the slow request still runs");
        let facts = provider().verify(&proxy.target(), &none_left, soon()).await;
        assert_eq!(none_left.holds(facts.known().unwrap()), Ok(()));
    };
    let (answer, ()) = tokio::join!(proxy.get("/slow"), drained);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('a'), "{answer}");
}

#[tokio::test]
async fn cut_sessions_end() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.apply(&set("web", [("b", ready(50), maint(50))])).await, Outcome::Applied);
    let cut = async {
        proxy.sessions("a", 1).await;
        let servers = BTreeSet::from(["a".into()]);
        assert_eq!(
            proxy.apply(&Action::CutSessions { backends: BTreeMap::from([("web".into(), servers.into())]) }).await,
            Outcome::Applied
        );
        proxy.sessions("a", 0).await;
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(proxy.get("/endless"), cut);
    assert!(!answer.starts_with("HTTP/1.1 200") && began.elapsed() < Duration::from_secs(5), "{answer}");
}

/// A client that keeps its connection.
struct Kept(TcpStream);

impl Kept {
    async fn connect(proxy: &Proxy) -> Self {
        Self(TcpStream::connect(proxy.front).await.unwrap())
    }

    async fn ask(&mut self, path: &str) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes()).await.unwrap();
    }

    /// An answer, whose body is one letter.
    async fn answer(&mut self) -> String {
        let mut answer = String::new();
        while !answer.contains("\r\n\r\n") || answer.ends_with('\n') {
            let mut part = [0; 1024];
            let count = self.0.read(&mut part).await.unwrap();
            assert!(count > 0, "closed after {answer:?}");
            answer += &String::from_utf8_lossy(&part[..count]);
        }
        answer
    }

    /// Waits until the proxy has closed the connection.
    async fn closed(mut self) {
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
    }
}

async fn connections(proxy: &Proxy, wanted: u64) {
    let deadline = soon();
    loop {
        let found = proxy.facts().await.connections;
        if found == Some(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} connections, not {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Idle, new and with a request that runs: every one is answered, told to close, and gone; nobody new comes in.
#[tokio::test]
async fn closed_frontends_send_every_client_away_with_its_next_answer() {
    let proxy = Proxy::start().await;
    connections(&proxy, 0).await;
    let (mut idle, mut fresh, mut busy) =
        (Kept::connect(&proxy).await, Kept::connect(&proxy).await, Kept::connect(&proxy).await);
    idle.ask("/").await;
    assert!(!idle.answer().await.to_lowercase().contains("connection: close"), "it keeps connections");
    busy.ask("/slow").await;
    connections(&proxy, 3).await;
    let close = Action::Native { verb: CLOSE_FRONTENDS.to_owned(), args: BTreeMap::new() };
    assert_eq!(proxy.facts().await.closed, BTreeSet::new());
    assert_eq!(proxy.apply(&close).await, Outcome::Applied);
    assert!(!proxy.facts().await.closed.is_empty(), "until it is started anew");
    assert!(TcpStream::connect(proxy.front).await.is_err());
    connections(&proxy, 3).await;
    idle.ask("/").await;
    fresh.ask("/").await;
    for mut client in [idle, fresh, busy] {
        let answer = client.answer().await.to_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        client.closed().await;
    }
    connections(&proxy, 0).await;
    assert_eq!(proxy.apply(&close).await, Outcome::Applied, "there is nothing left to close");
}
