//! Files that are refused, each with the words that say why.

use super::*;

/// One key with a value of a kind, and what follows.
fn key(kind: u32) -> Build {
    Build::new(0, 1).str("k").u32(kind)
}

fn corpus() -> Vec<(&'static str, Build, &'static str)> {
    let one = |dims: &[u64], ty, offset, n| Build::new(1, 0).tensor("t", dims, ty, offset).data(n);
    let two = |a, b, n| Build::new(2, 0).tensor("a", &[32], 2, a).tensor("b", &[32], 2, b).data(n);
    let align = |n: u32| Build::new(0, 1).str(ALIGNMENT_KEY).u32(4).u32(n);
    vec![
        ("empty", Build::default(), "begins with \"GGUF\", found \"\""),
        ("three bytes", Build(b"GGU".to_vec()), "begins with \"GGUF\", found \"GGU\""),
        (
            "safetensors",
            Build::default().u64(70).raw(b"{\"a\":1}"),
            "found a safetensors file\n  Name the folder that holds it",
        ),
        ("an old format", Build(b"tjgg".to_vec()).u32(3), "a format from before GGUF"),
        ("a pointer", Build(b"version https://git-lfs.github.com".to_vec()), "Git LFS pointer"),
        ("no version", Build(b"GGUF".to_vec()), "the version: expected 4 bytes from offset 4, found 0"),
        ("version 1", Build(b"GGUF".to_vec()).u32(1), "expected GGUF version 2 or 3, found 1"),
        ("version 4", Build(b"GGUF".to_vec()).u32(4), "A later version of mesp"),
        ("version 0", Build(b"GGUF".to_vec()).u32(0), "found 0"),
        ("big-endian", Build(b"GGUF".to_vec()).u32(3 << 24), "found a big-endian one, version 3"),
        ("no counts", Build(b"GGUF".to_vec()).u32(3).u32(0), "the number of tensors: expected 8 bytes"),
        ("huge tensor count", Build::new(u64::MAX, 0), "the number of tensors: expected at most 0"),
        ("huge key count", Build::new(0, 1 << 60).data(100), "the number of metadata keys: expected at most"),
        ("key past the end", Build::new(0, 1).u64(1000).data(64), "metadata key 1 of 1: expected 1000 bytes"),
        ("huge key", Build::new(0, 1).u64(u64::MAX).data(64), "expected 18446744073709551615 bytes"),
        ("empty key", Build::new(0, 1).str("").u32(0).data(8), "expected 1 to 65535 bytes, found 0"),
        ("long key", Build::new(0, 1).str(&"k".repeat(65_536)).u32(0).data(8), "found 65536"),
        (
            "key not UTF-8",
            Build::new(0, 1).u64(2).raw(b"\xff\xff").data(64),
            "expected UTF-8, found another byte",
        ),
        ("key twice", Build::new(0, 2).str("k").u32(0).raw(b"a").str("k").u32(0).raw(b"a"), "found twice"),
        ("unknown kind", key(13).data(64), "key \"k\": expected a kind of value from 0 to 12, found 13"),
        ("value cut short", key(10).raw(b"1234"), "key \"k\": expected 8 bytes"),
        ("no truth", key(7).raw(b"\x02"), "expected 0 or 1 for a truth value, found 2"),
        ("text not UTF-8", key(8).u64(1).raw(b"\x80"), "key \"k\": expected UTF-8"),
        ("text past the end", key(8).u64(9).raw(b"a"), "key \"k\": expected 9 bytes"),
        ("array of arrays", key(9).u32(9).u64(1).data(64), "found one of arrays"),
        ("array of unknown kind", key(9).u32(99).u64(1).data(64), "found 99"),
        ("huge array", key(9).u32(4).u64(1 << 62).data(64), "the number of elements: expected at most"),
        (
            "huge array of texts",
            key(9).u32(8).u64(u64::MAX).data(64),
            "the number of elements: expected at most",
        ),
        ("text in an array past the end", key(9).u32(8).u64(1).u64(70).raw(&[0; 60]), "expected 70 bytes"),
        ("truth in an array", key(9).u32(7).u64(2).raw(&[0, 3]), "expected 0 or 1"),
        ("alignment 0", align(0), "expected a power of two up to 2^30, found 0"),
        ("alignment 24", align(24), "found 24"),
        ("huge alignment", align(1 << 31), "found 2147483648"),
        (
            "alignment as text",
            Build::new(0, 1).str(ALIGNMENT_KEY).u32(8).str("32"),
            "found the string \"32\"",
        ),
        (
            "tensor twice",
            Build::new(2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(64),
            "found twice",
        ),
        ("five dimensions", one(&[1, 1, 1, 1, 1], 0, 0, 64), "expected at most 4 dimensions, found 5"),
        ("huge dimensions", Build::new(1, 0).str("t").u32(u32::MAX).data(64), "found 4294967295"),
        ("size 0", one(&[0], 0, 0, 64), "expected sizes of 1 or more"),
        ("sizes that overflow", one(&[1 << 40, 1 << 40], 0, 0, 64), "a size that fits"),
        ("half a block", one(&[48, 2], 2, 0, 64), "rows of whole blocks of 32 numbers"),
        ("unknown type", one(&[32], 77, 0, 64), "tensor \"t\": expected type F32"),
        ("foreign type", one(&[256], 10, 0, 999), "found type 10 (Q2_K)"),
        ("unaligned", one(&[32], 2, 16, 64), "expected an offset that is a multiple of 32, found 16"),
        ("past the end", one(&[32], 2, 32, 49), "expected 18 bytes at offset 32"),
        ("offset that overflows", one(&[32], 2, u64::MAX - 31, 64), "it is cut short"),
        ("no data", Build::new(1, 0).tensor("t", &[32], 2, 0), "it is cut short"),
        ("the same bytes", two(0, 0, 64), "tensor \"b\": expected bytes of its own"),
        (
            "overlap",
            Build::new(2, 0).tensor("b", &[64], 2, 0).tensor("a", &[32], 2, 32).data(64),
            "tensor \"a\"",
        ),
    ]
}

#[test]
fn wrong_files_are_refused() {
    for (name, build, expected) in corpus() {
        let error = build.parse().expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.starts_with("model.gguf: "), "{name}: {error}");
        assert!(error.contains("\n  "), "{name} without advice: {error}");
    }
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let whole = Build::new(2, 1)
        .str("k")
        .u32(8)
        .str("value")
        .tensor("a", &[32], 2, 0)
        .tensor("b", &[32, 2], 8, 32)
        .data(32 + 68);
    let gguf = whole.parse().unwrap();
    assert_eq!(gguf.tensor("b").unwrap().shape, [2, 32]);
    for n in 0..whole.0.len() {
        assert!(Build(whole.0[..n].to_vec()).parse().is_err(), "{n}");
    }
}

#[test]
fn tensors_may_stand_in_any_order_and_with_gaps() {
    let gguf = Build::new(2, 0).tensor("a", &[32], 2, 64).tensor("b", &[32], 2, 0).data(90).parse().unwrap();
    let start = gguf.tensor("b").unwrap().range.start;
    assert_eq!(gguf.tensor("a").unwrap().range, start + 64..start + 82);
    assert_eq!(
        Build::new(1, 0).tensor("s", &[], 0, 0).data(4).parse().unwrap().tensors[0].shape,
        [0usize; 0]
    );
}
