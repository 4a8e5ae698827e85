//! An adapter in any of the three layouts, held against the model it is for: the one reader of adapters.

use std::path::Path;

use mesp_device::{Backend, Mapping, Weight};
use mesp_formats::gguf::{self, TensorType};
use mesp_formats::lora::{Layout, Lora, Pair};
use mesp_formats::peft::Matrix;
use mesp_formats::{Dtype, Error as FileError};

use super::{Base, Opened, open_model};
use crate::adapter::peft::Rows;
use crate::adapter::{AdapterConfig, BlockPairs};
use crate::arch::{Config, EMBEDDING, HEAD, Module};
use crate::model::ModelWeights;
use crate::{Error, ErrorKind, Result};

/// A mapped adapter; matrices are read one at a time.
pub struct AdapterFile {
    map: Mapping,
    lora: Lora,
    /// Values of a head, where the file has the rows of q and k interleaved within each.
    interleaved: Option<usize>,
}

/// What an adapter is, by its files alone: of the modules that its configuration names, a model may have some.
/// [`AdapterConfig::on`] leaves those.
///
/// # Errors
/// When they are damaged, not understood, or contradict each other.
pub fn load_adapter_config(path: &Path) -> Result<AdapterConfig> {
    AdapterFile::map(path)?.config()
}

/// Holds an adapter against a model, to say what is wrong before anything is made for it.
///
/// # Errors
/// As [`load_adapter`].
pub fn check_adapter(path: &Path, model: &ModelWeights) -> Result<()> {
    opened(path, model).map(drop)
}

fn opened(path: &Path, model: &ModelWeights) -> Result<AdapterFile> {
    let file = AdapterFile::open(path, Some(&model.config))?;
    let table = |p| if p == Module::Head { model.head() } else { &model.embedding };
    file.check_tables(&|p| Ok(Some(table(p).clone())))?;
    Ok(file)
}

/// Reads an adapter's matrices into those of a session or a generator, which were made for what it is.
///
/// # Errors
/// As [`AdapterFile::open`], and when it holds whole tables that are not the model's.
pub fn load_adapter<B: Backend>(
    be: &mut B,
    path: &Path,
    blocks: &mut [BlockPairs],
    model: &ModelWeights,
) -> Result<()> {
    let (c, file) = (&model.config, opened(path, model)?);
    for (i, found) in file.lora.pairs.iter().enumerate() {
        let pair = Module::from_name(&found.module)
            .and_then(|p| blocks.get_mut(p.list_index(found.layer, c))?[p as usize].as_mut());
        let Some(pair) = pair else {
            return Err(FileError::invalid(path, ErrorKind::Mismatch)
                .what(format!("no adapter was made for {}", found.path()))
                .into());
        };
        let interleaved = pair.interleaved;
        for (matrix, act) in pair.matrices_mut() {
            let (values, cols) = (file.values(i, matrix)?, act.cols());
            let rows = Rows::in_file(matrix, interleaved, false);
            be.load(act.view_mut(), &mut |at| f64::from(values[rows.at(at / cols) * cols + at % cols]));
        }
    }
    Ok(())
}

impl AdapterFile {
    fn map(path: &Path) -> Result<Self> {
        let layout = Layout::of(path)?;
        let file = layout.tensors(path);
        let map = Mapping::open(&file).map_err(|e| FileError::io("map", &file, e))?;
        let lora = Lora::read(path, layout, map.bytes())?;
        Ok(Self { map, lora, interleaved: None })
    }

    /// Maps an adapter and reads what belongs to it. With a model's shape, every pair is held against it, and what the
    /// adapter's configuration names against the pairs.
    ///
    /// # Errors
    /// When it is damaged, not understood, of another model, has values that are not finite, or when its rows cannot be
    /// told without the model.
    pub fn open(path: &Path, model: Option<&Config>) -> Result<Self> {
        let mut opened = Self::map(path)?;
        let lora = &opened.lora;
        if let Some(arch) = &lora.architecture {
            if let Some(c) = model.filter(|c| gguf::architecture(&c.arch) != arch) {
                return Err(FileError::invalid(path, ErrorKind::Mismatch)
                    .expected(format!(
                        "an adapter of architecture {}, the model's",
                        gguf::architecture(&c.arch)
                    ))
                    .found(arch)
                    .hint("Give the model it was made for.")
                    .into());
            }
            let turned = |p: &Pair| matches!(p.module.as_str(), "q_proj" | "k_proj");
            if gguf::interleaved(arch) && lora.pairs.iter().any(turned) {
                let Some(c) = model else {
                    let what = format!(
                        "rows of q_proj and k_proj are in the order of {arch} files, which depends on the heads"
                    );
                    return Err(FileError::invalid(path, ErrorKind::Missing)
                        .what(what)
                        .hint("give the model it is for with ‘model’")
                        .into());
                };
                opened.interleaved = Some(c.head_dim);
            }
        }
        if let Some(c) = model {
            opened.check(c)?;
        }
        opened.lora.check_values(opened.map.bytes())?;
        Ok(opened)
    }

    /// What it is.
    fn config(&self) -> Result<AdapterConfig> {
        let file = &self.lora.config;
        Ok(AdapterConfig {
            dropout: file.lora_dropout,
            rank: file.r,
            alpha: file.lora_alpha,
            rslora: file.use_rslora,
            dora: file.use_dora,
            targets: AdapterConfig::parse_targets(&file.target_modules.join(","))?,
            ranks: file.rank_pattern.clone(),
            alphas: file.alpha_pattern.clone(),
            layers: file.layers.clone(),
            places: file.places.clone(),
        })
    }

    /// What the file holds.
    pub fn lora(&self) -> &Lora {
        &self.lora
    }

    /// A pair's matrix in PEFT's orientation, rows as Hugging Face's checkpoints have them.
    ///
    /// # Errors
    /// When the file has become shorter.
    pub fn values(&self, pair: usize, matrix: Matrix) -> Result<Vec<f32>> {
        let values = self.lora.values(pair, matrix, self.map.bytes())?;
        let p = &self.lora.pairs[pair];
        Ok(match self.interleaved {
            Some(head) if matrix != Matrix::A && matches!(p.module.as_str(), "q_proj" | "k_proj") => {
                reordered(&values, p.shape(matrix)[1], &gguf::to_halves(p.output / head, head))
            }
            _ => values,
        })
    }

    /// Modules first: shapes of another family's say less.
    fn check(&self, c: &Config) -> Result<()> {
        let invalid = |kind, hint: &str| FileError::invalid(&self.lora.path, kind).hint(hint);
        let other_model = "This adapter was made for another model.";
        let wrong = |p: &Pair| {
            let place = if p.is_outside_blocks() { String::new() } else { format!("layer {}, ", p.layer) };
            invalid(ErrorKind::Mismatch, other_model).what(format!("{place}{}", p.module))
        };
        self.tables_fit(c)?;
        let mut shapes = Vec::with_capacity(self.lora.pairs.len());
        for p in &self.lora.pairs {
            if p.layer >= c.layers {
                let most = format!("a layer below {}, the model's number", c.layers);
                return Err(wrong(p).expected(most).found(p.layer).into());
            }
            let known = Module::from_name(&p.module).filter(|m| m.exists(c));
            let Some(module) = known else {
                return Err(wrong(p).what(format!("a {} model has no such module", c.arch)).into());
            };
            shapes.push(module.shape(c));
        }
        for (p, (output, input)) in self.lora.pairs.iter().zip(shapes) {
            if (p.output, p.input) != (output, input) {
                return Err(wrong(p)
                    .expected(format!("a matrix of {output} by {input}, as the model has"))
                    .found(format!("an adapter for {} by {}", p.output, p.input))
                    .into());
            }
        }
        // The reader has held the pairs against the configuration; here is the other way around.
        let config = self.config()?.on(c)?;
        let there = |path: &String| self.lora.pairs.iter().any(|p| p.path() == *path);
        let missing: Vec<String> = config.paths(c).into_iter().filter(|path| !there(path)).collect();
        if let Some(first) = missing.first() {
            let hint = "The file is not complete, or was made for another model.";
            return Err(invalid(ErrorKind::Missing, hint)
                .expected("tensors of every module that the adapter's configuration names")
                .found(format!("none of {}, the first is {first}", missing.len()))
                .into());
        }
        Ok(())
    }

    fn table_error(&self, name: &str, problem: &str) -> Error {
        FileError::invalid(&self.lora.path, ErrorKind::Mismatch)
            .what(format!("tensor {name} is a whole table of the base model, {problem}"))
            .tensor(name)
            .hint(
                "PEFT writes it where the vocabulary was resized or the table was trained (save_embedding_layers). Fold the \
                 adapter into that base with PEFT's merge_and_unload() and save_pretrained(), and use the result as the \
                 model.",
            )
            .into()
    }

    /// Holds the shapes of whole tables against the model's.
    fn tables_fit(&self, c: &Config) -> Result<()> {
        let expected = [c.vocab_size, c.hidden_size];
        match self.lora.tables.iter().find(|t| t.shape != expected) {
            Some(t) => {
                let problem = format!("expected the model's shape {expected:?}, found {:?}", t.shape);
                Err(self.table_error(&t.name, &problem))
            }
            None => Ok(()),
        }
    }

    /// Refuses whole tables where there is no model to hold them against, but for those that an adapter is on.
    ///
    /// # Errors
    /// When there is one: with its name.
    pub(crate) fn no_tables(&self) -> Result<()> {
        match self.lora.tables.iter().find(|t| !t.adapted) {
            Some(t) => {
                Err(self.table_error(&t.name, "and there is no model to compare it with: give ‘model’"))
            }
            None => Ok(()),
        }
    }

    /// Holds whole tables against those of a model's files.
    ///
    /// # Errors
    /// As [`check_tables`](Self::check_tables), and when the model cannot be opened.
    pub(crate) fn check_tables_of(&self, model: &Path) -> Result<()> {
        if self.lora.tables.is_empty() {
            return Ok(());
        }
        let Opened { config: c, source, .. } = open_model(model, Base::Mapped)?;
        self.check_tables(&|module| {
            // A tied table may be stored under either name.
            let names = if module == Module::Head { [HEAD, EMBEDDING] } else { [EMBEDDING, HEAD] };
            let names = if c.tied { &names[..] } else { &names[..1] };
            for name in names {
                if let Some(table) = source.matrix(name, c.vocab_size, c.hidden_size)? {
                    return Ok(Some(table));
                }
            }
            Err(source.missing(names[0]))
        })
    }

    /// Holds whole tables against those of a base: they may be there where they say nothing new. Those of a quantized base
    /// are rounded, and with an adapter of their own taken for the same.
    ///
    /// # Errors
    /// When one differs: with its name.
    fn check_tables(&self, base: &dyn Fn(Module) -> Result<Option<Weight>>) -> Result<()> {
        for (i, table) in self.lora.tables.iter().enumerate() {
            let Some(module) = Module::from_name(&table.module) else { continue };
            let Some(weight) = base(module)? else { continue };
            let name = weight.dtype().name();
            let plain = Dtype::from_name(&name.to_uppercase()).zip(TensorType::from_name(name));
            let Some((dtype, ty)) = plain else {
                if table.adapted {
                    continue;
                }
                let problem = "and the model's is quantized, so that the two cannot be compared";
                return Err(self.table_error(&table.name, problem));
            };
            let view = weight.view();
            let width = view.data.len() / view.rows.max(1);
            let mut ours = vec![0.0; view.cols];
            for row in 0..view.rows {
                gguf::dequantize_row(ty, &view.data[row * width..][..width], &mut ours);
                if !self.lora.same_row(i, row, (dtype, &ours), self.map.bytes())? {
                    let problem = format!("and differs from the model's in row {row}");
                    return Err(self.table_error(&table.name, &problem));
                }
            }
        }
        Ok(())
    }
}

/// Row `r` of the result is row `map[r]`.
pub(crate) fn reordered(values: &[f32], cols: usize, map: &[usize]) -> Vec<f32> {
    map.iter().flat_map(|r| &values[r * cols..][..cols]).copied().collect()
}
