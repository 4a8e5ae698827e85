//! PEFT's directories, with ranks and alphas of single modules.

use std::collections::BTreeMap;
use std::path::Path;

use super::{
    Half, Layout, Lora, Matrix, Pair, Place, Table, Values, bytes_of, joined, scales, transposed, unknown,
};
use crate::peft::{
    AdapterConfig, CONFIG_FILE, MODEL_FILE, Pattern, Places, is_transposed, metadata, parse_table_name,
    parse_tensor_name, tensor_name,
};
use crate::safetensors_file;
use crate::{Dtype, Error, ErrorKind, Result};

pub(super) fn read(dir: &Path, bytes: &[u8]) -> Result<Lora> {
    let config = AdapterConfig::read(dir)?;
    let file = dir.join(MODEL_FILE);
    let header = safetensors_file::parse(&file, bytes)?;
    let expected = "lora_A, lora_B or lora_magnitude_vector of a linear layer, or lora_embedding_A or B";
    let (mut halves, mut tables) = (Vec::new(), Vec::new());
    for t in &header.tensors {
        if let Some(key) = parse_tensor_name(&t.name) {
            let turned = is_transposed(&key.1);
            halves.push(Half::of(&file, t, key, turned)?);
        } else if let Some((module, adapted)) = parse_table_name(&t.name) {
            let place =
                Place { name: t.name.clone(), ty: t.dtype.into(), range: t.range.clone(), transposed: false };
            let (name, module, shape) = (t.name.clone(), module.to_owned(), t.shape.clone());
            tables.push(Table { name, module, shape, adapted, dtype: t.dtype, place });
        } else {
            return Err(unknown(&file, &t.name, expected));
        }
    }
    let other = "The two files are of different adapters.";
    let mut lora = joined(&file, Layout::Peft, halves, |pair| {
        let name = pair.path();
        let wrong = |kind| Error::invalid(&file, kind).what(&name).hint(other);
        // What is not named PEFT does not read.
        if !config.has(pair.layer, &pair.module) {
            let named =
                config.places.as_ref().map_or_else(|| config.target_modules.join(", "), Places::to_string);
            let layers = if config.layers.is_some() { " in some layers" } else { "" };
            return Err(wrong(ErrorKind::Mismatch)
                .expected(format!("an adapter of the modules that {CONFIG_FILE} names, {named}{layers}"))
                .found("tensors of this one"));
        }
        let (rank, scale) = config.of(&name);
        if rank != pair.rank {
            return Err(wrong(ErrorKind::Mismatch)
                .expected(format!("rank {rank}, as {CONFIG_FILE} says"))
                .found(pair.rank));
        }
        if pair.magnitudes != config.use_dora {
            let (expected, found) = if config.use_dora {
                ("magnitudes of DoRA", "none")
            } else {
                ("no magnitudes", "some, as DoRA has")
            };
            return Err(wrong(ErrorKind::Mismatch)
                .expected(format!("{expected}, as {CONFIG_FILE} says"))
                .found(found));
        }
        Ok(scale)
    })?;
    lora.config = config;
    lora.tables = tables;
    Ok(lora)
}

/// Writes the files of a directory. The layers between the first pair's and the last's should all have the same
/// modules: PEFT makes what is missing anew.
///
/// # Errors
/// When a file cannot be written.
///
/// # Panics
/// When there are no pairs.
pub fn write(
    dir: &Path,
    pairs: &[Pair],
    layers: Option<usize>,
    base_model: Option<&str>,
    values: Values<'_>,
) -> Result<()> {
    // Where the model is not known, the last layer with an adapter counts as its last.
    let last = || pairs.iter().filter(|p| !p.is_outside_blocks()).map(|p| p.layer + 1).max().unwrap_or(0);
    config_of(pairs, Some(layers.unwrap_or_else(last)), base_model).write(dir)?;
    let tensors: Vec<_> = pairs
        .iter()
        .flat_map(|p| [Matrix::A, Matrix::B].map(|m| (p, m)))
        .map(|(p, m)| {
            let mut shape = p.shape(m).to_vec();
            if is_transposed(&p.module) {
                shape.reverse();
            }
            (tensor_name(p.layer, &p.module, m), Dtype::F32, shape)
        })
        .collect();
    safetensors_file::write(&dir.join(MODEL_FILE), &tensors, &metadata(), &mut |i, w| {
        let matrix = if i % 2 == 0 { Matrix::A } else { Matrix::B };
        let (pair, mut x) = (&pairs[i / 2], values(i / 2, matrix)?);
        if is_transposed(&pair.module) {
            x = transposed(&x, pair.shape(matrix)[0]);
        }
        w.write_all(&bytes_of(&x))
    })
}

/// What is another for some pairs: by module where that says it, else by path.
fn patterns<T: PartialEq + Copy>(pairs: &[Pair], other: impl Fn(&Pair) -> Option<T>) -> Pattern<T> {
    let mut map = BTreeMap::new();
    for pair in pairs {
        let Some(value) = other(pair) else { continue };
        let same = pairs.iter().filter(|p| p.module == pair.module).all(|p| other(p) == Some(value));
        map.insert(if same { pair.module.clone() } else { pair.path() }, value);
    }
    // Names of modules are regular expressions of themselves.
    Pattern::new(map.into_iter().collect()).unwrap_or(Pattern::none())
}

/// The configuration of some pairs; `layers` is how many the model has, where that is known.
///
/// # Panics
/// When there are no pairs.
pub(super) fn config_of(pairs: &[Pair], layers: Option<usize>, base_model: Option<&str>) -> AdapterConfig {
    let r = scales::most(pairs, |p| p.rank);
    let alpha_of = |p: &Pair| scales::alpha(p.scale, p.rank);
    let alpha = scales::most(pairs, alpha_of);
    let mut modules: Vec<String> = Vec::new();
    let mut on: Vec<usize> = Vec::new();
    for pair in pairs {
        if !modules.contains(&pair.module) {
            modules.push(pair.module.clone());
        }
        if !pair.is_outside_blocks() && !on.contains(&pair.layer) {
            on.push(pair.layer);
        }
    }
    // Modules and layers say which modules there are, not which in which layer.
    let inside = modules.iter().filter(|m| crate::peft::path_outside_blocks(m).is_none()).count();
    let whole = pairs.iter().filter(|p| !p.is_outside_blocks()).count() == inside * on.len();
    let some = !on.is_empty() && layers != Some(on.len());
    AdapterConfig {
        base_model: base_model.map(str::to_string),
        r,
        lora_alpha: alpha,
        use_rslora: false,
        use_dora: pairs.iter().any(|p| p.magnitudes),
        lora_dropout: 0.0,
        target_modules: modules,
        places: (!whole).then(|| Places::of(pairs.iter().map(Pair::path).collect())),
        rank_pattern: patterns(pairs, |p| (p.rank != r).then_some(p.rank)),
        alpha_pattern: patterns(pairs, |p| Some(alpha_of(p)).filter(|a| *a != alpha)),
        layers: (whole && some).then_some(on),
    }
}
