//! Which vector instructions this machine has, found once at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that a kernel body is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// What every machine of this architecture has (SSE2 on x86-64, NEON on aarch64).
    Portable = 1,
    /// AVX2 with fused multiply-add.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
    /// The same with products of bf16 pairs.
    Avx512Bf16 = 4,
}

/// The widest instruction set of this machine, or a narrower one named by `MESP_ISA`
/// (`portable`, `avx2`, `avx512`, `avx512bf16`). Asking for more than the machine has gives what it has.
pub fn isa() -> Isa {
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        4 => Isa::Avx512Bf16,
        _ => {
            let wanted = match std::env::var("MESP_ISA").as_deref() {
                Ok("portable") => Isa::Portable,
                Ok("avx2") => Isa::Avx2,
                Ok("avx512") => Isa::Avx512,
                _ => Isa::Avx512Bf16,
            };
            let found = detect().min(wanted);
            FOUND.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) if is_x86_feature_detected!("avx512bf16") => Isa::Avx512Bf16,
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// Compiles one plain body once per instruction set and picks at run time.
///
/// The body is ordinary generic Rust with no intrinsics; the compiler vectorizes it anew for each set.
/// Rust never fuses a multiplication and an addition by itself, so the results are the same for all.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<R: Real>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<R: Real>($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::inline_always, reason = "the body must be compiled inside its callers below")]
            #[inline(always)]
            fn body<R: Real>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2<R: Real>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512<R: Real>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

                match $crate::isa::isa() {
                    // SAFETY: `isa` returns a set only when the processor reports all its features.
                    $crate::isa::Isa::Avx512 | $crate::isa::Isa::Avx512Bf16 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::isa::Isa::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorized;
