//! The tile of a microkernel in a machine's vectors, written once for all instruction sets.

/// Writes one `target_feature` tile function, generic in height and vectors, and the [`super::micro::Run`]
/// that picks the instance.
macro_rules! microkernel {
    ($run:ident, $tile:ident, $features:literal, $vec:ty, $lane:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $fma:ident, $factor:ident, [$($vectors:literal),*]) => {
        #[target_feature(enable = $features)]
        unsafe fn $tile<const HEIGHT: usize, const VECTORS: usize>(
            depth: usize,
            a: *const f32,
            a_rows: usize,
            a_cols: usize,
            packed: *const f32,
            b_rows: usize,
            c: *mut f32,
            c_rows: usize,
        ) {
            let mut acc: [[$vec; VECTORS]; HEIGHT] = [[$zero(); VECTORS]; HEIGHT];
            // SAFETY: the contract of `Run`; every offset below is inside the tile, the panel or `a`.
            unsafe {
                for i in 0..HEIGHT {
                    for j in 0..VECTORS {
                        acc[i][j] = $load(c.add(i * c_rows + j * $lane));
                    }
                }
                let (mut a, mut b) = (a, packed);
                for _ in 0..depth {
                    let mut row = [$factor(b); VECTORS];
                    for j in 1..VECTORS {
                        row[j] = $factor(b.add(j * $lane));
                    }
                    for i in 0..HEIGHT {
                        let x = $splat(*a.add(i * a_rows));
                        for j in 0..VECTORS {
                            acc[i][j] = $fma(x, row[j], acc[i][j]);
                        }
                    }
                    a = a.wrapping_add(a_cols);
                    b = b.wrapping_add(b_rows);
                }
                for i in 0..HEIGHT {
                    for j in 0..VECTORS {
                        $store(c.add(i * c_rows + j * $lane), acc[i][j]);
                    }
                }
            }
        }

        /// [`super::micro::Run`] for this instruction set.
        ///
        /// # Safety
        /// The contract of [`super::micro::Run`], on a machine that has the instructions.
        pub(super) unsafe fn $run(
            height: usize,
            vectors: usize,
            depth: usize,
            a: *const f32,
            a_rows: usize,
            a_cols: usize,
            packed: *const f32,
            b_rows: usize,
            c: *mut f32,
            c_rows: usize,
        ) {
            macro_rules! height_of {
                ($v:literal) => {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        match height {
                            1 => $tile::<1, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                            2 => $tile::<2, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                            3 => $tile::<3, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                            4 => $tile::<4, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                            5 => $tile::<5, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                            _ => $tile::<6, $v>(depth, a, a_rows, a_cols, packed, b_rows, c, c_rows),
                        }
                    }
                };
            }
            debug_assert!((1..=6).contains(&height), "a tile has 1 to 6 rows");
            match vectors {
                $($vectors => height_of!($vectors),)*
                _ => unreachable!("no tile of {vectors} vectors"),
            }
        }
    };
}
pub(super) use microkernel;
