use std::io::Write;

use proptest::prelude::*;

use super::*;

fn values() -> Vec<(String, Value)> {
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(0.25),
        Value::Bool(false),
        Value::String("naïve\n".to_string()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.5),
        Value::Array(Array::strings(["", "b", "日本"])),
        Value::Array(Array::i32s(&[1, -2])),
        Value::Array(Array::f32s(&[])),
    ];
    values.into_iter().enumerate().map(|(i, v)| (format!("key.{i}"), v)).collect()
}

/// The values with arrays of their own.
fn owned(gguf: &Gguf, bytes: &[u8]) -> Vec<(String, Value)> {
    let own = |v: &Value| v.as_array().map_or_else(|| v.clone(), |a| Value::Array(a.to_owned_in(bytes)));
    gguf.metadata.iter().map(|(k, v)| (k.clone(), own(v))).collect()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    for alignment in [None, Some(64u32)] {
        let mut metadata = values();
        metadata.extend(alignment.map(|n| (ALIGNMENT_KEY.to_string(), Value::U32(n))));
        let tensors = [
            ("a".to_string(), TensorType::Q4_0, vec![3, 64]),
            ("b".to_string(), TensorType::F32, vec![5]),
            ("c".to_string(), TensorType::Q6_K, vec![1, 2, 1, 256]),
        ];
        write(&path, &metadata, &tensors, &mut |i, w| {
            let size = tensors[i].1.tensor_bytes(&tensors[i].2).unwrap();
            // In two parts, as a stream comes.
            w.write_all(&vec![i as u8 + 1; size - 3])?;
            w.write_all(&[9; 3])
        })
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let gguf = parse(&path, &bytes).unwrap();
        assert_eq!(gguf.alignment, alignment.unwrap_or(32) as usize);
        assert_eq!(owned(&gguf, &bytes), metadata);
        for (i, ((name, ty, shape), info)) in tensors.iter().zip(&gguf.tensors).enumerate() {
            assert_eq!((name, ty, shape), (&info.name, &info.ty, &info.shape));
            assert_eq!(info.range.start % gguf.alignment, 0);
            let data = &bytes[info.range.clone()];
            assert!(data[..data.len() - 3].iter().all(|b| *b == i as u8 + 1) && data.ends_with(&[9; 3]));
        }
        // Version 2 differs in its number only.
        let mut second = bytes.clone();
        second[4] = 2;
        assert_eq!(parse(&path, &second).unwrap(), Gguf { version: 2, ..gguf });
    }
}

#[test]
fn wrong_files_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let t = |name: &str, shape: &[usize]| (name.to_string(), TensorType::Q4_0, shape.to_vec());
    let in_file = {
        let bytes = file(&values(), &[]);
        parse(&path, &bytes).unwrap().metadata
    };
    let u = |key: &str, n: u32| (key.to_string(), Value::U32(n));
    for (metadata, tensors, expected) in [
        (vec![u("k", 1), u("k", 1)], vec![], "key \"k\": expected a name of its own"),
        (vec![u("", 1)], vec![], "key \"\": expected a name of its own"),
        (vec![u(ALIGNMENT_KEY, 3)], vec![], "expected a power of two"),
        (vec![u(ALIGNMENT_KEY, 0)], vec![], "expected a power of two"),
        (in_file, vec![], "key \"key.12\": expected an array with bytes of its own"),
        (vec![], vec![t("a", &[32]), t("a", &[32])], "tensor \"a\": expected a name of its own"),
        (vec![], vec![t(&"x".repeat(64), &[32])], "expected a name of 1 to 63 bytes, found 64"),
        (vec![], vec![t("a", &[])], "expected 1 to 4 sizes"),
        (vec![], vec![t("a", &[1, 1, 1, 1, 32])], "expected 1 to 4 sizes"),
        (vec![], vec![t("a", &[0, 32])], "expected 1 to 4 sizes"),
        (vec![], vec![t("a", &[33])], "whole blocks of 32 numbers"),
        (vec![], vec![t("a", &[usize::MAX / 2, 32])], "a size that fits"),
        (vec![], vec![t("a", &[32])], "expected 18 bytes for shape [32] of Q4_0, found 5 bytes written"),
    ] {
        let error =
            write(&path, &metadata, &tensors, &mut |_, w| w.write_all(&[0; 5])).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn a_long_array_is_not_held() {
    let tokens = vec!["token"; 100_000];
    let bytes = file(&[("k".to_string(), Value::Array(Array::strings(tokens.iter().copied())))], &[]);
    let gguf = parse(Path::new("a"), &bytes).unwrap();
    let array = gguf.array("k").unwrap().unwrap();
    assert!(matches!(array.data, crate::gguf::value::Data::InFile(_)));
    assert_eq!(array.iter_str(&bytes).unwrap().filter(|t| *t == "token").count(), 100_000);
}

#[test]
fn a_failure_while_writing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let tensors = [("a".to_string(), TensorType::F32, vec![4])];
    let error =
        write(&path, &[], &tensors, &mut |_, _: &mut dyn Write| Err(std::io::Error::other("no space")));
    assert!(error.unwrap_err().to_string().contains("no space"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(Path::new("a"), &bytes);
        // With a good beginning, so that the rest is looked at.
        let bytes = Build::new(1, 1).raw(&bytes).0;
        if let Ok(gguf) = parse(Path::new("a"), &bytes) {
            let held = gguf.metadata.capacity() * size_of::<(String, Value)>()
                + gguf.tensors.capacity() * size_of::<TensorInfo>();
            prop_assert!(held <= 32 * bytes.len() + 4096);
        }
    }

    #[test]
    fn a_file_with_a_changed_byte_is_no_panic(at in 0usize..700, byte: u8, cut in 0usize..900) {
        let mut bytes = file(&values(), &[("a", TensorType::Q4_0, &[3, 64]), ("b", TensorType::F32, &[5])]);
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        bytes.truncate(cut);
        if let Ok(gguf) = parse(Path::new("a"), &bytes) {
            for t in &gguf.tensors {
                prop_assert_eq!(Some(bytes[t.range.clone()].len()), t.ty.tensor_bytes(&t.shape));
            }
            for (_, value) in &gguf.metadata {
                let Some(array) = value.as_array() else { continue };
                let n = array.iter_str(&bytes).map_or_else(|| array.iter_scalars(&bytes).unwrap().count(), Iterator::count);
                prop_assert_eq!(n, array.len);
            }
        }
    }
}
