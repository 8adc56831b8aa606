//! RFC 3339, read by position: what nearly every SDK sends.

use super::{Moment, Parts};

/// `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)`. Allocates nothing.
pub(super) fn parse(text: &[u8]) -> Option<Moment> {
    let (date_and_time, rest) = text.split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't', h0, h1, b':', n0, n1, b':', s0, s1] = *date_and_time
    else {
        return None;
    };
    let mut parts = Parts {
        year: i16::from(pair(y0, y1)?) * 100 + i16::from(pair(y2, y3)?),
        month: pair(m0, m1)?,
        day: pair(d0, d1)?,
        hour: pair(h0, h1)?,
        minute: pair(n0, n1)?,
        second: pair(s0, s1)?,
        nanosecond: 0,
    };
    let mut zone = rest;
    if let Some((b'.', fraction)) = rest.split_first() {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, after) = fraction.split_at_checked(digits)?;
        parts.nanosecond = nanoseconds(fraction)?;
        zone = after;
    }
    Moment::from_parts(&parts, offset_seconds(zone)?)
}

/// Seconds of `Z` or `±hh:mm`.
fn offset_seconds(zone: &[u8]) -> Option<i32> {
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (i32::from(pair(h0, h1)?), i32::from(pair(m0, m1)?));
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3_600 + minutes * 60;
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// The digits of a fraction of a second as nanoseconds; further digits are cut off. `None` without a digit.
pub(super) fn nanoseconds(digits: &[u8]) -> Option<i32> {
    if digits.is_empty() {
        return None;
    }
    let mut nanoseconds = 0_i32;
    for place in 0..9 {
        let digit = digits.get(place).map_or(0, |byte| byte - b'0');
        nanoseconds = nanoseconds * 10 + i32::from(digit);
    }
    Some(nanoseconds)
}

fn pair(tens: u8, ones: u8) -> Option<i8> {
    if !tens.is_ascii_digit() || !ones.is_ascii_digit() {
        return None;
    }
    i8::try_from((tens - b'0') * 10 + (ones - b'0')).ok()
}
