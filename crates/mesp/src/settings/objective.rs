//! What is minimized, and the reference of a preference loss.

use std::path::{Path, PathBuf};

use super::{Objective, ObjectiveSettings, Setup};
use crate::data::ReadOptions;
use crate::preference::{LossType, Preference};
use crate::train::ObjectiveKind;
use crate::{Error, ErrorKind, Result};

/// The model whose log-probabilities a preference loss compares with. They are computed before the run, with weights as
/// they are stored, so that nothing that is trained moves them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reference {
    /// None: the loss has none, or takes one under which all completions are equally likely.
    #[default]
    None,
    /// The model without an adapter.
    Base,
    /// What the run begins with: the adapter to start from, or without one the model.
    Start,
    /// The model with the adapter at a path.
    Adapter(PathBuf),
}

impl Reference {
    /// Its name among settings: base, start, none, or a path.
    pub fn name(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Base => "base".to_owned(),
            Self::Start => "start".to_owned(),
            Self::Adapter(path) => path.display().to_string(),
        }
    }

    /// What a name stands for.
    pub fn parse(name: &str) -> Self {
        match name {
            "none" => Self::None,
            "base" => Self::Base,
            "start" => Self::Start,
            path => Self::Adapter(path.into()),
        }
    }
}

impl ObjectiveSettings {
    /// Whether rows are preferences.
    pub fn is_preference(&self) -> bool {
        self.objective == Some(Objective::Preference)
    }

    /// How rows are read for this objective.
    pub fn reading(&self, options: ReadOptions) -> ReadOptions {
        let preferences = self.is_preference();
        ReadOptions { preferences, unpair: preferences && self.loss_type == Some(LossType::Kto), ..options }
    }

    /// What they mean: the objective, and the reference.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the setting.
    pub fn resolve(&self) -> Result<(ObjectiveKind, Reference)> {
        if !self.is_preference() {
            let given = [
                (self.loss_type.is_some(), "‘loss_type’"),
                (self.beta.is_some(), "‘beta’"),
                (self.simpo_gamma.is_some(), "‘simpo_gamma’"),
                (self.label_smoothing.is_some(), "‘label_smoothing’"),
                (self.rpo_alpha.is_some(), "‘rpo_alpha’"),
                (self.reference.is_some(), "‘reference’"),
            ];
            return match given.into_iter().find(|(given, _)| *given) {
                None => Ok((ObjectiveKind::Sft, Reference::None)),
                Some((_, name)) => Err(Error::usage(
                    ErrorKind::Conflict,
                    format!("{name} is of preference losses, and ‘objective’ is sft"),
                )
                .hint("give ‘objective’ preference")),
            };
        }
        let loss_type = self.loss_type.unwrap_or_default();
        let mut loss = Preference::new(loss_type);
        loss.beta = number("‘beta’", self.beta, loss.beta, |b| b > 0.0, "a positive number")?;
        let gamma = of(loss_type, "‘simpo_gamma’", self.simpo_gamma, loss_type == LossType::Simpo)?;
        loss.simpo_gamma = number("‘simpo_gamma’", gamma, loss.simpo_gamma, |g| g >= 0.0, "0 or more")?;
        let eps = of(loss_type, "‘label_smoothing’", self.label_smoothing, loss_type.smooths())?;
        loss.label_smoothing = number(
            "‘label_smoothing’",
            eps,
            0.0,
            |e| (0.0..0.5).contains(&e),
            "0 or more and less than 0.5",
        )?;
        let alpha = of(loss_type, "‘rpo_alpha’", self.rpo_alpha, loss_type.takes_rpo_alpha())?;
        loss.rpo_alpha = number("‘rpo_alpha’", alpha, 0.0, |a| a >= 0.0, "0 or more")?;
        let reference = match (&self.reference, loss_type.has_reference()) {
            (None, true) => Reference::Base,
            (None, false) => Reference::None,
            (Some(name), true) => Reference::parse(name),
            (Some(name), false) if name == "none" => Reference::None,
            (Some(name), false) => {
                return Err(Error::usage(
                    ErrorKind::Conflict,
                    format!("‘reference’ is {name}, and ‘loss_type’ {} compares with none", loss_type.name()),
                )
                .hint("leave ‘reference’ out, or give ‘loss_type’ sigmoid"));
            }
        };
        loss.reference_free = loss_type.has_reference() && reference == Reference::None;
        Ok((ObjectiveKind::Preference(loss), reference))
    }
}

/// A number that a loss has, or that was given for one that has it not.
fn of(loss_type: LossType, name: &str, given: Option<f64>, has: bool) -> Result<Option<f64>> {
    if given.is_none_or(|number| has || number == 0.0) {
        return Ok(given.filter(|_| has));
    }
    Err(Error::usage(ErrorKind::Conflict, format!("‘loss_type’ {} has no {name}", loss_type.name()))
        .hint(format!("leave {name} out")))
}

fn number(
    name: &str,
    given: Option<f64>,
    default: f64,
    sound: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<f64> {
    match given {
        None => Ok(default),
        Some(number) if number.is_finite() && sound(number) => Ok(number),
        Some(number) => Err(Error::usage(ErrorKind::OutOfRange, name)
            .is(number)
            .expected(expected)
            .hint(format!("leave it out for {default}"))),
    }
}

impl Setup {
    /// The adapter of the reference; none of the model itself.
    pub fn reference_adapter(&self) -> Option<&Path> {
        match &self.reference {
            Reference::Start => self.chosen.adapter.adapter.as_deref(),
            Reference::Adapter(path) => Some(path),
            Reference::Base | Reference::None => None,
        }
    }

    /// The settings of the objective with their values.
    pub(super) fn objective_settings(&self) -> ObjectiveSettings {
        let Some(loss) = self.options.objective.preference() else {
            return ObjectiveSettings { objective: Some(Objective::Sft), ..ObjectiveSettings::default() };
        };
        let kind = loss.loss_type;
        ObjectiveSettings {
            objective: Some(Objective::Preference),
            loss_type: Some(kind),
            beta: Some(loss.beta),
            simpo_gamma: (kind == LossType::Simpo).then_some(loss.simpo_gamma),
            label_smoothing: kind.smooths().then_some(loss.label_smoothing),
            rpo_alpha: kind.takes_rpo_alpha().then_some(loss.rpo_alpha),
            reference: Some(self.reference.name()),
        }
    }
}
