//! One batch in a fresh context: the code is read, its function called, what it gives turned into results
//! (processor.md 7.4, 7.8).
//!
//! Texts go in and out through the engine's own JSON, which code cannot replace.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rquickjs::context::EvalOptions;
use rquickjs::module::Evaluated;
use rquickjs::promise::PromiseState;
use rquickjs::{Array, Coerced, Ctx, Function, Module, Object, Promise, Value};
use uuid::Uuid;

use super::batch::{Batch, Origin, Reply, Transformed, Verdict};
use super::code::Contract;
use super::error_text;
use super::host::Host;
use super::keys;
use super::sandbox::{Driver, NoSandbox, Prepared, Sandbox, Surroundings};
use super::watch::Progress;

/// Most outputs per input event, and most bytes of all outputs (security.md 2.2).
const MOST_OUTPUTS: usize = 1_000;
const MOST_OUTPUT_BYTES: usize = 64 << 20;
/// How often the clock is read while the queue of jobs is worked off.
const JOBS_PER_LOOK: u32 = 32;

/// Code that computed for too long.
pub(super) const SLICE_ENDED: &str = "Error: Script execution timed out.";
/// A batch that took too long.
const TOTAL_ENDED: &str = "Error: Error: Timed out";
const TOO_LARGE: &str = "transformation output too large";

/// What became of a batch, and whether its runtime can be used again.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) is_clean: bool,
}

/// Runs a batch.
///
/// # Errors
/// [`NoSandbox`] when no context could be made; the batch was not run.
pub(super) fn run(
    sandbox: &mut Sandbox,
    batch: &Batch,
    around: &Surroundings,
    progress: Arc<Progress>,
) -> Result<Outcome, NoSandbox> {
    let (driver, host, context) = sandbox.take()?.into_parts();
    sandbox.alarm.begin(progress);
    host.begin(batch, &around.settings, &around.network);
    let ends = Instant::now() + around.settings.total;
    let (results, is_harmed) = context.with(|ctx| {
        let driver = match Prepared::driver(driver, &ctx) {
            Ok(driver) => driver,
            Err(error) => return (Err(Halt::Whole(format!("Error: {error}"))), true),
        };
        let run = Run {
            ctx,
            driver,
            host: &host,
            sandbox,
            batch,
            around,
            ends,
            is_harmed: Cell::new(false),
            bytes: Cell::new(0),
        };
        let results = run.perform();
        // A stop that code caught, or that came while an error was described, ends the batch all the same.
        let results = if run.sandbox.alarm.rang() { Err(Halt::Slice) } else { results };
        let is_harmed = run.is_harmed.get() || matches!(results, Err(Halt::Slice | Halt::Total));
        (results, is_harmed)
    });
    sandbox.alarm.disarm();
    let logs = host.end();
    drop(context);
    drop(host);
    let mut reply = match results {
        Ok(results) => Reply { results, logs: Vec::new() },
        Err(halt) => Reply::all_failed(batch.events.len(), 400, halt.text()),
    };
    reply.logs = logs;
    Ok(Outcome { reply, is_clean: !is_harmed && sandbox.is_clean() })
}

/// Why a whole batch failed.
enum Halt {
    /// Code computed for too long.
    Slice,
    /// The batch took too long.
    Total,
    /// Anything else, with its text.
    Whole(String),
}

impl Halt {
    fn text(&self) -> &str {
        match self {
            Halt::Slice => SLICE_ENDED,
            Halt::Total => TOTAL_ENDED,
            Halt::Whole(text) => text,
        }
    }
}

/// One call under way.
enum Call<'js> {
    Returned(Value<'js>),
    Waits(Promise<'js>),
    Failed(String),
}

/// What a value that code returned is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    Array,
    Nothing,
    Other,
}

struct Run<'r, 'js> {
    ctx: Ctx<'js>,
    driver: Driver<'js>,
    host: &'r Rc<Host>,
    sandbox: &'r Sandbox,
    batch: &'r Batch,
    around: &'r Surroundings,
    ends: Instant,
    is_harmed: Cell<bool>,
    /// Bytes of the outputs so far.
    bytes: Cell<usize>,
}

impl<'js> Run<'_, 'js> {
    fn perform(&self) -> Result<Vec<Transformed>, Halt> {
        self.sandbox.alarm.arm(self.around.settings.slice);
        match self.batch.code.contract() {
            Contract::Module => {
                let module = self.module()?;
                let mut found = Vec::new();
                for name in ["transformEvent", "transformBatch"] {
                    if let Ok(function) = self.checked(module.namespace())?.get::<_, Function<'js>>(name) {
                        found.push((name, function));
                    } else {
                        drop(self.ctx.catch());
                    }
                }
                match found.as_slice() {
                    [("transformEvent", function)] => self.events(function),
                    [(name, function)] => self.whole(function, name, &format!("{name}(event)")),
                    _ => {
                        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
                        Err(Halt::Whole(format!(
                            "Error: Expected one of transformEvent,transformBatch. Found {}",
                            names.join(",")
                        )))
                    }
                }
            }
            Contract::Script => {
                let function = self.script()?;
                self.whole(&function, "transform", "transform(events)")
            }
        }
    }

    /// Reads the module, its imports with it, and runs its top level.
    fn module(&self) -> Result<Module<'js, Evaluated>, Halt> {
        let code = &self.batch.code;
        self.sandbox.imports.open(code);
        let declared = Module::declare(self.ctx.clone(), code.name(), code.text());
        self.sandbox.imports.close();
        let (module, promise) = self.checked(declared.and_then(Module::eval))?;
        self.wait(std::slice::from_ref(&promise))?;
        match promise.result::<Value<'js>>() {
            Some(result) => self.checked(result).map(|_undefined| module),
            None => Err(Halt::Total),
        }
    }

    fn script(&self) -> Result<Function<'js>, Halt> {
        let globals = self.ctx.globals();
        self.checked(globals.set("metadata", self.driver.metadata.clone()))?;
        let mut options = EvalOptions::default();
        options.strict = false;
        options.filename = Some(self.batch.code.name().to_owned());
        let _last: Value<'js> = self.checked(self.ctx.eval_with_options(self.batch.code.text(), options))?;
        let function: Value<'js> = self.checked(globals.get("transform"))?;
        let missing = || Halt::Whole("ReferenceError: transform is not defined".to_owned());
        function.into_function().ok_or_else(missing)
    }

    /// `transformEvent`: a call per event, all begun in order and then awaited together.
    fn events(&self, function: &Function<'js>) -> Result<Vec<Transformed>, Halt> {
        let mut calls = Vec::with_capacity(self.batch.events.len());
        for event in self.batch.events.iter() {
            calls.push(if keys::are_too_many(std::iter::once(event.message.as_str())) {
                Call::Failed("event has too many keys".to_owned())
            } else {
                match self.ctx.json_parse(event.message.as_str()) {
                    Ok(message) => self.call(function, message)?,
                    Err(error) => Call::Failed(self.text(error)?),
                }
            });
        }
        let waiting: Vec<Promise<'js>> = calls
            .iter()
            .filter_map(|call| match call {
                Call::Waits(promise) => Some(promise.clone()),
                _ => None,
            })
            .collect();
        self.wait(&waiting)?;
        self.sandbox.alarm.arm(self.around.settings.slice);
        self.guard_functions(true)?;
        let mut results = Vec::with_capacity(calls.len());
        for (at, call) in calls.into_iter().enumerate() {
            let mut push = |verdict| results.push(Transformed { origin: Origin::Event(at), verdict });
            match self.returned(call)? {
                Ok(value) => self.event_results(value, &mut push)?,
                Err(error) => push(Verdict::failed(error)),
            }
        }
        Ok(results)
    }

    /// What one call of `transformEvent` gave.
    fn event_results(&self, value: Value<'js>, push: &mut dyn FnMut(Verdict)) -> Result<(), Halt> {
        match self.shape(&value)? {
            Ok(Shape::Nothing) => push(Verdict::Dropped),
            Ok(Shape::Object) => push(self.output(value)?),
            Ok(Shape::Array) => match self.elements(value, MOST_OUTPUTS)? {
                Ok(elements) if elements.is_empty() => push(Verdict::Dropped),
                Ok(elements) => {
                    let mut verdicts = Vec::with_capacity(elements.len());
                    for element in elements {
                        if !matches!(self.shape(&element)?, Ok(Shape::Object)) {
                            push(Verdict::failed(
                                "returned event in events array from transformEvent(event) is not an object",
                            ));
                            return Ok(());
                        }
                        verdicts.push(self.output(element)?);
                    }
                    verdicts.into_iter().for_each(push);
                }
                Err(error) => push(Verdict::failed(error)),
            },
            Ok(Shape::Other) => push(Verdict::failed("returned event from transformEvent(event) is not an object")),
            Err(error) => push(Verdict::failed(error)),
        }
        Ok(())
    }

    /// `transformBatch`, and `transform` of old scripts: one call for all events.
    fn whole(&self, function: &Function<'js>, name: &str, call_text: &str) -> Result<Vec<Transformed>, Halt> {
        let is_script = self.batch.code.contract() == Contract::Script;
        let group = |error: String| vec![Transformed { origin: Origin::All, verdict: Verdict::failed(error) }];
        let events = self.checked(Array::new(self.ctx.clone()))?;
        for (at, event) in self.batch.events.iter().enumerate() {
            let message = self.checked(self.ctx.json_parse(event.message.as_str()))?;
            self.checked(events.set(at, message))?;
        }
        let call = self.call(function, events.into_value())?;
        if let Call::Waits(promise) = &call {
            self.wait(std::slice::from_ref(promise))?;
        }
        self.sandbox.alarm.arm(self.around.settings.slice);
        self.guard_functions(true)?;
        let value = match self.returned(call)? {
            Ok(value) => value,
            Err(error) => return Ok(group(error)),
        };
        if !matches!(self.shape(&value)?, Ok(Shape::Array)) {
            return Ok(group(format!("returned events from {call_text} is not an array")));
        }
        let most = MOST_OUTPUTS.saturating_mul(self.batch.events.len());
        let elements = match self.elements(value, most)? {
            Ok(elements) => elements,
            Err(error) => return Ok(group(error)),
        };
        let mut is_answered = vec![false; self.batch.events.len()];
        let mut outputs = Vec::with_capacity(elements.len());
        for element in elements {
            match self.shape(&element)? {
                Ok(Shape::Object) => {}
                // Old scripts drop events by leaving nothing in their place.
                Ok(Shape::Nothing) if is_script => continue,
                _ => {
                    is_answered.fill(true);
                    let error = format!("returned event in events array from {name}(events) is not an object");
                    outputs.extend(group(error));
                    continue;
                }
            }
            let place = if is_script { None } else { self.place_of(&element) };
            let origin = match place {
                Some(at) => Origin::Event(at),
                None => Origin::Fresh { message_id: Uuid::new_v4().to_string() },
            };
            if let Some(answered) = place.and_then(|at| is_answered.get_mut(at)) {
                *answered = true;
            }
            outputs.push(Transformed { origin, verdict: self.output(element)? });
        }
        let dropped = is_answered.iter().enumerate().filter(|(_, answered)| !**answered);
        let mut results: Vec<Transformed> =
            dropped.map(|(at, _)| Transformed { origin: Origin::Event(at), verdict: Verdict::Dropped }).collect();
        results.extend(outputs);
        Ok(results)
    }

    /// The event that an output says it is, by its `messageId`.
    fn place_of(&self, output: &Value<'js>) -> Option<usize> {
        let id: Result<Option<Coerced<String>>, _> = output.as_object()?.get("messageId");
        match id {
            Ok(id) => self.host.place(&id?.0),
            Err(_thrown) => {
                drop(self.ctx.catch());
                None
            }
        }
    }

    fn call(&self, function: &Function<'js>, argument: Value<'js>) -> Result<Call<'js>, Halt> {
        let returned: Value<'js> = match function.call((argument, self.driver.metadata.clone())) {
            Ok(returned) => returned,
            Err(error) => return self.text(error).map(Call::Failed),
        };
        let Some(object) = returned.as_object() else { return Ok(Call::Returned(returned)) };
        let then: Value<'js> = match object.get("then") {
            Ok(then) => then,
            Err(error) => return self.text(error).map(Call::Failed),
        };
        if !then.is_function() {
            return Ok(Call::Returned(returned));
        }
        match self.driver.settle.call((returned,)) {
            Ok(promise) => Ok(Call::Waits(promise)),
            Err(error) => self.text(error).map(Call::Failed),
        }
    }

    /// The value of a call, or the text of its failure.
    fn returned(&self, call: Call<'js>) -> Result<Result<Value<'js>, String>, Halt> {
        match call {
            Call::Returned(value) => Ok(Ok(value)),
            Call::Failed(error) => Ok(Err(error)),
            Call::Waits(promise) => match promise.result() {
                Some(Ok(value)) => Ok(Ok(value)),
                Some(Err(error)) => self.text(error).map(Err),
                // Nothing is under way that could settle it.
                None => Ok(Err(TOTAL_ENDED.to_owned())),
            },
        }
    }

    fn shape(&self, value: &Value<'js>) -> Result<Result<Shape, String>, Halt> {
        match self.driver.kind.call::<_, i32>((value.clone(),)) {
            Ok(0) => Ok(Ok(Shape::Object)),
            Ok(1) => Ok(Ok(Shape::Array)),
            Ok(2) => Ok(Ok(Shape::Nothing)),
            Ok(_) => Ok(Ok(Shape::Other)),
            Err(error) => self.text(error).map(Err),
        }
    }

    fn elements(&self, array: Value<'js>, most: usize) -> Result<Result<Vec<Value<'js>>, String>, Halt> {
        // Read as an object: it may be a proxy of an array.
        let read = || -> rquickjs::Result<Result<Vec<Value<'js>>, String>> {
            let object = Object::from_value(array)?;
            let length: usize = object.get("length")?;
            if length > most {
                return Ok(Err(TOO_LARGE.to_owned()));
            }
            let at = |at: usize| object.get(u32::try_from(at).unwrap_or(u32::MAX));
            Ok(Ok((0..length).map(at).collect::<rquickjs::Result<Vec<Value<'js>>>>()?))
        };
        match read() {
            Ok(elements) => Ok(elements),
            Err(error) => self.text(error).map(Err),
        }
    }

    /// An output as JSON. A function inside fails the batch.
    fn output(&self, value: Value<'js>) -> Result<Verdict, Halt> {
        let text = self.ctx.json_stringify(value).and_then(|text| text.map(|text| text.to_string()).transpose());
        // Writing is native work, during which nobody asks for the time.
        if self.sandbox.alarm.rings() {
            return Err(Halt::Slice);
        }
        let text = match text {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                let error = self.text(error)?;
                if error.starts_with("TypeError: ") && error.lines().any(|line| line.ends_with(" could not be cloned."))
                {
                    return Err(Halt::Whole(error.lines().next().unwrap_or_default().to_owned()));
                }
                return Ok(Verdict::failed(error));
            }
        };
        if !text.starts_with('{') {
            let version = self.batch.code.version_id();
            return Ok(Verdict::failed(format!(
                "returned event in events from user transformation is not an object. transformationVersionId:{version} and returned event: {text}"
            )));
        }
        let bytes = self.bytes.get() + text.len();
        if bytes > MOST_OUTPUT_BYTES {
            return Ok(Verdict::failed(TOO_LARGE));
        }
        self.bytes.set(bytes);
        Ok(Verdict::Output(text))
    }

    fn guard_functions(&self, is_on: bool) -> Result<(), Halt> {
        self.checked(self.driver.guard_functions.call((is_on,)))
    }

    /// Works off the queue of jobs and waits for answers from the network until these promises are settled or nothing
    /// is left that could settle them.
    fn wait(&self, promises: &[Promise<'js>]) -> Result<(), Halt> {
        loop {
            self.drain()?;
            let is_settled = promises.iter().all(|promise| promise.state() != PromiseState::Pending);
            if is_settled || self.host.outstanding() == 0 {
                return Ok(());
            }
            self.sandbox.alarm.disarm();
            let mut answer = self.host.next_answer(self.ends);
            if answer.is_none() {
                return Err(Halt::Total);
            }
            self.sandbox.alarm.arm(self.around.settings.slice);
            while let Some((id, answered)) = answer {
                let (is_good, text) = match answered {
                    Ok(text) => (true, text),
                    Err(text) => (false, text),
                };
                self.checked(self.driver.answer.call::<_, ()>((id, is_good, text)))?;
                answer = self.host.ready_answer();
            }
        }
    }

    /// Works off the queue of jobs. The running slice holds for all of them together: a chain of jobs that never ends
    /// is stopped like a loop.
    fn drain(&self) -> Result<(), Halt> {
        let mut jobs = 0_u32;
        while self.ctx.execute_pending_job() {
            jobs = jobs.wrapping_add(1);
            let is_time_to_look = jobs.is_multiple_of(JOBS_PER_LOOK);
            if self.sandbox.alarm.rang() || is_time_to_look && self.sandbox.alarm.rings() {
                return Err(Halt::Slice);
            }
        }
        if Instant::now() >= self.ends { Err(Halt::Total) } else { Ok(()) }
    }

    /// A step that fails the whole batch when it fails.
    fn checked<T>(&self, step: rquickjs::Result<T>) -> Result<T, Halt> {
        match step {
            Ok(value) => Ok(value),
            Err(error) => Err(Halt::Whole(self.text(error)?)),
        }
    }

    /// The text of what was thrown. A stop by the alarm is no error of an event but the end of the batch.
    fn text(&self, error: rquickjs::Error) -> Result<String, Halt> {
        let thrown = self.ctx.catch();
        if self.sandbox.alarm.rang() {
            return Err(Halt::Slice);
        }
        if !error.is_exception() {
            // The binding itself failed: no memory, or a text that is none.
            self.is_harmed.set(true);
            return Ok(format!("Error: {error}"));
        }
        if thrown.is_null() {
            // Thrown by code, or by the engine when there is no memory left to make an error with: the runtime cannot
            // be asked which while it runs, so it is not used again.
            self.is_harmed.set(true);
            return Ok("out of memory, or null was thrown".to_owned());
        }
        let text = match thrown.as_object().filter(|_| thrown.is_error()) {
            Some(error) => error_text::of_error(
                &self.member(error, "name"),
                &self.member(error, "message"),
                &self.member(error, "stack"),
                &self.class(error),
            ),
            None => match self.driver.describe.call((thrown,)) {
                Ok(text) => text,
                Err(_thrown_again) => {
                    drop(self.ctx.catch());
                    "a value that cannot be shown".to_owned()
                }
            },
        };
        if text.contains("out of memory") || text.contains("Maximum call stack size exceeded") {
            self.is_harmed.set(true);
        }
        Ok(text)
    }

    /// The name of the class that the error is of.
    fn class(&self, error: &Object<'js>) -> String {
        match error.get::<_, Object<'js>>("constructor") {
            Ok(constructor) => self.member(&constructor, "name"),
            Err(_thrown) => {
                drop(self.ctx.catch());
                String::new()
            }
        }
    }

    fn member(&self, error: &Object<'js>, name: &str) -> String {
        match error.get::<_, Option<Coerced<String>>>(name) {
            Ok(text) => text.map(|text| text.0).unwrap_or_default(),
            Err(_thrown) => {
                drop(self.ctx.catch());
                String::new()
            }
        }
    }
}
