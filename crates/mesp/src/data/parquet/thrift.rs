//! The compact protocol of Thrift, as far as page headers and the shape of a schema need it. Nothing is allocated for
//! a length that stands in the bytes.

use std::io::{self, Read};

/// The deepest that values lie in each other.
const DEEPEST: usize = 32;

/// What is found on the way through a structure.
pub(super) enum Found {
    /// A field begins, whose value has this type.
    Field(u8),
    /// A list begins, whose elements have this type.
    Elements(u8),
    /// A whole number, or a truth value as 0 or 1.
    Number(i64),
    /// The end of a structure.
    End,
}

/// Goes through a structure, and calls `visit` with the numbers of the fields that lead to each field, list, number and
/// structure's end. Elements of a list have the list's number.
pub(super) fn walk(from: &mut impl Read, visit: &mut dyn FnMut(&[i16], Found)) -> io::Result<()> {
    structure(from, &mut Vec::new(), visit)
}

fn structure(
    from: &mut impl Read,
    path: &mut Vec<i16>,
    visit: &mut dyn FnMut(&[i16], Found),
) -> io::Result<()> {
    if path.len() > DEEPEST {
        return Err(invalid("structures lie deeper than 32 in each other"));
    }
    let mut last = 0i16;
    loop {
        let head = byte(from)?;
        let kind = head & 0x0F;
        if kind == 0 {
            visit(path, Found::End);
            return Ok(());
        }
        last = match head >> 4 {
            0 => zigzag(varint(from)?) as i16,
            delta => last.wrapping_add(i16::from(delta)),
        };
        path.push(last);
        visit(path, Found::Field(kind));
        match kind {
            // A field's truth value is its type.
            1 | 2 => visit(path, Found::Number(i64::from(kind == 1))),
            _ => value(from, kind, path, visit)?,
        }
        path.pop();
    }
}

fn value(
    from: &mut impl Read,
    kind: u8,
    path: &mut Vec<i16>,
    visit: &mut dyn FnMut(&[i16], Found),
) -> io::Result<()> {
    match kind {
        1 | 2 => visit(path, Found::Number(i64::from(byte(from)? == 1))),
        3 => visit(path, Found::Number(i64::from(byte(from)?.cast_signed()))),
        4..=6 => visit(path, Found::Number(zigzag(varint(from)?))),
        7 => skip(from, 8)?,
        8 => {
            let length = varint(from)?;
            skip(from, length)?;
        }
        9 | 10 => {
            let head = byte(from)?;
            let count = if head >> 4 == 15 { varint(from)? } else { u64::from(head >> 4) };
            visit(path, Found::Elements(head & 0x0F));
            elements(from, &[head & 0x0F], count, path, visit)?;
        }
        11 => {
            let count = varint(from)?;
            if count > 0 {
                let kinds = byte(from)?;
                elements(from, &[kinds >> 4, kinds & 0x0F], count, path, visit)?;
            }
        }
        12 => structure(from, path, visit)?,
        13 => skip(from, 16)?,
        other => return Err(invalid(&format!("a value of the unknown type {other}"))),
    }
    Ok(())
}

/// Every element takes a byte at least, so the input's end ends this.
fn elements(
    from: &mut impl Read,
    kinds: &[u8],
    count: u64,
    path: &mut Vec<i16>,
    visit: &mut dyn FnMut(&[i16], Found),
) -> io::Result<()> {
    if path.len() > DEEPEST {
        return Err(invalid("lists lie deeper than 32 in each other"));
    }
    for _ in 0..count {
        for kind in kinds {
            // Lists in lists count as depth too.
            if matches!(kind, 9..=11) {
                path.push(0);
                value(from, *kind, path, visit)?;
                path.pop();
            } else {
                value(from, *kind, path, visit)?;
            }
        }
    }
    Ok(())
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A number of seven bits a byte, the lowest first.
pub(super) fn varint(from: &mut impl Read) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let next = byte(from)?;
        number |= u64::from(next & 0x7F) << shift;
        if next & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(invalid("a number of more than ten bytes"))
}

fn zigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn skip(from: &mut impl Read, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut from.by_ref().take(length), &mut io::sink())?;
    if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(mut bytes: &[u8]) -> io::Result<Vec<(Vec<i16>, Option<i64>)>> {
        let mut found = Vec::new();
        walk(&mut bytes, &mut |path, what| match what {
            Found::Number(n) => found.push((path.to_vec(), Some(n))),
            Found::End => found.push((path.to_vec(), None)),
            Found::Field(_) | Found::Elements(_) => {}
        })?;
        Ok(found)
    }

    /// Bytes by hand after the compact protocol's specification (apache/thrift, doc/specs/thrift-compact-protocol.md).
    #[test]
    fn numbers_are_found_by_their_fields() {
        // 1: i32 -3; 3: true; 4: "ab"; 5: list of i32 [1, 300]; 6: { 1: i64 2 }
        let bytes = [0x15, 5, 0x21, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 0xD8, 4, 0x1C, 0x16, 4, 0, 0];
        let expected = [
            (vec![1], Some(-3)),
            (vec![3], Some(1)),
            (vec![5], Some(1)),
            (vec![5], Some(300)),
            (vec![6, 1], Some(2)),
            (vec![6], None),
            (vec![], None),
        ];
        assert_eq!(walked(&bytes).unwrap(), expected);
    }

    #[test]
    fn hostile_bytes_end() {
        // A text and a list longer than the input, and structures without end in each other.
        assert!(walked(&[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1]).is_err());
        assert!(walked(&[0x19, 0xF5, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1]).is_err());
        assert!(walked(&vec![0x1C; 1 << 16]).is_err());
        assert!(walked(&vec![0x19; 1 << 16]).is_err());
        assert!(
            walked(&[0x15, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]).is_err()
        );
    }
}
