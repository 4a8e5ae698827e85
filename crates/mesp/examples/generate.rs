//! Answers a question, with an adapter if one is given.
//!
//!     cargo run --release -p mesp --example generate -- assets/demo/model "What do you know about the wolf?"

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::path::Path;

use mesp::generate::Sampling;
use mesp::{Generator, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(prompt)) = (args.next(), args.next()) else {
        return Err("give a model, a question, and an adapter if there is one".into());
    };
    let adapter = args.next();
    let model = Model::open(model)?;
    let mut generator = Generator::new(&model, adapter.as_deref().map(Path::new), 256, None)?;
    println!("{}", generator.answer(&prompt, 64, Sampling::GREEDY)?);
    Ok(())
}
