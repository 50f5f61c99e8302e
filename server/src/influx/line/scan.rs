//! Where lines and their parts end.

use memchr::memchr2;

/// Splits a body into lines. A line break in the string of a field does not end a line.
pub(crate) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = end_of_line(rest);
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// Returns the index of the line break that ends the first line.
fn end_of_line(body: &[u8]) -> usize {
    // Quotes have a meaning only where the value of a field begins. A comment has no fields.
    let mut fields_at = None;
    let mut at = 0;
    while let Some(found) = memchr2(b'\n', b'"', &body[at..]).map(|found| at + found) {
        if body[found] == b'\n' {
            return found;
        }
        let fields_at = *fields_at.get_or_insert_with(|| fields_of(body));
        let is_value = found > fields_at && is_equals(&body[..found]);
        // A string that does not end is an error of this line only.
        at = Some(found)
            .filter(|_| is_value)
            .and_then(|found| end_of_string(body, found))
            .unwrap_or(found + 1);
    }
    body.len()
}

/// Returns true if the last byte is an equals sign that is not escaped.
fn is_equals(bytes: &[u8]) -> bool {
    let Some((b'=', before)) = bytes.split_last() else { return false };
    let backslashes = before.iter().rev().take_while(|&&byte| byte == b'\\').count();
    backslashes % 2 == 0
}

/// Returns the index behind which the fields of the first line are.
fn fields_of(body: &[u8]) -> usize {
    let begin = skip_blanks(body, 0);
    match body.get(begin) {
        None | Some(b'#') => usize::MAX,
        Some(_) => {
            // A line break ends the line also behind a backslash.
            let mut rest = body[begin..].iter().zip(&body[begin + 1..]);
            let end =
                rest.position(|(&byte, &next)| next == b'\n' || next == b' ' && byte != b'\\');
            end.map_or(body.len(), |end| begin + end + 1)
        }
    }
}

/// Returns the index behind the closing quote of the string that begins at `begin`.
pub(super) fn end_of_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Returns the index of the first byte from `at` on that is a separator and not escaped, and true if there is
/// nothing that a key has to escape before it.
///
/// In measurements and tags a backslash escapes the separator behind it, whatever is before the backslash.
#[inline]
pub(super) fn scan(bytes: &[u8], mut at: usize, separators: u8) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        if class != 0 {
            if class & separators != 0 {
                break;
            }
            is_plain = false;
            let next = bytes.get(at + 1).map_or(0, |&next| CLASSES[usize::from(next)]);
            at += usize::from(byte == b'\\' && next & separators != 0);
        }
        at += 1;
    }
    (at, is_plain)
}

/// The same for the name of a field, where a backslash escapes what is behind it, a backslash too.
#[inline]
pub(super) fn scan_field(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        if class != 0 {
            if class & (BREAK | EQUALS) != 0 {
                break;
            }
            is_plain = false;
            at += usize::from(byte == b'\\' && at + 1 < bytes.len());
        }
        at += 1;
    }
    (at, is_plain)
}

/// A comma or a space, which end a part of a line.
pub(super) const BREAK: u8 = 1;
pub(super) const EQUALS: u8 = 2;
/// Is not the same in a line and in every part of a key.
const SPECIAL: u8 = 4;

/// What each byte is; 0 for most.
const CLASSES: [u8; 256] = {
    let mut classes = [SPECIAL; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        classes[byte as usize] = match byte {
            b',' | b' ' => BREAK,
            b'=' => EQUALS,
            b'\\' | b'%' | b';' | b'!' | b'^' | b'~' => SPECIAL,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

pub(super) fn skip_blanks(bytes: &[u8], at: usize) -> usize {
    let blanks = bytes[at..].iter().position(|&byte| !is_blank(byte));
    blanks.map_or(bytes.len(), |blanks| at + blanks)
}

/// What may be before the parts of a line, and separates no tags or fields.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0)
}
