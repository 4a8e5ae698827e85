//! What a user types: command lines, and files of options.

use std::ffi::OsString;
use std::path::Path;

use mesp_cli::untrusted;

use crate::text;

/// Any words, a line each, are understood or refused with a message.
pub fn command_line(bytes: &[u8]) {
    let words = text(bytes);
    // Names of files would be followed.
    if words.contains("--config") {
        return;
    }
    let typed = std::iter::once("mesp").chain(words.split('\n')).map(OsString::from).collect();
    match untrusted::command_line(typed) {
        Ok(understood) => assert!(!understood.is_empty()),
        Err(message) => assert!(!message.trim().is_empty()),
    }
}

/// Any text of a file of options gives options that the command line understands, each by itself, or is refused with
/// the file's name. The first byte chooses the command.
pub fn config_toml(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let command = ["train", "plan", "grads"][usize::from(*choice) % 3];
    match untrusted::options(Path::new("o.toml"), text(rest), command) {
        Ok(options) => {
            assert!(options.iter().all(|option| option.as_encoded_bytes().starts_with(b"--")));
            // What a file may say is judged as options of `train`; a few, because it takes its time.
            for option in options.iter().take(2) {
                assert!(untrusted::understood("train", option), "{}", option.display());
            }
        }
        Err(message) => assert!(message.starts_with("o.toml"), "{message}"),
    }
}
