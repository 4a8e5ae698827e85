//! Initialization of adapters.

use mesp_device::Backend;

use super::BlockPairs;
use crate::arch::Module;
use crate::rng;

/// Initializes adapters as PEFT does: A uniform in ±1/√in (Kaiming uniform with a = √5), for embeddings normal with
/// deviation 1; B zero; DoRA's magnitudes the row norms. So the adapted model equals the base at first. Each matrix has
/// its own random stream, so adding a target does not change the others.
pub fn init<B: Backend>(be: &mut B, blocks: &mut [BlockPairs], seed: u64) {
    for (l, block) in blocks.iter_mut().enumerate() {
        for (p, pair) in block.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            let bound = 1.0 / (pair.a.cols() as f64).sqrt();
            // Those of the fused matrices lie beyond those of any layer.
            let (layers, inside) = (Module::ALL.len(), Module::INSIDE.len());
            let stream = match p {
                _ if p < layers => l * layers + p,
                _ if p < inside => (1 << 31) + 2 * l + p - layers,
                _ => (1 << 32) + p,
            } as u64;
            if p == Module::Embed as usize {
                be.load(pair.a.view_mut(), &mut |i| rng::normal(seed, stream, i as u64));
            } else {
                be.load(pair.a.view_mut(), &mut |i| {
                    bound * (2.0 * rng::uniform(seed, stream, i as u64) - 1.0)
                });
            }
            be.zero(pair.b.view_mut());
            if let (Some(m), Some(norms)) = (&mut pair.m, &pair.norms) {
                let mut squares = vec![0.0; m.rows()];
                be.store(norms.squares.view(), &mut |i, x| squares[i] = x);
                be.load(m.view_mut(), &mut |i| squares[i].sqrt());
            }
        }
    }
}
