//! When a batch is cut and how it is split into files (router.md 19.2).

use std::time::{Duration, Instant};

/// The periodic timer of one destination. It runs from cut to cut, not from the first job on.
#[derive(Clone, Copy, Debug)]
pub struct CutTimer {
    next: Instant,
}

impl CutTimer {
    /// A timer whose first cut is due one period after `now`.
    pub fn new(now: Instant, period: Duration) -> CutTimer {
        CutTimer { next: now + period }
    }

    /// When the next cut is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether a batch is to be cut: the time has come, or enough jobs wait.
    pub fn is_due(&self, now: Instant, waiting: u64, max_events: usize) -> bool {
        now >= self.next || usize::try_from(waiting).unwrap_or(usize::MAX) >= max_events
    }

    /// Starts the next period; a period that was shortened meanwhile takes effect at once.
    pub fn restart(&mut self, now: Instant, period: Duration) {
        self.next = now + period;
    }

    /// Brings the next cut forward when the period became shorter.
    pub fn shorten(&mut self, now: Instant, period: Duration) {
        self.next = self.next.min(now + period);
    }
}

/// Splits jobs in id order into cuts of at most `max_events`, the last one possibly smaller.
pub fn cuts<J>(jobs: Vec<J>, max_events: usize) -> Vec<Vec<J>> {
    let mut all = Vec::new();
    let mut current = Vec::new();
    for job in jobs {
        current.push(job);
        if current.len() >= max_events.max(1) {
            all.push(std::mem::take(&mut current));
        }
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}

/// Splits one cut into files: one for each key (source and destination), jobs in the order in which they came.
pub fn files<J, K: PartialEq>(jobs: Vec<J>, key: impl Fn(&J) -> K) -> Vec<(K, Vec<J>)> {
    let mut files: Vec<(K, Vec<J>)> = Vec::new();
    for job in jobs {
        let of_job = key(&job);
        match files.iter_mut().find(|(of_file, _)| *of_file == of_job) {
            Some((_, jobs)) => jobs.push(job),
            None => files.push((of_job, vec![job])),
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_becomes_one_file_for_each_source() {
        let jobs = vec![(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "a")];
        let split: Vec<Vec<Vec<i32>>> = cuts(jobs, 3)
            .into_iter()
            .map(|cut| {
                files(cut, |job| job.1).into_iter().map(|(_, jobs)| jobs.iter().map(|job| job.0).collect()).collect()
            })
            .collect();
        assert_eq!(split, vec![vec![vec![1, 3], vec![2]], vec![vec![4], vec![5]]]);
        assert!(cuts(Vec::<i32>::new(), 3).is_empty());
    }

    #[test]
    fn the_timer_is_periodic_and_a_full_buffer_does_not_wait_for_it() {
        let start = Instant::now();
        let period = Duration::from_secs(30);
        let mut timer = CutTimer::new(start, period);
        assert!(!timer.is_due(start, 9_999, 10_000));
        assert!(timer.is_due(start, 10_000, 10_000));
        assert!(timer.is_due(start + period, 0, 10_000));
        timer.restart(start + period, period);
        assert_eq!(timer.next(), start + 2 * period);
        timer.shorten(start + period, Duration::from_secs(1));
        assert_eq!(timer.next(), start + period + Duration::from_secs(1));
    }
}
