//! Events that wait: those of destinations with a user transformation, and those whose destination transformation is
//! elsewhere, are gathered while a read goes through the stages before, transformed in batches, and go through the
//! stages behind (processor.md 7, 9.2).
//!
//! Order is kept: results go on in the order of their events, and every job of a result is stored with or before the
//! end of the gateway jobs that it came from, so that a crash repeats and never loses.

use std::collections::HashMap;
use std::sync::Arc;

use super::accounting::Stage;
use super::parameters::EventFacts;
use super::transformers::Transformer;
use crate::jobsdb::Job;
use crate::settings::Settings;
use crate::transform::{Batch, Code, Event, Origin, Reply};

/// The stage's name in counters and dead letters.
pub(super) const STAGE: &str = "user_transformer";

/// Events that wait for their transformation, by connection, in order.
#[derive(Default)]
pub(super) struct Gathered {
    groups: Vec<Chunk>,
    bytes: usize,
}

/// Events of one source for one destination.
pub(super) struct Chunk {
    pub(super) source_id: String,
    /// Place of the route among those of the source.
    pub(super) route: usize,
    pub(super) by: Transformer,
    pub(super) events: Vec<Event>,
    pub(super) held: Vec<Held>,
}

/// What is known of an event besides what its transformation gets.
#[derive(Clone)]
pub(super) struct Held {
    /// The gateway job that it came with.
    pub(super) job_id: u64,
    /// What the figures call it, and the stage before.
    pub(super) kind: u32,
    pub(super) before: Stage,
    pub(super) facts: EventFacts,
    pub(super) received_at: String,
    pub(super) is_drained: bool,
    /// The event before its user transformation, where it went through one: what a dead letter keeps.
    pub(super) original: Option<String>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Bytes of the events and their metadata.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, source_id: &str, route: usize, by: &Transformer, event: Event, held: Held) {
        self.bytes += event.message.len() + event.metadata.len();
        let known = self.groups.iter().position(|group| group.route == route && group.source_id == source_id);
        if let Some(group) = known.and_then(|at| self.groups.get_mut(at)) {
            group.events.push(event);
            group.held.push(held);
            return;
        }
        self.groups.push(Chunk {
            source_id: source_id.to_owned(),
            route,
            by: by.clone(),
            events: vec![event],
            held: vec![held],
        });
    }

    /// Takes back what came of a job that is given up.
    pub(super) fn forget(&mut self, job_id: u64) {
        for group in &mut self.groups {
            // The job is the newest, so its events are the last.
            while group.held.last().is_some_and(|held| held.job_id == job_id) {
                group.held.pop();
                group.events.pop();
            }
        }
        self.groups.retain(|group| !group.events.is_empty());
    }

    /// The calls that are to be made: chunks of one connection each, in order.
    pub(super) fn into_chunks(self, settings: &Settings) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for mut group in self.groups {
            let most_events = group.by.most_events(settings);
            while group.events.len() > most_events {
                let rest = Chunk {
                    source_id: group.source_id.clone(),
                    route: group.route,
                    by: group.by.clone(),
                    events: group.events.split_off(most_events),
                    held: group.held.split_off(most_events),
                };
                chunks.push(std::mem::replace(&mut group, rest));
            }
            chunks.push(group);
        }
        chunks
    }
}

impl Chunk {
    /// The stage of the pipeline that transforms it.
    pub(super) fn stage(&self) -> Stage {
        self.by.stage()
    }

    /// What the engine gets. The chunk keeps the events for those that fail.
    pub(super) fn batch(&self, code: &Arc<Code>) -> Batch {
        let lane = xxhash_rust::xxh3::xxh3_64_with_seed(self.source_id.as_bytes(), self.route as u64);
        Batch { code: Arc::clone(code), events: self.events.as_slice().into(), lane, keeps_logs: false }
    }

    /// Per result the gateway job whose jobs it joins: never one behind a job that it came from, and in the order of
    /// the results.
    pub(super) fn joined_jobs(&self, reply: &Reply, places: &HashMap<u64, usize>) -> Vec<usize> {
        let place_of = |at: usize| self.held.get(at).and_then(|held| places.get(&held.job_id)).copied();
        let first = place_of(0).unwrap_or_default();
        let mut joined: Vec<usize> = reply
            .results
            .iter()
            .map(|result| match result.origin {
                Origin::Event(at) => place_of(at).unwrap_or(first),
                // May hold something of every event.
                Origin::Fresh { .. } | Origin::All => first,
            })
            .collect();
        let mut earliest = usize::MAX;
        for place in joined.iter_mut().rev() {
            earliest = earliest.min(*place);
            *place = earliest;
        }
        joined
    }
}

/// Gateway jobs from the first one with gathered events on, by their place.
pub(super) struct Later<'j> {
    pub(super) jobs: Vec<&'j Job>,
    pub(super) places: HashMap<u64, usize>,
}

impl<'j> Later<'j> {
    pub(super) fn of(jobs: impl Iterator<Item = &'j Job>) -> Later<'j> {
        let jobs: Vec<&Job> = jobs.collect();
        let places = jobs.iter().enumerate().map(|(place, job)| (job.id, place)).collect();
        Later { jobs, places }
    }

    pub(super) fn job(&self, id: u64) -> Option<&'j Job> {
        self.jobs.get(*self.places.get(&id)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{Contract, Transformed, Verdict};

    fn gathered(events: &[(u64, usize)]) -> Gathered {
        let code = Code::new("", "v", Contract::Module, String::new(), Vec::new(), Vec::new());
        let by = Transformer::Here(Arc::new(code));
        let mut gathered = Gathered::default();
        for (job_id, route) in events {
            let event = Event { message: "{}".to_owned(), metadata: "{}".to_owned(), message_id: job_id.to_string() };
            let held = Held {
                job_id: *job_id,
                kind: 0,
                before: Stage::Gateway,
                facts: EventFacts::default(),
                received_at: String::new(),
                is_drained: false,
                original: None,
            };
            gathered.add("s", *route, &by, event, held);
        }
        gathered
    }

    fn at_most(events: usize) -> Settings {
        let mut settings = Settings::defaults();
        settings.transform.batch_size = events;
        settings
    }

    #[test]
    fn events_of_a_connection_stay_in_order_in_chunks_of_their_own() {
        let chunks = gathered(&[(1, 0), (1, 1), (2, 0), (3, 0), (4, 1)]).into_chunks(&at_most(2));
        let ids: Vec<(usize, Vec<u64>)> =
            chunks.iter().map(|chunk| (chunk.route, chunk.held.iter().map(|held| held.job_id).collect())).collect();
        assert_eq!(ids, [(0, vec![1, 2]), (0, vec![3]), (1, vec![1, 4])]);
    }

    #[test]
    fn a_job_that_is_given_up_leaves_nothing() {
        let mut events = gathered(&[(1, 0), (2, 0), (2, 1), (2, 0)]);
        events.forget(2);
        let chunks = events.into_chunks(&at_most(10));
        assert_eq!((chunks.len(), chunks[0].events.len()), (1, 1));
    }

    #[test]
    fn a_result_is_stored_no_later_than_the_end_of_what_it_came_from_and_in_order() {
        let chunk = gathered(&[(1, 0), (2, 0), (3, 0)]).into_chunks(&at_most(10)).remove(0);
        let result = |origin| Transformed { origin, verdict: Verdict::Dropped };
        let reply =
            |origins: Vec<Origin>| Reply { results: origins.into_iter().map(result).collect(), logs: Vec::new() };
        let places = HashMap::from([(1, 5), (2, 6), (3, 7)]);
        let fresh = || Origin::Fresh { message_id: "x".to_owned() };
        let table = [
            (vec![Origin::Event(0), Origin::Event(1), Origin::Event(2)], vec![5, 6, 7]),
            (vec![Origin::Event(2), Origin::Event(0), Origin::Event(1)], vec![5, 5, 6]),
            (vec![Origin::Event(1), fresh(), Origin::Event(2)], vec![5, 5, 7]),
            (vec![Origin::All], vec![5]),
        ];
        for (origins, expected) in table {
            assert_eq!(chunk.joined_jobs(&reply(origins), &places), expected);
        }
    }
}
