//! The socket with its clocks: the time of a head runs from its first byte, idle connections have their own
//! time, an answer that is not read ends the connection, and a connection that ends early is read empty first.
//!
//! The HTTP library's only timer would run from the previous answer on and so end idle connections too early.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alarm::Alarm;
use super::connection::Connection;

/// How long a client that is still sending gets to read an answer that came early.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct TimedSocket<S> {
    stream: S,
    connection: Arc<Connection>,
    alarm: Alarm,
    /// Since when the peer takes nothing.
    write_stalled: Option<Instant>,
    /// Until when the socket is read empty, once its own side is shut.
    linger_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TimedSocket<S> {
    pub(super) fn new(stream: S, connection: Arc<Connection>) -> TimedSocket<S> {
        TimedSocket { stream, connection, alarm: Alarm::default(), write_stalled: None, linger_until: None }
    }

    /// Turns waiting for the peer into an error once it has taken nothing for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let since = *self.write_stalled.get_or_insert_with(Instant::now);
        let deadline = since + self.connection.write_timeout();
        ready!(self.alarm.poll(context, deadline));
        Poll::Ready(ErrorKind::TimedOut.into())
    }

    fn written(&mut self, context: &mut Context<'_>, outcome: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if outcome.is_pending() {
            return self.poll_stalled(context).map(Err);
        }
        self.write_stalled = None;
        outcome
    }

    /// Reads and drops until the peer has ended its side or the time is up.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = *self.linger_until.get_or_insert_with(|| Instant::now() + LINGER);
        let mut scratch = [0; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    if Instant::now() >= until {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.alarm.poll(context, until),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TimedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().len() - before;
                if bytes > 0 && !self.connection.received(bytes) {
                    return Poll::Ready(Err(ErrorKind::OutOfMemory.into()));
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match self.connection.read_deadline() {
                Some(deadline) => {
                    ready!(self.alarm.poll(context, deadline));
                    // Who let the time pass gets no more of it.
                    self.linger_until = Some(deadline);
                    Poll::Ready(Err(ErrorKind::TimedOut.into()))
                }
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            // Only a stream with a buffer of its own, TLS, has anything to wait for.
            Poll::Pending => self.poll_stalled(context).map(Err),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.linger_until.is_none() {
            let shut = match Pin::new(&mut self.stream).poll_shutdown(context) {
                Poll::Pending => return self.poll_stalled(context).map(Err),
                Poll::Ready(shut) => shut,
            };
            if shut.is_err() || !self.connection.must_linger() {
                return Poll::Ready(shut);
            }
        }
        self.poll_linger(context).map(Ok)
    }
}
