//! DoRA (Liu et al. 2024, arXiv 2402.09353): the row norms of adapted weights.
//!
//! ```text
//! measure    ‖W_j‖² of every row, once
//! refresh    P = A·Wᵀ   G = A·Aᵀ   n_j² = ‖W_j‖² + 2s·B_j·P_j + s²·B_j·G·B_jᵀ   gain = m/n   inverse = 1/n
//! ```
//! derivation: `docs/math/dora.md`. The norms are taken at the head of a block's forward and stay until its adapter
//! is stepped, so that its backward, and a replay, see the same.

use mesp_device::{Act, Backend, Class, Form, Label};

use super::BlockPairs;
use crate::arch::{Config, Linear, Module};

const NORMS: Label = Label::new(Class::Adapter, "dora_norms");
const FACTORS: Label = Label::new(Class::WithinBlock, "dora_factors");

/// The row norms of an adapted weight, each buffer `[out, 1]`.
#[derive(Debug)]
pub struct Norms {
    /// `‖W_j‖²`.
    pub squares: Act,
    /// `m_j/n_j`.
    pub gain: Act,
    /// `1/n_j`.
    pub inverse: Act,
}

/// The layers in a matrix of the checkpoint.
fn parts(module: Module, c: &Config) -> impl Iterator<Item = Module> {
    let fused = c.family.fused;
    Module::ALL.into_iter().filter(move |p| p.stored_in(fused) == module)
}

/// Computes `‖W_j‖²` of all weights with magnitudes, block by block.
pub fn measure<'a, B: Backend>(
    be: &mut B,
    c: &Config,
    blocks: impl Iterator<Item = &'a [Linear; 7]>,
    pairs: &mut [BlockPairs],
) {
    for (linears, pairs) in blocks.zip(pairs) {
        for (module, pair) in Module::MODULES.into_iter().zip(pairs) {
            let Some(pair) = pair.as_mut().filter(|pair| pair.m.is_some()) else { continue };
            let out = pair.b.rows();
            let [mut squares, gain, inverse] = std::array::from_fn(|_| be.persist(out, 1, NORMS));
            for p in parts(module, c) {
                be.row_squares(squares.rows_mut(p.rows(c)), &linears[p as usize].weight);
            }
            pair.norms = Some(Norms { squares, gain, inverse });
        }
    }
}

/// Computes the norms of a block's adapted weights from the current A, B and m.
pub fn refresh<B: Backend>(be: &mut B, c: &Config, linears: &[Linear; 7], pairs: &mut BlockPairs) {
    for (module, pair) in Module::MODULES.into_iter().zip(pairs) {
        let Some(pair) = pair else { continue };
        let (Some(m), Some(norms)) = (&pair.m, &mut pair.norms) else { continue };
        let (a, r) = (&pair.a, pair.a.rows());
        let mut g = be.alloc(r, r, FACTORS);
        be.product(g.view_mut(), Form::RightTransposed, a.view(), a.view(), 1.0, false);
        for part in parts(module, c) {
            let rows = part.rows(c);
            let mut p = be.alloc(r, rows.len(), FACTORS);
            be.linear(p.view_mut(), a.view(), &linears[part as usize].weight, None, false);
            let to = (norms.gain.rows_mut(rows.clone()), norms.inverse.rows_mut(rows.clone()));
            let factors = (m.rows_view(rows.clone()), norms.squares.rows_view(rows.clone()));
            be.dora_gains(to, factors, pair.b.rows_view(rows), (p.view(), g.view()), pair.scale);
            be.free(p);
        }
        be.free(g);
    }
}
