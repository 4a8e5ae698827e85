//! Names in a run's folder that several commands know.

/// The document of a run.
pub(crate) const DOCUMENT: &str = "run.json";
/// The folder of checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Held while a run writes there.
pub(crate) const LOCK: &str = "run.lock";
