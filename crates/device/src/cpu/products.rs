//! Products with weights, a stretch of rows after the other where pages are minded.

use mesp_kernels::{self as kernels, Compute, Dtype, Init, Lhs, Out, Par, Real, Rhs, Term, WeightView};

use super::Cpu;
use crate::weight::Held;
use crate::{Elem, Motion, View, ViewMut, Weight};

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
        if let Some(Held { place, motion: Some(Motion { by, noise, from }) }) = w.as_held() {
            let (values, cols) = (self.values(place), w.cols());
            let tile = &mut tile[..w.rows() * cols];
            kernels::perturb_at(tile, values, [1.0, by], noise, place.first - from, Par::on(&self.pool));
            return Rhs::transposed(tile, cols);
        }
        match self.stored(w) {
            Some(view) => Rhs::WeightTransposed(view),
            None => Rhs::transposed_of(self.values_held(w), w.cols()),
        }
    }

    /// A weight as the right factor of `dy·W`, which never moves.
    pub(super) fn plain<'a>(&self, w: &'a Weight) -> Rhs<'a, R> {
        match self.stored(w) {
            Some(view) => Rhs::Weight(view),
            None => Rhs::rows_of(self.values_held(w), w.cols()),
        }
    }

    /// A weight as products take it, wherever it lies: one that is trained goes the way of a frozen one. `None` where
    /// the buffers of this processor hold numbers of a type that weights do not have.
    fn stored<'a>(&self, w: &'a Weight) -> Option<WeightView<'a>> {
        let Some(Held { place, .. }) = w.as_held() else { return Some(w.view()) };
        let dtype = match place.elem {
            Elem::Full if size_of::<R>() == size_of::<f32>() => Dtype::F32,
            Elem::Bf16 => Dtype::Bf16,
            _ => return None,
        };
        assert!(self.owner.owns(&place), "a buffer of this backend");
        // SAFETY: as in `values`; any bytes are bytes.
        let data = unsafe { self.arena.bytes(place, dtype.row_bytes(1)) };
        Some(WeightView { dtype, data, rows: w.rows(), cols: w.cols() })
    }

    #[track_caller]
    fn values_held<'a>(&self, w: &'a Weight) -> kernels::Values<'a, R> {
        let held = w.as_held().expect("a weight without a stored type lies in a buffer");
        assert!(
            held.motion.is_none(),
            "a weight that is moved is read by a layer's forward and by the embedding alone"
        );
        self.values(held.place)
    }

    /// `dw (+)= g[:, first..]ᵀ·x`, some rows of a weight's gradient. The factor with fewer columns is the left one, which is
    /// faster; it decides no bit.
    pub(super) fn weight_grad(
        &mut self,
        dw: ViewMut<'_>,
        [g, x]: [View<'_>; 2],
        first: usize,
        accumulate: bool,
    ) {
        let (rows, cols, depth) = (dw.rows, dw.cols, g.rows);
        assert!(first + rows <= g.cols && depth == x.rows && cols == x.cols, "weight_grad: shapes");
        let (left, right, scratch) = (self.values(g).skip(first), self.values(x), self.scratch());
        let (dw, par) = (self.write(dw), Par::on(&self.pool));
        let (size, out, left, right) = if cols < rows {
            let (left, right) = (Lhs::transposed_of(right, x.cols), Rhs::rows_of(left, g.cols));
            ([cols, rows, depth], Out::transposed(dw, cols), left, right)
        } else {
            let (left, right) = (Lhs::transposed_of(left, g.cols), Rhs::rows_of(right, x.cols));
            ([rows, cols, depth], Out::rows(dw, cols), left, right)
        };
        let init = if accumulate { Init::Accumulate } else { Init::Zero };
        kernels::matmul(out, size, R::ONE, left, right, init, Compute::Full, scratch, par);
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
                self.plain(&part.weight),
                init,
                self.compute,
                term,
                scratch,
                Par::on(&self.pool),
            );
        }
    }
}
