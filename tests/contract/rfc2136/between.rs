//! Something stands between the provider and BIND, and loses or spoils what passes.

use super::*;

/// What stands between the provider and BIND does with the answer to an update.
#[derive(Clone, Copy)]
enum Loses {
    /// It never arrives.
    Answer,
    /// It arrives without its signature.
    Signature,
}

/// Passes one connection on to BIND frame by frame, but for the answer to an update.
async fn between(bind: &Bind, loses: Loses) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = bind.target().address;
    let task = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = tokio::io::copy(&mut from_client, &mut to_server);
        let back = async {
            loop {
                let mut frame = vec![0; usize::from(from_server.read_u16().await?)];
                from_server.read_exact(&mut frame).await?;
                let is_update = frame[2] >> 3 & 0xf == 5;
                match loses {
                    Loses::Answer if is_update => continue,
                    Loses::Signature if is_update => {
                        frame.truncate(12);
                        frame[4..].fill(0);
                    }
                    _ => {}
                }
                to_client.write_u16(u16::try_from(frame.len()).unwrap()).await?;
                to_client.write_all(&frame).await?;
            }
            #[expect(unreachable_code, reason = "names the error's type")]
            std::io::Result::Ok(())
        };
        let _ = tokio::join!(there, back);
    });
    (address, task)
}

#[tokio::test]
async fn an_update_without_a_trustworthy_answer_is_unknown_and_can_be_repeated() {
    for (loses, why) in [(Loses::Answer, "no answer within"), (Loses::Signature, "not signed with the same key")] {
        let bind = Bind::primary().await;
        let (address, task) = between(&bind, loses).await;
        let deadline = Instant::now() + Duration::from_secs(1);
        let permit = common::permit().await;
        let target = target(&address, "handover-key", "tsig");
        let outcome = bind.provider().apply(&target, &drained_pay(), &permit, deadline).await;
        assert!(matches!(&outcome, Outcome::Unknown(text) if text.why.contains(why)), "{outcome:?}");
        task.abort();
        // It was carried out; doing it again changes nothing.
        let serial = bind.observe(&[]).await.unwrap().serial;
        assert_eq!(serial, 2);
        assert_eq!(bind.apply(&bind.target(), &drained_pay()).await, Outcome::Applied);
        assert_eq!(bind.observe(&[]).await.unwrap().serial, serial);
    }
}

#[tokio::test]
async fn hundreds_of_questions_are_one_conversation() {
    let bind = Bind::primary().await;
    // It accepts one connection and no second.
    let (address, task) = between(&bind, Loses::Answer).await;
    let expected = |n| Some(set(30, &[&format!("10.30.{}.{}", n / 250, n % 250)]));
    let condition = Condition::Records { sets: (0..300).map(|n| (a(&format!("many{n}")), expected(n))).collect() };
    let seen = bind.provider().verify(&target(&address, "handover-key", "tsig"), &condition, soon()).await;
    assert_eq!(condition.holds(seen.known().unwrap()), Ok(()));
    task.abort();
}
