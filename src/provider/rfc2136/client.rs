//! DNS over one TCP connection (RFC 1035 §4.2.2, RFC 7766): questions pipelined, updates signed and their answers verified.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{TSigVerifier, TSigner};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::convert::{self, Fault};
use super::settings::Key;
use crate::secret::Secret;

/// For how long a signature is valid, in seconds either way: the value that RFC 8945 §10 recommends.
const FUDGE: u16 = 300;

/// Questions on their way at the same time: their 16-bit identities must differ.
const PIPELINED: usize = 4096;

/// Why a conversation ended without its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection.
    #[error("{}", io_text(.0))]
    Io(#[from] io::Error),
    /// What came is no DNS message.
    #[error("what came back is not a DNS message")]
    Garbled,
    /// What came is an answer to something else.
    #[error("an answer came that belongs to no question")]
    Stray,
    /// The message cannot be written.
    #[error("{0}")]
    Unfit(#[from] Fault),
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection to a server.
pub(super) struct Session {
    stream: TcpStream,
}

impl Session {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Asks all questions at once and returns their answers in the questions' order: one round trip.
    pub async fn ask(&mut self, questions: &[Query]) -> Result<Vec<Message>, Broken> {
        let mut answers = Vec::with_capacity(questions.len());
        for batch in questions.chunks(PIPELINED) {
            let mut wire = Vec::new();
            for (id, query) in (0u16..).zip(batch) {
                wire.extend(framed(&convert::encode(&convert::query_message(id, query))?));
            }
            // Written and read at the same time: a server may stop reading while nobody takes its answers.
            let (mut reader, mut writer) = self.stream.split();
            let write = async {
                writer.write_all(&wire).await?;
                Ok(())
            };
            let (received, ()) = tokio::try_join!(read_answers(&mut reader, batch.len()), write)?;
            answers.extend(received);
        }
        Ok(answers)
    }

    /// Sends a signed message and returns the bytes of its answer. Once this was called, the server may have acted on it.
    pub async fn send(&mut self, signed: &Signed) -> Result<Vec<u8>, Broken> {
        self.stream.write_all(&framed(&signed.bytes)).await?;
        read_frame(&mut self.stream).await
    }
}

/// Reads as many answers as there were questions, in whatever order they come, and returns them in that of their identities.
async fn read_answers(reader: &mut (impl AsyncRead + Unpin), count: usize) -> Result<Vec<Message>, Broken> {
    let mut answers = HashMap::with_capacity(count);
    while answers.len() < count {
        let message = Message::from_vec(&read_frame(reader).await?).map_err(|_| Broken::Garbled)?;
        let id = message.metadata.id;
        if usize::from(id) >= count || answers.insert(id, message).is_some() {
            return Err(Broken::Stray);
        }
    }
    (0u16..).take(count).map(|id| answers.remove(&id).ok_or(Broken::Stray)).collect()
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    // `encode` made them, so that they fit.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Broken> {
    let mut bytes = vec![0; usize::from(reader.read_u16().await?)];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The signer for a key with this secret, base64 as in the server's configuration.
pub(super) fn signer(key: &Key, secret: &Secret) -> Result<TSigner, Fault> {
    let wrong = |why: &str| Fault {
        why: format!("the secret of the key {} is not usable: {why}", convert::name_text(&key.name)),
        advice: Some("it is base64, as in the server's configuration, without quotes".to_owned()),
    };
    // The decoder's own error would repeat a character of the secret.
    let bytes = STANDARD.decode(secret.expose().trim()).map_err(|_| wrong("it is not base64"))?;
    TSigner::new(bytes, key.algorithm.clone(), key.name.clone(), FUDGE)
        .map_err(|_| wrong("its algorithm is not supported"))
}

/// A message ready to be sent.
pub(super) struct Signed {
    bytes: Vec<u8>,
    id: u16,
    verifier: TSigVerifier,
    /// The time it was signed with, in seconds since 1970.
    pub signed_at: u64,
}

/// Signs a message with the present time.
pub(super) fn sign(mut message: Message, signer: &TSigner) -> Result<Signed, Fault> {
    // Before it is signed too: a signature over half a message must not come to be.
    convert::encode(&message)?;
    let signed_at = now();
    let failed = || Fault { why: "the message could not be signed".to_owned(), advice: None };
    let verifier = message.finalize(signer, signed_at).map_err(|_| failed())?.ok_or_else(failed)?;
    Ok(Signed { bytes: convert::encode(&message)?, id: message.metadata.id, verifier, signed_at })
}

/// Whether a message can be sent once it is signed; the signature's length depends on the key's name and algorithm only.
pub(super) fn fits(message: Message, key: &Key) -> Result<(), Fault> {
    let signer = TSigner::new(vec![0; 64], key.algorithm.clone(), key.name.clone(), FUDGE);
    let signer = signer.map_err(|_| Fault { why: "its algorithm is not supported".to_owned(), advice: None })?;
    sign(message, &signer).map(drop)
}

impl Signed {
    /// Reads an answer, not yet verified.
    pub fn parse(&self, answer: &[u8]) -> Result<Message, Broken> {
        let message = Message::from_vec(answer).map_err(|_| Broken::Garbled)?;
        if message.metadata.id == self.id { Ok(message) } else { Err(Broken::Stray) }
    }

    /// True if an answer is signed with the same key, for this message and in time.
    pub fn vouches(&mut self, answer: &[u8]) -> bool {
        self.verifier.verify(answer).is_ok()
    }
}

/// Seconds since 1970, as TSIG counts them.
#[expect(clippy::disallowed_methods, reason = "a signature carries the wall clock's time (RFC 8945 §4.2)")]
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
