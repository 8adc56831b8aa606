//! Reading a request's body within bounds of size, memory and time (gateway.md 2, security.md 2.1).
//!
//! A body that arrives in one piece is used where it lies; any other is copied into one growing buffer, because
//! a piece pins the whole buffer that it was read into.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::Body;
use std::io::Read;

use super::alarm::Alarm;
use super::answer::Refusal;
use super::budget::{Budget, Charge};

/// Buffers grow by this much.
const STEP: usize = 64 * 1024;
/// Most members of a gzip body.
const MOST_MEMBERS: usize = 1024;
/// A slow body is judged after this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Decompressed bytes after which other requests of the thread get their turn.
const TURN: usize = 1 << 20;
/// What is read of a body that nobody needs, so that its sender gets to reading the answer.
const DRAINED_BYTES: u64 = 256 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Bounds of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Most bytes, on the wire and decompressed.
    pub(super) hard_cap: u64,
    /// Longest pause.
    pub(super) idle: Duration,
    /// Least bytes a second after the first 30 s.
    pub(super) min_rate: u64,
}

/// A body that may not be read to its end.
pub(super) struct RequestBody<B> {
    incoming: B,
    ended: bool,
    failed: bool,
}

/// A body in memory.
pub(super) struct HeldBody<'b> {
    pub(super) bytes: Bytes,
    _charge: Charge<'b>,
}

impl<B: Body<Data = Bytes> + Unpin> RequestBody<B> {
    pub(super) fn new(incoming: B) -> RequestBody<B> {
        let ended = incoming.is_end_stream();
        RequestBody { incoming, ended, failed: false }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.ended {
            match self.incoming.frame().await {
                None => self.ended = true,
                Some(Err(_)) => return Err(Refusal::BodyUnreadable),
                Some(Ok(frame)) => {
                    self.ended = self.incoming.is_end_stream();
                    // Trailers mean nothing here.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reads the whole body, decompressed when it is `gzip`.
    ///
    /// # Errors
    /// Too large, too slow, broken, or no memory for it now.
    pub(super) async fn read<'b>(
        &mut self,
        gzip: bool,
        limits: BodyLimits,
        budget: &'b Budget,
        alarm: &Alarm,
    ) -> Result<HeldBody<'b>, Refusal> {
        let mut charge = Charge::new(budget);
        let read = self.read_wire(limits, &mut charge, alarm).await;
        self.failed = read.is_err();
        let bytes = read?;
        if !gzip {
            return Ok(HeldBody { bytes, _charge: charge });
        }
        let mut plain_charge = Charge::new(budget);
        // Boxed, as all that is rare: the HTTP library copies the state of every request.
        let plain = Box::pin(gunzip(&bytes, limits.hard_cap, &mut plain_charge)).await?;
        Ok(HeldBody { bytes: Bytes::from(plain), _charge: plain_charge })
    }

    async fn read_wire(
        &mut self,
        limits: BodyLimits,
        charge: &mut Charge<'_>,
        alarm: &Alarm,
    ) -> Result<Bytes, Refusal> {
        let announced = self.incoming.size_hint().lower();
        if announced > limits.hard_cap {
            return Err(Refusal::TooLarge);
        }
        let mut first: Option<Bytes> = None;
        let mut gathered: Vec<u8> = Vec::new();
        let mut total: u64 = 0;
        let mut started = None;
        loop {
            let next = alarm.by(Instant::now() + limits.idle, self.next()).await.ok_or(Refusal::BodyUnreadable)??;
            let Some(data) = next else {
                break;
            };
            total += data.len() as u64;
            if total > limits.hard_cap {
                return Err(Refusal::TooLarge);
            }
            if self.ended && first.is_none() && gathered.is_empty() {
                return if charge.grow(data.len()) { Ok(data) } else { Err(Refusal::Unavailable) };
            }
            let since = started.get_or_insert_with(Instant::now).elapsed();
            if since > PATIENCE && total < since.as_secs().saturating_mul(limits.min_rate) {
                return Err(Refusal::BodyUnreadable);
            }
            if let Some(first) = first.take() {
                append(&mut gathered, &first, announced, charge)?;
            }
            if gathered.is_empty() {
                // Perhaps the only piece: the end of a chunked body is known only afterwards.
                first = Some(data);
            } else {
                append(&mut gathered, &data, announced, charge)?;
            }
        }
        match first {
            Some(only) if charge.grow(only.len()) => Ok(only),
            Some(_) => Err(Refusal::Unavailable),
            None => Ok(Bytes::from(gathered)),
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_read(&self) -> bool {
        self.ended
    }

    /// Reads and drops what is left, up to a bound. False when the body did not end: the connection cannot go on.
    pub(super) async fn drain(&mut self, expects_continue: bool) -> bool {
        if self.ended {
            return true;
        }
        // A client that waits for permission has sent nothing yet.
        if self.failed || expects_continue || self.incoming.size_hint().lower() > DRAINED_BYTES {
            return false;
        }
        let dropped = async {
            let mut bytes: u64 = 0;
            while let Ok(Some(data)) = self.next().await {
                bytes += data.len() as u64;
                if bytes > DRAINED_BYTES {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(DRAIN_TIME, dropped).await.is_ok();
        in_time && self.ended
    }
}

/// Appends to the buffer; grows it by steps as bytes arrive, never by what was announced.
fn append(buffer: &mut Vec<u8>, data: &[u8], announced: u64, charge: &mut Charge<'_>) -> Result<(), Refusal> {
    let needed = buffer.len() + data.len();
    if needed > buffer.capacity() {
        let room = needed + (needed / 2).max(1024);
        let room = if room > STEP { room.div_ceil(STEP) * STEP } else { room };
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        let room = if announced >= needed { room.min(announced) } else { room };
        if !charge.grow(room - buffer.capacity()) {
            return Err(Refusal::Unavailable);
        }
        buffer.reserve_exact(room - buffer.len());
    }
    buffer.extend_from_slice(data);
    Ok(())
}

/// Decompresses all members, counting what comes out.
async fn gunzip(wire: &[u8], cap: u64, charge: &mut Charge<'_>) -> Result<Vec<u8>, Refusal> {
    let mut plain = Vec::new();
    let mut rest = wire;
    let mut since_turn = 0;
    for _ in 0..MOST_MEMBERS {
        if rest.is_empty() {
            return Ok(plain);
        }
        let mut member = GzDecoder::new(rest);
        loop {
            if plain.len() == plain.capacity() {
                let step = if plain.is_empty() { (wire.len() * 6).clamp(512, STEP) } else { plain.len().max(STEP) };
                if !charge.grow(step) {
                    return Err(Refusal::Unavailable);
                }
                plain.reserve_exact(step);
            }
            let filled = plain.len();
            plain.resize(plain.capacity().min(filled + STEP), 0);
            let room = plain.get_mut(filled..).unwrap_or_default();
            let got = Pin::new(&mut member).read(room).map_err(|_| Refusal::BodyUnreadable)?;
            plain.truncate(filled + got);
            if got == 0 {
                break;
            }
            if plain.len() as u64 > cap {
                return Err(Refusal::TooLarge);
            }
            since_turn += got;
            if since_turn > TURN {
                since_turn = 0;
                tokio::task::yield_now().await;
            }
        }
        rest = member.into_inner();
    }
    if rest.is_empty() { Ok(plain) } else { Err(Refusal::BodyUnreadable) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { hard_cap: 1 << 20, idle: Duration::from_secs(10), min_rate: 1024 };

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(wire: Vec<u8>, compressed: bool, room: u64) -> Result<Vec<u8>, Refusal> {
        let budget = Budget::new(room);
        let whole = RequestBody::new(Full::new(Bytes::from(wire.clone())))
            .read(compressed, LIMITS, &budget, &Alarm::default())
            .await
            .map(|held| held.bytes.to_vec());
        let pieces: Vec<Bytes> = wire.chunks(7).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
        let in_pieces = RequestBody::new(StreamBody::new(futures_util::stream::iter(frames)))
            .read(compressed, LIMITS, &budget, &Alarm::default())
            .await
            .map(|held| held.bytes.to_vec());
        assert_eq!(whole, in_pieces, "how it arrives makes no difference");
        assert_eq!(budget.taken(), 0, "everything is given back");
        whole
    }

    #[tokio::test]
    async fn bodies_are_read_and_decompressed() {
        let text = b"{\"userId\":\"u\"}".repeat(100);
        assert_eq!(read(text.clone(), false, 1 << 20).await.unwrap(), text);
        assert_eq!(read(gzip(&text), true, 1 << 20).await.unwrap(), text);
        assert_eq!(
            read([gzip(&text), gzip(b""), gzip(b"x")].concat(), true, 1 << 20).await.unwrap(),
            [&text[..], b"x"].concat()
        );
        assert_eq!(read(Vec::new(), true, 1 << 20).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn broken_compression_is_unreadable() {
        let good = gzip(b"{\"userId\":\"u\"}");
        let mut truncated = good.clone();
        truncated.truncate(good.len() - 8);
        for wire in [b"{}".to_vec(), truncated, [good.clone(), b"trailing".to_vec()].concat()] {
            assert_eq!(read(wire, true, 1 << 20).await, Err(Refusal::BodyUnreadable));
        }
        let members = [gzip(b"").repeat(100_000), good].concat();
        let budget = Budget::new(16 << 20);
        let limits = BodyLimits { hard_cap: 16 << 20, ..LIMITS };
        let answer =
            RequestBody::new(Full::new(Bytes::from(members))).read(true, limits, &budget, &Alarm::default()).await;
        assert_eq!(answer.err(), Some(Refusal::BodyUnreadable));
    }

    #[tokio::test]
    async fn sizes_are_bounded_on_the_wire_and_decompressed() {
        assert_eq!(read(vec![b'a'; (1 << 20) + 1], false, 8 << 20).await, Err(Refusal::TooLarge));
        assert_eq!(read(gzip(&vec![b' '; 64 << 20]), true, 8 << 20).await, Err(Refusal::TooLarge));
    }

    #[tokio::test]
    async fn a_full_budget_refuses_at_once() {
        assert_eq!(read(vec![b'a'; 300_000], false, 200_000).await, Err(Refusal::Unavailable));
    }
}
