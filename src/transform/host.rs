//! The functions of the node that `sandbox.js` builds the globals on. They take and give strings only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use rquickjs::{Ctx, Function, Object, Result};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::batch::Batch;
use super::fetch::{self, Answer, Asked, Kind};
use crate::settings::TransformSettings;

/// Log lines of a test run, and bytes of one.
const MOST_LOG_LINES: usize = 1_000;
const LONGEST_LOG_LINE: usize = 4 << 10;

/// What one context's code can reach of the node; empty until a batch is put in.
#[derive(Default)]
pub(super) struct Host {
    batch: RefCell<Option<Batch>>,
    places: RefCell<HashMap<String, usize>>,
    logs: RefCell<Vec<String>>,
    requests: RefCell<Option<Requests>>,
    /// Requests whose answer has not been given to the code.
    outstanding: Cell<usize>,
}

/// The way to the network of one batch.
struct Requests {
    runtime: tokio::runtime::Handle,
    settings: Arc<TransformSettings>,
    running: Arc<Semaphore>,
    asked: usize,
    tasks: Vec<AbortHandle>,
    sender: Sender<(u32, Answer)>,
    answers: Rc<Receiver<(u32, Answer)>>,
}

impl Host {
    /// Puts a batch in.
    pub(super) fn begin(&self, batch: &Batch, settings: &Arc<TransformSettings>, runtime: &tokio::runtime::Handle) {
        let places = batch.events.iter().enumerate().map(|(at, event)| (event.message_id.clone(), at));
        self.places.replace(places.collect());
        self.batch.replace(Some(batch.clone()));
        let (sender, answers) = channel();
        self.requests.replace(Some(Requests {
            runtime: runtime.clone(),
            settings: Arc::clone(settings),
            running: Arc::new(Semaphore::new(settings.fetch_max_concurrent)),
            asked: 0,
            tasks: Vec::new(),
            sender,
            answers: Rc::new(answers),
        }));
    }

    /// Ends the batch: requests under way are given up. What it logged.
    pub(super) fn end(&self) -> Vec<String> {
        if let Some(requests) = self.requests.take() {
            for task in requests.tasks {
                task.abort();
            }
        }
        self.batch.replace(None);
        self.logs.take()
    }

    /// Place of the event with this message id; of two with the same the last.
    pub(super) fn place(&self, message_id: &str) -> Option<usize> {
        self.places.borrow().get(message_id).copied()
    }

    /// How many requests wait for an answer.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    /// Waits for the next answer, until the deadline at most.
    pub(super) fn next_answer(&self, deadline: Instant) -> Option<(u32, Answer)> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.take_answer(|answers| answers.recv_timeout(wait).ok())
    }

    /// The next answer that is there already.
    pub(super) fn ready_answer(&self) -> Option<(u32, Answer)> {
        self.take_answer(|answers| answers.try_recv().ok())
    }

    fn take_answer(
        &self,
        receive: impl FnOnce(&Receiver<(u32, Answer)>) -> Option<(u32, Answer)>,
    ) -> Option<(u32, Answer)> {
        let answers = self.requests.borrow().as_ref().map(|requests| Rc::clone(&requests.answers))?;
        let answer = receive(&answers)?;
        self.outstanding.set(self.outstanding.get().saturating_sub(1));
        Some(answer)
    }

    /// The functions for `sandbox.js`.
    pub(super) fn functions<'js>(self: &Rc<Host>, ctx: &Ctx<'js>) -> Result<Object<'js>> {
        let functions = Object::new(ctx.clone())?;
        let host = Rc::clone(self);
        functions.set("keepsLogs", Function::new(ctx.clone(), move || host.keeps_logs())?)?;
        let host = Rc::clone(self);
        functions.set("log", Function::new(ctx.clone(), move |line: String| host.log(line))?)?;
        let host = Rc::clone(self);
        functions.set("credential", Function::new(ctx.clone(), move |key: String| host.credential(&key))?)?;
        let host = Rc::clone(self);
        functions.set("metadata", Function::new(ctx.clone(), move |id: String| host.metadata(&id))?)?;
        let host = Rc::clone(self);
        let ask = move |kind: String, target: String, options: String| host.ask(&kind, target, options);
        functions.set("ask", Function::new(ctx.clone(), ask)?)?;
        Ok(functions)
    }

    fn keeps_logs(&self) -> bool {
        self.batch.borrow().as_ref().is_some_and(|batch| batch.keeps_logs)
    }

    fn log(&self, mut line: String) {
        let mut logs = self.logs.borrow_mut();
        match logs.len() {
            MOST_LOG_LINES.. => {}
            lines if lines + 1 == MOST_LOG_LINES => logs.push("... more lines are not shown".to_owned()),
            _ => {
                if line.len() > LONGEST_LOG_LINE {
                    let end = (0..=LONGEST_LOG_LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or_default();
                    line.truncate(end);
                    line.push_str("...");
                }
                logs.push(line);
            }
        }
    }

    fn credential(&self, key: &str) -> Option<String> {
        self.batch.borrow().as_ref()?.code.credential(key).map(str::to_owned)
    }

    fn metadata(&self, message_id: &str) -> Option<String> {
        let place = self.place(message_id)?;
        self.batch.borrow().as_ref()?.events.get(place).map(|event| event.metadata.clone())
    }

    /// Starts a request; its answer comes later, also when it cannot be made.
    fn ask(&self, kind: &str, target: String, options: String) -> u32 {
        let mut requests = self.requests.borrow_mut();
        let Some(requests) = requests.as_mut() else { return 0 };
        let id = u32::try_from(requests.asked).unwrap_or(u32::MAX);
        requests.asked += 1;
        self.outstanding.set(self.outstanding.get() + 1);
        let sender = requests.sender.clone();
        if requests.asked > requests.settings.fetch_max_per_batch {
            let text = format!("more than {} requests in one batch", requests.settings.fetch_max_per_batch);
            answer(&sender, id, Err(text));
            return id;
        }
        let kind = match kind {
            "fetch" => Kind::Fetch,
            "fetchV2" => Kind::FetchV2,
            _ => Kind::Geolocation,
        };
        let asked = Asked { kind, target, options };
        let (running, settings) = (Arc::clone(&requests.running), Arc::clone(&requests.settings));
        let task = requests.runtime.spawn(async move {
            let answered = match running.acquire().await {
                Ok(_permit) => fetch::perform(asked, settings).await,
                Err(_closed) => Err("the batch has ended".to_owned()),
            };
            answer(&sender, id, answered);
        });
        requests.tasks.push(task.abort_handle());
        id
    }
}

/// Hands an answer over; a batch that has ended does not want it.
fn answer(sender: &Sender<(u32, Answer)>, id: u32, answered: Answer) {
    if sender.send((id, answered)).is_err() {
        tracing::trace!("a request of a transformation was answered after its batch had ended");
    }
}
