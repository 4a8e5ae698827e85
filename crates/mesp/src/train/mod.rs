//! The training loop and its state. It emits events and prints nothing.

pub mod budget;
pub mod checkpoint;
mod evaluate;
mod event;
mod run;
mod session;

pub use checkpoint::Progress;
pub use evaluate::{Score, Staging, evaluate, largest_batch};
pub use event::Event;
pub use run::{Length, RunConfig, Summary, run};
pub use session::{Options, Outcome, Session, Shapes, Update, plan};
