//! Numbers as Python writes and reads them.

use super::super::python;
use super::Res;
use super::fault;
use super::lexer::space;

/// `repr` of a float.
pub(super) fn repr(x: f64) -> String {
    if x.is_nan() { "nan".to_owned() } else { python::float(x) }
}

/// `int(text, base)`; `None` where Python raises `ValueError`.
pub(super) fn parse_int(text: &str, base: u32) -> Res<Option<i128>> {
    let text = text.trim_matches(space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |base: u32| {
        let (small, large) = match base {
            16 => ("0x", "0X"),
            8 => ("0o", "0O"),
            2 => ("0b", "0B"),
            _ => return None,
        };
        digits.strip_prefix(small).or_else(|| digits.strip_prefix(large))
    };
    let (base, digits) = match base {
        0 => match [16, 8, 2].into_iter().find_map(|b| prefixed(b).map(|rest| (b, rest))) {
            Some((base, rest)) => (base, rest.strip_prefix('_').unwrap_or(rest)),
            None if digits.len() > 1
                && digits.starts_with('0')
                && digits.bytes().any(|b| b != b'0' && b != b'_') =>
            {
                return Ok(None);
            }
            None => (10, digits),
        },
        base => (base, prefixed(base).map_or(digits, |rest| rest.strip_prefix('_').unwrap_or(rest))),
    };
    let wrong = digits.is_empty()
        || digits.starts_with('_')
        || digits.ends_with('_')
        || digits.contains("__")
        || !digits.chars().all(|c| c == '_' || c.is_digit(base));
    if wrong {
        if digits.chars().any(|c| c.is_numeric() && !c.is_ascii()) {
            return fault("digits of other scripts are not supported in int()");
        }
        return Ok(None);
    }
    match i128::from_str_radix(&digits.replace('_', ""), base) {
        Ok(value) => Ok(Some(if negative { -value } else { value })),
        Err(_) => fault("integers of more than 127 bits are not supported"),
    }
}

/// `float(text)`; `None` where Python raises `ValueError`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(space);
    let bare = text.trim_start_matches(['+', '-']);
    if text.len() - bare.len() > 1 {
        return None;
    }
    let word = matches!(bare.to_ascii_lowercase().as_str(), "inf" | "infinity" | "nan");
    let digits = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !word && !digits {
        return None;
    }
    // An underscore stands between digits.
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('_') {
        let digit = |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
        if !digit(at.checked_sub(1)) || !digit(Some(at + 1)) {
            return None;
        }
    }
    text.replace('_', "").parse().ok()
}

/// `int(x)` of a float.
pub(super) fn truncated(x: f64) -> Res<i128> {
    if x.is_nan() {
        return fault("cannot convert float NaN to integer");
    }
    if x.is_infinite() {
        return fault("cannot convert float infinity to integer");
    }
    if x.abs() >= 1.7e38 {
        return fault("integers of more than 127 bits are not supported");
    }
    Ok(x as i128)
}

/// `round(x, digits)`: halves to even, by the decimal digits of the number.
pub(super) fn round(x: f64, digits: i128) -> f64 {
    if !x.is_finite() || digits > 300 {
        return x;
    }
    if digits < -308 {
        return 0.0 * x;
    }
    if digits >= 0 {
        // Rust writes the exact value of a float and rounds halves to even.
        return format!("{x:.*}", digits as usize).parse().unwrap_or(x);
    }
    let scale = 10f64.powi(-digits as i32);
    (x / scale).round_ties_even() * scale
}
