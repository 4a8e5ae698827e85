//! What reads input that nobody vouches for, for fuzz targets.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::{commands, config, failure};

/// Reads a command line, the program's name first, and gives what was understood as a text for people.
///
/// # Errors
/// With the message that is shown; of help that is asked for, the help.
pub fn command_line(typed: Vec<OsString>) -> Result<String, String> {
    config::parse_from(typed)
        .map_err(|e| failure::message(&e))?
        .map(|cli| format!("{:?}", cli.command))
        .map_err(|e| e.to_string())
}

/// Reads the text of a file of options for a command that takes one, and gives the options as they would be typed.
///
/// # Errors
/// With the message that is shown.
pub fn options(path: &Path, text: &str, command: &str) -> Result<Vec<OsString>, String> {
    let typed = ["mesp", command].map(OsString::from);
    config::options(path, text, &typed).map_err(|e| failure::message(&e))
}

/// Whether a command understands an option.
pub fn understood(command: &str, option: &OsStr) -> bool {
    let typed = [OsStr::new("mesp"), OsStr::new(command), option];
    config::parse_from(typed.map(OsStr::to_owned).into()).is_ok_and(|cli| cli.is_ok())
}

/// What the page of `mesp dash` gets of a run's folder, as JSON.
pub fn run_folder(path: &Path) -> Option<String> {
    commands::dash::news_of(path)
}
