//! Files, directories and types that must be refused, with a message that says why.

use super::*;

type Tensors = Vec<(String, TensorType, Vec<usize>, Vec<u8>)>;

/// Writes a file again with changes.
pub(super) fn rewrite(from: &Path, to: &Path, edit: impl FnOnce(&mut Vec<(String, Value)>, &mut Tensors)) {
    let bytes = std::fs::read(from).expect("a file");
    let file = gguf::parse(from, &bytes).expect("a header");
    let mut metadata = file.metadata.clone();
    let tensors = file.tensors.iter();
    let mut tensors: Tensors =
        tensors.map(|t| (t.name.clone(), t.ty, t.shape.clone(), bytes[t.range.clone()].to_vec())).collect();
    edit(&mut metadata, &mut tensors);
    let heads: Vec<_> = tensors.iter().map(|(n, t, s, _)| (n.clone(), *t, s.clone())).collect();
    gguf::write(to, &metadata, &heads, &mut |i, w| w.write_all(&tensors[i].3)).expect("a file");
}

fn message(path: &Path) -> String {
    let result = open_model(path, Base::Mapped).and_then(mesp::source::Opened::load);
    let text = result.expect_err("a file that must be refused").to_string();
    assert!(text.starts_with(&path.display().to_string()) || text.starts_with("cannot"), "{text}");
    // The plan refuses what the run refuses.
    let planned = shape_source(path).and_then(|s| ModelWeights::load(s.config.clone(), &s));
    assert_eq!(planned.expect_err("refused").to_string(), text);
    text
}

#[test]
fn damaged_files_are_refused() {
    let (to, path, _) = converted(&golden("qwen2/model"), TensorType::Q8_0);
    let bad = to.path().join("bad.gguf");
    let bytes = std::fs::read(&path).expect("a file");
    for len in [1, 20, 100, 3000, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&bad, &bytes[..len]).expect("a file");
        let text = message(&bad);
        assert!(text.contains("cut short") || text.contains("expected"), "{len}: {text}");
    }
    std::fs::write(&bad, b"").expect("a file");
    assert!(message(&bad).contains("expected a file that begins with"), "{}", message(&bad));
    assert!(message(&to.path().join("none.gguf")).contains("none.gguf"));

    let name = "blk.1.ffn_up.weight";
    rewrite(&path, &bad, |_, tensors| {
        let tensor = tensors.iter_mut().find(|t| t.0 == name).expect("a tensor");
        tensor.2.reverse();
        assert_ne!(tensor.2[0], tensor.2[1]);
        tensor.1 = TensorType::F16;
        tensor.3 = vec![0; 2 * tensor.2[0] * tensor.2[1]];
    });
    let text = message(&bad);
    assert!(
        text.contains("tensor blk.1.ffn_up.weight (model.layers.1.mlp.up_proj.weight) has shape"),
        "{text}"
    );
    assert!(text.contains("[32, 80], expected [80, 32] from the file's metadata"), "{text}");
    assert!(text.contains("get the file again"), "{text}");

    for (name, hf) in [
        ("blk.2.attn_k.bias", "model.layers.2.self_attn.k_proj.bias"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
    ] {
        rewrite(&path, &bad, |_, tensors| tensors.retain(|t| t.0 != name));
        let text = message(&bad);
        assert!(text.contains(&format!("tensor {name} ({hf}) is not in the file")), "{text}");
    }

    rewrite(&path, &bad, |metadata, _| {
        for (key, value) in metadata {
            if key == "general.architecture" {
                *value = "gemma4".into();
            }
        }
    });
    assert!(message(&bad).contains("found \"gemma4\""));
}

#[test]
fn what_cannot_be_quantized_is_refused_and_leaves_nothing() {
    let to = tempfile::tempdir().expect("a folder");
    let path = to.path().join("model.gguf");
    let refused = |dir: &Path, ty| {
        let text = quantize(dir, &path, ty, &mut |_, _| {}).expect_err("refused").to_string();
        assert_eq!(std::fs::read_dir(to.path()).expect("a folder").count(), 0, "{text}");
        text
    };
    let text = refused(&golden("qwen2/model"), TensorType::Q4_K);
    assert!(text.contains("type q4_k is read and trained on, not written"), "{text}");
    let text = refused(&golden("qwen2"), TensorType::Q4_0);
    assert!(text.contains("expected a model folder"), "{text}");

    for (value, ty) in
        [(f32::NAN, TensorType::Q8_0), (f32::INFINITY, TensorType::F32), (1e6, TensorType::F16)]
    {
        let dir = tempfile::tempdir().expect("a folder");
        let mut source = MemorySource::read(&golden("qwen2/model"));
        source.values_mut("model.layers.1.mlp.up_proj.weight")[32 * 3 + 5] = value;
        let config = std::fs::read_to_string(golden("qwen2/model/config.json")).expect("config.json");
        source.write(dir.path(), &config);
        let text = refused(dir.path(), ty);
        assert!(text.contains("tensor model.layers.1.mlp.up_proj.weight, row 3: expected finite"), "{text}");
    }
}

#[test]
fn a_directory_of_other_weights_is_refused() {
    // A directory's own errors come through the common entry.
    let text = open_model(&golden("qwen2"), Base::Mapped).map(|_| ()).expect_err("refused").to_string();
    assert!(text.contains("expected a model folder"), "{text}");
    let source = HfSource::open(&golden("qwen2/model"), Base::Mapped).expect("weights");
    let config: Config = load_config(&golden("qwen3/model"));
    assert!(ModelWeights::load(config, &source).is_err());
    assert!(source.matrix("model.none.weight", 1, 1).expect("no error").is_none());
}
