//! Says what a run will need, and what it would need at least: nothing is allocated for it.
//!
//!     cargo run --release -p mesp --example plan_a_budget -- assets/demo/model assets/demo/train.jsonl 8MB

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use mesp::{ByteSize, Dataset, Error, Model, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(rows), Some(budget)) = (args.next(), args.next(), args.next()) else {
        return Err("give a model, its rows, and a budget".into());
    };
    let model = Model::open(model)?;
    let data = Dataset::read(rows, &model)?;
    let builder = Trainer::builder(&model, &data);
    println!("without a budget: {}", builder.plan()?);
    let budget: ByteSize = budget.parse()?;
    match builder.memory_budget(budget).build() {
        Ok(trainer) => println!("within {budget}: {}", trainer.plan()),
        Err(Error::OverBudget(over)) => {
            println!("{budget} is too little: {} are needed", ByteSize(over.needs));
            if let Some(least) = over.least {
                println!("the smallest budget that would do is {}", ByteSize(least));
            }
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}
