//! The connection of a client: opened by whoever needs it first, shared by all, given up once it is of no use.

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::fault::Fault;

/// At most one connection that stands.
#[derive(Debug)]
pub(super) struct Standing<C> {
    /// The connection, with its number.
    known: Mutex<Option<(u64, C)>>,
    /// Held by whoever connects; the others wait for the result. The number of the last connection.
    connecting: tokio::sync::Mutex<u64>,
}

impl<C> Default for Standing<C> {
    fn default() -> Standing<C> {
        Standing { known: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }
}

impl<C: Clone> Standing<C> {
    /// The connection that stands and is usable, or a new one, with its number.
    ///
    /// # Errors
    /// Those of `connect`.
    pub(super) async fn get(
        &self,
        is_usable: impl Fn(&C) -> bool,
        connect: impl Future<Output = Result<C, Fault>>,
    ) -> Result<(u64, C), Fault> {
        let usable = || self.known.lock().clone().filter(|(_, connection)| is_usable(connection));
        if let Some(known) = usable() {
            return Ok(known);
        }
        let mut number = self.connecting.lock().await;
        if let Some(known) = usable() {
            return Ok(known);
        }
        let connection = connect.await?;
        *number += 1;
        *self.known.lock() = Some((*number, connection.clone()));
        Ok((*number, connection))
    }

    /// Gives the connection of this number up; the next [`Standing::get`] opens another.
    pub(super) fn give_up(&self, number: u64) {
        let mut known = self.known.lock();
        if known.as_ref().is_some_and(|(known, _)| *known == number) {
            *known = None;
        }
    }
}

/// Whether two configurations are the same as far as a client goes (router.md 14).
pub(super) fn is_same_configuration(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let told_apart = |config: &Map<String, Value>| {
        let mut config = config.clone();
        config.retain(|key, _| key != "eventDelivery" && key != "eventDeliveryTS");
        config
    };
    told_apart(one) == told_apart(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_connection_is_shared_until_it_is_given_up_or_of_no_use() {
        let standing = Standing::default();
        let any = |_: &&str| true;
        assert_eq!(standing.get(any, async { Ok("a") }).await, Ok((1, "a")));
        assert_eq!(standing.get(any, async { Ok("b") }).await, Ok((1, "a")));
        assert_eq!(standing.get(|known| *known != "a", async { Ok("b") }).await, Ok((2, "b")));
        standing.give_up(1);
        assert_eq!(standing.get(any, async { Ok("c") }).await, Ok((2, "b")), "it was another that broke");
        standing.give_up(2);
        let fault = Fault::Unreachable("nobody".to_owned());
        assert_eq!(standing.get(any, async { Err(fault.clone()) }).await, Err(fault.clone()));
        assert_eq!(standing.get(any, async { Ok("d") }).await, Ok((3, "d")));
    }

    #[test]
    fn the_switch_of_live_events_makes_no_other_configuration() {
        let is_same =
            |one: Value, other: Value| is_same_configuration(one.as_object().unwrap(), other.as_object().unwrap());
        assert!(is_same(json!({ "a": 1, "eventDelivery": true }), json!({ "a": 1, "eventDeliveryTS": 5 })));
        assert!(!is_same(json!({ "a": 1 }), json!({ "a": 2 })));
    }
}
