//! An object as an XML document (router.md 13).
//!
//! Members become elements in order, lists repeat their element, empty values close themselves. There are no
//! attributes: every name is made into one that an element may have.

use std::fmt::Write as _;

use serde_json::Value;

/// The document with this root.
pub(super) fn document(root: &str, value: &Value) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    element(&mut out, &name_of(root), value);
    out
}

fn element(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| element(out, name, item)),
        Value::Object(members) => {
            let before = out.len();
            open(out, name);
            let inside = out.len();
            for (key, member) in members {
                element(out, &name_of(key), member);
            }
            if out.len() == inside {
                out.truncate(before);
                empty(out, name);
            } else {
                close(out, name);
            }
        }
        Value::Null => empty(out, name),
        Value::String(text) if text.is_empty() => empty(out, name),
        Value::String(text) => {
            open(out, name);
            escape(out, text);
            close(out, name);
        }
        plain => {
            open(out, name);
            out.push_str(&plain.to_string());
            close(out, name);
        }
    }
}

// Writing to a string cannot fail.
fn open(out: &mut String, name: &str) {
    write!(out, "<{name}>").unwrap_or_default();
}

fn close(out: &mut String, name: &str) {
    write!(out, "</{name}>").unwrap_or_default();
}

fn empty(out: &mut String, name: &str) {
    write!(out, "<{name}/>").unwrap_or_default();
}

/// A name that an element may have.
fn name_of(key: &str) -> String {
    let mut name: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let first = name.chars().next().map_or(0, char::len_utf8);
        name.replace_range(..first, "_");
    }
    name
}

/// Text between tags. Characters that XML has no form for are left out.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_become_elements() {
        let value = json!({
            "n": "J & <o> \"'", "t": ["a", { "x": 1 }], "@attr": true, "1st": 1.5, "a b": {}, "e": "", "z": null, "none": [],
        });
        assert_eq!(
            document("ro ot", &value),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ro_ot><n>J &amp; &lt;o&gt; &quot;&apos;</n><t>a</t>\
             <t><x>1</x></t><_attr>true</_attr><_st>1.5</_st><a_b/><e/><z/></ro_ot>"
        );
    }

    #[test]
    fn names_are_made_fit_and_control_characters_left_out() {
        assert_eq!(document("", &json!("a\u{1}b")), "<?xml version=\"1.0\" encoding=\"UTF-8\"?><_>ab</_>");
        assert_eq!(document("élan", &json!([])), "<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    }
}
