//! A timer that is hardly ever set: it fires at some deadline or earlier, and only then is set to the one that
//! holds. So a wait that ends in time, as nearly all do, costs no timer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::time::{Sleep, sleep_until};

/// Ends the waits of one task, one after the other.
#[derive(Debug, Default)]
pub(super) struct Alarm(Mutex<Option<Set>>);

#[derive(Debug)]
struct Set {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Waker,
}

impl Alarm {
    /// Ready when the deadline has passed; else the task is woken then, or earlier.
    pub(super) fn poll(&self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut alarm = self.0.lock();
        let set = alarm
            .get_or_insert_with(|| Set { sleep: Box::pin(sleep_until(deadline.into())), waker: Waker::noop().clone() });
        loop {
            let is_late = set.sleep.deadline().into_std() > deadline;
            if is_late {
                set.sleep.as_mut().reset(deadline.into());
            } else if set.waker.will_wake(context.waker()) && !set.sleep.is_elapsed() {
                return Poll::Pending;
            }
            set.waker.clone_from(context.waker());
            ready!(set.sleep.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            set.sleep.as_mut().reset(deadline.into());
        }
    }

    /// What the future gives; `None` when it is not ready by the deadline.
    pub(super) async fn by<F: Future>(&self, deadline: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(context, deadline).map(|()| None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn each_wait_ends_at_its_own_deadline() {
        let alarm = Alarm::default();
        let started = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(alarm.by(started + ms(20), std::future::ready(1)).await, Some(1));
        // Later, earlier, later than the one before: the timer follows.
        for wait in [ms(30), ms(10), ms(40)] {
            let begun = Instant::now();
            assert_eq!(alarm.by(begun + wait, std::future::pending::<()>()).await, None);
            assert!(begun.elapsed() >= wait, "{wait:?}");
        }
        let slow = async {
            tokio::time::sleep(ms(5)).await;
            2
        };
        assert_eq!(alarm.by(Instant::now() + Duration::from_secs(60), slow).await, Some(2));
    }
}
