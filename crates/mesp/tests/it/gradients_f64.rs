//! The whole model in double precision against central differences of its loss.

use mesp::rng;
use mesp::train::Session;
use mesp_device::Cpu;

use crate::support::{
    ARCHS, Case, derivative_of_matrix, gradients, mean_loss, mesp_policy, parameters, relative,
};

/// Distance between the points of the stencil.
const STEP: f64 = 1e-3;

/// A direction in a matrix's space: single elements first, then all elements with random signs.
fn direction(len: usize, matrix: usize, probe: usize) -> Vec<f64> {
    let mut d = vec![0.0; len];
    if probe < 4 {
        d[(rng::bits(5, matrix as u64, probe as u64) % len as u64) as usize] = 1.0;
    } else {
        let stream = (1 + probe) as u64 * 1000 + matrix as u64;
        let sign = |i| if rng::bits(5, stream, i as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
        d.iter_mut().enumerate().for_each(|(i, x)| *x = sign(i) / (len as f64).sqrt());
    }
    d
}

#[test]
fn gradients_equal_differences() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut session = case.session::<f64>(case.options(mesp_policy()), 1);
        session.accumulate(&case.batch, case.batch.targets());
        let (exact, start) = (gradients(&session), parameters(&session));
        assert!(start.iter().all(|m| m.iter().any(|x| *x != 0.0)), "{arch}: A and B are not zero");
        for (m, gradient) in exact.iter().enumerate() {
            let probes = (0..6).map(|probe| {
                let d = direction(gradient.len(), m, probe);
                let loss = |session: &mut Session<Cpu<f64>>| mean_loss(session, &case.batch);
                let numeric = derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss);
                (gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>(), numeric)
            });
            let (ours, numeric): (Vec<f64>, Vec<f64>) = probes.unzip();
            let error = relative(&ours, &numeric);
            // The stencil's error is about 1e-12 times the fifth derivative, and the loss is rounded at 1e-15,
            // 1e-12 of a derivative: both against gradients of 1e-3 to 1.
            assert!(error <= 1e-7, "{arch} matrix {m}: {error:e}, {ours:?} against {numeric:?}");
        }
    }
}
