//! Adapters written and read back, and adapters that do not fit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mesp::adapter::{AdapterConfig, peft};
use mesp::arch::Module;
use mesp_device::Mapping;
use mesp_formats::peft::{MODEL_FILE, metadata};
use mesp_formats::safetensors_file;

use crate::support::{ARCHS, Case, bits, mesp_policy, parameters, randomize_adapters, session_for};

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn read(path: &Path) -> Tensors {
    let map = Mapping::open(path).expect("a file");
    let header = safetensors_file::parse(path, map.bytes()).expect("a header");
    let values = |t| safetensors_file::read_f32(path, map.bytes(), t).expect("values");
    header.tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), values(t))).collect()
}

fn write(dir: &Path, tensors: &Tensors) -> PathBuf {
    let path = dir.join("changed.safetensors");
    let heads: Vec<_> =
        tensors.iter().map(|(n, s, _)| (n.clone(), mesp_formats::Dtype::F32, s.clone())).collect();
    safetensors_file::write(&path, &heads, &BTreeMap::new(), &mut |i, out| {
        tensors[i].2.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
    })
    .expect("a file");
    path
}

/// The message of an adapter that must be refused.
fn refusal(case: &Case, adapter: &AdapterConfig, file: &Path) -> String {
    let mut options = case.options(mesp_policy());
    options.adapter = adapter.clone();
    let mut session = session_for::<f32>(&case.model, options, &case.shapes(), 1);
    let text = case.read_adapter(&mut session, file).expect_err("an adapter that does not fit").to_string();
    assert!(text.starts_with(&file.display().to_string()), "the file is named: {text}");
    assert!(text.contains("this adapter was made for another model, or with other target modules"), "{text}");
    text
}

#[test]
fn what_is_saved_is_read() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("new/adapter");
        let mut first = session_for::<f32>(&case.model, case.options(mesp_policy()), &case.shapes(), 1);
        randomize_adapters(&mut first);
        let name = "some/base";
        peft::save(first.backend(), &dir, &case.adapter, Some(name), first.params()).expect("an adapter");

        assert_eq!(
            mesp::source::load_adapter_config(&dir).expect("settings"),
            case.adapter,
            "rank, alpha, rslora, targets"
        );
        let config = std::fs::read_to_string(dir.join("adapter_config.json")).expect("settings");
        assert!(config.contains(name), "{config}");
        let file = dir.join(MODEL_FILE);
        let map = Mapping::open(&file).expect("tensors");
        assert_eq!(safetensors_file::parse(&file, map.bytes()).expect("a header").metadata, metadata());

        let mut second = session_for::<f32>(&case.model, case.options(mesp_policy()), &case.shapes(), 1);
        assert_ne!(bits(&parameters(&first)), bits(&parameters(&second)));
        case.read_adapter(&mut second, &file).expect("the same adapter");
        assert_eq!(bits(&parameters(&first)), bits(&parameters(&second)), "{arch}");
    }
}

/// PEFT's own file, read and written, has the same tensors under the same names.
#[test]
fn the_file_of_peft_is_written_again() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let dir = tempfile::tempdir().expect("a folder");
        let session = case.session::<f32>(case.options(mesp_policy()), 1);
        let file = dir.path().join("again.safetensors");
        peft::write_tensors(session.backend(), &file, session.params(), &metadata()).expect("a file");
        let sorted = |path: &Path| {
            let list = read(path).into_iter();
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            list.map(|(n, s, v)| (n, (s, bits(v)))).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(sorted(&file), sorted(&case.adapter_file()), "{arch}");
    }
}

#[test]
fn another_rank_is_refused() {
    let case = Case::load("qwen2");
    let adapter = AdapterConfig { rank: 8, ..case.adapter.clone() };
    let text = refusal(&case, &adapter, &case.adapter_file());
    assert!(text.contains("has shape [4, "), "{text}");
    assert!(text.contains("expected [8, ") || text.contains(", 8]"), "{text}");
}

#[test]
fn another_model_is_refused() {
    let [qwen2, qwen3] = ["qwen2", "qwen3"].map(Case::load);
    let text = refusal(&qwen3, &qwen3.adapter, &qwen2.adapter_file());
    assert!(text.contains("has shape") || text.contains("is of layer 2, the model has 2"), "{text}");
}

#[test]
fn more_layers_are_refused() {
    let case = Case::load("qwen3");
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = read(&case.adapter_file());
    let mut further = tensors[0].clone();
    further.0 = further.0.replace("layers.0.", "layers.2.").replace("layers.1.", "layers.2.");
    let name = further.0.clone();
    tensors.push(further);
    let text = refusal(&case, &case.adapter, &write(dir.path(), &tensors));
    assert!(text.contains(&format!("tensor {name} is of layer 2, the model has 2")), "{text}");
}

#[test]
fn other_targets_are_refused() {
    let case = Case::load("qwen2");
    let adapter = AdapterConfig { targets: vec![Module::Q, Module::V], ..case.adapter.clone() };
    let text = refusal(&case, &adapter, &case.adapter_file());
    assert!(text.contains("_proj.lora_") && text.contains("is not among the target modules"), "{text}");
}

#[test]
fn a_missing_tensor_is_named() {
    let case = Case::load("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = read(&case.adapter_file());
    let missing = tensors.remove(5).0;
    let text = refusal(&case, &case.adapter, &write(dir.path(), &tensors));
    assert!(text.contains(&format!("1 tensors are missing, the first is {missing}")), "{text}");
}

#[test]
fn an_unknown_tensor_is_named() {
    let case = Case::load("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = read(&case.adapter_file());
    tensors.push(("base_model.model.lm_head.lora_C.weight".to_owned(), vec![2], vec![0.0; 2]));
    let text = refusal(&case, &case.adapter, &write(dir.path(), &tensors));
    assert!(text.contains("tensor base_model.model.lm_head.lora_C.weight is not an adapter's"), "{text}");
}

/// PEFT's names in memory end in `.default.weight`. Read like those in files, also by the search for what is
/// missing.
#[test]
fn names_with_the_adapter_name_are_read() {
    let case = Case::load("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = read(&case.adapter_file());
    for (name, ..) in &mut tensors {
        *name = name.replace(".weight", ".default.weight");
    }
    let file = write(dir.path(), &tensors);
    let mut session = session_for::<f32>(&case.model, case.options(mesp_policy()), &case.shapes(), 1);
    case.read_adapter(&mut session, &file).expect("the same adapter");
    let golden = case.session::<f32>(case.options(mesp_policy()), 1);
    assert_eq!(bits(&parameters(&session)), bits(&parameters(&golden)));

    let missing = tensors.remove(9).0.replace(".default.weight", ".weight");
    let text = refusal(&case, &case.adapter, &write(dir.path(), &tensors));
    assert!(text.contains(&format!("the first is {missing}")), "expected {missing}: {text}");
}

/// One matrix under both of its names must not stand in for another one that is missing.
#[test]
fn a_tensor_given_twice_does_not_hide_a_missing_one() {
    let case = Case::load("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = read(&case.adapter_file());
    let mut twin = tensors[0].clone();
    twin.0 = twin.0.replace(".weight", ".default.weight");
    tensors.remove(5);
    tensors.push(twin);
    let text = refusal(&case, &case.adapter, &write(dir.path(), &tensors));
    assert!(text.contains("missing") || text.contains("twice"), "{text}");
}
