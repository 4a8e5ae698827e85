//! Which vector instructions this machine has, found once at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that a kernel body is compiled for, from the narrowest of an architecture to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// What the compiler makes of plain code for any machine of this architecture (SSE2 on x86-64, NEON on aarch64).
    Portable = 1,
    /// x86-64: AVX2 with fused multiply-add.
    Avx2 = 2,
    /// x86-64: AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
    /// x86-64: the same with products of bf16 pairs.
    Avx512Bf16 = 4,
    /// aarch64: NEON with fused multiply-add.
    Neon = 5,
    /// aarch64: the same with products of bf16 pairs (`FEAT_BF16`).
    NeonBf16 = 6,
}

/// The sets of this architecture, by the names that `MESP_ISA` knows, narrowest first.
const SETS: &[(&str, Isa)] = &[
    ("portable", Isa::Portable),
    #[cfg(target_arch = "x86_64")]
    ("avx2", Isa::Avx2),
    #[cfg(target_arch = "x86_64")]
    ("avx512", Isa::Avx512),
    #[cfg(target_arch = "x86_64")]
    ("avx512bf16", Isa::Avx512Bf16),
    #[cfg(target_arch = "aarch64")]
    ("neon", Isa::Neon),
    #[cfg(target_arch = "aarch64")]
    ("neonbf16", Isa::NeonBf16),
];

/// The widest instruction set of this machine, or a narrower one named by `MESP_ISA` (`portable`; on x86-64 `avx2`,
/// `avx512`, `avx512bf16`; on aarch64 `neon`, `neonbf16`). Asking for more than the machine has, or for a set of
/// another architecture, gives what it has.
pub fn isa() -> Isa {
    static FOUND: AtomicU8 = AtomicU8::new(0);
    let found = FOUND.load(Ordering::Relaxed);
    if let Some((_, isa)) = SETS.iter().find(|(_, isa)| *isa as u8 == found) {
        return *isa;
    }
    let wanted = std::env::var("MESP_ISA");
    let wanted = SETS.iter().find(|(name, _)| wanted.as_deref() == Ok(name));
    let found = wanted.map_or(detect(), |(_, wanted)| detect().min(*wanted));
    FOUND.store(found as u8, Ordering::Relaxed);
    found
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

#[cfg(target_arch = "aarch64")]
fn detect() -> Isa {
    match (std::arch::is_aarch64_feature_detected!("neon"), std::arch::is_aarch64_feature_detected!("bf16")) {
        (true, true) => Isa::NeonBf16,
        (true, false) => Isa::Neon,
        _ => Isa::Portable,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Isa {
    Isa::Portable
}

/// Whether f32 products are faster here than products of bf16 pairs: on Intel's processors without AMX, where `vdpbf16ps`
/// runs at half the rate of f32 multiply-adds a FLOP (measured on Sapphire Rapids with AMX hidden: 174 against
/// 301 GFLOP/s), and those without bf16 pairs convert first.
pub fn f32_is_faster() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};

        let vendor = __cpuid(0);
        let amx = vendor.eax >= 7 && __cpuid_count(7, 0).edx & AMX_BF16 != 0;
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        prefers_f32(name.as_flattened(), amx)
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Bit of EDX of CPUID leaf 7 that says AMX-BF16.
#[cfg(target_arch = "x86_64")]
const AMX_BF16: u32 = 1 << 22;

#[cfg(target_arch = "x86_64")]
fn prefers_f32(vendor: &[u8], amx: bool) -> bool {
    vendor == b"GenuineIntel" && !amx
}

/// Compiles one plain body once per instruction set and picks at run time.
///
/// The body is ordinary generic Rust with no intrinsics; the compiler vectorizes it anew for each set.
/// Rust never fuses a multiplication and an addition by itself, so the results are the same for all. On aarch64 the
/// one body is NEON already, which belongs to the architecture.
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
                    _ => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    /// The tests run once for each set: what they ask for is what they get, where the machine has it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn intel_without_amx_multiplies_f32_faster() {
        let cases =
            [(b"GenuineIntel", false, true), (b"GenuineIntel", true, false), (b"AuthenticAMD", false, false)];
        for (vendor, amx, faster) in cases {
            assert_eq!(super::prefers_f32(vendor, amx), faster);
        }
        let intel = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("GenuineIntel"));
        let amx = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("amx_bf16"));
        if cfg!(target_os = "linux") {
            assert_eq!(super::f32_is_faster(), intel && !amx, "as the system says");
        }
    }

    #[test]
    fn the_named_set_is_used() {
        let named = std::env::var("MESP_ISA").ok();
        let named = named.and_then(|n| super::SETS.iter().find(|(name, _)| *name == n));
        let expected = named.map_or(super::detect(), |(_, isa)| super::detect().min(*isa));
        assert_eq!(super::isa(), expected);
    }
}
