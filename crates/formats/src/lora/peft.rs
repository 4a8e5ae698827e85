//! PEFT's directories, with ranks and alphas of single modules.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Half, Layout, Lora, Matrix, Pair, Values, bytes_of, joined, scales, unknown};
use crate::json::{Fields, parse_object, quoted, read_text, shown};
use crate::peft::{AdapterConfig, CONFIG_FILE, MODEL_FILE, metadata, parse_tensor_name, refuse, tensor_name};
use crate::safetensors_file;
use crate::{Dtype, Error, Result};

pub(super) fn read(dir: &Path, bytes: &[u8]) -> Result<Lora> {
    let path = dir.join(CONFIG_FILE);
    let map = parse_object(&path, &read_text(&path)?)?;
    let f = Fields::new(&path, &map);
    refuse::unsupported(&f, true)?;
    let rslora = f.bool("use_rslora")?.unwrap_or(false);
    let (r, alpha) = (f.usize("r")?.unwrap_or(8), f.f64("lora_alpha")?.unwrap_or(8.0));
    let (ranks, alphas) = (pattern(&f, "rank_pattern")?, pattern(&f, "alpha_pattern")?);

    let file = dir.join(MODEL_FILE);
    let header = safetensors_file::parse(&file, bytes)?;
    let expected = "lora_A or lora_B of a linear layer in a block";
    if let Some(name) = header.skipped.first() {
        return Err(unknown(&file, name, expected));
    }
    let halves = header
        .tensors
        .iter()
        .map(|t| {
            let key = parse_tensor_name(&t.name).ok_or_else(|| unknown(&file, &t.name, expected))?;
            Half::of(&file, t, key, false)
        })
        .collect::<Result<_>>()?;
    let mut lora = joined(&file, Layout::Peft, halves, |pair| {
        let name = pair.path();
        let rank = matching(&ranks, &name).unwrap_or(r as f64);
        if rank != pair.rank as f64 {
            let problem = format!("{name}: expected rank {rank}, as {CONFIG_FILE} says, found {}", pair.rank);
            return Err(Error::invalid(&file, problem).hint("The two files are of different adapters."));
        }
        Ok(matching(&alphas, &name).unwrap_or(alpha) / if rslora { rank.sqrt() } else { rank })
    })?;
    lora.base_model = f.str("base_model_name_or_path")?.map(str::to_string);
    Ok(lora)
}

/// Numbers by module.
fn pattern<'a>(f: &Fields<'a>, key: &str) -> Result<Vec<(&'a str, f64)>> {
    let Some(map) = f.object(key)? else { return Ok(Vec::new()) };
    map.iter()
        .map(|(name, value)| {
            let plain = name.strip_prefix('^').unwrap_or(name);
            if !plain.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
                let problem = format!(
                    "expected names of modules, found the regular expression {}: it is not supported",
                    quoted(name)
                );
                return Err(f.error(key, &problem).hint("Write the modules' names out."));
            }
            let number = value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| {
                f.error(key, &format!("{}: expected a number, found {}", quoted(name), shown(value)))
            })?;
            Ok((name.as_str(), number))
        })
        .collect()
}

/// The number of the first name that a module's path is or ends in, as PEFT takes it.
fn matching(pattern: &[(&str, f64)], path: &str) -> Option<f64> {
    let fits = |name: &str| match name.strip_prefix('^') {
        Some(whole) => whole == path,
        None => path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    };
    pattern.iter().find(|(name, _)| fits(name)).map(|(_, number)| *number)
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
        if !on.contains(&pair.layer) {
            on.push(pair.layer);
        }
    }
    let all = layers.unwrap_or_else(|| on.iter().max().map_or(0, |last| last + 1));
    let some = on.len() != all;
    let config = AdapterConfig {
        base_model: base_model.map(str::to_string),
        r,
        lora_alpha: alpha,
        use_rslora: false,
        lora_dropout: 0.0,
        target_modules: modules,
        rank_pattern: patterns(pairs, |p| (p.rank != r).then_some(p.rank)),
        alpha_pattern: patterns(pairs, |p| Some(alpha_of(p)).filter(|a| *a != alpha)),
    };
    let mut json: Value = config.to_value();
    if some {
        json["layers_to_transform"] = on.into();
    }
    crate::atomic::write_atomic(&dir.join(CONFIG_FILE), |w| {
        std::io::Write::write_all(w, format!("{json:#}").as_bytes())
    })?;
    let tensors: Vec<_> = pairs
        .iter()
        .flat_map(|p| [Matrix::A, Matrix::B].map(|m| (p, m)))
        .map(|(p, m)| (tensor_name(p.layer, &p.module, m), Dtype::F32, p.shape(m).to_vec()))
        .collect();
    safetensors_file::write(&dir.join(MODEL_FILE), &tensors, &metadata(), &mut |i, w| {
        let matrix = if i % 2 == 0 { Matrix::A } else { Matrix::B };
        w.write_all(&bytes_of(&values(i / 2, matrix)?))
    })
}

/// What is another for some pairs: by module where that says it, else by path.
fn patterns<T: PartialEq + Clone>(pairs: &[Pair], other: impl Fn(&Pair) -> Option<T>) -> BTreeMap<String, T> {
    let mut map = BTreeMap::new();
    for pair in pairs {
        let Some(value) = other(pair) else { continue };
        let same =
            pairs.iter().filter(|p| p.module == pair.module).all(|p| other(p).as_ref() == Some(&value));
        map.insert(if same { pair.module.clone() } else { pair.path() }, value);
    }
    map
}
