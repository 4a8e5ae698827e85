//! Follows a run by its events, and ends it early from another thread.
//!
//!     cargo run --release -p mesp --example events -- assets/demo/model assets/demo/train.jsonl

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::time::Duration;

use mesp::train::{Event, Notice};
use mesp::{Dataset, Model, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(rows)) = (args.next(), args.next()) else {
        return Err("give a model and its rows".into());
    };
    let model = Model::open(model)?;
    let data = Dataset::read(rows, &model)?.hold_out(0.2, 0)?;
    let mut trainer = Trainer::builder(&model, &data).steps(100_000).build()?;
    let cancel = trainer.cancel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        cancel.cancel();
    });
    let summary = trainer.run(&mut |event| match event {
        Event::Train { step, loss, tokens_per_second, .. } if step % 10 == 1 => {
            println!("step {step}: loss {loss:.3}, {tokens_per_second:.0} tokens/s");
        }
        Event::Eval { eval_loss, .. } => println!("held-out loss {eval_loss:.3}"),
        Event::Notice { what: Notice::Checkpoint { path, .. }, .. } => println!("checkpoint {path}"),
        _ => {}
    })?;
    println!("{} steps; stopped from outside: {}", summary.steps, summary.interrupted);
    Ok(())
}
