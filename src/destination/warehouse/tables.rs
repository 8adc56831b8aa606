//! Which tables an event has rows in, and what each row is made of (warehouse.md 2.3 and 2.5).
//!
//! Later steps lay their columns over those of earlier ones. A track event's common columns are made once and copied
//! once, for `tracks`; otherwise nothing is.

use std::sync::Arc;

use super::columns::{Columns, Row};
use super::event_type::EventType;
use super::flatten::Flattening;
use super::merge_rule::merge_rule;
use super::names::Naming;
use super::options::{Config, EventOptions};
use super::prepared::Prepared;
use super::refused::Refused;
use super::rules::{DEFAULT, RuleNames};
use super::types::{ColumnType, typed};
use super::value::Json;
use super::{Dialect, RowSettings};

/// Columns of `users` that every warehouse has.
const USERS: [&str; 3] = ["context_ip", "context_request_ip", "context_passed_ip"];

/// Columns of `users` in warehouses that are no data lakes.
const USERS_OF_DATABASES: [&str; 3] = ["sent_at", "timestamp", "original_timestamp"];

/// Makes the rows of one event.
pub(super) struct Composer<'p, 'e> {
    pub(super) destination_type: &'p str,
    pub(super) config: &'p Config,
    pub(super) options: &'p EventOptions,
    pub(super) settings: &'p RowSettings,
    pub(super) naming: Naming,
    pub(super) names: &'p RuleNames,
    pub(super) flattening: Flattening<'p>,
    pub(super) event: Prepared<'e>,
    /// The whole event as JSON, where the configuration wants it in a column.
    pub(super) full_event: Option<String>,
}

impl<'e> Composer<'_, 'e> {
    /// The rows in the order of their tables.
    pub(super) fn rows(mut self) -> Result<Vec<Row<'e>>, Refused> {
        let mut rows = Vec::with_capacity(3);
        let mut has_merge_rule = self.event.event_type != EventType::Extract;
        match self.event.event_type {
            EventType::Track => has_merge_rule = self.track(&mut rows)?,
            EventType::Identify => return self.identify(rows),
            EventType::Page => self.seen(&mut rows, "pages", "page_properties_", "page_context_")?,
            EventType::Screen => self.seen(&mut rows, "screens", "screen_properties_", "screen_context_")?,
            EventType::Group => {
                let columns = self.plain("traits", "group_traits_", "group_context_", &["group_id"])?;
                rows.push(self.row("groups", columns)?);
            }
            EventType::Alias => {
                let columns = self.plain("traits", "alias_traits_", "alias_context_", &["previous_id"])?;
                rows.push(self.row("aliases", columns)?);
            }
            EventType::Extract => rows.push(self.extract()?),
            EventType::Merge => {}
        }
        if has_merge_rule {
            rows.extend(self.merge_rule()?);
        }
        Ok(rows)
    }

    /// Whether the event had the name of a table; without one it has no merge rule either.
    fn track(&mut self, rows: &mut Vec<Row<'e>>) -> Result<bool, Refused> {
        let mut common = Columns::default();
        self.flatten_context(&mut common, "track_context_")?;
        self.put_rules(&mut common, &["event_text"])?;
        self.put_rules(&mut common, &DEFAULT)?;
        let event = match common.value(&self.names.of("event_text")) {
            Some(Json::Text(text)) => self.naming.transform_table(text),
            _ => String::new(),
        };
        common.put(self.names.of("event"), ColumnType::String, Json::Text(event.clone().into()));

        if !self.config.skips_tracks && !self.options.skips_tracks {
            let mut columns = common.clone();
            let record_id = if self.event.is_record() { self.event.record_id(false)? } else { None };
            let record_id = record_id.map(|id| Json::Text(id.to_text().into_owned().into()));
            columns.put_by_rule(self.naming.dialect, self.names.of("record_id"), record_id);
            self.put_full_event(&mut columns);
            rows.push(self.row("tracks", columns)?);
        }
        if event.trim().is_empty() {
            return Ok(false);
        }
        let mut columns = Columns::default();
        self.flatten_member(&mut columns, "properties", "track_properties_")?;
        self.flatten_member(&mut columns, "userProperties", "track_userProperties_")?;
        let id = match if self.event.is_record() { self.event.record_id(false)? } else { None } {
            Some(id) => Some(id),
            None => self.event.of_rule("id")?,
        };
        common.put_by_rule(self.naming.dialect, self.names.of("id"), id);
        columns.overlay(common);
        rows.push(self.event_row(&event, columns)?);
        Ok(true)
    }

    fn identify(mut self, mut rows: Vec<Row<'e>>) -> Result<Vec<Row<'e>>, Refused> {
        let mut common = Columns::default();
        self.flatten_member(&mut common, "userProperties", "identify_userProperties_")?;
        if self.config.flattens_context_traits {
            let traits = self.event.context_member("traits").cloned();
            self.flattening.flatten(&mut common, traits, "", "identify_context_traits_")?;
        }
        self.flatten_member(&mut common, "traits", "identify_traits_")?;
        self.flatten_context(&mut common, "identify_context_")?;

        let mut columns = common.clone();
        self.put_rules(&mut columns, &DEFAULT)?;
        self.put_full_event(&mut columns);
        rows.push(self.row("identifies", columns)?);
        rows.extend(self.merge_rule()?);

        let skips_users = self.config.skips_users || self.options.skips_users || self.naming.dialect.is_streamed();
        if !skips_users && self.event.has_text("userId")? {
            self.put_rules(&mut common, &USERS)?;
            if !self.naming.dialect.is_data_lake() {
                self.put_rules(&mut common, &USERS_OF_DATABASES)?;
            }
            let user_id = self.event.of_rule("user_id")?.unwrap_or(Json::Null);
            let (column_type, user_id) = typed(self.naming.dialect, user_id, false);
            common.put(self.names.of("id"), column_type, user_id);
            let (_, received_at) = typed(self.naming.dialect, Json::Text(self.event.received_at.clone()), false);
            common.put(self.names.of("received_at"), ColumnType::DateTime, received_at);
            rows.push(self.row("users", common)?);
        }
        Ok(rows)
    }

    fn seen(&mut self, rows: &mut Vec<Row<'e>>, table: &str, full: &str, full_context: &str) -> Result<(), Refused> {
        let columns = self.plain("properties", full, full_context, &["name"])?;
        rows.push(self.row(table, columns)?);
        Ok(())
    }

    /// A row of one member, the context and the rules.
    fn plain(
        &mut self,
        member: &str,
        full: &str,
        full_context: &str,
        rules: &[&'static str],
    ) -> Result<Columns<'e>, Refused> {
        let mut columns = Columns::default();
        self.flatten_member(&mut columns, member, full)?;
        self.flatten_context(&mut columns, full_context)?;
        self.put_rules(&mut columns, &DEFAULT)?;
        self.put_rules(&mut columns, rules)?;
        self.put_full_event(&mut columns);
        Ok(columns)
    }

    fn extract(&mut self) -> Result<Row<'e>, Refused> {
        let mut common = Columns::default();
        self.flatten_context(&mut common, "extract_context_")?;
        let record_id = self.event.record_id(true)?;
        common.put_by_rule(self.naming.dialect, self.names.of("id"), record_id);
        self.put_rules(&mut common, &["received_at", "event"])?;
        let event = common.value(&self.names.of("event")).map(|event| event.to_text().into_owned());
        let event = event.filter(|event| !event.trim().is_empty()).ok_or(Refused::NoEventName)?;
        let mut columns = Columns::default();
        self.flatten_member(&mut columns, "properties", "extract_properties_")?;
        columns.overlay(common);
        self.event_row(&event, columns)
    }

    fn merge_rule(&self) -> Result<Option<Row<'e>>, Refused> {
        if !self.settings.resolves_identities || !self.naming.dialect.resolves_identities() {
            return Ok(None);
        }
        merge_rule(&self.event, self.naming)
    }

    fn flatten_member(&self, columns: &mut Columns<'e>, member: &str, full: &str) -> Result<(), Refused> {
        self.flattening.flatten(columns, self.event.member(member)?, "", full)
    }

    /// The context becomes columns once: nothing asks for it afterwards.
    fn flatten_context(&mut self, columns: &mut Columns<'e>, full: &str) -> Result<(), Refused> {
        self.flattening.flatten(columns, self.event.take_context(), "context_", full)
    }

    fn put_rules(&self, columns: &mut Columns<'e>, rules: &[&'static str]) -> Result<(), Refused> {
        for rule in rules {
            columns.put_by_rule(self.naming.dialect, self.names.of(rule), self.event.of_rule(rule)?);
        }
        Ok(())
    }

    fn put_full_event(&mut self, columns: &mut Columns<'e>) {
        if let Some(full_event) = self.full_event.take() {
            let column_type = ColumnType::of_full_event(self.naming.dialect);
            columns.put(self.names.of("rudder_event"), column_type, Json::Text(full_event.into()));
        }
    }

    fn event_row(&self, event: &str, columns: Columns<'e>) -> Result<Row<'e>, Refused> {
        let table = self.naming.safe_event_table(event).ok_or(Refused::NoTableName)?;
        self.finished(table, columns)
    }

    fn row(&self, table: &str, columns: Columns<'e>) -> Result<Row<'e>, Refused> {
        self.finished(self.naming.safe(table.to_owned()), columns)
    }

    /// The row with the columns that are filled in when it is loaded, unless it has too many.
    fn finished(&self, table: String, mut columns: Columns<'e>) -> Result<Row<'e>, Refused> {
        let dialect = self.naming.dialect;
        for column in columns_of_loading(dialect) {
            columns.declare(column, ColumnType::DateTime);
        }
        if columns.count() > self.settings.most_columns && !dialect.is_data_lake() {
            let channel: Arc<str> = self.names.of("channel");
            let is_of_sources = columns.value(&channel).is_some_and(|channel| *channel == Json::Text("sources".into()));
            if !is_of_sources {
                return Err(Refused::TooManyColumns(self.destination_type.to_lowercase()));
            }
        }
        Ok(Row { table, columns, received_at: self.event.received_at.clone(), merged_ids: None })
    }
}

/// The columns that a table of this dialect has beside those of its rows; the load fills them in.
pub fn columns_of_loading(dialect: Dialect) -> &'static [&'static str] {
    if dialect.has_loaded_at() {
        &["uuid_ts", "loaded_at"]
    } else if dialect.is_upper_case() {
        &["UUID_TS"]
    } else {
        &["uuid_ts"]
    }
}
