//! What this machine reaches: with a product of a layer's size, the peak that a step is held against, and with its
//! multipliers alone.

use std::sync::Arc;
use std::time::Instant;

use mesp::rng;
use mesp::settings::Numbers;
use mesp::source::encode;
use mesp_device::{
    Act, Backend, Class, Cpu, Dry, Dtype, Label, Par, Program, Threads, Weight, hot_tiles, matmul_scratch,
    process_cpu_time,
};

/// Rows, outputs and inputs: the gate of Qwen2.5-0.5B at 256 tokens.
pub(super) const SIZE: [usize; 3] = [256, 4864, 896];

/// The best of several turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    /// Multiplications and additions a second, on the clock.
    pub(super) wall: f64,
    /// The same a second of processor time; of several threads, as of the operations, a second of each.
    pub(super) cpu: f64,
}

impl Peak {
    pub(super) fn measure(numbers: Numbers, pool: &Arc<Threads>) -> Self {
        const TURNS: usize = 6;
        const PRODUCTS: usize = 4;
        let [m, n, k] = SIZE;
        let dtype = if numbers == Numbers::F32 { Dtype::F32 } else { Dtype::Bf16 };
        let value = |stream: u64, i: usize| (rng::bits(2, stream, i as u64) % 1024) as f32 / 512.0 - 1.0;
        let values: Vec<f32> = (0..n * k).map(|i| value(0, i)).collect();
        let weight = Weight::owned(dtype, n, k, encode(dtype, &values));
        drop(values);

        let mut dry = Dry::new(size_of::<f32>(), pool.count());
        let (x, mut y) = buffers(&mut dry);
        dry.linear(y.view_mut(), x.view(), &weight, None, false);
        let mut be = Cpu::<f32>::new(dry.finish(), Arc::clone(pool)).with_compute(numbers.compute());
        let (mut x, mut y) = buffers(&mut be);
        be.load(x.view_mut(), &mut |i| f64::from(value(1, i)));
        let mut best = Self { wall: 0.0, cpu: 0.0 };
        // One turn more than counts: the first meets cold caches.
        for turn in 0..=TURNS {
            let (wall, cpu) = (Instant::now(), process_cpu_time());
            for _ in 0..PRODUCTS {
                be.linear(y.view_mut(), x.view(), &weight, None, false);
            }
            let flop = (2 * PRODUCTS * m * n * k) as f64;
            let wall = flop / wall.elapsed().as_secs_f64();
            let spent =
                process_cpu_time().zip(cpu).map(|(end, begin)| end.saturating_sub(begin).as_secs_f64());
            let cpu = match pool.count() {
                1 => spent.map_or(0.0, |s| flop / s),
                threads => wall / threads as f64,
            };
            if turn > 0 {
                best = best.best(Self { wall, cpu });
            }
        }
        be.free(x);
        be.free(y);
        best
    }

    /// The higher of each.
    pub(super) fn best(self, other: Self) -> Self {
        Self { wall: self.wall.max(other.wall), cpu: self.cpu.max(other.cpu) }
    }
}

/// Multiplications and additions a second, on the clock, of the innermost loop on operands in the first-level cache: the
/// best of several turns with one thread, and with all at once. No product's second thread can do better than theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multipliers {
    pub(super) one: f64,
    pub(super) all: f64,
}

impl Multipliers {
    pub(super) fn measure(numbers: Numbers, pool: &Threads) -> Self {
        const TURNS: usize = 24;
        const TASKS: usize = 48;
        let mut scratch = vec![0.0f32; matmul_scratch(pool.count())];
        let mut best = Self { one: 0.0, all: 0.0 };
        // One turn more than counts: the first meets threads that sleep.
        for turn in 0..=TURNS {
            for (par, best) in [(Par::serial(), &mut best.one), (Par::on(pool), &mut best.all)] {
                let begin = Instant::now();
                let flop = hot_tiles(TASKS * par.threads(), numbers.compute(), &mut scratch, par);
                let rate = flop as f64 / begin.elapsed().as_secs_f64();
                if turn > 0 && rate > *best {
                    *best = rate;
                }
            }
        }
        best
    }
}

fn buffers<B: Backend>(be: &mut B) -> (Act, Act) {
    let ([m, n, k], label) = (SIZE, Label::new(Class::Other, "product"));
    be.begin(Program(0));
    (be.alloc(m, k, label), be.alloc(m, n, label))
}
