//! Adapters: their configurations, and the files of three programs.

use std::fs;
use std::path::Path;

use mesp_formats::AdapterConfig;
use mesp_formats::lora::{Layout, Lora, MLX_MODEL_FILE, Pair, write_gguf, write_mlx, write_peft};
use mesp_formats::peft::{
    CONFIG_FILE, MODEL_FILE, MODULES, Matrix, OUTSIDE_BLOCKS, Pattern, parse_table_name, parse_tensor_name,
    path,
};
use serde_json::json;

use crate::{scratch, text};

/// Any text is either refused or gives an adapter whose written form is read as the same one. A text that is no object
/// is expressions for modules, a line each: what has an adapter, what is taken out, which modules have a rank of their
/// own; its first byte chooses how they are said.
pub fn adapter_config(bytes: &[u8]) {
    let whole = text(bytes);
    let _ = (parse_tensor_name(whole), parse_table_name(whole));
    if whole.starts_with('{') {
        check(whole);
        return;
    }
    let Some((choice, rest)) = bytes.split_first() else { return };
    let mut parts = text(rest).split('\n');
    let [on, except, key] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let names = |list: &str| json!(list.split(',').collect::<Vec<_>>());
    let entries = match choice % 4 {
        0 => json!({ "target_modules": on, "rank_pattern": { key: 3 } }),
        1 => json!({ "target_modules": on, "exclude_modules": except, "alpha_pattern": { key: 3 } }),
        2 => json!({ "target_modules": names(on), "exclude_modules": names(except) }),
        _ => {
            json!({ "target_modules": names(on), "exclude_modules": except, "layers_to_transform": [key.len()] })
        }
    };
    let mut config = entries;
    config["peft_type"] = "LORA".into();
    let Some(config) = check(&config.to_string()) else { return };
    if choice % 4 == 2 {
        // PEFT's rule for lists: a module's path is a name, or ends in one after a point.
        let named = |list: &str, path: &str| {
            list.split(',')
                .any(|name| path.strip_suffix(name).is_some_and(|p| p.is_empty() || p.ends_with('.')))
        };
        for (layer, module) in places() {
            let path = path(layer, module);
            assert_eq!(config.has(layer, module), named(on, &path) && !named(except, &path), "{path}");
        }
    }
    if let Ok(pattern) = Pattern::new(vec![(key.to_owned(), 3)]) {
        for (layer, module) in places().filter(|_| choice % 4 == 0) {
            let path = path(layer, module);
            assert_eq!(config.of(&path).0, pattern.of(&path).unwrap_or(config.r), "{path}");
        }
    }
}

/// Some modules of some layers.
fn places() -> impl Iterator<Item = (usize, &'static str)> {
    let modules = || MODULES.into_iter().chain(OUTSIDE_BLOCKS.map(|(module, _)| module));
    [0, 10, 15].into_iter().flat_map(move |layer| modules().map(move |module| (layer, module)))
}

fn check(text: &str) -> Option<AdapterConfig> {
    let file = Path::new("adapter_config.json");
    let config = match AdapterConfig::parse(file, text) {
        Ok(config) => config,
        Err(error) => {
            assert!(error.to_string().starts_with("adapter_config.json"), "{error}");
            return None;
        }
    };
    let again = AdapterConfig::parse(file, &config.to_json()).expect("what was written");
    assert_eq!(again, config);
    for (layer, module) in places() {
        assert_eq!(config.has(layer, module), again.has(layer, module));
        assert_eq!(config.of(&path(layer, module)), again.of(&path(layer, module)));
    }
    Some(config)
}

/// Any bytes are refused as llama.cpp's adapter, with the file's name, or give matrices of the shapes that they claim,
/// which are the same after they were written.
pub fn adapter_gguf(bytes: &[u8]) {
    let path = Path::new("a.gguf");
    let lora = match Lora::read(path, Layout::Gguf, bytes) {
        Ok(lora) => lora,
        Err(error) => return assert!(error.to_string().starts_with("a.gguf"), "{error}"),
    };
    let arch = lora.architecture.as_deref().unwrap_or_default();
    again(&lora, bytes, Layout::Gguf, &|file, values| write_gguf(file, &lora.pairs, arch, "fuzz", values));
}

/// The same for mlx-lm's folder. Two bytes are the length of the configuration; it follows, and then the tensors.
pub fn adapter_mlx(bytes: &[u8]) {
    folder(bytes, Layout::Mlx);
}

/// The same for PEFT's folder.
pub fn adapter_peft(bytes: &[u8]) {
    folder(bytes, Layout::Peft);
}

fn folder(bytes: &[u8], layout: Layout) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (config, tensors) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let read = scratch::with(|dir| {
        fs::write(dir.join(CONFIG_FILE), config).expect("a file");
        Lora::read(dir, layout, tensors)
    });
    let lora = match read {
        Ok(lora) => lora,
        Err(error) => {
            let error = error.to_string();
            let named = [CONFIG_FILE, MODEL_FILE, MLX_MODEL_FILE].iter().any(|file| error.contains(file));
            return assert!(named, "{error}");
        }
    };
    again(&lora, tensors, layout, &|dir, values| match layout {
        Layout::Mlx => write_mlx(dir, &lora.pairs, None, values),
        // Magnitudes are not written.
        _ if lora.config.use_dora => Ok(()),
        _ => write_peft(dir, &lora.pairs, None, None, values),
    });
}

type Write<'a> = &'a dyn Fn(&Path, mesp_formats::lora::Values<'_>) -> mesp_formats::Result<()>;

/// Reads all matrices; where their numbers are finite, writes and reads them again.
fn again(lora: &Lora, bytes: &[u8], layout: Layout, write: Write<'_>) {
    let read = |lora: &Lora, bytes: &[u8]| -> Vec<Vec<f32>> {
        let matrix = |(pair, p): (usize, &Pair), matrix| {
            let values = lora.values(pair, matrix, bytes).expect("a place that the reader checked");
            let [rows, cols] = p.shape(matrix);
            assert_eq!(values.len(), rows * cols);
            values
        };
        let pairs = lora.pairs.iter().enumerate();
        pairs.flat_map(|pair| [Matrix::A, Matrix::B].map(|m| matrix(pair, m))).collect()
    };
    let first = read(lora, bytes);
    if lora.check_values(bytes).is_err() {
        return;
    }
    let place = |dir: &Path| if layout == Layout::Gguf { dir.join("again.gguf") } else { dir.to_owned() };
    scratch::with(|dir| {
        let path = place(dir);
        let mut values = |pair: usize, matrix: Matrix| Ok(first[2 * pair + matrix as usize].clone());
        if write(&path, &mut values).is_err() || lora.config.use_dora {
            return;
        }
        let bytes = fs::read(layout.tensors(&path)).expect("what was written");
        let second = Lora::read(&path, layout, &bytes).expect("what was written");
        // mlx-lm has one rank for all, and a rank that is filled up is no longer the same matrix.
        if lora.pairs.iter().any(|p| p.rank != lora.pairs[0].rank) && layout == Layout::Mlx {
            return;
        }
        let numbers = read(&second, &bytes);
        assert_eq!(second.pairs.len(), lora.pairs.len());
        for (i, (was, is)) in lora.pairs.iter().zip(&second.pairs).enumerate() {
            assert_eq!((was.path(), was.rank), (is.path(), is.rank));
            // A scale may move into B where a file has one for all.
            let products = |numbers: &[Vec<f32>], scale: f64| -> Vec<f64> {
                numbers[2 * i + 1].iter().map(|x| f64::from(*x) * scale).collect()
            };
            assert_eq!(first[2 * i], numbers[2 * i], "A of {}", was.path());
            for (x, y) in products(&first, was.scale).iter().zip(products(&numbers, is.scale)) {
                assert!((x - y).abs() <= 1e-5 * x.abs() + 1e-30, "B of {}: {x} became {y}", was.path());
            }
        }
    });
}
