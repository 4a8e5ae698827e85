//! Into a GGUF file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use mesp_formats::Error as FileError;
use mesp_formats::gguf::{self, TensorInfo, TensorType, Value, to_interleaved};

use super::directory::merged;
use super::{Options, Report, sixteen_bits};
use crate::Result;
use crate::arch::{EMBEDDING, HEAD};
use crate::quantize::convert::{Job, convert};
use crate::quantize::{not_finite, write};
use crate::source::delta::{Change, UNTIED};
use crate::source::{Base, GgufSource, HfSource, tensor_type};

pub(super) fn from_directory(
    model: &Path,
    change: &Change,
    output: &Path,
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let ty = match options.ty {
        Some(ty) => ty,
        None => tensor_type(HfSource::open(model, Base::Mapped)?.dtype()),
    };
    let written = write(model, output, ty, Some(change), progress)?;
    Ok(Report {
        tensors: written.tensors,
        merged: change.len(),
        bytes: written.bytes,
        files: 1,
        notes: written.notes,
        errors: written.errors,
    })
}

pub(super) fn from_file(
    model: &Path,
    change: &Change,
    output: &Path,
    options: Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let source = GgufSource::open(model, Base::Mapped)?;
    let config = source.model_config()?;
    let mut notes = Vec::new();
    let names: BTreeMap<String, &String> =
        change.names().filter_map(|hf| Some((gguf::tensor_name(&config.arch, hf)?, hf))).collect();
    let bits = |ty: TensorType| 8.0 * ty.block_bytes() as f64 / ty.block_len() as f64;
    let (mut narrow, mut widened) = (0, None);
    // A head of its own is made from the embeddings.
    let table = source
        .header()
        .tensors
        .iter()
        .find(|t| gguf::tensor_name(&config.arch, EMBEDDING).as_ref() == Some(&t.name));
    let head = gguf::tensor_name(&config.arch, HEAD).filter(|_| change.unties(&config));
    if head.is_some() {
        notes.push(UNTIED.to_owned());
    }
    let infos: Vec<&TensorInfo> =
        source.header().tensors.iter().chain(table.filter(|_| head.is_some())).collect();
    let written = |i: usize, t: &TensorInfo| match &head {
        Some(head) if i == source.header().tensors.len() => head.clone(),
        _ => t.name.clone(),
    };
    let jobs: Vec<Job> = infos
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let name = written(i, t);
            let changed = names.contains_key(&name);
            let matrix = t.shape.len() == 2;
            let mut ty = match options.ty {
                Some(ty) if changed || (matrix && bits(t.ty) > bits(ty)) => ty,
                None if changed && t.ty.block_len() > 1 => {
                    widened = Some(t.ty);
                    TensorType::F16
                }
                _ => t.ty,
            };
            if !t.shape.last().is_some_and(|cols| cols.is_multiple_of(ty.block_len())) {
                narrow += 1;
                ty = TensorType::F16;
            }
            let hf = names.get(&name).map_or_else(String::new, |hf| (*hf).clone());
            Job { from: Some(t.name.clone()), hf, name, ty, shape: t.shape.clone(), rows: None, add: 0.0 }
        })
        .collect();
    if let Some(stored) = widened {
        notes.push(sixteen_bits(TensorType::F16, stored));
    }
    if narrow > 0 {
        notes.push(format!("{narrow} matrices are written as f16: their rows are not whole blocks"));
    }
    let metadata = metadata(&source, &jobs);
    let heads: Vec<_> = jobs.iter().map(|j| (j.name.clone(), j.ty, j.shape.clone())).collect();
    let total = jobs.iter().map(|j| j.shape.iter().product::<usize>()).sum();
    let mut report = Report { tensors: jobs.len(), files: 1, notes, ..Report::default() };
    let (mut done, mut refused) = (0, None);
    let written = gguf::write(output, &metadata, &heads, &mut |i, w| {
        let (job, info) = (&jobs[i], infos[i]);
        let mut progress = |values| {
            done += values;
            progress(done, total);
        };
        let stored = &source.file_bytes()[info.range.clone()];
        let hf = names.get(&job.name).copied();
        if hf.is_none() && info.ty == job.ty {
            io::Write::write_all(w, stored)?;
            progress(job.shape.iter().product());
        } else {
            let heads = [(".q_proj.", config.heads), (".k_proj.", config.kv_heads)];
            let rows = heads
                .iter()
                .find(|(part, _)| source.interleaved() && hf.is_some_and(|hf| hf.contains(part)))
                .map(|(_, heads)| to_interleaved(*heads, config.head_dim));
            let delta = match hf {
                Some(hf) => change.of(hf, rows.as_deref()).map_err(io::Error::other)?,
                None => None,
            };
            match convert(job, info.ty.into(), stored, delta.as_ref(), w, &mut progress)? {
                Ok(squares) => merged(&mut report, job, hf.unwrap_or(&job.name), hf.is_some(), squares),
                Err(row) => {
                    refused = Some((job.name.clone(), row, job.ty));
                    return Err(io::Error::other("a value does not fit"));
                }
            }
        }
        source.let_go_range(info.range.clone());
        Ok(())
    });
    if let Some((name, row, ty)) = refused {
        return Err(not_finite(model, &name, row, ty));
    }
    written?;
    report.bytes = std::fs::metadata(output).map_err(|e| FileError::io("read", output, e))?.len();
    Ok(report)
}

/// The base's, with the type that most bytes have now.
fn metadata(source: &GgufSource, jobs: &[Job]) -> Vec<(String, Value)> {
    let mut metadata: Vec<(String, Value)> = Vec::new();
    for (key, value) in &source.header().metadata {
        let value = match value {
            Value::Array(array) => Value::Array(array.to_owned_in(source.file_bytes())),
            other => other.clone(),
        };
        metadata.push((key.clone(), value));
    }
    if let Some((_, value)) = metadata.iter_mut().find(|(key, _)| key == "general.file_type") {
        let bytes = |ty| {
            jobs.iter().filter(|j| j.ty == ty).filter_map(|j| j.ty.tensor_bytes(&j.shape)).sum::<usize>()
        };
        let most = TensorType::ALL.into_iter().max_by_key(|ty| bytes(*ty)).unwrap_or(TensorType::F16);
        *value = Value::U32(gguf::file_type(most));
    }
    metadata
}
