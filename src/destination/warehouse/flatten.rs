//! Flattening: nested members become columns whose names are the joined keys (warehouse.md 2.6).
//!
//! Keys are walked in order, so that of two keys with one name always the same wins: the last. Arrays stay values.
//! Allocates the name of each column; the joined keys share one buffer.

use std::borrow::Cow;
use std::sync::Arc;

use super::columns::Columns;
use super::event_type::EventType;
use super::json_paths::JsonPaths;
use super::names::Naming;
use super::refused::Refused;
use super::rules::is_rule_column;
use super::types::typed;
use super::value::{Json, Members};

/// Objects of sources of category `cloud` are flattened this deep; deeper ones become JSON text.
const DEEPEST_OF_CLOUD: usize = 3;

/// Most bytes of joined keys of one event: a long way down over many leaves multiplies.
const MOST_KEY_BYTES: usize = 4 << 20;

/// What flattening depends on, for one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flattening<'p> {
    pub(super) naming: Naming,
    pub(super) event_type: EventType,
    pub(super) json_paths: &'p JsonPaths,
    /// Whether the source is of category `cloud`.
    pub(super) is_cloud: bool,
}

/// An object whose members are being walked.
struct Open<'t> {
    members: std::vec::IntoIter<(Cow<'t, str>, Json<'t>)>,
    /// Lengths of the joined keys outside of it.
    outside: (usize, usize),
}

struct Walk<'p, 'c, 't> {
    rules: Flattening<'p>,
    columns: &'c mut Columns<'t>,
    /// The joined keys on the way to a member, behind the prefix of the columns.
    below: String,
    /// The same with the type of event in front, as JSON paths name members.
    full: String,
    key_bytes: usize,
}

impl Flattening<'_> {
    /// Puts the members of an object in columns whose names begin with `prefix`. Anything but an object has none.
    /// `full_prefix` is the way to the object from the type of event on, its keys joined and ended by `_`.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] when the names would be out of proportion.
    pub(super) fn flatten<'t>(
        self,
        columns: &mut Columns<'t>,
        value: Option<Json<'t>>,
        prefix: &str,
        full_prefix: &str,
    ) -> Result<(), Refused> {
        let Some(Json::Object(members)) = value else { return Ok(()) };
        let mut walk =
            Walk { rules: self, columns, below: prefix.to_owned(), full: full_prefix.to_owned(), key_bytes: 0 };
        walk.through(members, full_prefix.matches('_').count())
    }
}

impl<'t> Walk<'_, '_, 't> {
    /// Walks an object and those inside it, however deep: what is open is kept here, not on the thread's stack.
    fn through(&mut self, members: Members<'t>, full_level: usize) -> Result<(), Refused> {
        let mut open: Vec<Open<'t>> = Vec::new();
        open.extend(self.enter(members, (0, 0))?);
        while let Some(innermost) = open.last_mut() {
            let Some((key, value)) = innermost.members.next() else {
                let (below, full) = innermost.outside;
                open.pop();
                if !open.is_empty() {
                    self.below.truncate(below);
                    self.full.truncate(full);
                }
                continue;
            };
            if value.is_blank() {
                continue;
            }
            let level = open.len() - 1;
            if self.is_json_path(&key, level, full_level + level) {
                self.put(&key, Json::Text(Cow::Owned(value.to_json())), true)?;
                continue;
            }
            match value {
                Json::Object(members) if !self.rules.is_cloud || level < DEEPEST_OF_CLOUD => {
                    let outside = (self.below.len(), self.full.len());
                    for keys in [&mut self.below, &mut self.full] {
                        keys.push_str(&key);
                        keys.push('_');
                    }
                    match self.enter(members, outside)? {
                        Some(entered) => open.push(entered),
                        None => {
                            self.below.truncate(outside.0);
                            self.full.truncate(outside.1);
                        }
                    }
                }
                Json::Object(_) => self.put(&key, Json::Text(Cow::Owned(value.to_json())), false)?,
                value => self.put(&key, value, false)?,
            }
        }
        Ok(())
    }

    /// The members of an object in order of keys, `None` for a text that was spread over an object.
    fn enter(&mut self, mut members: Members<'t>, outside: (usize, usize)) -> Result<Option<Open<'t>>, Refused> {
        if (self.full.ends_with("context_traits_") || self.full == "group_traits_")
            && let Some(text) = spread_text(&members)
        {
            if self.below == "context_traits_" {
                self.put("", Json::Text(Cow::Owned(text)), false)?;
            }
            return Ok(None);
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Some(Open { members: members.into_iter(), outside }))
    }

    fn is_json_path(&mut self, key: &str, level: usize, full_level: usize) -> bool {
        if self.rules.json_paths.is_empty() {
            return false;
        }
        let lengths = (self.below.len(), self.full.len());
        self.below.push_str(key);
        self.full.push_str(key);
        let (below, full) = ((self.below.as_str(), level), (self.full.as_str(), full_level));
        let holds = self.rules.json_paths.holds(self.rules.event_type, below, full);
        self.below.truncate(lengths.0);
        self.full.truncate(lengths.1);
        holds
    }

    /// Puts a value in the column of this key, unless nothing is left of the name or a rule has the column.
    fn put(&mut self, key: &str, value: Json<'t>, is_json_path: bool) -> Result<(), Refused> {
        let length = self.below.len();
        self.key_bytes += length + key.len();
        if self.key_bytes > MOST_KEY_BYTES {
            return Err(Refused::TooLarge);
        }
        self.below.push_str(key);
        let transformed = self.rules.naming.transform_column(&self.below);
        self.below.truncate(length);
        if transformed.is_empty() {
            return Ok(());
        }
        let name = self.rules.naming.safe(transformed);
        if is_rule_column(self.rules.event_type, &name) {
            return Ok(());
        }
        let (column_type, value) = typed(self.rules.naming.dialect, value, is_json_path);
        self.columns.put(Arc::from(name), column_type, value);
        Ok(())
    }
}

/// The text that an SDK spread over an object by mistake: `{"0":"a","1":"b"}` is `ab`. The keys count up from 0 or 1.
fn spread_text(members: &Members<'_>) -> Option<String> {
    let mut letters: Vec<(usize, char)> = Vec::new();
    for (key, value) in members {
        let Json::Text(text) = value else { return None };
        let mut characters = text.chars();
        let (Some(letter), None) = (characters.next(), characters.next()) else { return None };
        if !key.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        letters.push((key.parse().ok()?, letter));
    }
    letters.sort_unstable();
    let first = letters.first()?.0;
    let is_unbroken = first <= 1 && letters.iter().enumerate().all(|(place, (number, _))| *number == first + place);
    is_unbroken.then(|| letters.into_iter().map(|(_, letter)| letter).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;

    fn naming() -> Naming {
        Naming {
            dialect: Dialect::Postgres,
            divides_numbers: false,
            keeps_words_together: false,
            keeps_reserved_words: false,
        }
    }

    fn flat(json: &str, prefix: &str, full_prefix: &str, paths: &[&str], is_cloud: bool) -> String {
        let mut json_paths = JsonPaths::default();
        for path in paths {
            json_paths.add(path);
        }
        let rules = Flattening { naming: naming(), event_type: EventType::Track, json_paths: &json_paths, is_cloud };
        let mut columns = Columns::default();
        rules.flatten(&mut columns, Some(Json::parse(json).unwrap()), prefix, full_prefix).unwrap();
        let cells = columns.iter().map(|(name, cell)| {
            format!("{name}:{}={}", cell.column_type, cell.value.as_ref().map(Json::to_json).unwrap_or_default())
        });
        cells.collect::<Vec<String>>().join(" ")
    }

    #[test]
    fn nested_members_become_columns_of_joined_keys() {
        for (json, expected) in [
            (r#"{"cart":{"itemCount":2,"Total Price":9.5}}"#, "cart_item_count:int=2 cart_total_price:float=9.5"),
            (r#"{"tags":["a","b"],"deep":{"er":{"est":true}}}"#, "deep_er_est:boolean=true tags:string=[\"a\",\"b\"]"),
            (r#"{"a":"","b":null,"c":[],"d":{},"e":{"f":""},"\u00e9":1}"#, ""),
            ("[1]", ""),
            ("\"text\"", ""),
            // Of two keys with one name the last in order wins.
            (r#"{"plan_name":1,"planName":2}"#, "plan_name:int=1"),
            // Rules own these columns.
            (r#"{"id":1,"userId":2,"Anonymous ID":3,"eventText":4,"record_id":5,"name":6}"#, "name:int=6"),
        ] {
            assert_eq!(flat(json, "", "track_properties_", &[], false), expected, "{json}");
        }
        assert_eq!(flat(r#"{"a":1}"#, "context_", "track_context_", &[], false), "context_a:int=1");
    }

    #[test]
    fn json_paths_keep_members_as_json_text() {
        let json = r#"{"cart":{"n":[1]},"id2":"x","n":5}"#;
        let expected = r#"cart:json="{\"n\":[1]}" id2:json="\"x\"" n:json="5""#;
        let paths = ["track.properties.cart", "id2", "n"];
        assert_eq!(flat(json, "", "track_properties_", &paths, false), expected);
        let inner = flat(json, "", "track_properties_", &["cart.n"], false);
        assert_eq!(inner, r#"cart_n:json="[1]" id2:string="x" n:int=5"#);
    }

    #[test]
    fn objects_of_cloud_sources_are_flattened_to_the_fourth_level() {
        let json = r#"{"a":{"b":{"c":{"d":{"e":1}}}}}"#;
        assert_eq!(flat(json, "", "track_properties_", &[], true), r#"a_b_c_d:string="{\"e\":1}""#);
        assert_eq!(flat(json, "", "track_properties_", &[], false), "a_b_c_d_e:int=1");
    }

    #[test]
    fn a_text_spread_over_an_object_is_put_together_again() {
        for (json, expected) in [
            (r#"{"traits":{"1":"b","0":"a","2":"c"}}"#, "context_traits:string=\"abc\""),
            (r#"{"traits":{"1":"a","2":"b"}}"#, "context_traits:string=\"ab\""),
            (r#"{"traits":{"2":"a","3":"b"}}"#, "context_traits_2:string=\"a\" context_traits_3:string=\"b\""),
            (r#"{"traits":{"0":"a","2":"b"}}"#, "context_traits_0:string=\"a\" context_traits_2:string=\"b\""),
            (r#"{"traits":{"0":"ab"}}"#, "context_traits_0:string=\"ab\""),
            (r#"{"other":{"0":"a"}}"#, "context_other_0:string=\"a\""),
        ] {
            assert_eq!(flat(json, "context_", "track_context_", &[], false), expected, "{json}");
        }
        // Where it would be no column of its own it is dropped.
        assert_eq!(flat(r#"{"0":"a","1":"b"}"#, "", "group_traits_", &[], false), "");
        assert_eq!(flat(r#"{"0":"a","1":"b"}"#, "", "identify_context_traits_", &[], false), "");
    }

    #[test]
    fn names_out_of_proportion_are_refused() {
        let leaves: Vec<String> = (0..20_000).map(|n| format!("\"k{n}\":1")).collect();
        let deep = format!("{}{{{}}}{}", "{\"k\":".repeat(1_000), leaves.join(","), "}".repeat(1_000));
        let json_paths = JsonPaths::default();
        let rules =
            Flattening { naming: naming(), event_type: EventType::Track, json_paths: &json_paths, is_cloud: false };
        let outcome =
            rules.flatten(&mut Columns::default(), Some(Json::parse(&deep).unwrap()), "", "track_properties_");
        assert_eq!(outcome, Err(Refused::TooLarge));
    }
}
