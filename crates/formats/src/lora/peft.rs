//! PEFT's directories, with ranks and alphas of single modules.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Half, Layout, Lora, Matrix, Pair, Values, bytes_of, joined, scales, transposed, unknown};
use crate::json::{Fields, parse_object, read_text};
use crate::peft::{
    AdapterConfig, CONFIG_FILE, MODEL_FILE, Pattern, beside, metadata, parse_tensor_name, pattern, refuse,
    tensor_name, turned,
};
use crate::safetensors_file;
use crate::{Dtype, Error, Result};

pub(super) fn read(dir: &Path, bytes: &[u8]) -> Result<Lora> {
    let path = dir.join(CONFIG_FILE);
    let map = parse_object(&path, &read_text(&path)?)?;
    let f = Fields::new(&path, &map);
    refuse::unsupported(&f)?;
    let rslora = f.bool("use_rslora")?.unwrap_or(false);
    let (r, alpha) = (f.usize("r")?.unwrap_or(8), f.f64("lora_alpha")?.unwrap_or(8.0));
    let dora = f.bool("use_dora")?.unwrap_or(false);
    let (ranks, alphas) = (pattern::ranks(&f, "rank_pattern")?, pattern::read(&f, "alpha_pattern")?);

    let file = dir.join(MODEL_FILE);
    let header = safetensors_file::parse(&file, bytes)?;
    let expected = "lora_A, lora_B or lora_magnitude_vector of a linear layer, or lora_embedding_A or B";
    let halves = header
        .tensors
        .iter()
        .filter(|t| !beside(&t.name))
        .map(|t| {
            let key = parse_tensor_name(&t.name).ok_or_else(|| unknown(&file, &t.name, expected))?;
            let turned = turned(&key.1);
            Half::of(&file, t, key, turned)
        })
        .collect::<Result<_>>()?;
    let mut lora = joined(&file, Layout::Peft, halves, |pair| {
        let name = pair.path();
        let rank = ranks.of(&name).unwrap_or(r);
        if rank != pair.rank {
            let problem = format!("{name}: expected rank {rank}, as {CONFIG_FILE} says, found {}", pair.rank);
            return Err(Error::invalid(&file, problem).hint("The two files are of different adapters."));
        }
        if pair.magnitudes != dora {
            let (expected, found) =
                if dora { ("magnitudes of DoRA", "none") } else { ("no magnitudes", "some, as DoRA has") };
            let problem = format!("{name}: expected {expected}, as {CONFIG_FILE} says, found {found}");
            return Err(Error::invalid(&file, problem).hint("The two files are of different adapters."));
        }
        let rank = rank as f64;
        Ok(alphas.of(&name).unwrap_or(alpha) / if rslora { rank.sqrt() } else { rank })
    })?;
    lora.base_model = f.str("base_model_name_or_path")?.map(str::to_string);
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
    let r = scales::most(pairs, |p| p.rank);
    let alpha_of = |p: &Pair| scales::alpha(p.scale, p.rank);
    let alpha = scales::most(pairs, alpha_of);
    let mut modules: Vec<String> = Vec::new();
    let mut on: Vec<usize> = Vec::new();
    for pair in pairs {
        if !modules.contains(&pair.module) {
            modules.push(pair.module.clone());
        }
        if !pair.outside() && !on.contains(&pair.layer) {
            on.push(pair.layer);
        }
    }
    let all = layers.unwrap_or_else(|| on.iter().max().map_or(0, |last| last + 1));
    let some = !on.is_empty() && on.len() != all;
    let config = AdapterConfig {
        base_model: base_model.map(str::to_string),
        r,
        lora_alpha: alpha,
        use_rslora: false,
        use_dora: false,
        lora_dropout: 0.0,
        target_modules: modules,
        places: None,
        rank_pattern: patterns(pairs, |p| (p.rank != r).then_some(p.rank)),
        alpha_pattern: patterns(pairs, |p| Some(alpha_of(p)).filter(|a| *a != alpha)),
        layers: some.then_some(on),
    };
    config.write(dir)?;
    let tensors: Vec<_> = pairs
        .iter()
        .flat_map(|p| [Matrix::A, Matrix::B].map(|m| (p, m)))
        .map(|(p, m)| {
            let mut shape = p.shape(m).to_vec();
            if turned(&p.module) {
                shape.reverse();
            }
            (tensor_name(p.layer, &p.module, m), Dtype::F32, shape)
        })
        .collect();
    safetensors_file::write(&dir.join(MODEL_FILE), &tensors, &metadata(), &mut |i, w| {
        let matrix = if i % 2 == 0 { Matrix::A } else { Matrix::B };
        let (pair, mut x) = (&pairs[i / 2], values(i / 2, matrix)?);
        if turned(&pair.module) {
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
