//! The runtime of one thread and the contexts that it makes: one for each batch, the next one made while idle.

use std::rc::Rc;
use std::sync::Arc;

use rquickjs::{Context, Ctx, Function, Object, Persistent, Runtime};

use super::host::Host;
use super::imports::Imports;
use super::watch::Alarm;
use crate::settings::TransformSettings;

/// The globals, as a function of the host's functions.
const GLOBALS: &str = include_str!("sandbox.js");
/// Stack of running code, within the stack of its thread.
const STACK_BYTES: usize = 1 << 20;

/// A runtime. Lives as long as its thread unless code has harmed it.
pub(super) struct Sandbox {
    /// Before the runtime, which must go last.
    next: Option<Prepared>,
    pub(super) alarm: Rc<Alarm>,
    pub(super) imports: Imports,
    heap_bytes: usize,
    runtime: Runtime,
}

/// A fresh context.
pub(super) struct Prepared {
    driver: Persistent<Object<'static>>,
    pub(super) host: Rc<Host>,
    pub(super) context: Context,
}

/// The functions of `sandbox.js` that the node calls.
pub(super) struct Driver<'js> {
    pub(super) metadata: Function<'js>,
    pub(super) kind: Function<'js>,
    pub(super) settle: Function<'js>,
    pub(super) answer: Function<'js>,
    pub(super) guard_functions: Function<'js>,
    pub(super) describe: Function<'js>,
}

/// No runtime or context could be made: the machine is out of memory.
#[derive(Debug, thiserror::Error)]
#[error("no runtime for transformations could be made: {0}")]
pub(super) struct NoSandbox(#[from] rquickjs::Error);

impl Sandbox {
    /// A new runtime with its limits.
    pub(super) fn new(settings: &TransformSettings) -> Result<Sandbox, NoSandbox> {
        let runtime = Runtime::new()?;
        let alarm = Rc::new(Alarm::new());
        let imports = Imports::default();
        runtime.set_max_stack_size(STACK_BYTES);
        runtime.set_memory_limit(settings.heap_bytes);
        runtime.set_loader(imports.clone(), imports.clone());
        let asked = Rc::clone(&alarm);
        runtime.set_interrupt_handler(Some(Box::new(move || asked.rings())));
        Ok(Sandbox { next: None, alarm, imports, heap_bytes: settings.heap_bytes, runtime })
    }

    /// Whether the runtime was made for these limits.
    pub(super) fn suits(&self, settings: &TransformSettings) -> bool {
        self.heap_bytes == settings.heap_bytes
    }

    /// Makes the next context, if there is none.
    pub(super) fn prepare(&mut self) -> Result<(), NoSandbox> {
        if self.next.is_none() {
            self.next = Some(Prepared::new(&self.runtime)?);
        }
        Ok(())
    }

    /// The next context.
    pub(super) fn take(&mut self) -> Result<Prepared, NoSandbox> {
        match self.next.take() {
            Some(prepared) => Ok(prepared),
            None => Prepared::new(&self.runtime),
        }
    }

    /// Whether the runtime is as good as new now that a batch's context is gone: nothing of that batch would run in
    /// the next one's time, and its memory is free again.
    pub(super) fn is_clean(&self) -> bool {
        if self.runtime.is_job_pending() {
            return false;
        }
        self.runtime.run_gc();
        let used = self.runtime.memory_usage().malloc_size;
        usize::try_from(used).is_ok_and(|used| used <= self.heap_bytes / 2)
    }
}

impl Prepared {
    fn new(runtime: &Runtime) -> Result<Prepared, NoSandbox> {
        let context = Context::full(runtime)?;
        let host: Rc<Host> = Rc::default();
        let driver = context.with(|ctx| {
            let globals: Function<'_> = ctx.eval(GLOBALS)?;
            let driver: Object<'_> = globals.call((host.functions(&ctx)?,))?;
            Ok::<_, rquickjs::Error>(Persistent::save(&ctx, driver))
        })?;
        Ok(Prepared { driver, host, context })
    }

    /// The functions of `sandbox.js`.
    pub(super) fn driver<'js>(driver: Persistent<Object<'static>>, ctx: &Ctx<'js>) -> rquickjs::Result<Driver<'js>> {
        let driver = driver.restore(ctx)?;
        Ok(Driver {
            metadata: driver.get("metadata")?,
            kind: driver.get("kind")?,
            settle: driver.get("settle")?,
            answer: driver.get("answer")?,
            guard_functions: driver.get("guardFunctions")?,
            describe: driver.get("describe")?,
        })
    }

    /// The parts, to be used and dropped in this order.
    pub(super) fn into_parts(self) -> (Persistent<Object<'static>>, Rc<Host>, Context) {
        (self.driver, self.host, self.context)
    }
}

/// What a thread of the engine is given once.
pub(super) struct Surroundings {
    pub(super) settings: Arc<TransformSettings>,
    pub(super) network: tokio::runtime::Handle,
}
