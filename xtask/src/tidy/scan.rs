//! A rough reading of Rust text: blanks comments and literals, finds words and functions. It is no
//! parser and expands no macro; that is enough for rules about names, sizes and imports.

use std::ops::Range;

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Lines from `fn` to the closing brace, counted from 0.
    pub(crate) lines: Range<usize>,
}

/// Replaces comments, strings and character literals by spaces; line breaks and columns stay.
pub(crate) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'\'' => char_end(bytes, at),
            b'r' if at == 0 || !is_word(bytes[at - 1]) || is_byte_prefix(bytes, at) => {
                raw_string_end(bytes, at)
            }
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole literals and comments were replaced by ASCII")
}

/// Identifiers and keywords of blanked code, with their byte offsets.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = code.char_indices().scan(false, |inside, (at, character)| {
        let starts = is_word_char(character) && !*inside;
        *inside = is_word_char(character);
        Some(starts.then_some(at))
    });
    starts.flatten().map(move |start| {
        let rest = &code[start..];
        (start, &rest[..rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())])
    })
}

/// The line of a byte offset, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// Functions with a body, in the order of their `fn`.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let all: Vec<_> = words(code).collect();
    let mut functions = Vec::new();
    for pair in all.windows(2) {
        let ((keyword, word), (name_at, name)) = (pair[0], pair[1]);
        let adjacent = code[keyword + word.len()..name_at].trim().is_empty();
        if word != "fn" || !adjacent {
            continue;
        }
        if let Some(end) = body(code, name_at).map(|body| body.end) {
            let lines = line_of(code, keyword) - 1..line_of(code, end - 1);
            functions.push(Function { name: name.to_owned(), lines });
        }
    }
    functions
}

/// Byte range of the first braced block after `from`, unless a `;` comes first.
pub(crate) fn body(code: &str, from: usize) -> Option<Range<usize>> {
    let mut nesting = 0;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting -= 1,
            b';' if nesting == 0 => return None,
            b'{' if nesting == 0 => return Some(at..closing_brace(code, at)),
            _ => {}
        }
    }
    None
}

fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest in Rust.
fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `at` itself if this is no raw string but a word with r, or a raw identifier.
fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let quote = at + 1 + hashes;
    if bytes.get(quote) != Some(&b'"') {
        return at;
    }
    let closing = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let content = &bytes[quote + 1..];
    let length = content.windows(closing.len()).position(|window| window == closing);
    length.map_or(bytes.len(), |length| quote + 1 + length + closing.len())
}

/// The `r` of `br"..."` or `cr"..."`, where that prefix is a word of its own.
fn is_byte_prefix(bytes: &[u8], at: usize) -> bool {
    matches!(bytes[at - 1], b'b' | b'c') && (at == 1 || !is_word(bytes[at - 2]))
}

/// `at` itself if this is a lifetime: no quote follows one character later.
fn char_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let closing = bytes[at + 2..].iter().skip(1).position(|&byte| byte == b'\'');
        return closing.map_or(bytes.len(), |length| at + 2 + 1 + length + 1);
    }
    // One character has up to four bytes; continuation bytes are 0b10xx_xxxx.
    let width = bytes[at + 1..].iter().skip(1).take_while(|&&byte| byte & 0xc0 == 0x80).count() + 1;
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word_char(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}
