//! How a product is cut into tasks, and the depth into what a thread's scratch holds.

use std::ops::Range;

use super::{BLOCK, DEPTH, GROUP, LINE, OWN, PACKED, PANEL, ROWS};
use crate::par::share;

/// How the product is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Tiles of all rows, and the blocks that they are dealt out to.
    pub(super) tiles: usize,
    pub(super) blocks: usize,
    /// Panels of all columns, and the groups that they are dealt out to.
    panels: usize,
    pub(super) groups: usize,
    /// Depth that is laid out at a time.
    pub(super) depth: usize,
}

impl Plan {
    /// `rank` is the depth of a term; `converts` tells of a weight that is not bf16.
    pub(super) fn new([m, n, k]: [usize; 3], threads: usize, rank: usize, converts: bool) -> Self {
        let (tiles, panels) = (m.div_ceil(ROWS), n / PANEL);
        let [block, own] = [BLOCK, OWN].map(|tiles| tiles[usize::from(converts)]);
        let own = if n <= GROUP { own / 2 } else { own };
        let least = tiles.div_ceil(block);
        let blocks = if tiles >= own * threads { least.next_multiple_of(threads) } else { least };
        let most = tiles.div_ceil(blocks);
        let room = PACKED - 2 * LINE - (most + 1) * LINE * rank;
        let fits = room / (most * ROWS / 2 + PANEL) / DEPTH * DEPTH;
        let cuts = k.div_ceil(fits);
        // As many tasks for each thread, and where nothing is laid out twice for it, more of them.
        let even = threads / gcd(threads, blocks);
        let more = if cuts == 1 { (n / (GROUP * even)).max(1) } else { 1 };
        let depth = k.div_ceil(cuts).next_multiple_of(DEPTH);
        Self { tiles, blocks, panels, groups: (even * more).min(panels), depth }
    }

    /// Whether the panels of a term of this depth leave the larger part of the scratch.
    pub(super) fn takes_term(rank: usize) -> bool {
        (BLOCK[1] + 1) * LINE * rank <= PACKED / 2
    }

    pub(super) fn rows(&self, block: usize, m: usize) -> Range<usize> {
        let tiles = share(self.tiles, self.blocks, block);
        tiles.start * ROWS..(tiles.end * ROWS).min(m)
    }

    pub(super) fn columns(&self, group: usize) -> Range<usize> {
        let panels = share(self.panels, self.groups, group);
        panels.start * PANEL..panels.end * PANEL
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
