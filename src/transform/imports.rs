//! What code may import (processor.md 7.6): libraries of its workspace, by static import, and nothing else.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Exception, Module, Result};

use super::code::Code;

/// Stands before the specifier in the stack traces of a library.
const LIBRARY: &str = "library ";

/// The code whose imports are open now; `None` while nothing may be imported.
#[derive(Clone, Default)]
pub(super) struct Imports(Rc<RefCell<Option<Arc<Code>>>>);

impl Imports {
    /// Opens the libraries for the code that is read next.
    pub(super) fn open(&self, code: &Arc<Code>) {
        self.0.replace(Some(Arc::clone(code)));
    }

    /// The code is read: from now on nothing can be imported.
    pub(super) fn close(&self) {
        self.0.replace(None);
    }
}

impl Resolver for Imports {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<String> {
        // Only the transformation itself imports; its name stands for it.
        let open = self.0.borrow();
        let known = open.as_ref().filter(|code| code.name() == base).and_then(|code| code.library(name));
        match known {
            Some(_) => Ok(format!("{LIBRARY}{name}")),
            None => Err(Exception::throw_message(ctx, &format!("import from {name} failed. Module not found."))),
        }
    }
}

impl Loader for Imports {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>> {
        let open = self.0.borrow().clone();
        let specifier = name.strip_prefix(LIBRARY).unwrap_or(name);
        match open.as_ref().and_then(|code| code.library(specifier)) {
            Some(library) => Module::declare(ctx.clone(), name, library.text.as_str()),
            None => Err(Exception::throw_message(ctx, &format!("import from {specifier} failed. Module not found."))),
        }
    }
}
