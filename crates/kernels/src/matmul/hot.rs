//! The microkernel on operands that stay in the first-level cache: nothing is packed, converted or read from memory, so
//! what it reaches is what the machine's multipliers give, and with several threads what they give side by side.

use super::{Compute, Micro, PACKED, matmul_scratch};
use crate::Real;
use crate::par::{Par, Pieces};

/// Values of the left factor's tile, of the panel and of the result: 16 KB in all.
const LEFT: usize = super::MR * STEPS;
const PANEL: usize = STEPS * super::NR;
const STEPS: usize = 48;
/// Tiles of a task: some 0.1 ms, little beside what handing it out takes.
const TILES: usize = 1000;

/// Runs the microkernel some thousand times in each of `tasks`. Returns the multiplications and additions of all.
///
/// # Panics
/// When `scratch` is shorter than [`matmul_scratch`]`(par.threads())`.
#[track_caller]
pub fn hot_tiles<R: Real>(tasks: usize, compute: Compute, scratch: &mut [R], par: Par<'_>) -> u64 {
    let micro = Micro::of(compute);
    assert!(scratch.len() >= matmul_scratch(par.threads()), "matmul scratch: {} values", scratch.len());
    let scratch = Pieces::new(&mut scratch[..matmul_scratch(par.threads())]);
    par.tasks(tasks, |_, worker| {
        // SAFETY: each worker runs one task at a time and owns its piece of the scratch.
        let (left, rest) = unsafe { scratch.piece(worker, PACKED) }.split_at_mut(LEFT);
        let (panel, tile) = rest.split_at_mut(PANEL);
        let tile = &mut tile[..micro.mr * micro.nr];
        left.fill(R::from_f32(1e-3));
        panel.fill(R::from_f32(1e-3));
        tile.fill(R::ZERO);
        for _ in 0..TILES {
            // SAFETY: `mr` rows of `STEPS`, as many rows of a panel and a tile of `mr × nr`, all of this worker's.
            unsafe {
                (micro.run)(
                    micro.mr,
                    micro.nr / micro.lane,
                    STEPS,
                    left.as_ptr(),
                    STEPS,
                    1,
                    panel.as_ptr(),
                    micro.nr,
                    tile.as_mut_ptr(),
                    micro.nr,
                );
            }
        }
        std::hint::black_box(tile);
    });
    2 * (tasks * TILES * STEPS * micro.per_step * micro.mr * micro.nr) as u64
}
