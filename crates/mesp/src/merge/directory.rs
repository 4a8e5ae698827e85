//! Into a directory.

use std::io::{self, Write};
use std::path::Path;

use mesp_formats::atomic::{StagedDir, write_atomic};
use mesp_formats::gguf::{self, TensorType, to_halves};
use mesp_formats::{Dtype, Error as FileError, ModelConfig, Stored, model_dir};

use super::{Options, Report, sixteen_bits};
use crate::arch::{Config, EMBEDDING, HEAD};
use crate::model::ModelWeights;
use crate::quantize::convert::{Job, Squares, convert, count};
use crate::quantize::not_finite;
use crate::source::Asked;
use crate::source::delta::{Change, UNTIED};
use crate::source::untie as said_untied;
use crate::source::{Base, GgufSource, HfSource, beside, copy, kernel_dtype, retype, tensor_type};
use crate::{ErrorKind, Result};

/// Where a job's values come from: type and bytes.
type Values<'a> = dyn Fn(&str) -> Option<(Stored, &'a [u8])> + 'a;
/// A tensor to be written: name, type, shape.
type Head = (String, Dtype, Vec<usize>);

pub(super) fn from_directory(
    model: &Path,
    change: &Change,
    output: &Path,
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let (source, file, config) = HfSource::with_config(model, Base::Mapped)?;
    let (read, others): (Vec<_>, Vec<_>) = source.tensors().partition(|(_, dtype, _)| dtype.held().is_some());
    let mut jobs: Vec<Job> = read
        .into_iter()
        .map(|(name, dtype, shape)| Job {
            from: Some(name.to_owned()),
            hf: name.to_owned(),
            name: name.to_owned(),
            ty: options.ty.unwrap_or_else(|| tensor_type(kernel_dtype(dtype))),
            shape: shape.to_vec(),
            rows: None,
            add: 0.0,
        })
        .collect();
    // Of types that are not computed with: buffers, and whatever else lies there. They are copied as they are.
    let others: Vec<Head> =
        others.into_iter().map(|(n, dtype, s)| (n.to_owned(), dtype, s.to_vec())).collect();
    let unties = change.unties(&config);
    if unties {
        untie(&mut jobs);
    }
    for name in change.names() {
        if let Some((_, dtype, _)) = others.iter().find(|(other, ..)| other == name) {
            return Err(FileError::invalid(model, ErrorKind::Unsupported)
                .what(format!(
                    "tensor {name} is stored as {}, which an adapter cannot be added to",
                    dtype.name()
                ))
                .hint("Use the original model.")
                .into());
        }
        if !jobs.iter().any(|job| job.name == *name) {
            return Err(crate::model::WeightSource::missing(&source, name));
        }
    }
    let staged = StagedDir::new(output)?;
    beside(model, staged.path())?;
    if let Some(dtype) = options.ty.and_then(dtype_of) {
        retype(&staged.path().join("config.json"), dtype)?;
    }
    if unties || !file.tie_word_embeddings {
        said_untied(&staged.path().join("config.json"))?;
    }
    let stored = |name: &str| source.stored(name);
    let let_go = |name: &str| source.let_go(name);
    let mut report =
        weights(model, staged.path(), (&jobs, &others), change, &stored, &let_go, options, progress)?;
    report.notes.splice(0..0, source.notes().iter().cloned());
    if unties {
        report.notes.push(UNTIED.to_owned());
    }
    staged.commit()?;
    Ok(report)
}

/// Puts a head of its own, made from the embeddings, beside them; a tied table may be stored under either name, or both.
fn untie(jobs: &mut Vec<Job>) {
    let at = |jobs: &[Job], name: &str| jobs.iter().position(|job| job.name == name);
    let Some(from) = at(jobs, EMBEDDING).or(at(jobs, HEAD)) else { return };
    let table = &jobs[from];
    let (ty, shape, from) = (table.ty, table.shape.clone(), table.from.clone());
    for name in [EMBEDDING, HEAD] {
        let (hf, name) = (name.to_owned(), name.to_owned());
        let job = Job { from: from.clone(), hf, name, ty, shape: shape.clone(), rows: None, add: 0.0 };
        match at(jobs, &job.name) {
            Some(i) => jobs[i] = job,
            None => jobs.push(job),
        }
    }
}

pub(super) fn from_file(
    model: &Path,
    change: &Change,
    output: &Path,
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let source = GgufSource::open(model, Base::Mapped)?;
    let (config, file) = (source.model_config()?, source.config());
    if source.has_own_divisors() {
        return Err(FileError::invalid(model, ErrorKind::Unsupported)
            .what("the file's rotary divisors are none that a config.json can say")
            .hint("Merge into a GGUF file.")
            .into());
    }
    let asked = Asked::new(&source);
    ModelWeights::load(config.clone(), &asked)?;
    let stored_as = source.stored_type();
    let quantized = stored_as.block_len() > 1;
    let ty = options.ty.unwrap_or(if quantized { TensorType::BF16 } else { stored_as });
    // As a checkpoint of the same shape has them.
    let plain = Config::new(file)?;
    let mut jobs: Vec<Job> = asked
        .found()
        .into_iter()
        .map(|(from, shape)| {
            let heads = [(".q_proj.", config.heads), (".k_proj.", config.kv_heads)];
            let heads = heads.iter().find(|(part, _)| source.interleaved() && from.contains(part));
            let norm = from.ends_with("norm.weight");
            Job {
                hf: from.clone(),
                name: from.clone(),
                ty,
                rows: heads.map(|(_, heads)| to_halves(*heads, config.head_dim)),
                add: if norm { config.norm_offset - plain.norm_offset } else { 0.0 },
                shape,
                from: Some(from),
            }
        })
        .collect();
    let mut notes = left_out(&source, &config, &jobs);
    let unties = change.unties(&config);
    if unties {
        untie(&mut jobs);
        notes.push(UNTIED.to_owned());
    }
    let staged = StagedDir::new(output)?;
    let tie_word_embeddings = file.tie_word_embeddings && !unties;
    let json = ModelConfig { dtype: dtype_of(ty), tie_word_embeddings, ..file.clone() }.to_json();
    write_atomic(&staged.path().join("config.json"), |out| writeln!(out, "{json:#}"))?;
    if quantized && options.ty.is_none() {
        notes.push(sixteen_bits(ty, stored_as));
    }
    tokenizer(&source, model, staged.path(), &mut notes)?;
    let stored = |name: &str| source.stored(name).map(|(ty, bytes)| (ty.into(), bytes));
    let let_go = |name: &str| source.let_go(name);
    let mut report =
        weights(model, staged.path(), (&jobs, &[]), change, &stored, &let_go, options, progress)?;
    report.notes.splice(0..0, notes);
    staged.commit()?;
    Ok(report)
}

/// Names tensors of a file that a checkpoint of its model has no place for.
fn left_out(source: &GgufSource, config: &Config, jobs: &[Job]) -> Vec<String> {
    let written: Vec<_> = jobs.iter().filter_map(|job| gguf::tensor_name(&config.arch, &job.hf)).collect();
    // Rotary divisors become a part of the configuration.
    let unused = |name: &&str| !name.starts_with("rope_") && !written.iter().any(|w| w == name);
    let unused: Vec<&str> = source.tensors().map(|(name, ..)| name).filter(unused).collect();
    let note = |first: &&str| {
        format!("tensors that the model does not use are left out: {}, the first is {first}", unused.len())
    };
    unused.first().map(note).into_iter().collect()
}

/// Writes the weight files.
fn weights<'a>(
    model: &Path,
    dir: &Path,
    (jobs, others): (&[Job], &[Head]),
    change: &Change,
    stored: &Values<'a>,
    let_go: &dyn Fn(&str),
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let heads: Vec<_> = jobs
        .iter()
        .map(|j| (j.name.clone(), dtype_of(j.ty).unwrap_or(Dtype::F32), j.shape.clone()))
        .chain(others.iter().cloned())
        .collect();
    let total = jobs.iter().map(|j| j.shape.iter().product::<usize>()).sum();
    let mut report = Report { tensors: heads.len(), ..Report::default() };
    let (mut done, mut refused) = (0, None);
    let written = model_dir::write_weights(dir, &heads, options.max_shard, &mut |i, w| {
        let Some(job) = jobs.get(i) else {
            let (_, bytes) = stored(&heads[i].0).ok_or_else(|| io::Error::other("no such tensor"))?;
            return w.write_all(bytes);
        };
        let from = job.from.as_deref().unwrap_or(&job.name);
        let (ty, bytes) = stored(from).ok_or_else(|| io::Error::other("no such tensor"))?;
        let mut progress = |values| {
            done += values;
            progress(done, total);
        };
        if ty == job.ty.into() && !change.has(&job.name) && job.rows.is_none() && job.add == 0.0 {
            w.write_all(bytes)?;
            progress(job.shape.iter().product());
        } else {
            let delta = change.of(&job.name, None).map_err(io::Error::other)?;
            match convert(job, ty, bytes, delta.as_ref(), w, &mut progress)? {
                Ok(squares) => merged(&mut report, job, &job.name, delta.is_some(), squares),
                Err(row) => {
                    refused = Some((job.name.clone(), row));
                    return Err(io::Error::other("a value does not fit"));
                }
            }
        }
        let_go(from);
        Ok(())
    });
    if let Some((name, row)) = refused {
        return Err(not_finite(model, &name, row, jobs[0].ty));
    }
    let written = written?;
    (report.files, report.bytes) = (written.files, written.bytes);
    Ok(report)
}

/// Counts a matrix that was written.
pub(super) fn merged(report: &mut Report, job: &Job, name: &str, changed: bool, squares: Squares) {
    if changed {
        report.merged += 1;
        count(&mut report.errors, job.ty, name, squares);
    }
}

pub(super) fn dtype_of(ty: TensorType) -> Option<Dtype> {
    [Dtype::F32, Dtype::F16, Dtype::BF16].into_iter().find(|dtype| Stored::from(*dtype) == ty.into())
}

/// The vocabulary of a file as the files of a directory, or those that lie beside it.
fn tokenizer(source: &GgufSource, model: &Path, to: &Path, notes: &mut Vec<String>) -> Result<()> {
    let Some((tokenizer, info)) = source.tokenizer()? else {
        let folder = model.parent().unwrap_or(Path::new(""));
        let files = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
        for name in files.into_iter().filter(|name| folder.join(name).is_file()) {
            copy(&folder.join(name), to)?;
        }
        if !to.join("tokenizer.json").is_file() {
            notes.push(
                "the file has no vocabulary: put the model's tokenizer.json into the directory".to_owned(),
            );
        }
        return Ok(());
    };
    let text = tokenizer.to_string(false).map_err(|e| {
        FileError::invalid(model, ErrorKind::Unsupported)
            .what(format!("the vocabulary cannot be written: {e}"))
    })?;
    write_atomic(&to.join("tokenizer.json"), |out| out.write_all(text.as_bytes()))?;
    let json = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "add_bos_token": info.add_bos_token,
        "chat_template": info.chat_template,
    });
    Ok(write_atomic(&to.join("tokenizer_config.json"), |out| writeln!(out, "{json:#}"))?)
}
