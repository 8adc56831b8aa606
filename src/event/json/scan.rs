//! The scanner: tokens, and whole values without recursion.

use super::Invalid;
use super::keys::{KeyWatch, OpenObject};

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// A string between its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    /// Behind the opening quote.
    pub(super) start: usize,
    /// At the closing quote.
    pub(super) end: usize,
    /// It holds a backslash.
    pub(super) escaped: bool,
}

/// A container that [`Scanner::skip_value`] is inside of.
#[derive(Clone, Copy)]
enum Frame {
    Object(OpenObject),
    Array,
}

/// Reads JSON from the front of a text. Every method leaves `position` behind what it read.
pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) position: usize,
    depth: usize,
    max_depth: usize,
    /// Something since the last reset must be normalised.
    pub(super) dirty: bool,
    keys: KeyWatch<'a>,
    frames: Vec<Frame>,
}

impl<'a> Scanner<'a> {
    /// # Errors
    /// The text is too long for [`super::Span`].
    pub(super) fn new(text: &'a [u8], max_depth: usize) -> Result<Scanner<'a>, Invalid> {
        if u32::try_from(text.len()).is_err() {
            return Err(Invalid);
        }
        let keys = KeyWatch::default();
        Ok(Scanner { text, position: 0, depth: 0, max_depth, dirty: false, keys, frames: Vec::new() })
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    pub(super) fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    /// Takes this byte.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Invalid> {
        if self.peek() != Some(byte) {
            return Err(Invalid);
        }
        self.position += 1;
        Ok(())
    }

    /// Nothing but blanks is left.
    pub(super) fn finish(&mut self) -> Result<(), Invalid> {
        self.blanks();
        if self.position == self.text.len() { Ok(()) } else { Err(Invalid) }
    }

    /// Takes `{` or `[`.
    pub(super) fn open(&mut self) -> Result<(), Invalid> {
        self.position += 1;
        self.depth += 1;
        if self.depth > self.max_depth { Err(Invalid) } else { Ok(()) }
    }

    /// Takes `}` or `]`.
    pub(super) fn close(&mut self) {
        self.position += 1;
        self.depth -= 1;
    }

    /// Takes a string, quotes included.
    pub(super) fn string(&mut self) -> Result<Text, Invalid> {
        self.expect(b'"')?;
        let start = self.position;
        let mut at = start;
        let mut beyond_ascii = 0;
        let mut escaped = false;
        loop {
            while let Some(chunk) = self.text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
                let word = u64::from_le_bytes(*chunk);
                let special = specials(word);
                if special == 0 {
                    beyond_ascii |= word & HIGH;
                    at += 8;
                    continue;
                }
                // Only bytes before the first special one belong to the string for certain.
                beyond_ascii |= word & HIGH & ((special & special.wrapping_neg()) - 1);
                at += special.trailing_zeros() as usize / 8;
                break;
            }
            match self.text.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape(at)?;
                }
                Some(0..0x20) | None => return Err(Invalid),
                Some(byte) => {
                    beyond_ascii |= u64::from(byte & 0x80);
                    at += 1;
                }
            }
        }
        if beyond_ascii != 0 && std::str::from_utf8(self.text.get(start..at).unwrap_or_default()).is_err() {
            self.dirty = true;
        }
        self.position = at + 1;
        Ok(Text { start, end: at, escaped })
    }

    /// Checks the escape at `at` and returns the place behind it.
    fn escape(&mut self, at: usize) -> Result<usize, Invalid> {
        match self.text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                let unit = self.hex(at + 2)?;
                match unit {
                    0 | 0xdc00..=0xdfff => self.dirty = true,
                    0xd800..=0xdbff => {
                        let pair = self.text.get(at + 6..at + 8) == Some(br"\u");
                        if pair && matches!(self.hex(at + 8), Ok(0xdc00..=0xdfff)) {
                            return Ok(at + 12);
                        }
                        self.dirty = true;
                    }
                    _ => {}
                }
                Ok(at + 6)
            }
            _ => Err(Invalid),
        }
    }

    fn hex(&self, at: usize) -> Result<u16, Invalid> {
        let digits = self.text.get(at..at + 4).ok_or(Invalid)?;
        digits.iter().try_fold(0, |sum: u16, byte| {
            let digit = char::from(*byte).to_digit(16).ok_or(Invalid)?;
            Ok(sum << 4 | u16::try_from(digit).unwrap_or_default())
        })
    }

    /// Takes a number.
    pub(super) fn number(&mut self) -> Result<(), Invalid> {
        let start = self.position;
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        let whole_start = self.position;
        let whole = self.digits()?;
        if whole > 1 && self.text.get(whole_start) == Some(&b'0') {
            return Err(Invalid);
        }
        let mut fraction = None;
        if self.peek() == Some(b'.') {
            self.position += 1;
            let from = self.position;
            let length = self.digits()?;
            let digits = self.text.get(from..from + length).unwrap_or_default();
            fraction = Some((length, digits.iter().all(|digit| *digit == b'0')));
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.digits()?;
        }
        // Most numbers are short and plain: nothing to decode.
        let (length, integral) = fraction.unwrap_or_default();
        if integral || exponent {
            self.dirty = true;
        }
        if exponent || whole > 18 || whole + length > 15 {
            let text = self.text.get(start..self.position).unwrap_or_default();
            let value: f64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Invalid)?;
            if !value.is_finite() {
                return Err(Invalid);
            }
            let exact = fraction.is_none() && fits_64_bits(text);
            if !exact && (fraction.is_none() || value.fract() == 0.0) {
                self.dirty = true;
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, Invalid> {
        let from = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
        if self.position == from { Err(Invalid) } else { Ok(self.position - from) }
    }

    /// Takes `true`, `false` or `null`.
    pub(super) fn literal(&mut self, word: &[u8]) -> Result<(), Invalid> {
        let end = self.position + word.len();
        if self.text.get(self.position..end) != Some(word) {
            return Err(Invalid);
        }
        self.position = end;
        Ok(())
    }

    /// Takes a string, number or literal.
    pub(super) fn scalar(&mut self) -> Result<(), Invalid> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(Invalid),
        }
    }

    /// Takes a key and the colon behind it.
    fn key(&mut self, object: OpenObject) -> Result<Text, Invalid> {
        let key = self.string()?;
        // Equal keys may be written with different escapes; deciding that is the decoder's work.
        if key.escaped || self.keys.repeats(object, self.text, key.start, key.end) {
            self.dirty = true;
        }
        self.blanks();
        self.expect(b':')?;
        self.blanks();
        Ok(key)
    }

    /// Takes one value of any kind, `position` being at its first byte.
    pub(super) fn skip_value(&mut self) -> Result<(), Invalid> {
        let base = self.frames.len();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.open()?;
                    self.blanks();
                    if self.peek() != Some(b'}') {
                        let object = self.keys.enter();
                        self.frames.push(Frame::Object(object));
                        self.key(object)?;
                        continue;
                    }
                    self.close();
                }
                Some(b'[') => {
                    self.open()?;
                    self.blanks();
                    if self.peek() != Some(b']') {
                        self.frames.push(Frame::Array);
                        continue;
                    }
                    self.close();
                }
                _ => self.scalar()?,
            }
            // A value has ended: go on in the container that holds it, or end that one too.
            loop {
                if self.frames.len() == base {
                    return Ok(());
                }
                self.blanks();
                match (self.frames.last(), self.peek()) {
                    (Some(Frame::Object(object)), Some(b',')) => {
                        let object = *object;
                        self.position += 1;
                        self.blanks();
                        self.key(object)?;
                        break;
                    }
                    (Some(Frame::Array), Some(b',')) => {
                        self.position += 1;
                        self.blanks();
                        break;
                    }
                    (Some(Frame::Object(object)), Some(b'}')) => {
                        self.keys.leave(*object);
                        self.frames.pop();
                        self.close();
                    }
                    (Some(Frame::Array), Some(b']')) => {
                        self.frames.pop();
                        self.close();
                    }
                    _ => return Err(Invalid),
                }
            }
        }
    }

    /// Takes an object, `position` being at its brace. `member` gets each key and takes its value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Scanner<'a>, Text) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        self.open()?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(());
        }
        let object = self.keys.enter();
        loop {
            let key = self.key(object)?;
            member(self, key)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => break,
                _ => return Err(Invalid),
            }
            self.blanks();
        }
        self.keys.leave(object);
        self.close();
        Ok(())
    }

    /// Takes an array, `position` being at its bracket. `element` takes each element.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Scanner<'a>) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        self.open()?;
        self.blanks();
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            element(self)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => break,
                _ => return Err(Invalid),
            }
            self.blanks();
        }
        self.close();
        Ok(())
    }
}

/// Marks bytes that end the plain part of a string: quote, backslash, control characters. The lowest mark is exact.
fn specials(word: u64) -> u64 {
    let zero_in = |word: u64| word.wrapping_sub(LOW) & !word;
    let quote = zero_in(word ^ (LOW * 0x22));
    let backslash = zero_in(word ^ (LOW * 0x5c));
    let control = word.wrapping_sub(LOW * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// Whether the digits are an integer of 64 bits, signed or not.
pub(super) fn fits_64_bits(digits: &[u8]) -> bool {
    std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u64>().is_ok() || text.parse::<i64>().is_ok())
}

/// Calls `member` with each raw key (without quotes) and raw value of an object.
///
/// # Errors
/// The text is not one JSON object.
pub fn members<'a>(
    text: &'a [u8],
    max_depth: usize,
    mut member: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<(), Invalid> {
    let mut scanner = Scanner::new(text, max_depth)?;
    scanner.blanks();
    if scanner.peek() != Some(b'{') {
        return Err(Invalid);
    }
    scanner.object(|scanner, key| {
        let start = scanner.position;
        scanner.skip_value()?;
        let value = text.get(start..scanner.position).unwrap_or_default();
        member(text.get(key.start..key.end).unwrap_or_default(), value);
        Ok(())
    })?;
    scanner.finish()
}
