//! Fine-tunes a model on rows, and saves the adapter.
//!
//!     cargo run --release -p mesp --example fine_tune -- assets/demo/model assets/demo/train.jsonl my-adapter

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use mesp::{Dataset, Model, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(rows), Some(output)) = (args.next(), args.next(), args.next()) else {
        return Err("give a model, its rows, and a folder for the adapter".into());
    };
    let model = Model::open(model)?;
    let data = Dataset::read(rows, &model)?;
    let mut trainer = Trainer::builder(&model, &data).steps(20).learning_rate(1e-3).build()?;
    eprintln!("{}", trainer.plan());
    while let Some(step) = trainer.step()? {
        eprintln!("{:3}  loss {:.3}", step.number, step.loss);
    }
    trainer.save(output)?;
    Ok(())
}
