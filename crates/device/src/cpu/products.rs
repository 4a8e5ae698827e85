//! Products with weights, a stretch of rows after the other where pages are minded.

use mesp_kernels::{self as kernels, Init, Lhs, Out, Par, Real, Rhs, Term};

use super::Cpu;
use crate::weight::Held;
use crate::{Motion, View, ViewMut, Weight};

impl<R: Real> Cpu<R> {
    /// `y = init + x·Wᵀ`, and the adapter's `alpha·h·Bᵀ`.
    pub(super) fn forward_product(
        &mut self,
        y: ViewMut<'_>,
        x: View<'_>,
        w: &Weight,
        bias: Option<&[f32]>,
        accumulate: bool,
        adapter: Option<(View<'_>, View<'_>, f64)>,
    ) {
        let (m, n, k) = (y.rows, y.cols, x.cols);
        let own = w.as_held().is_some_and(|held| held.place.entry == y.entry);
        assert!(!own, "a weight's own buffer is written beside reading it");
        let (y, x) = (self.write(y), self.values(x));
        let (tile, scratch) = self.scratch().split_at_mut(w.tile());
        for part in w.stretches(self.resident.is_some()) {
            self.using(&part.weight);
            let init = match (accumulate, bias) {
                (true, _) => Init::Accumulate,
                (false, Some(bias)) => Init::Bias(&bias[part.rows.clone()]),
                (false, None) => Init::Zero,
            };
            let term = adapter.map(|(h, b, alpha)| Term {
                depth: h.cols,
                alpha: R::from_f64(alpha),
                a: Lhs::rows_of(self.values(h), h.cols),
                b: Rhs::transposed_of(self.values(b.part(part.rows.clone())), b.cols),
            });
            kernels::matmul_plus(
                Out { data: &mut y[part.rows.start..], row_stride: n, col_stride: 1 },
                [m, part.rows.len(), k],
                R::ONE,
                Lhs::rows_of(x, k),
                self.transposed(&part.weight, tile),
                init,
                self.compute,
                term,
                scratch,
                Par::on(&self.pool),
            );
        }
    }

    /// A weight as the right factor of a layer's forward. One that moves is first put, moved, into the tile.
    fn transposed<'a>(&self, w: &'a Weight, tile: &'a mut [R]) -> Rhs<'a, R> {
        let Some(Held { place, motion }) = w.as_held() else { return Rhs::WeightTransposed(w.view()) };
        let (values, cols) = (self.values(place), w.cols());
        let Some(Motion { by, noise }) = motion else { return Rhs::transposed_of(values, cols) };
        let tile = &mut tile[..w.rows() * cols];
        kernels::perturb_at(tile, values, [1.0, by], noise, place.first, Par::on(&self.pool));
        Rhs::transposed(tile, cols)
    }

    /// `dx (+)= dy·W`, and the adapter's `dh·A`.
    pub(super) fn backward_product(
        &mut self,
        dx: ViewMut<'_>,
        dy: View<'_>,
        w: &Weight,
        accumulate: bool,
        adapter: Option<(View<'_>, View<'_>)>,
    ) {
        let (m, n, k) = (dx.rows, dx.cols, dy.cols);
        let (dx, dy, scratch) = (self.write(dx), self.values(dy), self.scratch());
        for part in w.stretches(self.resident.is_some()) {
            self.using(&part.weight);
            let init = if accumulate || part.rows.start > 0 { Init::Accumulate } else { Init::Zero };
            // After the last of the layer's own terms.
            let term = adapter.filter(|_| part.rows.end == k).map(|(dh, a)| Term {
                depth: dh.cols,
                alpha: R::ONE,
                a: Lhs::rows_of(self.values(dh), dh.cols),
                b: Rhs::rows_of(self.values(a), a.cols),
            });
            kernels::matmul_plus(
                Out::rows(dx, n),
                [m, n, part.rows.len()],
                R::ONE,
                Lhs::rows_of(dy.skip(part.rows.start), k),
                Rhs::Weight(part.weight.view()),
                init,
                self.compute,
                term,
                scratch,
                Par::on(&self.pool),
            );
        }
    }
}
