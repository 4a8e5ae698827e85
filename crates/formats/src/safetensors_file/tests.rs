use std::io::Write;

use proptest::prelude::*;

use super::*;

fn parse_bytes(bytes: &[u8]) -> Result<Header> {
    parse(Path::new("model.safetensors"), bytes)
}

/// A file with this header and this many zero bytes of data.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let (b, a) = (entry("b", "BF16", "[3]", 0, 6), entry("a", "F32", "[]", 14, 18));
    let ids = entry("ids", "I64", "[1]", 6, 14);
    let bytes = file(format!(r#"{{"__metadata__":{{"format":"pt"}},{a},{ids},{b}}}  "#), 18);
    let start = bytes.len() - 18;
    let header = parse_bytes(&bytes).unwrap();
    let info = |name: &str, dtype, shape, from, to| TensorInfo {
        name: name.to_string(),
        dtype,
        shape,
        range: start + from..start + to,
    };
    assert_eq!(
        header.tensors,
        [
            info("b", Dtype::BF16, vec![3], 0, 6),
            info("ids", Dtype::I64, vec![1], 6, 14),
            info("a", Dtype::F32, vec![], 14, 18)
        ]
    );
    let text = read_f32(Path::new("f"), &bytes, &header.tensors[1]).unwrap_err().to_string();
    assert!(text.contains("tensor \"ids\" is stored as I64, expected F32, F16, BF16"), "{text}");
    assert_eq!(header.metadata["format"], "pt");
}

#[test]
fn damaged_files_are_refused() {
    let good = file(format!("{{{}}}", entry("a", "F32", "[2]", 0, 8)), 8);
    parse_bytes(&good).unwrap();
    let huge = "[9223372036854775808,9223372036854775808]";
    let quarter = 1u64 << 61;
    let eighths: Vec<_> = (0..8u64)
        .map(|i| {
            entry(&i.to_string(), "U8", "[2305843009213693951]", i * (quarter - 1), (i + 1) * (quarter - 1))
        })
        .collect();
    let lengthened = |length: u64| [&length.to_le_bytes(), &good[8..]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "expected at least 8 bytes, found 0"),
        ("no header", good[..8].to_vec(), "found 0 bytes: the file is cut short"),
        ("half a header", good[..20].to_vec(), "found 12 bytes: the file is cut short"),
        ("half the data", good[..good.len() - 4].to_vec(), "found 8: the file is cut short"),
        ("more than the data", [&good[..], &[0]].concat(), "expected 8 bytes after the header"),
        ("length 2^64-1", lengthened(u64::MAX), "found a length of 18446744073709551615"),
        ("length 10^8+1", lengthened(100_000_001), "found a length of 100000001"),
        ("length beyond the end", lengthened(1 << 20), "expected a header of 1048576 bytes"),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS pointer"),
        ("no UTF-8", file(b"{\"\xff\":1}", 0), "expected a header in UTF-8, found another byte at 2"),
        ("no JSON", file("{", 0), "expected a JSON header"),
        ("a list", file("[]", 0), "an object of tensors"),
        ("deep nesting", file("[".repeat(100_000), 0), "expected a JSON header"),
        ("a name twice", twice(), "the name \"a\" twice"),
        ("metadata twice", file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "twice"),
        ("metadata of numbers", file(r#"{"__metadata__":{"a":1}}"#, 0), "in \"__metadata__\""),
        ("a tensor without a type", file(r#"{"a":{"shape":[]}}"#, 0), "in \"a\": missing field `dtype`"),
        ("a negative size", one("F32", "[-1]", 0, 8), "in \"a\""),
        ("an unknown type", one("X9", "[2]", 0, 8), "tensor \"a\": unknown number type \"X9\""),
        ("a shape that overflows", one("F32", huge, 0, 8), "that fits"),
        ("a size that overflows", one("F32", "[4611686018427387904]", 0, 8), "that fits"),
        ("half a byte", one("F4", "[3]", 0, 8), "no whole number of bytes"),
        ("offsets beyond the end", one("F32", "[4]", 0, 16), "found 16: the file is cut short"),
        ("offsets backwards", one("F32", "[2]", 8, 0), "begin at offset 0"),
        ("too few bytes", one("F32", "[3]", 0, 8), "expected 12 bytes for shape [3] of F32, found 8"),
        ("a hole", two(12, 20), "begin at offset 8, where those before it end, found 12"),
        ("an overlap", two(4, 12), "begin at offset 8, where those before it end, found 4"),
        ("offsets whose sum overflows", file(format!("{{{}}}", eighths.join(",")), 0), "cut short"),
    ];
    for (what, bytes, expected) in cases {
        let text = parse_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains(expected), "{what}: {text}");
        assert!(text.starts_with("model.safetensors: ") && text.contains("\n  "), "{what}: {text}");
    }
}

fn one(dtype: &str, shape: &str, from: u64, to: u64) -> Vec<u8> {
    file(format!("{{{}}}", entry("a", dtype, shape, from, to)), 8)
}

fn two(from: u64, to: u64) -> Vec<u8> {
    let (a, b) = (entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[2]", from, to));
    file(format!("{{{a},{b}}}"), usize::try_from(to).unwrap())
}

fn twice() -> Vec<u8> {
    let a = entry("a", "F32", "[2]", 0, 8);
    file(format!("{{{a},{a}}}"), 8)
}

#[test]
fn numbers_of_all_types_become_f32() {
    let read = |dtype: Dtype, data: &[u8]| {
        let info = TensorInfo { name: "a".to_string(), dtype, shape: vec![], range: 0..data.len() };
        read_f32(Path::new("f"), data, &info)
    };
    assert_eq!(read(Dtype::F32, &(-1.5f32).to_le_bytes()).unwrap(), [-1.5]);
    assert_eq!(read(Dtype::F16, &[0x00, 0xbe, 0xff, 0x7b]).unwrap(), [-1.5, 65504.0]);
    assert_eq!(read(Dtype::BF16, &[0xc0, 0xbf]).unwrap(), [-1.5]);
    assert_eq!(read(Dtype::F64, &(-1.5f64).to_le_bytes()).unwrap(), [-1.5]);
    assert_eq!(read(Dtype::F8E4M3, &[0xbc, 0x7e]).unwrap(), [-1.5, 448.0]);
    assert_eq!(read(Dtype::F8E5M2, &[0xbe]).unwrap(), [-1.5]);
    let text = read(Dtype::F64, &1e39f64.to_le_bytes()).unwrap_err().to_string();
    assert!(text.contains("expected numbers that F32 holds, found 1000000000"), "{text}");
    assert!(read(Dtype::F32, &[0; 3]).is_err());
    let beyond = TensorInfo { name: "a".to_string(), dtype: Dtype::F32, shape: vec![1], range: 4..8 };
    let text = read_f32(Path::new("f"), &[0; 7], &beyond).unwrap_err().to_string();
    assert!(text.contains("tensor \"a\": expected bytes 4..8 of F32, found a file of 7"), "{text}");
}

#[test]
fn a_writer_that_breaks_its_word_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensor = |name: &str, shape: &[usize]| (name.to_string(), Dtype::F32, shape.to_vec());
    let written = |tensors: &[_], bytes: usize| {
        let result = write(&path, tensors, &BTreeMap::new(), &mut |_, w| w.write_all(&vec![0; bytes]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        result.unwrap_err().to_string()
    };
    for bytes in [0, 4, 12] {
        let text = written(&[tensor("a", &[2])], bytes);
        assert!(
            text.contains(&format!("tensor \"a\": expected 8 bytes for shape [2] of F32, found {bytes}")),
            "{text}"
        );
    }
    for (tensors, expected) in [
        (vec![tensor("a", &[2]), tensor("a", &[2])], "a name of its own"),
        (vec![tensor("__metadata__", &[2])], "a name of its own"),
        (vec![tensor("a", &[usize::MAX, 2])], "a size that fits"),
    ] {
        let text = written(&tensors, 8);
        assert!(text.contains(expected), "{text}");
    }
}

/// The same file as the reference crate sees it.
fn reference(bytes: &[u8]) -> Vec<(String, String, Vec<usize>, Range<usize>)> {
    let (length, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    metadata
        .offset_keys()
        .into_iter()
        .map(|name| {
            let info = metadata.info(&name).unwrap();
            let (from, to) = info.data_offsets;
            let start = LENGTH_BYTES + length;
            (name, format!("{:?}", info.dtype), info.shape.clone(), start + from..start + to)
        })
        .collect()
}

fn tensors() -> impl Strategy<Value = Vec<(String, Dtype, Vec<usize>)>> {
    let dtype = proptest::sample::select(&[Dtype::F32, Dtype::F16, Dtype::BF16][..]);
    let shape = proptest::collection::vec(0..5usize, 0..4);
    let name = any::<String>().prop_filter("reserved", |n| n != METADATA_KEY);
    proptest::collection::btree_map(name, (dtype, shape), 0..8)
        .prop_map(|map| map.into_iter().map(|(name, (dtype, shape))| (name, dtype, shape)).collect())
}

proptest! {
    #[test]
    fn files_round_trip(tensors in tensors(), metadata: BTreeMap<String, String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let size = |i: usize| tensors[i].2.iter().product::<usize>() * tensors[i].1.size();
        write(&path, &tensors, &metadata, &mut |i, w: &mut dyn Write| {
            (0..size(i)).try_for_each(|byte| w.write_all(&[(i + byte) as u8]))
        }).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let header = parse(&path, &bytes).unwrap();
        prop_assert_eq!(&header.metadata, &metadata);
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for (i, (name, dtype, shape)) in tensors.iter().enumerate() {
            // Empty tensors share their offsets, which leaves their order open.
            let info = header.tensors.iter().find(|t| t.name == *name).unwrap();
            prop_assert_eq!((&info.dtype, &info.shape), (dtype, shape));
            let expected: Vec<u8> = (0..size(i)).map(|byte| (i + byte) as u8).collect();
            prop_assert_eq!(&bytes[info.range.clone()], expected);
        }
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        prop_assert_eq!(length % 8, 0);
        let ours: BTreeSet<_> = header.tensors.iter()
            .map(|t| (t.name.clone(), t.dtype.name().to_string(), t.shape.clone(), t.range.start, t.range.end))
            .collect();
        let theirs: BTreeSet<_> = reference(&bytes).into_iter().map(|(n, d, s, r)| (n, d, s, r.start, r.end)).collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>, header: String, data in 0..64usize) {
        let _ = parse_bytes(&bytes);
        let _ = parse_bytes(&file(header, data));
    }

    #[test]
    fn what_is_accepted_after_damage_the_reference_accepts(at in 0..200usize, byte: u8, cut in 0..40usize) {
        let (a, b) = (entry("a", "F32", "[2,1]", 0, 8), entry("b", "U8", "[4]", 8, 12));
        let mut bytes = file(format!("{{{a},{b}}}"), 12);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.saturating_sub(30));
        if let Ok(header) = parse_bytes(&bytes) {
            prop_assert_eq!(header.tensors.len(), reference(&bytes).len());
            for info in header.tensors.iter().filter(|t| t.dtype.held().is_some()) {
                prop_assert_eq!(read_f32(Path::new("f"), &bytes, info).unwrap().len(), info.shape.iter().product::<usize>());
            }
        }
    }
}
