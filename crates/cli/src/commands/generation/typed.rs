//! Lines of a conversation as they are typed: what is a command, what is said, what cannot be read.

use std::io::{self, BufRead};

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed<'a> {
    Nothing,
    Exit,
    Reset,
    System(&'a str),
    /// To be shown in place of an answer.
    Note(String),
    /// To the model.
    Text(&'a str),
}

/// What can be typed beside text.
pub(crate) const HELP: &str =
    "/reset begins anew, /system TEXT begins anew with another system prompt, /exit ends";

const COMMANDS: [&str; 5] = ["/exit", "/quit", "/reset", "/system", "/help"];

/// Understands a line. A path may begin a question, so a word with a / is a command where it is one or nearly one, or
/// stands alone; a space before it makes it text in any case.
pub(crate) fn understood(line: &str) -> Typed<'_> {
    let line = line.trim_start_matches('\u{feff}');
    let text = line.trim();
    if text.is_empty() {
        return Typed::Nothing;
    }
    if !line.starts_with('/') {
        return Typed::Text(text);
    }
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match (word, rest.is_empty()) {
        ("/exit" | "/quit", true) => Typed::Exit,
        ("/reset", true) => Typed::Reset,
        ("/system", _) => Typed::System(rest),
        ("/help", true) => Typed::Note(HELP.to_owned()),
        ("/exit" | "/quit" | "/reset" | "/help", false) => {
            Typed::Note(format!("{word} stands alone, found {rest:?} after it; {HELP}"))
        }
        _ => {
            let distance = |command: &&str| strsim::damerau_levenshtein(command, word);
            let nearest = COMMANDS.into_iter().min_by_key(distance).filter(|command| distance(command) <= 2);
            let plain = !word[1..].contains('/');
            match nearest.filter(|_| plain) {
                Some(command) => {
                    Typed::Note(format!("{word} is no command, the nearest is {command}; {HELP}"))
                }
                None if rest.is_empty() => {
                    Typed::Note(format!("{word} is no command (a space before it makes it text); {HELP}"))
                }
                None => Typed::Text(text),
            }
        }
    }
}

/// Reads a line of at most so many bytes, with what ends it; of a longer one so many, and the rest is skipped. Gives
/// how long it was, 0 at the input's end.
pub(crate) fn read(input: &mut impl BufRead, most: usize, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let some = match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            some => some?,
        };
        let end = some.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let n = end.unwrap_or(some.len());
        line.extend_from_slice(&some[..n.min(most - line.len())]);
        length += n;
        input.consume(n);
        if end.is_some() || n == 0 {
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_text() {
        assert_eq!(understood(" \r\n"), Typed::Nothing);
        assert_eq!(understood("/exit\r\n"), Typed::Exit);
        assert_eq!(understood("\u{feff}/quit \n"), Typed::Exit);
        assert_eq!(understood("/reset\n"), Typed::Reset);
        assert_eq!(understood("/system\n"), Typed::System(""));
        assert_eq!(understood("/system  be brief \n"), Typed::System("be brief"));
        for text in ["hi", "/usr/bin/env is what?", "/etc is which folder?", "1/2", "//", "/tmp/a b"] {
            let expected = if text == "//" { None } else { Some(Typed::Text(text)) };
            assert!(expected.is_none_or(|expected| understood(text) == expected), "{text}");
        }
        assert_eq!(understood(" /reset\n"), Typed::Text("/reset"));
        for (line, part) in [
            ("/sytem be brief", "the nearest is /system"),
            ("/resett", "the nearest is /reset"),
            ("/what", "/what is no command"),
            ("/", "/ is no command"),
            ("/help", "/exit ends"),
            ("/reset now", "/reset stands alone"),
        ] {
            match understood(line) {
                Typed::Note(said) => assert!(said.contains(part) && said.ends_with(HELP), "{said}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn long_lines_are_skipped_to_their_end() {
        let mut input = io::BufReader::with_capacity(4, &b"abcdefgh\nxy\n\nlast"[..]);
        let mut line = Vec::new();
        let mut next = || (read(&mut input, 5, &mut line).expect("read"), line.clone());
        assert_eq!(next(), (9, b"abcde".to_vec()));
        assert_eq!(next(), (3, b"xy\n".to_vec()));
        assert_eq!(next(), (1, b"\n".to_vec()));
        assert_eq!(next(), (4, b"last".to_vec()));
        assert_eq!(next(), (0, Vec::new()));
    }
}
