//! The threads that run transformations.
//!
//! Threads are started when there is work and end after a while without. Waiting batches take turns by code and
//! lane, and none of these has all threads, so that a slow transformation does not stall the others. Whoever waits for a batch
//! watches it: a thread that does not come back from a native loop is given up (security.md 5.2).

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::batch::{Batch, Origin, Reply};
use super::events;
use super::keys;
use super::run::{self, SLICE_ENDED};
use super::sandbox::{Sandbox, Surroundings};
use super::watch::Progress;
use crate::settings::{Live, TransformSettings};

/// How long after its deadline a thread is given up.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether a waiting batch has begun.
const LOOK: Duration = Duration::from_secs(1);
/// How long code that held too many threads is not run.
const PAUSE: Duration = Duration::from_mins(5);
/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_mins(2);
/// Stack of a thread: that of the code (256 KiB) and plenty for native parts.
const STACK_BYTES: usize = 4 << 20;
/// Code that is remembered as paused.
const MOST_PAUSED: usize = 1_000;

/// Runs batches. Cheap to clone; threads end some time after the last clone is gone.
#[derive(Clone)]
pub struct Engine {
    pool: Arc<Pool>,
}

struct Pool {
    settings: Live,
    network: tokio::runtime::Handle,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Waiting batches, by turn; the first is next.
    waiting: VecDeque<(u128, VecDeque<Task>)>,
    /// Threads at work, by turn.
    running: HashMap<u128, usize>,
    threads: usize,
    idle: usize,
    lost: usize,
    paused: HashMap<u128, Instant>,
    is_closed: bool,
}

struct Task {
    batch: Batch,
    settings: Arc<TransformSettings>,
    progress: Arc<Progress>,
    reply: oneshot::Sender<Reply>,
}

/// How a wait for a batch ended.
enum Ended {
    Reply(Reply),
    /// Its thread was given up.
    Lost,
    /// No thread could run it.
    Unavailable,
}

impl Engine {
    /// An engine without threads yet. Requests of code run on the tokio runtime that this is called in.
    pub fn new(settings: Live) -> Engine {
        let network = tokio::runtime::Handle::current();
        Engine { pool: Arc::new(Pool { settings, network, state: Mutex::default(), work: Condvar::new() }) }
    }

    /// Runs a batch; every event of it is accounted for in the reply. Takes as long as the code does, within the
    /// limits of the settings.
    pub async fn run(&self, batch: Batch) -> Reply {
        let settings = Arc::new(self.pool.settings.load().transform.clone());
        if keys::are_too_many(batch.events.iter().map(|event| event.message.as_str())) && batch.events.len() > 1 {
            // The limit holds for one call: each half is one of its own.
            let middle = batch.events.len() / 2;
            let (front, back) = batch.events.split_at(middle);
            let part = |events: &[_]| Batch { events: events.into(), ..batch.clone() };
            let (mut reply, rest) = (Box::pin(self.run(part(front))).await, Box::pin(self.run(part(back))).await);
            reply.append(rest, middle);
            return reply;
        }
        match self.attempt(batch.clone(), &settings).await {
            Ended::Reply(reply) => reply,
            Ended::Unavailable => Reply::all_failed(batch.events.len(), 500, "internal error"),
            Ended::Lost if batch.events.len() == 1 => Reply::all_failed(1, 400, SLICE_ENDED),
            Ended::Lost => self.run_one_by_one(&batch, &settings).await,
        }
    }

    /// After a thread was lost: each event alone, so that only the one that did it fails.
    async fn run_one_by_one(&self, batch: &Batch, settings: &Arc<TransformSettings>) -> Reply {
        let mut whole = Reply::default();
        for (at, event) in batch.events.iter().enumerate() {
            let alone = Batch { events: Arc::new([event.clone()]), ..batch.clone() };
            let reply = match self.attempt(alone, settings).await {
                Ended::Reply(reply) => reply,
                Ended::Lost => Reply::all_failed(1, 400, SLICE_ENDED),
                Ended::Unavailable => Reply::all_failed(1, 500, "internal error"),
            };
            whole.append(reply, at);
        }
        whole
    }

    async fn attempt(&self, batch: Batch, settings: &Arc<TransformSettings>) -> Ended {
        let (key, turn) = (batch.code.key(), batch.turn());
        let version_id = batch.code.version_id().to_owned();
        let count = batch.events.len();
        if self.pool.is_paused(key) {
            return Ended::Reply(Reply::all_failed(count, 400, SLICE_ENDED));
        }
        let progress = Arc::new(Progress::new());
        let (reply, mut answer) = oneshot::channel();
        let task = Task { batch, settings: Arc::clone(settings), progress: Arc::clone(&progress), reply };
        if !Pool::submit(&self.pool, task) {
            return Ended::Unavailable;
        }
        loop {
            let look_at = match progress.deadline() {
                Some(deadline) => deadline + GRACE,
                None => Instant::now() + LOOK,
            };
            tokio::select! {
                biased;
                answered = &mut answer => return match answered {
                    Ok(reply) => Ended::Reply(reply),
                    Err(_gone) => Ended::Unavailable,
                },
                () = tokio::time::sleep_until(look_at.into()) => {
                    let is_overdue = progress.deadline().is_some_and(|deadline| deadline + GRACE <= Instant::now());
                    if is_overdue && Pool::give_up(&self.pool, &progress, (key, turn), &version_id, settings) {
                        return Ended::Lost;
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The threads hold the pool, so the last engine is not the pool's last owner.
        let threads = self.pool.state.lock().threads;
        if Arc::strong_count(&self.pool) <= threads + 1 {
            self.pool.state.lock().is_closed = true;
            self.pool.work.notify_all();
        }
    }
}

impl Reply {
    /// Adds the reply of a part whose events begin at this place.
    fn append(&mut self, part: Reply, begin: usize) {
        self.results.extend(part.results.into_iter().map(|mut result| {
            if let Origin::Event(at) = &mut result.origin {
                *at += begin;
            } else if result.origin == Origin::All {
                result.origin = Origin::Event(begin);
            }
            result
        }));
        self.logs.extend(part.logs);
    }
}

impl Pool {
    fn is_paused(&self, key: u128) -> bool {
        self.state.lock().paused.get(&key).is_some_and(|until| Instant::now() < *until)
    }

    /// Queues a batch and sees to it that a thread will take it; `false` when there can be none.
    fn submit(pool: &Arc<Pool>, task: Task) -> bool {
        let most = task.settings.threads;
        let mut state = pool.state.lock();
        state.push(task);
        if state.idle > 0 || state.threads >= most {
            drop(state);
            pool.work.notify_one();
            return true;
        }
        let is_started = Pool::start_thread(pool, &mut state);
        is_started || state.threads > 0
    }

    fn start_thread(pool: &Arc<Pool>, state: &mut State) -> bool {
        let own = Arc::clone(pool);
        let thread = std::thread::Builder::new().name("transform".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn(move || own.serve()) {
            Ok(_detached) => {
                state.threads += 1;
                events::threads(state.threads);
                true
            }
            Err(error) => {
                events::no_thread(&error.to_string());
                false
            }
        }
    }

    /// Gives up the thread of a batch; `false` when it has just come back.
    fn give_up(
        pool: &Arc<Pool>,
        progress: &Arc<Progress>,
        (key, turn): (u128, u128),
        version_id: &str,
        settings: &TransformSettings,
    ) -> bool {
        let mut state = pool.state.lock();
        if progress.deadline().is_none() {
            return false;
        }
        progress.is_given_up.store(true, Ordering::Release);
        state.leave(turn);
        state.threads = state.threads.saturating_sub(1);
        state.lost += 1;
        events::thread_lost(version_id, state.lost);
        if state.lost > settings.max_lost_threads {
            let now = Instant::now();
            state.paused.retain(|_, until| *until > now);
            if state.paused.len() < MOST_PAUSED {
                state.paused.insert(key, now + PAUSE);
            }
            events::code_paused(version_id, PAUSE.as_secs());
        }
        if !state.waiting.is_empty() {
            Pool::start_thread(pool, &mut state);
        }
        drop(state);
        let thread = progress.thread.load(Ordering::Acquire);
        lower_priority(thread);
        true
    }

    /// The life of a thread.
    fn serve(&self) {
        let mut sandbox: Option<Sandbox> = None;
        while let Some(Task { batch, settings, progress, reply }) = self.next_task(&mut sandbox) {
            let turn = batch.turn();
            progress.thread.store(own_id(), Ordering::Release);
            let around = Surroundings { settings, network: self.network.clone() };
            let run = AssertUnwindSafe(|| work(&mut sandbox, &batch, &around, &progress));
            let answer = std::panic::catch_unwind(run).unwrap_or_else(|_panic| {
                events::batch_panicked(batch.code.version_id());
                // What it left behind cannot be taken apart safely.
                std::mem::forget(sandbox.take());
                Reply::all_failed(batch.events.len(), 500, "internal error")
            });
            let mut state = self.state.lock();
            if progress.is_given_up.load(Ordering::Acquire) {
                state.lost = state.lost.saturating_sub(1);
                events::thread_back(state.lost);
                return;
            }
            state.leave(turn);
            drop(state);
            // Others may have waited for this turn to have one thread less.
            self.work.notify_one();
            if reply.send(answer).is_err() {
                tracing::debug!("nobody waits for a transformed batch any more");
            }
        }
    }

    /// The next batch for a thread; `None` when the thread shall end. While there is none the next context is made.
    fn next_task(&self, sandbox: &mut Option<Sandbox>) -> Option<Task> {
        let settings = self.settings.load();
        let mut is_prepared = false;
        let mut state = self.state.lock();
        loop {
            if state.is_closed || state.threads > settings.transform.threads {
                state.threads = state.threads.saturating_sub(1);
                events::threads(state.threads);
                return None;
            }
            if let Some(task) = state.pop(settings.transform.threads) {
                return Some(task);
            }
            if !is_prepared {
                // Nobody waits: the time to make ready.
                state.idle += 1;
                drop(state);
                prepare(sandbox, &settings.transform);
                is_prepared = true;
                state = self.state.lock();
                state.idle = state.idle.saturating_sub(1);
                continue;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle = state.idle.saturating_sub(1);
            if timed_out && state.waiting.is_empty() {
                state.threads = state.threads.saturating_sub(1);
                events::threads(state.threads);
                return None;
            }
        }
    }
}

impl State {
    fn push(&mut self, task: Task) {
        let turn = task.batch.turn();
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == turn) {
            Some((_, tasks)) => tasks.push_back(task),
            None => self.waiting.push_back((turn, VecDeque::from([task]))),
        }
    }

    /// The next batch whose turn may have one more of `threads`. It goes to the end of the line then.
    fn pop(&mut self, threads: usize) -> Option<Task> {
        let most = threads.saturating_sub(1).max(1);
        let may_run = |turn: &u128| self.running.get(turn).is_none_or(|running| *running < most);
        let place = self.waiting.iter().position(|(turn, _)| may_run(turn))?;
        let (turn, mut tasks) = self.waiting.remove(place)?;
        let task = tasks.pop_front();
        if !tasks.is_empty() {
            self.waiting.push_back((turn, tasks));
        }
        *self.running.entry(turn).or_default() += 1;
        task
    }

    /// A thread no longer works for this turn.
    fn leave(&mut self, turn: u128) {
        if let Some(running) = self.running.get_mut(&turn) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&turn);
            }
        }
    }
}

fn prepare(sandbox: &mut Option<Sandbox>, settings: &TransformSettings) {
    if sandbox.as_ref().is_none_or(|sandbox| !sandbox.suits(settings)) {
        match Sandbox::new(settings) {
            Ok(made) => *sandbox = Some(made),
            Err(error) => return events::no_thread(&error.to_string()),
        }
    }
    if let Some(Err(error)) = sandbox.as_mut().map(Sandbox::prepare) {
        events::no_thread(&error.to_string());
        *sandbox = None;
    }
}

/// Runs one batch on this thread's runtime and throws the runtime away if need be.
fn work(sandbox: &mut Option<Sandbox>, batch: &Batch, around: &Surroundings, progress: &Arc<Progress>) -> Reply {
    if sandbox.as_ref().is_none_or(|sandbox| !sandbox.suits(&around.settings)) {
        prepare(sandbox, &around.settings);
    }
    let unavailable = || Reply::all_failed(batch.events.len(), 500, "internal error");
    let Some(runtime) = sandbox.as_mut() else { return unavailable() };
    match run::run(runtime, batch, around, Arc::clone(progress)) {
        Ok(outcome) => {
            if !outcome.is_clean {
                events::runtime_replaced();
                *sandbox = None;
            }
            outcome.reply
        }
        Err(error) => {
            events::no_thread(&error.to_string());
            *sandbox = None;
            unavailable()
        }
    }
}

/// The id of this thread, for the scheduler.
fn own_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// A thread that does not end gets only the time that nobody else wants.
fn lower_priority(thread: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(thread) else { return };
    if let Err(error) = rustix::process::setpriority_process(Some(pid), 19) {
        tracing::debug!(%error, "the priority of a lost thread could not be lowered");
    }
}
