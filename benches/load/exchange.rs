//! One request and its answer on a connection that is already open.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire;

/// Pieces in which a body is sent that the server is not expected to read, and their distance: 13 Mbit/s, which is
/// a client's line. As fast as the loopback takes them they would measure how large its buffers are.
const PIECE: [u8; 16 << 10] = [b'x'; 16 << 10];
const BETWEEN_PIECES: Duration = Duration::from_millis(10);

/// Sends bytes and reads one answer into `answer`: its status and where its body is.
pub async fn whole(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> Result<(u16, Range<usize>)> {
    stream.write_all(request).await.context("write")?;
    answer.clear();
    loop {
        if let Some(found) = more_of_answer(stream, answer).await? {
            return Ok(found);
        }
    }
}

/// The same for a request of which `rest` bytes are still to be sent, until the server answers: it need not wait for
/// them, and what it has not read by then it never will. The connection is of no use afterwards.
pub async fn cut_short(
    stream: &mut TcpStream,
    request: &[u8],
    mut rest: usize,
    answer: &mut Vec<u8>,
) -> Result<(u16, Range<usize>)> {
    stream.write_all(request).await.context("write")?;
    answer.clear();
    loop {
        let pause = tokio::time::sleep(BETWEEN_PIECES);
        tokio::select! {
            // An answer that is there counts, also when the server has closed behind it.
            biased;
            found = more_of_answer(stream, answer) => {
                if let Some(found) = found? {
                    return Ok(found);
                }
            }
            () = pause, if rest > 0 => {
                // What does not fit now is sent with the next piece: a write may not keep from reading.
                match stream.try_write(&PIECE[..rest.min(PIECE.len())]) {
                    Ok(written) => rest -= written,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    // The server has closed: what it said before is still to be read.
                    Err(_) => rest = 0,
                }
            }
        }
    }
}

/// Reads once; the answer when it is complete.
async fn more_of_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<Option<(u16, Range<usize>)>> {
    if stream.read_buf(answer).await.context("read")? == 0 {
        bail!("closed");
    }
    if let Some(found) = wire::message(answer)?
        && answer.len() >= found.head + found.body
    {
        let status = wire::status(answer).context("not HTTP")?;
        return Ok(Some((status, found.head..found.head + found.body)));
    }
    Ok(None)
}
