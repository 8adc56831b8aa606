//! The states of the node's components, written by its supervisor and shown by `status`.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What a component is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ComponentState {
    /// At work.
    Running,
    /// It ended with an error and will be started again.
    Restarting,
    /// It was told to stop, and did.
    Stopped,
    /// It cannot work until the operator mends something.
    Off,
}

/// One component, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Its name (`router`).
    pub name: String,
    /// What it is doing.
    pub state: ComponentState,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Times it was started again.
    pub restarts: u64,
    /// Why it last ended, or why it is off.
    pub last_error: Option<String>,
}

/// Every component, in the order of their start.
#[derive(Debug, Default)]
pub struct Components(Mutex<Vec<ComponentStatus>>);

impl Components {
    /// Notes a change. An error stays visible after the component has recovered.
    pub fn note(&self, name: &str, state: ComponentState, error: Option<String>, now_ms: i64) {
        let mut components = self.0.lock();
        let known = components.iter_mut().find(|component| component.name == name);
        let Some(component) = known else {
            components.push(ComponentStatus {
                name: name.to_owned(),
                state,
                since_ms: now_ms,
                restarts: u64::from(state == ComponentState::Restarting),
                last_error: error,
            });
            return;
        };
        component.state = state;
        component.since_ms = now_ms;
        if state == ComponentState::Restarting {
            component.restarts += 1;
        }
        if error.is_some() {
            component.last_error = error;
        }
    }

    /// A copy for display.
    pub fn list(&self) -> Vec<ComponentStatus> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_visible_after_the_component_recovered() {
        let components = Components::default();
        components.note("router", ComponentState::Running, None, 1);
        components.note("router", ComponentState::Restarting, Some("it broke".to_owned()), 2);
        components.note("router", ComponentState::Running, None, 3);
        let list = components.list();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].restarts, 1);
        assert_eq!(list[0].state, ComponentState::Running);
        assert_eq!(list[0].last_error.as_deref(), Some("it broke"));
    }
}
