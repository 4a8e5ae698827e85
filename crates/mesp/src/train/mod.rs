//! The training loop and its state. It emits events and prints nothing.

mod session;

pub use session::{Options, Session, Shapes, Update, plan};
