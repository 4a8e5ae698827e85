//! Against blocks that llama.cpp's Python package made: see `golden/gguf/generate.py`.

use super::*;

fn golden() -> (Vec<u8>, Gguf) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/gguf/quants.gguf"));
    let bytes = std::fs::read(path).unwrap();
    let gguf = parse(path, &bytes).unwrap();
    (bytes, gguf)
}

fn numbers(bytes: &[u8], info: &TensorInfo) -> Vec<f32> {
    let mut out = vec![0.0; info.shape.iter().product()];
    dequantize_row(info.ty, &bytes[info.range.clone()], &mut out);
    out
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn numbers_are_read_as_the_reference_reads_them() {
    let (bytes, gguf) = golden();
    let mut types = Vec::new();
    for info in &gguf.tensors {
        let Some(expected) = gguf.tensor(&format!("{}.f32", info.name)) else { continue };
        assert_eq!(bits(&numbers(&bytes, info)), bits(&numbers(&bytes, expected)), "{}", info.name);
        types.push(info.ty);
    }
    for ty in TensorType::ALL {
        assert!(types.contains(&ty), "{}", ty.name());
    }
}

#[test]
fn numbers_are_written_as_the_reference_writes_them() {
    let (bytes, gguf) = golden();
    let x = numbers(&bytes, gguf.tensor("x").unwrap());
    for ty in TensorType::ALL.into_iter().filter(|ty| can_quantize(*ty)) {
        let expected = &bytes[gguf.tensor(ty.name()).unwrap().range.clone()];
        let mut made = Vec::new();
        for row in x.chunks(256) {
            quantize_row(ty, row, &mut made);
        }
        let first = made.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!((first, made.len()), (None, expected.len()), "{}", ty.name());
    }
}

#[test]
fn metadata_of_the_reference_is_read() {
    let (bytes, gguf) = golden();
    assert_eq!((gguf.version, gguf.alignment), (3, 32));
    for (key, expected) in [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-300)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-70_000)),
        ("f32", Value::F32(1e-6)),
        ("bool", Value::Bool(true)),
        ("string", "naïve 日本".into()),
        ("u64", Value::U64(1 << 60)),
        ("i64", Value::I64(-(1 << 60))),
        ("f64", Value::F64(0.1)),
    ] {
        assert_eq!(gguf.value(&format!("test.{key}")), Some(&expected), "{key}");
    }
    let array = |key: &str| gguf.array(key).unwrap().unwrap();
    let strings: Vec<_> = array("test.strings").iter_str(&bytes).unwrap().collect();
    assert_eq!(strings, ["", "a", "日本"]);
    let floats: Vec<_> = array("test.floats").iter_scalars(&bytes).unwrap().collect();
    assert_eq!(floats, [Value::F32(0.5), Value::F32(-1.5)]);
    let bools: Vec<_> = array("test.bools").iter_scalars(&bytes).unwrap().collect();
    assert_eq!(bools, [Value::Bool(true), Value::Bool(false), Value::Bool(true)]);
    assert_eq!(gguf.f64("test.f32").unwrap(), Some(1e-6));
    assert_eq!(gguf.usize("test.u16").unwrap(), Some(60_000));
    assert!(gguf.usize("test.i8").unwrap_err().to_string().contains("zero or more, found -3"));
    assert!(gguf.str("test.strings").unwrap_err().to_string().contains("found an array of 3 string"));
    assert!(
        array("test.strings").iter_scalars(&bytes).is_none()
            && array("test.floats").iter_str(&bytes).is_none()
    );
    // Another file under the same name: nothing, and no panic.
    assert_eq!(array("test.strings").iter_str(&[]).unwrap().count(), 0);
    assert_eq!(array("test.floats").iter_scalars(&[]).unwrap().count(), 0);
}

#[test]
fn types_know_their_numbers_names_and_sizes() {
    for ty in TensorType::ALL {
        assert_eq!(TensorType::from_id(ty.id()), Some(ty));
        assert_eq!(TensorType::from_name(&ty.name().to_lowercase()), Some(ty));
        assert_eq!(ty.row_bytes(256), Some(256 / ty.block_len() * ty.block_bytes()));
        assert_eq!(ty.tensor_bytes(&[2, 3, 256]), ty.row_bytes(6 * 256));
        assert_eq!(ty.row_bytes(257).is_some(), ty.block_len() == 1);
        assert_eq!(ty.tensor_bytes(&[usize::MAX / 2, 256]), None);
    }
    assert_eq!(TensorType::Q4_K.tensor_bytes(&[]), None);
    assert_eq!(TensorType::F32.tensor_bytes(&[]), Some(4));
}

#[test]
fn what_is_not_finite_does_not_panic() {
    for ty in TensorType::ALL.into_iter().filter(|ty| can_quantize(*ty)) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45] {
            let mut x = [0.5f32; 32];
            x[3] = bad;
            let mut out = Vec::new();
            quantize_row(ty, &x, &mut out);
            assert_eq!(Some(out.len()), ty.row_bytes(32));
        }
    }
}
