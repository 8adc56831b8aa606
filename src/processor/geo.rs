//! Geolocation: an event's address becomes `context.geo` (processor.md 3.4).

use std::net::IpAddr;

use maxminddb::{Reader, geoip2};
use serde_json::json;

use crate::destination::Message;

/// A MaxMind City database.
pub type Database = Reader<Vec<u8>>;

/// What came of the look-up of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// The event is left alone: it has a place, or a context that is no object.
    Untouched,
    /// Found, or not in the database.
    Done,
    /// There is no address.
    EmptyIp,
    /// The address is none.
    InvalidIp,
    /// The database could not be read.
    Failed,
}

/// Writes the place of the event's address into its context, empty texts where it is not known. `request_ip` is the
/// sender's address, as a JSON string.
pub fn enrich(event: &mut Message<'_>, request_ip: &str, database: &Database) -> Located {
    let mut context = match event.get("context") {
        None => Message::default(),
        Some(_) => match event.object("context") {
            Some(context) => context,
            None => return Located::Untouched,
        },
    };
    if context.get("geo").is_some() {
        return Located::Untouched;
    }
    let own = context.text("ip").filter(|ip| !ip.is_empty());
    let ip = own.map_or_else(|| serde_json::from_str(request_ip).unwrap_or_default(), std::borrow::Cow::into_owned);
    let (place, located) = locate(&ip, database);
    context.set("geo", place);
    let context = context.to_json();
    event.set("context", context);
    located
}

fn locate(ip: &str, database: &Database) -> (String, Located) {
    let nowhere = |located| (place(ip, &geoip2::City::default()), located);
    if ip.is_empty() {
        return nowhere(Located::EmptyIp);
    }
    let Ok(address) = ip.parse::<IpAddr>() else { return nowhere(Located::InvalidIp) };
    // An IPv4 address may be written as an IPv6 one.
    match database.lookup(address.to_canonical()).and_then(|found| found.decode::<geoip2::City<'_>>()) {
        Ok(Some(city)) => (place(ip, &city), Located::Done),
        Ok(None) => nowhere(Located::Done),
        Err(_) => nowhere(Located::Failed),
    }
}

fn place(ip: &str, city: &geoip2::City<'_>) -> String {
    let location = match (city.location.latitude, city.location.longitude) {
        (Some(latitude), Some(longitude)) => format!("{latitude:.6},{longitude:.6}"),
        _ => String::new(),
    };
    let region = city.subdivisions.first().and_then(|subdivision| subdivision.names.english);
    json!({
        "ip": ip,
        "city": city.city.names.english.unwrap_or_default(),
        "country": city.country.iso_code.unwrap_or_default(),
        "region": region.unwrap_or_default(),
        "postal": city.postal.code.unwrap_or_default(),
        "location": location,
        "timezone": city.location.time_zone.unwrap_or_default(),
    })
    .to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 29);
        [&[0x40 | length], text.as_bytes()].concat()
    }

    fn double(number: f64) -> Vec<u8> {
        [&[0x68], number.to_be_bytes().as_slice()].concat()
    }

    fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut out = vec![0xe0 | u8::try_from(members.len()).unwrap()];
        for (key, value) in members {
            out.extend(text(key));
            out.extend(value);
        }
        out
    }

    fn list(items: &[Vec<u8>]) -> Vec<u8> {
        [vec![u8::try_from(items.len()).unwrap(), 4], items.concat()].concat()
    }

    fn small(number: u16) -> Vec<u8> {
        [&[0xa2], number.to_be_bytes().as_slice()].concat()
    }

    /// A database that knows one city, for every IPv4 address of the lower half.
    pub fn small_database(city: &str) -> Vec<u8> {
        let named = |name: &str| map(&[("en", text(name))]);
        let record = map(&[
            ("city", map(&[("names", named(city))])),
            ("country", map(&[("iso_code", text("GB"))])),
            (
                "location",
                map(&[("latitude", double(51.75)), ("longitude", double(-1.25)), ("time_zone", text("Europe/London"))]),
            ),
            ("postal", map(&[("code", text("OX1"))])),
            ("subdivisions", list(&[map(&[("names", named("England"))])])),
        ]);
        // One node: the left record points behind the tree and 16 zero bytes, the right one says "nothing".
        let nodes = 1_u32;
        let (left, right) = (nodes + 16, nodes);
        let mut database = Vec::new();
        for pointer in [left, right] {
            database.extend(&pointer.to_be_bytes()[1..]);
        }
        database.extend([0; 16]);
        database.extend(record);
        database.extend(b"\xab\xcd\xefMaxMind.com");
        database.extend(map(&[
            ("binary_format_major_version", small(2)),
            ("binary_format_minor_version", small(0)),
            ("build_epoch", [&[0x08, 0x02], 1_u64.to_be_bytes().as_slice()].concat()),
            ("database_type", text("City")),
            ("description", map(&[])),
            ("ip_version", small(4)),
            ("languages", list(&[text("en")])),
            ("node_count", [&[0xc4], nodes.to_be_bytes().as_slice()].concat()),
            ("record_size", small(24)),
        ]));
        database
    }

    fn enriched(event: &str, request_ip: &str) -> (String, Located) {
        let database = Reader::from_source(small_database("Oxford")).unwrap();
        let mut event = Message::parse(event).unwrap();
        let located = enrich(&mut event, request_ip, &database);
        (event.to_json(), located)
    }

    #[test]
    fn an_address_becomes_a_place() {
        let oxford = |ip: &str| {
            format!(
                r#""geo":{{"ip":"{ip}","city":"Oxford","country":"GB","region":"England","postal":"OX1","location":"51.750000,-1.250000","timezone":"Europe/London"}}"#
            )
        };
        let nowhere = |ip: &str| {
            format!(
                r#""geo":{{"ip":"{ip}","city":"","country":"","region":"","postal":"","location":"","timezone":""}}"#
            )
        };
        let table = [
            ("{}", "\"81.2.69.142\"", format!(r#"{{"context":{{{}}}}}"#, oxford("81.2.69.142")), Located::Done),
            (
                r#"{"context":{"ip":"1.2.3.4"}}"#,
                "\"200.1.1.1\"",
                format!(r#"{{"context":{{"ip":"1.2.3.4",{}}}}}"#, oxford("1.2.3.4")),
                Located::Done,
            ),
            (
                r#"{"context":{"ip":""}}"#,
                "\"::ffff:1.2.3.4\"",
                format!(r#"{{"context":{{"ip":"",{}}}}}"#, oxford("::ffff:1.2.3.4")),
                Located::Done,
            ),
            ("{}", "\"200.1.1.1\"", format!(r#"{{"context":{{{}}}}}"#, nowhere("200.1.1.1")), Located::Done),
            ("{}", "\"\"", format!(r#"{{"context":{{{}}}}}"#, nowhere("")), Located::EmptyIp),
            ("{}", "\"here\"", format!(r#"{{"context":{{{}}}}}"#, nowhere("here")), Located::InvalidIp),
            (
                r#"{"context":{"geo":null}}"#,
                "\"1.2.3.4\"",
                r#"{"context":{"geo":null}}"#.to_owned(),
                Located::Untouched,
            ),
            (r#"{"context":null}"#, "\"1.2.3.4\"", r#"{"context":null}"#.to_owned(), Located::Untouched),
        ];
        for (event, request_ip, expected, located) in table {
            assert_eq!(enriched(event, request_ip), (expected, located), "{event} {request_ip}");
        }
    }
}
