//! Splitting names into words: the snake case of tables and columns (warehouse.md 3.1).
//!
//! In: any text. Out: its words in lower case, joined by `_`. A word is found by the first of these forms that fits,
//! where `U` is an upper-case letter, `L` a lower-case one and `D` a digit:
//!
//! | form | when |
//! |---|---|
//! | `U?L+D+`, `U+D+`, `D+U?L+`, `D+U+` | only when numbers stay with their words |
//! | `U?L+` before `_`, `U` or the end | always |
//! | `U+` before `_`, `UL` or the end | always |
//! | `U?L+`, then `U+` | always |
//! | ordinals: `D*1ST`, `21st`, .. before a change of case, `_` or the end | always |
//! | `D+` | always |

/// Appends the runs of ASCII letters and digits of a text, joined by `_`. Everything else separates.
pub(super) fn push_runs(out: &mut String, text: &str) {
    let mut in_run = false;
    let mut is_first = true;
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            if !in_run && !is_first {
                out.push('_');
            }
            out.push(character);
            in_run = true;
            is_first = false;
        } else {
            in_run = false;
        }
    }
}

/// Appends the words of a text of ASCII letters, digits and `_`, in lower case, joined by `_`.
pub(super) fn push_snake_case(out: &mut String, text: &str, divide_numbers: bool) {
    let text = Letters(text.as_bytes());
    if text.is_one_word() {
        text.push_lower(out, 0, text.0.len());
        return;
    }
    let mut at = 0;
    let mut is_first = true;
    while at < text.0.len() {
        match text.word_at(at, divide_numbers) {
            Some(end) => {
                if !is_first {
                    out.push('_');
                }
                is_first = false;
                text.push_lower(out, at, end);
                at = end;
            }
            None => at += 1,
        }
    }
}

struct Letters<'t>(&'t [u8]);

impl Letters<'_> {
    fn at(&self, position: usize) -> Option<u8> {
        self.0.get(position).copied()
    }

    fn is(&self, position: usize, class: fn(&u8) -> bool) -> bool {
        self.0.get(position).is_some_and(class)
    }

    /// The end of the run of this class that begins here; `from` itself when there is none.
    fn run(&self, from: usize, class: fn(&u8) -> bool) -> usize {
        let rest = self.0.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| class(byte)).count()
    }

    fn push_lower(&self, out: &mut String, from: usize, to: usize) {
        let word = self.0.get(from..to).unwrap_or_default();
        out.extend(word.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }

    /// Whether nothing in the text parts words.
    fn is_one_word(&self) -> bool {
        let parted = self.0.windows(2).any(|pair| match pair {
            [a, b] => {
                a.is_ascii_lowercase() && b.is_ascii_uppercase()
                    || a.is_ascii_digit() && b.is_ascii_alphabetic()
                    || a.is_ascii_alphabetic() && b.is_ascii_digit()
            }
            _ => false,
        });
        let acronym = self.0.windows(3).any(|three| match three {
            [a, b, c] => a.is_ascii_uppercase() && b.is_ascii_uppercase() && c.is_ascii_lowercase(),
            _ => false,
        });
        !parted && !acronym && !self.0.contains(&b'_')
    }

    /// The end of the word that begins here.
    fn word_at(&self, start: usize, divide_numbers: bool) -> Option<usize> {
        let upper = u8::is_ascii_uppercase;
        let lower = u8::is_ascii_lowercase;
        let digit = u8::is_ascii_digit;
        let capitals = self.run(start, upper);
        let small_from = start + usize::from(self.is(start, upper));
        let capitalised = self.run(small_from, lower);
        let has_small = capitalised > small_from;
        let digits = self.run(start, digit);
        let further = |from: usize, class: fn(&u8) -> bool| Some(self.run(from, class)).filter(|end| *end > from);
        if !divide_numbers {
            let word_with_number = if has_small { further(capitalised, digit) } else { None };
            let capitals_with_number = || if capitals > start { further(capitals, digit) } else { None };
            let number_with_word = || {
                if digits == start {
                    return None;
                }
                further(digits + usize::from(self.is(digits, upper)), lower).or_else(|| further(digits, upper))
            };
            if let Some(end) = word_with_number.or_else(capitals_with_number).or_else(number_with_word) {
                return Some(end);
            }
        }
        if has_small && self.at(capitalised).is_none_or(|next| next == b'_' || upper(&next)) {
            return Some(capitalised);
        }
        if capitals > start {
            match self.at(capitals) {
                None | Some(b'_') => return Some(capitals),
                // The last capital belongs to the next word.
                Some(next) if lower(&next) && capitals - 1 > start => return Some(capitals - 1),
                Some(_) => {}
            }
        }
        if has_small {
            return Some(capitalised);
        }
        if capitals > start {
            return Some(capitals);
        }
        if digits > start {
            return Some(self.ordinal_end(digits).unwrap_or(digits));
        }
        None
    }

    /// The end of the ordinal (`21st`, `4TH`) whose digits end here.
    fn ordinal_end(&self, digits_end: usize) -> Option<usize> {
        let last = self.at(digits_end.checked_sub(1)?)?;
        let suffix = [self.at(digits_end)?, self.at(digits_end + 1)?];
        let expected = match last {
            b'1' => b"st",
            b'2' => b"nd",
            b'3' => b"rd",
            _ => b"th",
        };
        let end = digits_end + 2;
        let next = self.at(end);
        let ends_word = |other_case: fn(&u8) -> bool| next.is_none_or(|next| next == b'_' || other_case(&next));
        let is_upper = suffix == expected.map(|byte| byte.to_ascii_uppercase());
        let fits = if is_upper {
            ends_word(u8::is_ascii_lowercase)
        } else {
            suffix == *expected && ends_word(u8::is_ascii_uppercase)
        };
        fits.then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snake(text: &str, divide_numbers: bool) -> String {
        let (mut runs, mut out) = (String::new(), String::new());
        push_runs(&mut runs, text);
        push_snake_case(&mut out, &runs, divide_numbers);
        out
    }

    #[test]
    fn every_form_of_word_is_found() {
        // Input, with numbers attached, with numbers divided.
        let table = [
            ("", "", ""),
            ("___", "", ""),
            ("word", "word", "word"),
            ("WORD", "word", "word"),
            ("twoWords", "two_words", "two_words"),
            ("HTTPServer", "http_server", "http_server"),
            ("parseHTTP", "parse_http", "parse_http"),
            ("HTTP_ok", "http_ok", "http_ok"),
            ("Room101Key", "room101_key", "room_101_key"),
            ("ROOM101key", "room101_key", "room_101_key"),
            ("7eleven", "7eleven", "7_eleven"),
            ("7Eleven", "7eleven", "7_eleven"),
            ("7ELEVEN", "7eleven", "7_eleven"),
            ("7ELeven", "7el_even", "7_e_leven"),
            ("a1b2", "a1_b2", "a_1_b_2"),
            ("v2 beta", "v2_beta", "v_2_beta"),
            ("21st", "21st", "21st"),
            ("the 42NDfloor", "the_42nd_floor", "the_42nd_floor"),
            ("4THFloor", "4thf_loor", "4_th_floor"),
            ("4thFloor", "4th_floor", "4th_floor"),
            ("11st_x", "11st_x", "11st_x"),
            ("1th", "1th", "1_th"),
            ("a.b-c d", "a_b_c_d", "a_b_c_d"),
            ("caf\u{e9}Noir", "caf_noir", "caf_noir"),
        ];
        for (input, attached, divided) in table {
            assert_eq!(snake(input, false), attached, "{input}");
            assert_eq!(snake(input, true), divided, "{input}");
        }
    }

    proptest! {
        #[test]
        fn no_letter_or_digit_is_lost(text in "[A-Za-z0-9_ .\u{e9}]{0,40}", divide_numbers: bool) {
            let kept = |text: &str| -> String {
                text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
            };
            prop_assert_eq!(kept(&snake(&text, divide_numbers)), kept(&text));
        }
    }
}
