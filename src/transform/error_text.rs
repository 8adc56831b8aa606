//! Error texts as authors of transformations know them (processor.md 7.4): the shape of V8, from what QuickJS says.

/// Functions whose mention is the last line of a stack that is shown.
const ENTRIES: [&str; 2] = ["transformEvent", "transformBatch"];

/// The text of a thrown error: `<Name>: <message>` and the lines of the stack up to the user's entry function.
/// `name` and `message` as the error carries them, `stack` as the engine writes it; `class` is the name of its class,
/// whose constructors are not part of the stack.
pub(super) fn of_error(name: &str, message: &str, stack: &str, class: &str) -> String {
    let message = familiar(name, message);
    let mut text = match (name, message.as_str()) {
        ("", _) => message.clone(),
        (_, "") => name.to_owned(),
        _ => format!("{name}: {message}"),
    };
    let lines: Vec<String> = stack.lines().filter_map(stack_line).collect();
    if name == "SyntaxError"
        && let Some(place) = lines.first().and_then(|line| line.strip_prefix("    at "))
        && !place.contains('(')
    {
        // The code could not be read: there is no stack, only a place.
        return format!("{text} [{place}]");
    }
    let constructor = format!("    at {class} (");
    let constructed = lines.iter().position(|line| line.starts_with(&constructor) && !line.ends_with("(<anonymous>)"));
    let lines = lines.get(constructed.map_or(0, |at| at + 1)..).unwrap_or_default();
    let last = lines.iter().rposition(|line| ENTRIES.iter().any(|entry| line.contains(entry)));
    for line in lines.iter().take(last.map_or(0, |last| last + 1)) {
        text.push('\n');
        text.push_str(line);
    }
    text
}

/// A line of the stack; `None` for one that is none.
fn stack_line(line: &str) -> Option<String> {
    let frame = line.trim_start().strip_prefix("at ")?;
    let frame = match frame.strip_suffix("(native)") {
        Some(function) => format!("{function}(<anonymous>)"),
        None => frame.to_owned(),
    };
    Some(match frame.strip_prefix("<anonymous> (").and_then(|rest| rest.strip_suffix(')')) {
        Some(place) => format!("    at {place}"),
        None => format!("    at {frame}"),
    })
}

/// What V8 says where QuickJS says `message`; other messages stay.
fn familiar(name: &str, message: &str) -> String {
    match name {
        "TypeError" => {
            for (verb, noun) in [("read", "reading"), ("set", "setting")] {
                let opening = format!("cannot {verb} property '");
                if let Some(rest) = message.strip_prefix(&opening)
                    && let Some((property, of)) = rest.rsplit_once("' of ")
                {
                    return format!("Cannot {verb} properties of {of} ({noun} '{property}')");
                }
            }
            if let Some(variable) = message.strip_prefix('\'').and_then(|rest| rest.strip_suffix("' is read-only")) {
                return format!("Cannot assign to read only property '{variable}' of object");
            }
            match message {
                "circular reference" => "Converting circular structure to JSON".to_owned(),
                "value is not iterable" => "object is not iterable".to_owned(),
                "not a function" => "object is not a function".to_owned(),
                "not a constructor" => "object is not a constructor".to_owned(),
                "BigInt are forbidden in JSON.stringify" | "bigint are forbidden in JSON.stringify" => {
                    "Do not know how to serialize a BigInt".to_owned()
                }
                _ => message.to_owned(),
            }
        }
        "ReferenceError" => match message.strip_suffix(" is not initialized") {
            Some(variable) => format!("Cannot access '{variable}' before initialization"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_ends_at_the_entry_function() {
        let stack = "    at helper (Add shop:7:9)\n    at <anonymous> (Add shop:3:20)\n    at forEach (native)\n    at transformEvent (Add shop:3:5)\n    at settle (sandbox:1:1)\n";
        assert_eq!(
            of_error("Error", "no price", stack, "Error"),
            "Error: no price\n    at helper (Add shop:7:9)\n    at Add shop:3:20\n    at forEach (<anonymous>)\n    at transformEvent (Add shop:3:5)"
        );
        assert_eq!(of_error("Error", "x", "    at helper (a:1:1)\n", "Error"), "Error: x");
        assert_eq!(of_error("Error", "", "", "Error"), "Error");
    }

    #[test]
    fn code_that_cannot_be_read_is_told_with_its_place() {
        assert_eq!(
            of_error("SyntaxError", "expecting '}'", "    at base transformation:1:55\n", "SyntaxError"),
            "SyntaxError: expecting '}' [base transformation:1:55]"
        );
    }

    #[test]
    fn messages_read_as_in_v8() {
        let table = [
            ("TypeError", "cannot read property 'x' of undefined", "Cannot read properties of undefined (reading 'x')"),
            ("TypeError", "cannot set property 'a' of null", "Cannot set properties of null (setting 'a')"),
            ("TypeError", "circular reference", "Converting circular structure to JSON"),
            ("ReferenceError", "a is not initialized", "Cannot access 'a' before initialization"),
            ("ReferenceError", "a is not defined", "a is not defined"),
            ("Error", "cannot read property 'x' of undefined", "cannot read property 'x' of undefined"),
        ];
        for (name, message, expected) in table {
            assert_eq!(of_error(name, message, "", name), format!("{name}: {expected}"));
        }
    }
}
