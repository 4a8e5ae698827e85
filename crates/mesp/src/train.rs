//! The training loop and its state: [`Session`] holds parameters, gradients and optimizer state on a backend, [`Run`]
//! makes the steps. It reports by [`Event`]s and prints nothing.

pub mod budget;
pub mod checkpoint;
mod config;
mod consumers;
mod descent;
mod divergence;
mod estimate;
mod evaluate;
mod event;
pub mod full;
mod made_with;
mod notice;
mod objective;
mod options;
mod preference;
mod progress;
pub mod replay;
mod run;
mod session;
mod staging;
mod step;

pub use config::{Action, Length, MOST_BATCHES, MOST_PACKED, RunConfig};
pub use descent::Descent;
pub use estimate::{MicroBatches, Probed};
pub use evaluate::{Largest, Score, evaluate, fingerprint, largest_batch};
pub use event::Event;
pub use made_with::{MadeWith, Mark};
pub use notice::Notice;
pub use objective::{ObjectiveKind, Outcome, Total};
pub use options::{Options, Update};
pub use preference::log_probabilities;
pub use progress::{Evaluated, Norms, Patience, Progress};
pub use run::{Cancel, Run, Step, Summary};
pub use session::{Session, Shapes, plan};
pub use staging::Staging;
