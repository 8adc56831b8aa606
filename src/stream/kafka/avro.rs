//! Events as Avro: JSON in Avro's own JSON form is read against a schema and written as a datum (router.md 15.1).
//!
//! What the schema says of logical types is left aside: a `timestamp-millis` is a number here as there.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, ResolvedSchema, UnionSchema};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value;

use super::super::fault::Fault;
use super::super::record::Record;

/// First byte of a value that names its schema.
const MAGIC: u8 = 0;

/// The schemas of one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Schemas {
    by_id: HashMap<String, Schema>,
    embeds_id: bool,
}

impl Schemas {
    /// Reads the list of a configuration: `[{schemaId, schema}]`.
    ///
    /// # Errors
    /// [`Fault::Configuration`] for a schema that cannot be read.
    pub(super) fn read(listed: Option<&Value>, embeds_id: bool) -> Result<Schemas, Fault> {
        let mut by_id = HashMap::new();
        for row in listed.and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
            let (Some(id), Some(schema)) = (text("schemaId"), text("schema")) else { continue };
            let unusable = |error: &dyn std::fmt::Display| {
                Fault::Configuration(format!("the Avro schema with ID {id} cannot be used: {error}"))
            };
            let mut schema: Value = serde_json::from_str(schema).map_err(|error| unusable(&error))?;
            drop_logical_types(&mut schema);
            by_id.insert(id.to_owned(), Schema::parse(&schema).map_err(|error| unusable(&error))?);
        }
        Ok(Schemas { by_id, embeds_id })
    }

    /// The record's event by the schema that the record names.
    ///
    /// # Errors
    /// [`Fault::Payload`] when it names none that is known, or the event is not what the schema says.
    pub(super) fn encode(&self, record: &Record) -> Result<Vec<u8>, Fault> {
        let fault = |text: String| Fault::Payload(text);
        let Some(id) = &record.schema_id else {
            let message_id = record.message_id();
            return Err(fault(format!("schemaId is not available for event with messageId: {message_id}")));
        };
        let schema = self.by_id.get(id).ok_or_else(|| fault(format!("unable to find schema with ID {id}")))?;
        let unwritable = |error: &dyn std::fmt::Display| {
            fault(format!("unable to convert event with messageId {} to Avro: {error}", record.message_id()))
        };
        let event: Value = serde_json::from_slice(&record.message).map_err(|error| unwritable(&error))?;
        let resolved = ResolvedSchema::new(schema).map_err(|error| unwritable(&error))?;
        let value = value_of(&event, schema, resolved.get_names()).map_err(|error| unwritable(&error))?;
        let writer = GenericDatumWriter::builder(schema).build().map_err(|error| unwritable(&error))?;
        let datum = writer.write_value_to_vec(value).map_err(|error| unwritable(&error))?;
        if !self.embeds_id {
            return Ok(datum);
        }
        let number: u32 = id.parse().map_err(|_| fault(format!("schema ID {id} is not a number")))?;
        let mut out = Vec::with_capacity(datum.len() + 5);
        out.push(MAGIC);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&datum);
        Ok(out)
    }
}

fn drop_logical_types(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.shift_remove("logicalType");
            members.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, member)| drop_logical_types(member));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_logical_types),
        _ => {}
    }
}

/// What is wrong with an event, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", if .path.is_empty() { "the event" } else { .path })]
struct Mismatch {
    /// The way there, its steps joined by dots; empty for the event itself.
    path: String,
    problem: String,
}

impl Mismatch {
    fn below(mut self, step: &str) -> Mismatch {
        self.path = if self.path.is_empty() { step.to_owned() } else { format!("{step}.{}", self.path) };
        self
    }
}

fn value_of(json: &Value, schema: &Schema, names: &NamesRef<'_>) -> Result<Avro, Mismatch> {
    let mismatch = |problem: String| Mismatch { path: String::new(), problem };
    let wrong = || mismatch(format!("{} is not {}", kind_of(json), name_of(schema)));
    Ok(match (schema, json) {
        (Schema::Ref { name }, _) => {
            let named = named(names, name).ok_or_else(|| mismatch(format!("nothing is named {name}")))?;
            return value_of(json, named, names);
        }
        (Schema::Null, Value::Null) => Avro::Null,
        (Schema::Boolean, Value::Bool(flag)) => Avro::Boolean(*flag),
        (Schema::Int, Value::Number(number)) => {
            Avro::Int(number.as_i64().and_then(|number| i32::try_from(number).ok()).ok_or_else(wrong)?)
        }
        (Schema::Long, Value::Number(number)) => Avro::Long(number.as_i64().ok_or_else(wrong)?),
        #[allow(clippy::cast_possible_truncation, reason = "a float is what the schema asks for")]
        (Schema::Float, Value::Number(number)) => Avro::Float(number.as_f64().ok_or_else(wrong)? as f32),
        (Schema::Double, Value::Number(number)) => Avro::Double(number.as_f64().ok_or_else(wrong)?),
        (Schema::String, Value::String(text)) => Avro::String(text.clone()),
        (Schema::Bytes, Value::String(text)) => Avro::Bytes(bytes_of(text).ok_or_else(wrong)?),
        (Schema::Fixed(fixed), Value::String(text)) => {
            let bytes = bytes_of(text).filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?;
            Avro::Fixed(fixed.size, bytes)
        }
        (Schema::Enum(listed), Value::String(text)) => {
            let place = listed.symbols.iter().position(|symbol| symbol == text).ok_or_else(wrong)?;
            Avro::Enum(u32::try_from(place).map_err(|_| wrong())?, text.clone())
        }
        (Schema::Array(array), Value::Array(items)) => Avro::Array(
            items
                .iter()
                .enumerate()
                .map(|(place, item)| {
                    value_of(item, &array.items, names).map_err(|error| error.below(&place.to_string()))
                })
                .collect::<Result<_, _>>()?,
        ),
        (Schema::Map(map), Value::Object(members)) => Avro::Map(
            members
                .iter()
                .map(|(key, member)| {
                    let value = value_of(member, &map.types, names).map_err(|error| error.below(key))?;
                    Ok((key.clone(), value))
                })
                .collect::<Result<_, _>>()?,
        ),
        (Schema::Record(record), Value::Object(members)) => {
            if let Some(key) = members.keys().find(|key| !record.lookup.contains_key(*key)) {
                return Err(mismatch(format!("the schema knows no field {key:?}")));
            }
            let mut fields = Vec::with_capacity(record.fields.len());
            for field in &record.fields {
                let value = match (members.get(&field.name), &field.default) {
                    (Some(member), _) => value_of(member, &field.schema, names),
                    (None, Some(default)) => default_of(default, &field.schema, names),
                    (None, None) => Err(mismatch("there is no value and no default".to_owned())),
                };
                fields.push((field.name.clone(), value.map_err(|error| error.below(&field.name))?));
            }
            Avro::Record(fields)
        }
        (Schema::Union(union), _) => branch_of(json, union, names)?.ok_or_else(wrong)?,
        _ => return Err(wrong()),
    })
}

/// The branch of a union: `null`, or an object whose one key is the branch's name.
fn branch_of(json: &Value, union: &UnionSchema, names: &NamesRef<'_>) -> Result<Option<Avro>, Mismatch> {
    let (wanted, value) = match json {
        Value::Null => ("null", json),
        Value::Object(members) if members.len() == 1 => match members.iter().next() {
            Some((key, value)) => (key.as_str(), value),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    for (place, branch) in union.variants().iter().enumerate() {
        if name_of(branch) == wanted {
            let Ok(place) = u32::try_from(place) else { return Ok(None) };
            let value = value_of(value, branch, names).map_err(|error| error.below(wanted))?;
            return Ok(Some(Avro::Union(place, Box::new(value))));
        }
    }
    Ok(None)
}

/// A field's default is written without the name of a branch; it is of the first branch that fits.
fn default_of(json: &Value, schema: &Schema, names: &NamesRef<'_>) -> Result<Avro, Mismatch> {
    match (schema, json) {
        (Schema::Ref { name }, _) => match named(names, name) {
            Some(named) => default_of(json, named, names),
            None => value_of(json, schema, names),
        },
        (Schema::Union(union), _) => {
            let fitting =
                union.variants().iter().enumerate().find_map(|(place, branch)| {
                    Some((u32::try_from(place).ok()?, default_of(json, branch, names).ok()?))
                });
            match fitting {
                Some((place, value)) => Ok(Avro::Union(place, Box::new(value))),
                None => value_of(json, schema, names),
            }
        }
        (Schema::Record(record), Value::Object(members)) => {
            let mut fields = Vec::with_capacity(record.fields.len());
            for field in &record.fields {
                let own = members.get(&field.name).or(field.default.as_ref()).unwrap_or(&Value::Null);
                let value = default_of(own, &field.schema, names).map_err(|error| error.below(&field.name))?;
                fields.push((field.name.clone(), value));
            }
            Ok(Avro::Record(fields))
        }
        (Schema::Array(array), Value::Array(items)) => {
            let items = items.iter().map(|item| default_of(item, &array.items, names));
            Ok(Avro::Array(items.collect::<Result<_, _>>()?))
        }
        (Schema::Map(map), Value::Object(members)) => {
            let members = members.iter().map(|(key, member)| Ok((key.clone(), default_of(member, &map.types, names)?)));
            Ok(Avro::Map(members.collect::<Result<_, _>>()?))
        }
        _ => value_of(json, schema, names),
    }
}

fn named<'s>(names: &NamesRef<'s>, name: &Name) -> Option<&'s Schema> {
    names.get(name).copied()
}

/// Avro's JSON writes a byte as the character of the same number.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

/// The name of a schema as a branch of a union has it.
fn name_of(schema: &Schema) -> String {
    match schema {
        Schema::Null => "null".to_owned(),
        Schema::Boolean => "boolean".to_owned(),
        Schema::Int => "int".to_owned(),
        Schema::Long => "long".to_owned(),
        Schema::Float => "float".to_owned(),
        Schema::Double => "double".to_owned(),
        Schema::Bytes => "bytes".to_owned(),
        Schema::String => "string".to_owned(),
        Schema::Array(_) => "array".to_owned(),
        Schema::Map(_) => "map".to_owned(),
        Schema::Union(_) => "a branch of the union".to_owned(),
        Schema::Ref { name } => name.fullname(None),
        other => other.name().map(|name| name.fullname(None)).unwrap_or_default(),
    }
}

fn kind_of(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apache_avro::reader::datum::GenericDatumReader;
    use serde_json::json;

    const SCHEMA: &str = r#"{
        "type": "record", "name": "Event", "namespace": "a.b", "fields": [
            {"name": "messageId", "type": "string"},
            {"name": "n", "type": "int"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 5},
            {"name": "price", "type": ["null", "double"], "default": null},
            {"name": "raw", "type": "bytes", "default": "\u00ff"},
            {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}},
            {"name": "second", "type": ["null", "Colour"], "default": null},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "more", "type": {"type": "map", "values": ["long", "string"]}}
        ]
    }"#;

    fn schemas(embeds_id: bool) -> Schemas {
        Schemas::read(Some(&json!([{ "schemaId": "258", "schema": SCHEMA }])), embeds_id).unwrap()
    }

    fn record(event: Value, schema_id: Option<&str>) -> Record {
        Record {
            message: event.to_string().into_bytes(),
            user_id: String::new(),
            topic: None,
            schema_id: schema_id.map(str::to_owned),
        }
    }

    fn event() -> Value {
        json!({
            "messageId": "m1", "n": 7, "colour": "BLUE", "second": { "a.b.Colour": "RED" }, "tags": ["x", "y"],
            "more": { "l": { "long": 3 } }, "price": { "double": 1.5 },
        })
    }

    #[test]
    fn an_event_is_written_by_its_schema() {
        let datum = schemas(false).encode(&record(event(), Some("258"))).unwrap();
        let mut expected = vec![4, b'm', b'1', 14, 10, 2];
        expected.extend_from_slice(&1.5f64.to_le_bytes());
        expected.extend_from_slice(&[2, 0xff, 2, 2, 0, 4, 2, b'x', 2, b'y', 0, 2, 2, b'l', 0, 6, 0]);
        assert_eq!(datum, expected);
        let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
        drop_logical_types(&mut schema);
        let schema = Schema::parse(&schema).unwrap();
        let read = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut &datum[..]).unwrap();
        let Avro::Record(fields) = read else { panic!("{read:?}") };
        assert_eq!(fields[1], ("n".to_owned(), Avro::Int(7)));
        let with_id = schemas(true).encode(&record(event(), Some("258"))).unwrap();
        assert_eq!(with_id, [&[0, 0, 0, 1, 2][..], &datum].concat());
    }

    #[test]
    fn an_event_that_is_not_what_its_schema_says_is_never_taken() {
        let with = |key: &str, value: Value| {
            let mut event = event();
            event[key] = value;
            event
        };
        for (event, text) in [
            (with("n", json!(1.5)), "n: the number is not int"),
            (with("n", json!(3_000_000_000_i64)), "n: the number is not int"),
            (with("price", json!(1.5)), "price: the number is not a branch of the union"),
            (with("extra", json!(1)), "the event: the schema knows no field \"extra\""),
            (with("tags", json!(["x", 1])), "tags.1: the number is not string"),
            (json!({ "messageId": "m1" }), "n: there is no value and no default"),
        ] {
            let fault = schemas(false).encode(&record(event, Some("258"))).unwrap_err();
            let expected = format!("unable to convert event with messageId m1 to Avro: {text}");
            assert_eq!((fault.code(), fault.to_string()), (400, expected));
        }
        let fault = schemas(false).encode(&record(event(), None)).unwrap_err();
        assert_eq!(fault.to_string(), "schemaId is not available for event with messageId: m1");
        let fault = schemas(false).encode(&record(event(), Some("9"))).unwrap_err();
        assert_eq!(fault.to_string(), "unable to find schema with ID 9");
        let bad = Schemas::read(Some(&json!([{ "schemaId": "1", "schema": "{\"type\":\"nothing\"}" }])), false);
        assert_eq!(bad.unwrap_err().code(), 400);
    }
}
