//! From a body to jobs, without I/O: the checks of gateway.md 5 from step 8 on, and the job of gateway.md 6.
//!
//! In: a [`Context`] and the body's bytes. Out: a [`Refusal`], or [`Prepared`] events whose jobs
//! [`Prepared::each_job`] hands over one by one, as pieces of the received bytes.
//!
//! Allocated per event: nothing, unless it must be normalised; buffers are shared by the events of a request.

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;

use super::answer::Refusal;
use super::directory::SourceEntry;
use super::events::Sdk;
use super::marks;
use super::rate_limit::Limiter;
use super::routes::Call;
use super::suppression::{Screen, Verdict};
use crate::event::identity;
use crate::event::json::{self, EventScan, Fields, Kind, Span};
use crate::jobsdb::{NewJob, RunKey};

/// Longest job run or task run id.
const LONGEST_RUN_ID: usize = 256;
/// Bytes that are added to an event at most, ids and addresses aside.
const ADDED_BYTES: usize = 240;
/// What one more job costs the store besides its texts.
const JOB_BYTES: usize = 256;

/// What is known of a request besides its body.
pub(super) struct Context<'a> {
    pub(super) call: Call,
    pub(super) entry: &'a SourceEntry,
    /// Header `AnonymousId`, as it was received.
    pub(super) anonymous_id_header: &'a str,
    pub(super) client_ip: &'a str,
    pub(super) job_run_id: &'a str,
    pub(super) task_run_id: &'a str,
    /// Destination of a reverse-ETL request, else empty.
    pub(super) destination_id: &'a str,
    /// Now, as events write it.
    pub(super) received_at: &'a str,
}

/// The limits in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) allow_without_identity: bool,
    pub(super) max_req_bytes: u64,
    pub(super) max_expanded_bytes: u64,
    pub(super) max_json_depth: usize,
}

/// Whose events are taken, and how many.
#[derive(Clone, Copy, Default)]
pub(super) struct Admission<'a> {
    /// Who is suppressed.
    pub(super) screen: Screen<'a>,
    /// The limit of the workspace, when there is one.
    pub(super) limiter: Option<&'a Limiter>,
    /// Whether requests of a job run pass without limit.
    pub(super) job_runs_exempt: bool,
}

/// One accepted event.
struct Event {
    /// Its text, when it is not that of the body.
    own: Option<Vec<u8>>,
    value: Span,
    fields: Fields,
    empty: bool,
    group: usize,
}

/// Events of one user in an import; all events of any other request.
#[derive(Default)]
struct Group {
    refusal: Option<Refusal>,
    /// Its events, suppressed ones included.
    count: u64,
    /// Of those, the events of suppressed users.
    suppressed: u64,
    bytes: u64,
    /// It holds an audience list, for which there is no size limit.
    has_audience: bool,
}

/// Events that passed every check.
pub(super) struct Prepared<'a> {
    context: &'a Context<'a>,
    body: &'a [u8],
    events: Vec<Event>,
    /// First part of the jobs' user ids.
    header_part: Cow<'a, str>,
    /// Job parameters, closing brace missing.
    parameters: Vec<u8>,
    quoted_ip: Vec<u8>,
    /// Why some groups of an import were refused while others pass.
    pub(super) refusal: Option<Refusal>,
    /// Events from bots, by their user agent.
    pub(super) bots: u64,
    /// The SDK that sent the first event.
    pub(super) sdk: Sdk,
    /// Bytes that the jobs will hold, at most.
    pub(super) expanded_bytes: u64,
    /// A run id was too long and is not used.
    pub(super) run_id_ignored: bool,
    /// The counters of the run that the events belong to.
    pub(super) run: Option<RunKey>,
    /// Events of suppressed users, left out.
    pub(super) suppressed: u64,
    /// Users that may be suppressed. While there are any, nothing is decided yet: find out who is, and begin again.
    pub(super) suspects: Vec<String>,
}

/// Checks a body and finds its events.
///
/// # Errors
/// The first check that fails, in the order of gateway.md 5.
pub(super) fn prepare<'a>(
    context: &'a Context<'a>,
    rules: &Rules,
    admission: &Admission<'_>,
    body: &'a [u8],
) -> Result<Prepared<'a>, Refusal> {
    let header_part = identity::bounded(context.anonymous_id_header);
    let per_job = header_part.len()
        + ADDED_BYTES
        + JOB_BYTES
        + 2 * context.client_ip.len()
        + context.entry.quoted_write_key.len()
        + context.entry.source.id.len()
        + context.entry.category.len()
        + 2 * LONGEST_RUN_ID.min(context.job_run_id.len().max(context.task_run_id.len()))
        + 120;
    let mut collector = Collector {
        context,
        rules,
        admission,
        body,
        per_job,
        events: Vec::with_capacity(1),
        count: 0,
        bots: 0,
        suppressed: 0,
        suspects: Vec::new(),
        names_run: !context.job_run_id.is_empty() || !context.task_run_id.is_empty(),
        expanded: 0,
        groups: vec![Group::default()],
        group_of: HashMap::new(),
    };
    if context.call.is_single() {
        let single = json::scan_single(body, rules.max_json_depth).map_err(|_| Refusal::InvalidJson)?;
        collector.take(single.event);
    } else {
        json::scan_batch(body, rules.max_json_depth, |event| collector.take(event))
            .map_err(|_| Refusal::InvalidJson)?;
    }
    collector.finish(header_part)
}

struct Collector<'a, 'r> {
    context: &'a Context<'a>,
    rules: &'r Rules,
    admission: &'r Admission<'r>,
    body: &'a [u8],
    /// What a job holds besides its event and its ids.
    per_job: usize,
    events: Vec<Event>,
    count: usize,
    bots: u64,
    suppressed: u64,
    suspects: Vec<String>,
    /// The headers or the first event name a job run.
    names_run: bool,
    /// Bytes that the jobs will hold.
    expanded: u64,
    groups: Vec<Group>,
    group_of: HashMap<Vec<u8>, usize>,
}

impl<'a> Collector<'a, '_> {
    /// Checks one event and keeps it. Later events are still looked at after one is refused, because a body
    /// that is no JSON is refused for that first.
    fn take(&mut self, scan: EventScan) {
        self.count += 1;
        let mut event = Event { own: None, value: scan.value, fields: scan.fields, empty: scan.empty, group: 0 };
        let is_event = match scan.kind {
            Kind::Object if scan.dirty => self.normalise(&mut event),
            Kind::Object => true,
            Kind::Scalar if self.context.call.is_single() => self.replace(&mut event, b"{}".to_vec()),
            Kind::Array | Kind::Scalar => false,
        };
        let text = event.own.as_deref().unwrap_or(self.body);
        if self.context.call == Call::Import {
            event.group = group_of(&mut self.group_of, &mut self.groups, text, &event.fields);
        }
        let Some(group) = self.groups.get_mut(event.group) else {
            return;
        };
        group.count += 1;
        group.bytes += u64::from(event.value.end - event.value.start);
        if self.count == 1 && self.admission.limiter.is_some() {
            let is_named = |field: Span| marks::string(field.of(text)).is_some_and(|id| !id.is_empty());
            self.names_run |= is_named(event.fields.job_run_id) || is_named(event.fields.task_run_id);
        }
        if !is_event {
            group.refusal.get_or_insert(Refusal::NotAnEvent);
            return;
        }
        let kind = if self.context.call.is_single() {
            self.context.call.quoted().as_bytes()
        } else {
            event.fields.kind.of(text)
        };
        let user = identity::id_of(event.fields.user_id.of(text));
        let anonymous = identity::id_of(event.fields.anonymous_id.of(text));
        let needs_identity = !matches!(kind, b"\"extract\"" | b"\"record\"") && !self.rules.allow_without_identity;
        if needs_identity && user.is_empty() && anonymous.is_empty() {
            group.refusal.get_or_insert(Refusal::NoIdentity);
            return;
        }
        match self.admission.screen.verdict(&user) {
            Verdict::Passes => {}
            Verdict::MayBeSuppressed => self.suspects.push(user.clone().into_owned()),
            Verdict::Suppressed => {
                self.suppressed += 1;
                group.suppressed += 1;
                return;
            }
        }
        group.has_audience |= kind == b"\"audiencelist\"";
        let ids = 2 * user.len().min(1024) + anonymous.len().min(1024);
        let value = (event.value.end - event.value.start) as usize;
        self.expanded += (value + ids + self.per_job) as u64;
        if group.refusal.is_some() || self.expanded > self.rules.max_expanded_bytes {
            return;
        }
        self.bots += u64::from(marks::bot_keyword(text, &event.fields).is_some());
        self.events.push(event);
    }

    /// Puts the normal form of the event in its place.
    fn normalise(&self, event: &mut Event) -> bool {
        // The text was scanned, so it is valid and this cannot fail.
        json::normalise(event.value.of(self.body)).is_ok_and(|text| self.replace(event, text))
    }

    fn replace(&self, event: &mut Event, text: Vec<u8>) -> bool {
        let Ok(scan) = json::scan_event(&text, self.rules.max_json_depth) else {
            return false;
        };
        event.value = scan.value;
        event.fields = scan.fields;
        event.empty = scan.empty;
        event.own = Some(text);
        true
    }

    fn finish(mut self, header_part: Cow<'a, str>) -> Result<Prepared<'a>, Refusal> {
        let undecided = !self.suspects.is_empty();
        let is_exempt = undecided || (self.names_run && self.admission.job_runs_exempt);
        let limiter = self.admission.limiter.filter(|_| !is_exempt);
        let limit = |group: &Group| limiter.map_or(Ok(()), |limiter| limiter.take(group.count));
        let too_large = |group: &Group, bytes: u64| {
            let is_left = group.suppressed == 0 || group.suppressed < group.count;
            !undecided && is_left && bytes > self.rules.max_req_bytes && !group.has_audience
        };
        let mut refusal = None;
        if self.context.call == Call::Import {
            for group in &mut self.groups {
                if group.refusal.is_none() {
                    group.refusal = limit(group).err();
                }
                if group.refusal.is_none() && too_large(group, group.bytes) {
                    group.refusal = Some(Refusal::TooLarge);
                }
                refusal = refusal.or(group.refusal);
            }
            self.events.retain(|event| self.groups.get(event.group).is_some_and(|group| group.refusal.is_none()));
        } else if let Some(group) = self.groups.first() {
            if let Some(refusal) = group.refusal {
                return Err(refusal);
            }
            limit(group)?;
            if too_large(group, self.body.len() as u64) {
                return Err(Refusal::TooLarge);
            }
        }
        if !undecided && self.expanded > self.rules.max_expanded_bytes {
            return Err(Refusal::TooLarge);
        }
        if self.count == 0 && self.context.call != Call::Import {
            return Err(Refusal::EmptyBatch);
        }
        let mut quoted_ip = Vec::with_capacity(48);
        json::push_string(&mut quoted_ip, self.context.client_ip);
        let mut prepared = Prepared {
            context: self.context,
            body: self.body,
            events: self.events,
            header_part,
            parameters: Vec::with_capacity(200),
            quoted_ip,
            refusal,
            bots: self.bots,
            sdk: Sdk::default(),
            expanded_bytes: self.expanded,
            run_id_ignored: false,
            run: None,
            suppressed: self.suppressed,
            suspects: self.suspects,
        };
        prepared.describe();
        Ok(prepared)
    }
}

/// The group of an import's event: events with the same ids, as they are written, are one.
fn group_of(known: &mut HashMap<Vec<u8>, usize>, groups: &mut Vec<Group>, text: &[u8], fields: &Fields) -> usize {
    let mut key = fields.user_id.of(text).to_vec();
    key.push(b':');
    key.extend_from_slice(fields.anonymous_id.of(text));
    *known.entry(key).or_insert_with(|| {
        groups.push(Group::default());
        groups.len() - 1
    })
}

impl Prepared<'_> {
    /// How many jobs there will be.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Renders what all jobs share; the first event may name the run.
    fn describe(&mut self) {
        let first = self.events.first();
        let of_first = |field: fn(&Fields) -> Span| {
            let event = first?;
            marks::string(field(&event.fields).of(event.own.as_deref().unwrap_or(self.body)))
        };
        let run_id = |header: &str, own: Option<Cow<'_, str>>| {
            let id = own.filter(|own| !own.is_empty()).unwrap_or(Cow::Borrowed(header)).into_owned();
            if id.len() > LONGEST_RUN_ID { (String::new(), true) } else { (id, false) }
        };
        let (job_run_id, job_ignored) = run_id(self.context.job_run_id, of_first(|fields| fields.job_run_id));
        let (task_run_id, task_ignored) = run_id(self.context.task_run_id, of_first(|fields| fields.task_run_id));
        let library = of_first(|fields| fields.library_name).zip(of_first(|fields| fields.library_version));
        let sdk = library.map(|(name, version)| Sdk::of(&name, &version)).unwrap_or_default();
        self.sdk = sdk;
        self.run_id_ignored = job_ignored || task_ignored;
        self.run = RunKey::new(&job_run_id, &task_run_id, &self.context.entry.source.id, "");
        let mut member = |name: &str, value: &str| {
            self.parameters.extend_from_slice(name.as_bytes());
            json::push_string(&mut self.parameters, value);
        };
        member("{\"source_id\":", &self.context.entry.source.id);
        member(",\"source_job_run_id\":", &job_run_id);
        member(",\"source_task_run_id\":", &task_run_id);
        // Requests are not traced, so there is no trace to be continued.
        member(",\"traceparent\":", "");
        member(",\"source_category\":", &self.context.entry.category);
        if !self.context.destination_id.is_empty() {
            member(",\"destination_id\":", self.context.destination_id);
        }
    }

    /// Builds the job of each event in turn.
    pub(super) fn each_job(&self, mut take: impl FnMut(&NewJob<'_>)) {
        let mut buffers = Buffers {
            user_id: String::with_capacity(128),
            parameters: Vec::with_capacity(256),
            payload: Payload { tail: Vec::with_capacity(512), ..Payload::default() },
        };
        let source = &self.context.entry.source;
        for event in &self.events {
            let text = event.own.as_deref().unwrap_or(self.body);
            let user = identity::id_of(event.fields.user_id.of(text));
            let anonymous = identity::id_of(event.fields.anonymous_id.of(text));
            identity::write_job_user_id(&mut buffers.user_id, &self.header_part, &anonymous, &user);
            buffers.parameters.clear();
            buffers.parameters.extend_from_slice(&self.parameters);
            marks::write(&mut buffers.parameters, self.context.entry, self.context.call, text, &event.fields);
            buffers.parameters.push(b'}');
            let rudder_id = identity::rudder_id(&user, &anonymous);
            self.write_payload(event, text, rudder_id, &mut buffers.payload);
            let pieces = buffers.payload.pieces(text);
            take(&NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: &source.workspace_id,
                custom_val: "GW",
                source_id: &source.id,
                destination_id: "",
                user_id: &buffers.user_id,
                parameters: &buffers.parameters,
                payload: pieces.as_slice(),
                event_count: 1,
            });
        }
    }

    /// The event with the fields that the gateway sets, in its envelope (gateway.md 6.2, 6.4).
    fn write_payload(&self, event: &Event, text: &[u8], rudder_id: Uuid, payload: &mut Payload) {
        let fields = &event.fields;
        payload.begin(event.value);
        let mut comma = !event.empty;
        if self.context.call.is_single() {
            payload.set(fields.kind, &mut comma, "type", self.context.call.quoted().as_bytes(), text);
        }
        let mut quoted = quoted_uuid(rudder_id);
        payload.set(fields.rudder_id, &mut comma, "rudderId", &quoted, text);
        if !is_clean_string(fields.message_id.of(text)) {
            let cleaned = marks::string(fields.message_id.of(text)).map(|id| identity::clean(&id).into_owned());
            match cleaned.filter(|id| !id.is_empty()) {
                Some(id) => {
                    let mut own = Vec::with_capacity(id.len() + 2);
                    json::push_string(&mut own, &id);
                    payload.set(fields.message_id, &mut comma, "messageId", &own, text);
                }
                None => {
                    quoted = quoted_uuid(Uuid::new_v4());
                    payload.set(fields.message_id, &mut comma, "messageId", &quoted, text);
                }
            }
        }
        let tail = &mut payload.tail;
        let now = self.context.received_at.as_bytes();
        if !fields.received_at.is_present() {
            append(tail, &mut comma, "receivedAt");
            push_quoted(tail, now);
        }
        let own_ip = fields.request_ip.of(text);
        if !fields.request_ip.is_present() {
            append(tail, &mut comma, "request_ip");
            tail.extend_from_slice(&self.quoted_ip);
        }
        tail.extend_from_slice(b"}],\"requestIP\":");
        tail.extend_from_slice(if own_ip.first() == Some(&b'"') { own_ip } else { &self.quoted_ip });
        tail.extend_from_slice(b",\"writeKey\":");
        tail.extend_from_slice(&self.context.entry.quoted_write_key);
        tail.extend_from_slice(b",\"receivedAt\":");
        let own_time = fields.received_at.of(text);
        if !self.context.entry.source.original_id.is_empty() && own_time.first() == Some(&b'"') {
            tail.extend_from_slice(own_time);
        } else {
            push_quoted(tail, now);
        }
        tail.push(b'}');
    }
}

/// Buffers shared by the events of a request.
struct Buffers {
    user_id: String,
    parameters: Vec<u8>,
    payload: Payload,
}

/// A payload in the making: the event's text, values that replace some of its own, and what follows.
#[derive(Default)]
struct Payload {
    value: Span,
    /// Places of replaced values and, in `replacements`, what replaces them.
    edits: Vec<(Span, Span)>,
    replacements: Vec<u8>,
    tail: Vec<u8>,
}

impl Payload {
    fn begin(&mut self, value: Span) {
        self.value = value;
        self.edits.clear();
        self.replacements.clear();
        self.tail.clear();
    }

    /// Gives a member this value: in place when it is there with another one, else at the end.
    fn set(&mut self, place: Span, comma: &mut bool, name: &str, value: &[u8], text: &[u8]) {
        if !place.is_present() {
            append(&mut self.tail, comma, name);
            self.tail.extend_from_slice(value);
        } else if place.of(text) != value {
            let start = self.replacements.len();
            self.replacements.extend_from_slice(value);
            self.edits.push((place, Span::new(start, self.replacements.len())));
        }
    }

    /// The pieces that together are the payload. At most three values are replaced.
    fn pieces<'p>(&'p mut self, text: &'p [u8]) -> Pieces<'p> {
        self.edits.sort_unstable_by_key(|(place, _)| place.start);
        let mut pieces = Pieces::default();
        pieces.push(b"{\"batch\":[");
        let mut from = self.value.start;
        for (place, replacement) in &self.edits {
            pieces.push(Span { start: from, end: place.start }.of(text));
            pieces.push(replacement.of(&self.replacements));
            from = place.end;
        }
        pieces.push(Span { start: from, end: self.value.end.saturating_sub(1) }.of(text));
        pieces.push(&self.tail);
        pieces
    }
}

/// A few slices, without allocation.
#[derive(Default)]
struct Pieces<'p> {
    slices: [&'p [u8]; 10],
    count: usize,
}

impl<'p> Pieces<'p> {
    fn push(&mut self, slice: &'p [u8]) {
        if let Some(place) = self.slices.get_mut(self.count) {
            *place = slice;
            self.count += 1;
        }
    }

    fn as_slice(&self) -> &[&'p [u8]] {
        self.slices.get(..self.count).unwrap_or_default()
    }
}

fn append(tail: &mut Vec<u8>, comma: &mut bool, name: &str) {
    if *comma {
        tail.push(b',');
    }
    *comma = true;
    push_quoted(tail, name.as_bytes());
    tail.push(b':');
}

fn push_quoted(tail: &mut Vec<u8>, plain: &[u8]) {
    tail.push(b'"');
    tail.extend_from_slice(plain);
    tail.push(b'"');
}

/// The UUID as a JSON string.
fn quoted_uuid(uuid: Uuid) -> [u8; 38] {
    let mut quoted = [b'"'; 38];
    if let Some(place) = quoted.get_mut(1..37) {
        uuid.hyphenated().encode_lower(place);
    }
    quoted
}

/// Whether a message id can stay exactly as it is written; most can.
fn is_clean_string(value: &[u8]) -> bool {
    match value {
        [b'"', id @ .., b'"'] => {
            !id.is_empty()
                && id.iter().all(|byte| (0x20..0x7f).contains(byte) && *byte != b'\\')
                && id.first() != Some(&b' ')
                && id.last() != Some(&b' ')
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
