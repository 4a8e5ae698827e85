//! Counts and sizes in files that no machine can have: each is refused, or does no harm, and nothing large is
//! allocated before. Alone in its program: every allocation is counted, of every thread.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use mesp::model::ModelWeights;
use mesp::source::{Base, open_model, shape_source};
use mesp_device::{CountingAllocator, Mapping};
use mesp_formats::gguf::{self, Array, TensorType, Value};
use mesp_formats::safetensors_file;
use proptest::prelude::*;
use serde_json::Value as Json;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

/// What opening a model of some kilobytes may take. A layer takes below 1 kB, and there may be 10 000.
const MOST: usize = 20 << 20;

/// Opens a model as a command and as a plan does; the messages of both.
fn opened(path: &Path) -> [Result<(), String>; 2] {
    // One at a time, so that what is counted is this one's.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    HEAP.begin_phase();
    let before = HEAP.current();
    let loaded = open_model(path, Base::Mapped).and_then(mesp::source::Opened::load).map(|_| ());
    let planned = shape_source(path).and_then(|s| ModelWeights::load(s.config.clone(), &s)).map(|_| ());
    let taken = HEAP.phase_peak().saturating_sub(before);
    assert!(taken < MOST, "{taken} bytes were allocated");
    [loaded, planned].map(|result| result.map_err(|e| e.to_string()))
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name).join("model")
}

/// 0, small numbers, and those about powers of two up to 2^64 − 1.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..40u64,
        (0..64u32, -1..2i64).prop_map(|(bits, off)| (1u64 << bits).wrapping_add_signed(off)),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

/// A model directory of some kilobytes with another `config.json`, and other bytes of weights where given.
fn directory(config: &Json, weights: Option<&[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("config.json");
    let to = dir.path().join("model.safetensors");
    match weights {
        Some(bytes) => std::fs::write(&to, bytes).expect("weights"),
        None => std::fs::copy(golden("qwen2").join("model.safetensors"), &to).map(|_| ()).expect("weights"),
    }
    dir
}

fn config() -> Json {
    let text = std::fs::read_to_string(golden("qwen2").join("config.json")).expect("config.json");
    serde_json::from_str(&text).expect("JSON")
}

/// The metadata and tensors of a GGUF file of the same model.
type Gguf = (Vec<(String, Value)>, Vec<(String, TensorType, Vec<usize>, Vec<u8>)>);

fn gguf_model() -> Gguf {
    static MODEL: OnceLock<Gguf> = OnceLock::new();
    MODEL.get_or_init(made).clone()
}

fn made() -> Gguf {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.gguf");
    mesp::quantize::quantize(&golden("qwen2"), &path, TensorType::F16, &mut |_, _| {}).expect("a file");
    let map = Mapping::open(&path).expect("the file");
    let file = gguf::parse(&path, map.bytes()).expect("GGUF");
    let owned = |value: &Value| match value {
        Value::Array(array) => Value::Array(array.to_owned_in(map.bytes())),
        other => other.clone(),
    };
    let tensors = file.tensors.iter();
    let tensors =
        tensors.map(|t| (t.name.clone(), t.ty, t.shape.clone(), map.bytes()[t.range.clone()].to_vec()));
    (file.metadata.iter().map(|(k, v)| (k.clone(), owned(v))).collect(), tensors.collect())
}

fn written((metadata, tensors): &Gguf) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let heads: Vec<_> = tensors.iter().map(|(n, t, s, _)| (n.clone(), *t, s.clone())).collect();
    gguf::write(&dir.path().join("m.gguf"), metadata, &heads, &mut |i, w| w.write_all(&tensors[i].3))
        .expect("a file");
    dir
}

/// Four bytes of a file once had llama.cpp's readers allocate a layer for each of 2^32.
#[test]
fn a_count_of_blocks_is_held_against_a_limit_first() {
    let (metadata, tensors) = gguf_model();
    for count in [1_000_000, 100_000_000, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        let mut metadata = metadata.clone();
        let place = metadata.iter_mut().find(|(key, _)| key == "qwen2.block_count").expect("the key");
        place.1 = Value::U64(count);
        let dir = written(&(metadata, tensors.clone()));
        for result in opened(&dir.path().join("m.gguf")) {
            let text = result.expect_err("a number of layers that no model has");
            assert!(text.contains(&format!("expected 1 to 10000, found {count}")), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_number_of_config_json(key in 0..64usize, size in size(), as_list: bool) {
        let mut json = config();
        let map = json.as_object_mut().expect("an object");
        let mut keys: Vec<String> = map.keys().cloned().collect();
        keys.extend(["head_dim", "sliding_window", "max_window_layers", "rope_theta"].map(str::to_owned));
        let value = if as_list { serde_json::json!([size]) } else { serde_json::json!(size) };
        map.insert(keys[key % keys.len()].clone(), value);
        let dir = directory(&json, None);
        let _ = opened(dir.path());
    }

    #[test]
    fn a_number_of_a_rotation(key in 0..9usize, size in size()) {
        let mut json = config();
        let keys = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
            "rope_theta", "partial_rotary_factor", "attention_factor", "short_factor", "long_factor"];
        for kind in ["linear", "llama3", "longrope"] {
            let mut rope = serde_json::json!({"rope_type": kind, "factor": 2, "low_freq_factor": 1,
                "high_freq_factor": 4, "short_factor": [1, 1, 1, 1], "long_factor": [1, 1, 1, 1]});
            rope[keys[key]] = serde_json::json!(size);
            json["rope_parameters"] = rope;
            let _ = opened(directory(&json, None).path());
        }
    }

    #[test]
    fn a_number_of_a_safetensors_header(place in 0..4usize, tensor in 0..64usize, size in size()) {
        let path = golden("qwen2").join("model.safetensors");
        let bytes = std::fs::read(&path).expect("weights");
        let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"))).expect("a length");
        let mut header: Json = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
        let names = safetensors_file::parse(&path, &bytes).expect("a header").tensors;
        let entry = &mut header[&names[tensor % names.len()].name];
        match place {
            0 => entry["shape"][0] = size.into(),
            1 => entry["data_offsets"][0] = size.into(),
            2 => entry["data_offsets"][1] = size.into(),
            _ => {}
        }
        let text = header.to_string();
        let announced = if place == 3 { size } else { text.len() as u64 };
        let file = [&announced.to_le_bytes(), text.as_bytes(), &bytes[8 + length..]].concat();
        let _ = opened(directory(&config(), Some(&file)).path());
    }

    #[test]
    fn a_number_of_gguf_metadata(key in 0..64usize, size in size(), as_list: bool) {
        let (mut metadata, tensors) = gguf_model();
        let place = key % metadata.len();
        metadata[place].1 = if as_list {
            Value::Array(Array::i32s(&[size as i32, size as i32]))
        } else {
            Value::U64(size)
        };
        // The writer reads the alignment itself.
        prop_assume!(metadata[place].0 != "general.alignment");
        let _ = opened(&written(&(metadata, tensors)).path().join("m.gguf"));
    }

    #[test]
    fn eight_bytes_of_a_gguf_header(at in 4..4000usize, size in size(), four: bool) {
        let dir = written(&gguf_model());
        let path = dir.path().join("m.gguf");
        let mut bytes = std::fs::read(&path).expect("the file");
        let width = if four { 4 } else { 8 };
        let at = at % (bytes.len() - width);
        bytes[at..at + width].copy_from_slice(&size.to_le_bytes()[..width]);
        std::fs::write(&path, bytes).expect("the file");
        let _ = opened(&path);
    }
}
