//! Steps along the gradients with an optimizer of one's own: sign descent (Bernstein et al. 2018), on flat columns.
//!
//!     cargo run --release -p mesp --example gradients -- assets/demo/model assets/demo/train.jsonl

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use mesp::{Dataset, Model, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(rows)) = (args.next(), args.next()) else {
        return Err("give a model and its rows".into());
    };
    let model = Model::open(model)?;
    let data = Dataset::read(rows, &model)?;
    // The run's own optimizer does not move anything at this rate; it counts the steps.
    let mut trainer =
        Trainer::builder(&model, &data).steps(20).learning_rate(0.0).optimizer("sgd").build()?;
    for step in 1..=trainer.total_steps() {
        let loss = trainer.backward()?;
        let largest = trainer
            .gradients()
            .map(|(param, g)| (g.iter().map(|x| x * x).sum::<f32>().sqrt(), param.name()))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let gradients = trainer.flat_gradients().ok_or("no gradients are kept")?.to_vec();
        let parameters = trainer.flat_parameters_mut().ok_or("an adapter in single precision")?;
        for (p, g) in parameters.iter_mut().zip(&gradients) {
            *p -= 2e-3 * if *g == 0.0 { 0.0 } else { g.signum() };
        }
        trainer.apply()?;
        if let Some((norm, name)) = largest {
            println!("{step:3}  loss {loss:.3}  largest gradient {norm:.3} of {name}");
        }
    }
    Ok(())
}
