use std::io::Write as _;

use mesp_device::Dtype;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

/// Values of the reference implementation, through Python's xxhash 4.1.
#[test]
fn digits_are_those_of_xxh64() {
    assert_eq!(of(b""), "ef46db3751d8e999");
    assert_eq!(of(b"a"), "d24ec4f1a98c6e5b");
}

/// xxhash of `json.dumps(d, separators=(",", ":"), ensure_ascii=False)` in Python.
#[test]
fn white_space_between_values_does_not_count() {
    for text in [
        r#"{"a b":" \"x\\ ","c":[1,2.5,{"é":"\\"}]}"#,
        "{\n  \"a b\": \" \\\"x\\\\ \",\n\t\"c\" : [ 1, 2.5, {\"é\": \"\\\\\"} ]\r\n}\n",
    ] {
        assert_eq!(json_file(file(text).path()).expect("JSON"), "6347e9e255fb52f0", "{text}");
    }
    let other = file(r#"{"a b":"\"x\\ ","c":[1,2.5,{"é":"\\"}]}"#);
    assert_ne!(json_file(other.path()).expect("JSON"), "6347e9e255fb52f0", "a space in a text counts");
    // Longer than what is read at a time.
    let long = format!("[{}1]", "\"a \\\" b\" ,\n".repeat(20_000));
    let short = long.replace(" ,\n", ",");
    assert_eq!(json_file(file(&long).path()).expect("JSON"), of(short.as_bytes()));
}

/// In a matrix of zeros with one other byte, the samples see the bytes of their places and no others, and the places
/// lie in all eighths.
#[test]
fn samples_lie_all_over_a_matrix() {
    let (rows, cols) = (64, 128);
    let hashed = |at: Option<usize>, extent: Extent| {
        let mut bytes = vec![0; rows * cols * 2];
        if let Some(at) = at {
            bytes[at] = 1;
        }
        let weight = Weight::owned(Dtype::Bf16, rows, cols, bytes);
        let mut hash = XxHash64::with_seed(0);
        match extent {
            Extent::All => whole(&mut hash, &weight),
            Extent::Samples => samples(&mut hash, &weight),
        }
        digits(&hash)
    };
    let (none, size) = (hashed(None, Extent::Samples), rows * cols * 2);
    let seen: Vec<usize> = (0..size).filter(|at| hashed(Some(*at), Extent::Samples) != none).collect();
    assert_eq!(seen.len(), SAMPLES * SAMPLE);
    for eighth in 0..SAMPLES {
        let inside = seen.iter().filter(|at| **at / (size / SAMPLES) == eighth).count();
        assert_eq!(inside, SAMPLE, "eighth {eighth}");
    }
    let none = hashed(None, Extent::All);
    assert!((0..size).step_by(97).all(|at| hashed(Some(at), Extent::All) != none));
}
