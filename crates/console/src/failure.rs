//! Exit statuses: which error means what.

use std::fmt;
use std::process::ExitCode;

use crate::{flags, interrupt, ui};

/// The run cannot be done in the memory it may have.
#[derive(Debug)]
pub struct OverBudget(pub String);

/// The run was asked to stop, and did after writing a checkpoint.
#[derive(Debug)]
pub struct Interrupted(pub String);

/// Another process of the program failed for this one.
#[derive(Debug)]
pub struct Elsewhere {
    /// Its message.
    pub message: String,
    /// Its exit status.
    pub status: u8,
}

/// The program was called in a way that it cannot follow.
#[derive(Debug)]
struct Usage {
    problem: String,
    advice: String,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  {}", self.problem, self.advice)
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for Elsewhere {}
impl std::error::Error for OverBudget {}
impl std::error::Error for Interrupted {}

/// An error of usage of the program itself, in its own words, with advice.
pub fn usage(problem: impl Into<String>, advice: impl Into<String>) -> anyhow::Error {
    Usage { problem: problem.into(), advice: advice.into() }.into()
}

/// Says what went wrong, and gives the exit status.
pub fn report(error: &anyhow::Error) -> ExitCode {
    interrupt::wait_for_end();
    if error.is::<Interrupted>() {
        ui::note(error.to_string());
    } else {
        ui::note(format!("error: {}", message(error)));
    }
    ExitCode::from(status(error))
}

/// What went wrong, in words.
pub fn message(error: &anyhow::Error) -> String {
    if error.is::<Usage>() || error.is::<mesp::Error>() || error.is::<mesp_formats::Error>() {
        // These name their causes themselves.
        flags::spelled(&error.to_string()).into_owned()
    } else {
        format!("{error:#}")
    }
}

/// 1 the run failed, 2 wrong usage or unusable input, 3 over budget, 130 interrupted.
fn status(error: &anyhow::Error) -> u8 {
    if error.is::<OverBudget>() {
        return 3;
    }
    if error.is::<Usage>() {
        return 2;
    }
    if error.is::<Interrupted>() {
        return interrupt::STATUS;
    }
    if let Some(elsewhere) = error.downcast_ref::<Elsewhere>() {
        return elsewhere.status;
    }
    match error.downcast_ref::<mesp::Error>() {
        Some(mesp::Error::OverBudget(_)) => 3,
        Some(mesp::Error::Usage { .. } | mesp::Error::Data { .. }) => 2,
        Some(mesp::Error::File(e)) => file_status(e),
        // A run that was under way failed, whatever the reason.
        Some(_) => 1,
        None => error.downcast_ref::<mesp_formats::Error>().map_or(1, file_status),
    }
}

/// What cannot be read is unusable input; what cannot be written is a failed run.
fn file_status(error: &mesp_formats::Error) -> u8 {
    match error {
        mesp_formats::Error::Io { action, .. }
            if !matches!(*action, "open" | "read" | "map" | "list the folder") =>
        {
            1
        }
        _ => 2,
    }
}
