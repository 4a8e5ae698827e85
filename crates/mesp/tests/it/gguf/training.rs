//! Losses, gradients and adapters on GGUF bases.

use super::*;

/// A golden with its model from a GGUF file.
fn on_file(arch: &str, path: &Path) -> Case {
    Case { model: opened(path), ..Case::load(arch) }
}

/// The matrices of a file, by name.
fn read(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let map = Mapping::open(path).expect("a file");
    let header = safetensors_file::parse(path, map.bytes()).expect("a header");
    let values = |t| safetensors_file::read_f32(path, map.bytes(), t).expect("values");
    header.tensors.iter().map(|t| (t.name.clone(), values(t).into_iter().map(f64::from).collect())).collect()
}

#[test]
fn the_same_values_give_the_same_bits() {
    for arch in ["qwen2", "qwen3"] {
        let case = Case::load(arch);
        let mut hf = case.session::<f32>(case.options(mesp_policy()), 2);
        let expected = answer(&mut hf, &case.batch);
        // The goldens are stored in bf16 or wider; F32 holds either.
        let (_to, path, report) = converted(&case.dir.join("model"), TensorType::F32);
        assert!(report.errors.iter().all(|e| e.mean == 0.0 && e.max == 0.0), "{:?}", report.errors);
        let case = on_file(arch, &path);
        let mut session = case.session::<f32>(case.options(mesp_policy()), 2);
        assert!(answer(&mut session, &case.batch) == expected, "{arch}");
    }
}

/// Gradients of a llama file equal the directory's once the rows of q and k are exchanged, which the files of
/// gradients do by themselves.
#[test]
fn llama_gradients_are_equal_in_files() {
    let case = Case::load("llama");
    let (to, path, _) = converted(&case.dir.join("model"), TensorType::F32);
    let file = on_file("llama", &path);
    let [mut there, mut here] = [&case, &file].map(|c| c.session::<f64>(c.options(mesp_policy()), 2));
    let (a, b) = (there.accumulate(&case.batch, 7), here.accumulate(&case.batch, 7));
    assert!((a.nats - b.nats).abs() <= 1e-12 * a.nats, "{} {}", a.nats, b.nats);
    let [one, two] = ["there", "here"].map(|n| to.path().join(n));
    for (session, file) in [(&there, &one), (&here, &two)] {
        let gradients: Vec<_> = session.grads().iter().collect();
        peft::write_params(session.backend(), file, &gradients, &BTreeMap::new()).expect("a file");
    }
    let (one, two) = (read(&one), read(&two));
    assert_eq!(one.len(), two.len());
    for (name, values) in &one {
        // Files are single precision.
        assert!(relative(&two[name], values) <= 2e-7, "{name}: {}", relative(&two[name], values));
    }
    // In memory they are not in the same order.
    for (p, head) in [(Module::Q, Some(8)), (Module::K, Some(8)), (Module::V, None)] {
        let [x, y] = [&there, &here].map(|s| gradient(s, 0, p, Matrix::B));
        assert_eq!(relative(&x, &y) < 1e-9, head.is_none(), "{p:?}");
        let rank = case.adapter.rank;
        if let Some(head) = head {
            let map = gguf::to_interleaved(x.len() / rank / head, head);
            let moved: Vec<f64> = map.iter().flat_map(|r| x[r * rank..][..rank].to_vec()).collect();
            assert!(relative(&moved, &y) < 1e-11, "{p:?}");
        }
    }
}

/// Gradients of all weights likewise: the rows of q and k, which the two files have in other orders, with them.
#[test]
fn llama_gradients_of_all_weights_are_equal_in_files() {
    let case = Case::load("llama");
    let (to, path, _) = converted(&case.dir.join("model"), TensorType::F32);
    let file = on_file("llama", &path);
    let written = [(&case, "there"), (&file, "here")].map(|(case, name)| {
        let options = Options {
            adapter: AdapterConfig::none(),
            base: Selection::full(),
            gradients: true,
            ..case.options(mesp_policy())
        };
        let mut session = session_for::<f64>(&case.model, options, &case.shapes(), 2);
        session.accumulate(&case.batch, case.batch.targets());
        let path = to.path().join(name);
        let gradients: Vec<_> = session.grads().iter().collect();
        peft::write_params(session.backend(), &path, &gradients, &BTreeMap::new()).expect("a file");
        read(&path)
    });
    let [there, here] = &written;
    assert_eq!(there.keys().collect::<Vec<_>>(), here.keys().collect::<Vec<_>>());
    for (name, values) in there {
        // Files are single precision.
        assert!(relative(&here[name], values) <= 2e-7, "{name}: {}", relative(&here[name], values));
    }
}

/// Single precision too, and with the biases that some llamas have.
#[test]
fn llama_losses_are_equal_with_biases() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig {
        model_type: "llama".to_owned(),
        attention_bias: Some(true),
        mlp_bias: true,
        ..mesp::init_model::preset("tiny").expect("tiny")
    };
    mesp::init_model::write(dir.path(), &config, mesp_formats::Dtype::F32, 5, &mut |_, _| {})
        .expect("a model");
    // Larger, so that what q and k do shows in the loss.
    let mut source = MemorySource::read(dir.path());
    for (name, (_, values)) in &mut source.tensors {
        if name.contains("_proj.") {
            for x in values {
                *x *= 20.0;
            }
        }
    }
    let text = std::fs::read_to_string(dir.path().join("config.json")).expect("config.json");
    source.write(dir.path(), &text);
    let (_to, path, _) = converted(dir.path(), TensorType::F32);
    let batch = random_batch(&[9, 30], 512, 3);
    let options = Case::load("llama").options(mesp_policy());
    let losses = [load_model(dir.path()), opened(&path)].map(|model| {
        let mut session = session_for::<f64>(&model, options.clone(), &shapes(&batch), 1);
        session.init_adapters(1);
        mean_loss(&mut session, &batch)
    });
    assert!((losses[0] - losses[1]).abs() <= 1e-12 * losses[0], "{losses:?}");
    // The test sees the order: without exchanging rows the loss is another.
    let mut halves = open_model(&path, Base::Mapped).expect("a model");
    halves.config.rope.layout = Layout::Half;
    let model = Arc::new(halves.load().expect("weights"));
    let mut session = session_for::<f64>(&model, options, &shapes(&batch), 1);
    session.init_adapters(1);
    let wrong = mean_loss(&mut session, &batch);
    assert!((wrong - losses[0]).abs() > 1e-4 * wrong, "{wrong} {losses:?}");
}

#[test]
fn adapters_of_a_llama_file_are_in_pefts_order() {
    let case = Case::load("llama");
    let (to, path, _) = converted(&case.dir.join("model"), TensorType::BF16);
    let file = on_file("llama", &path);
    let session = file.session::<f32>(file.options(mesp_policy()), 1);
    let written = to.path().join("adapter.safetensors");
    peft::write_tensors(session.backend(), &written, session.params(), &BTreeMap::new()).expect("a file");
    assert_eq!(read(&written), read(&case.adapter_file()));

    // Trained on the file, used on the directory: the same loss.
    let mut here = file.session::<f64>(file.options(mesp_policy()), 1);
    here.accumulate(&file.batch, file.batch.targets());
    here.apply(0.1, 1.0);
    peft::write_tensors(here.backend(), &written, here.params(), &BTreeMap::new()).expect("a file");
    let mut there = case.session::<f64>(case.options(mesp_policy()), 1);
    case.read_adapter(&mut there, &written).expect("the adapter");
    let [a, b] = [mean_loss(&mut here, &file.batch), mean_loss(&mut there, &case.batch)];
    // The file between them is single precision.
    assert!((a - b).abs() <= 1e-6 * a, "{a} {b}");
}

/// A model's matrices as its file has them, in single precision and in the file's order.
fn widened(dir: &Path, path: &Path) -> MemorySource {
    let map = Mapping::open(path).expect("a file");
    let file = gguf::parse(path, map.bytes()).expect("a header");
    let mut source = MemorySource::read(dir);
    for (name, (shape, values)) in &mut source.tensors {
        let info = file.tensor(&gguf::tensor_name("llama", name).expect("a name")).expect("a tensor");
        assert_eq!(&info.shape, shape);
        gguf::dequantize_row(info.ty, &map.bytes()[info.range.clone()], values);
    }
    source
}

#[test]
fn training_on_blocks_equals_training_on_their_values() {
    let batch = random_batch(&[20, 13], 512, 8);
    for arch in ["qwen2", "llama"] {
        let dir = tempfile::tempdir().expect("a folder");
        let config = ModelConfig {
            model_type: arch.to_owned(),
            num_hidden_layers: 2,
            ..mesp::init_model::preset("tiny").expect("tiny")
        };
        mesp::init_model::write(dir.path(), &config, mesp_formats::Dtype::BF16, 2, &mut |_, _| {})
            .expect("a model");
        for ty in TensorType::ALL.into_iter().filter(|ty| gguf::can_quantize(*ty)) {
            let (_to, path, report) = converted(dir.path(), ty);
            let [matrices] = &report.errors[..] else { panic!("one type: {:?}", report.errors) };
            assert_eq!((matrices.ty, matrices.tensors), (ty, 15));
            let bound = match ty.block_bytes() {
                34 => 0.006,
                22 | 24 => 0.05,
                18 | 20 => 0.1,
                _ => 0.001,
            };
            assert!(matrices.mean <= matrices.max && matrices.max < bound, "{}: {matrices:?}", ty.name());
            let config = open_model(&path, Base::Mapped).expect("a model").config;
            let memory = ModelWeights::load(config, &widened(dir.path(), &path)).expect("a model");
            let resident = GgufSource::open(&path, Base::Resident(Dtype::F32)).expect("a file");
            let resident =
                ModelWeights::load(resident.model_config().expect("a shape"), &resident).expect("a model");
            let answers = [opened(&path), Arc::new(memory), Arc::new(resident)].map(|model| {
                let mut options = Case::load("qwen2").options(mesp_policy());
                options.adapter.rank = 4;
                let mut session = session_for::<f32>(&model, options, &shapes(&batch), 2);
                randomize_adapters(&mut session);
                let first = answer(&mut session, &batch);
                session.apply(0.5, 1.0);
                (first, answer(&mut session, &batch))
            });
            assert_eq!(opened(&path).blocks[0].linears[0].weight.dtype(), tensor_dtype(ty));
            assert!(answers[0] == answers[1], "{arch} {}: mapped", ty.name());
            assert!(answers[0] == answers[2], "{arch} {}: resident", ty.name());
            assert!(answers[0].0 != answers[0].1, "a step changes something");
        }
    }
}

#[test]
fn gradients_of_a_file_are_finite_and_not_the_directorys() {
    let case = Case::load("qwen3");
    let (_to, path, _) = converted(&case.dir.join("model"), TensorType::F16);
    let file = on_file("qwen3", &path);
    let mut session = file.session::<f32>(file.options(mesp_policy()), 1);
    session.accumulate(&file.batch, file.batch.targets());
    let mut hf = case.session::<f32>(case.options(mesp_policy()), 1);
    hf.accumulate(&case.batch, case.batch.targets());
    let (a, b) = (gradients(&session), gradients(&hf));
    assert_eq!(bits(&a).len(), bits(&b).len());
    for (a, b) in a.iter().zip(&b) {
        assert!(relative(a, b) < 0.02, "{}", relative(a, b));
    }
}

/// Fused matrices stay whole in the file, with the window beside them.
#[test]
fn fused_matrices_are_read_as_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let tiny = mesp::init_model::preset("tiny").expect("tiny");
    let config = ModelConfig {
        model_type: "phi3".to_owned(),
        attention_bias: Some(false),
        sliding_window: Some(5),
        layers: mesp_formats::LayerTraits {
            windowed: vec![true; tiny.num_hidden_layers],
            ..Default::default()
        },
        ..tiny
    };
    mesp::init_model::write(dir.path(), &config, mesp_formats::Dtype::F32, 5, &mut |_, _| {})
        .expect("a model");
    let (_to, path, _) = converted(dir.path(), TensorType::F32);
    let map = Mapping::open(&path).expect("a file");
    let file = gguf::parse(&path, map.bytes()).expect("a header");
    let shape = |name: &str| file.tensor(name).map(|t| t.shape.clone());
    assert_eq!(shape("blk.0.attn_qkv.weight"), Some(vec![128, 64]));
    assert_eq!(shape("blk.0.ffn_up.weight"), Some(vec![384, 64]));
    let batch = random_batch(&[9, 30], 512, 3);
    let options = Case::load("qwen2").options(mesp_policy());
    let [there, here] = [load_model(dir.path()), opened(&path)].map(|model| {
        assert!(model.config.attention.iter().all(|s| s.window == 5));
        let mut session = session_for::<f32>(&model, options.clone(), &shapes(&batch), 1);
        randomize_adapters(&mut session);
        answer(&mut session, &batch)
    });
    assert!(there == here);
}

/// What a model does not have is not silently trained elsewhere.
#[test]
fn parts_of_fused_matrices_are_no_targets() {
    let case = Case::load("phi3");
    let wrong = |targets: &[Module]| {
        let adapter = mesp::adapter::AdapterConfig { targets: targets.to_vec(), ..case.adapter.clone() };
        adapter.fits(&case.model.config).err().map(|e| e.to_string())
    };
    assert!(wrong(&[Module::Q]).expect("a refusal").contains("no module q_proj, expected o_proj"));
    assert_eq!(wrong(&Module::ALL), None);
    assert_eq!(wrong(&[Module::Qkv, Module::Down]), None);
    let qwen = Case::load("qwen2");
    let refused = case.adapter.fits(&qwen.model.config).expect_err("no such modules").to_string();
    assert!(refused.contains("a qwen2 model has no module qkv_proj"), "{refused}");
}

/// The blocks of 256, which this program reads and does not write: any bytes are numbers, with scales that make
/// them as small as weights are.
#[test]
fn training_on_blocks_of_256_equals_training_on_their_values() {
    let batch = random_batch(&[20, 13], 512, 8);
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig {
        num_hidden_layers: 2,
        hidden_size: 256,
        intermediate_size: 512,
        ..mesp::init_model::preset("tiny").expect("tiny")
    };
    let config = ModelConfig { num_attention_heads: 16, ..config };
    mesp::init_model::write(dir.path(), &config, mesp_formats::Dtype::BF16, 2, &mut |_, _| {})
        .expect("a model");
    let (to, plain, _) = converted(dir.path(), TensorType::BF16);
    // Bytes of a block, and where its halves are with what they are to be: d and, before 5 bits, the minimum's.
    for (ty, block, halves) in [
        (TensorType::Q4_K, 144, &[(0, 1e-4f32), (2, 7.5e-4)][..]),
        (TensorType::Q5_K, 176, &[(0, 5e-5), (2, 7.5e-4)]),
        (TensorType::Q6_K, 210, &[(208, 2e-5)]),
    ] {
        let path = to.path().join(format!("{}.gguf", ty.name()));
        let mut state = 1u32;
        refused::rewrite(&plain, &path, |_, tensors| {
            for (_, stored, shape, bytes) in tensors.iter_mut().filter(|t| t.2.len() == 2) {
                *stored = ty;
                *bytes = vec![0; ty.tensor_bytes(shape).expect("whole blocks")];
                for block in bytes.chunks_exact_mut(block) {
                    for byte in block.iter_mut() {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        *byte = (state >> 24) as u8;
                    }
                    for (at, value) in halves {
                        block[*at..at + 2].copy_from_slice(&half::f16::from_f32(*value).to_le_bytes());
                    }
                }
            }
        });
        let config = open_model(&path, Base::Mapped).expect("a model").config;
        let memory = ModelWeights::load(config, &widened(dir.path(), &path)).expect("a model");
        let answers = [opened(&path), Arc::new(memory)].map(|model| {
            let mut options = Case::load("qwen2").options(mesp_policy());
            options.adapter.rank = 4;
            let mut session = session_for::<f32>(&model, options, &shapes(&batch), 2);
            randomize_adapters(&mut session);
            let first = answer(&mut session, &batch);
            session.apply(0.5, 1.0);
            (first, answer(&mut session, &batch))
        });
        assert_eq!(opened(&path).blocks[0].linears[0].weight.dtype(), tensor_dtype(ty));
        assert!(answers[0] == answers[1], "{}", ty.name());
        assert!(answers[0].0 != answers[0].1, "{}: a step changes something", ty.name());
    }
}
