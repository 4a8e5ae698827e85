//! The figures of the MeSP paper (arXiv 2602.13069): Tables 1, 2, 3 and 5, as the authors' released code
//! reprints them. Those of the MeBP paper (arXiv 2510.03425): its table of an iPhone 15 Pro Max, 256 tokens; the
//! numbers of trainable values that it gives are those of rank 8 on all seven projections.

use super::parts::{Rung, Setup};

/// A published figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figure {
    /// `phys_footprint` in the paper's MB, sampled; whether of 10⁶ or 2²⁰ bytes is not said.
    pub(super) megabytes: f64,
    /// Seconds of a step, on an iPhone 17 Pro.
    pub(super) seconds: Option<f64>,
}

/// Model, tokens, rank; MeBP and MeSP, each in MB and seconds.
type Cell = (&'static str, usize, usize, (f64, Option<f64>), (f64, Option<f64>));

const SMALL: &str = "qwen2.5-0.5b";
const MIDDLE: &str = "qwen2.5-1.5b";
const LARGE: &str = "qwen2.5-3b";

const CELLS: [Cell; 9] = [
    // Table 1.
    (SMALL, 256, 8, (360.8, Some(0.68)), (136.2, Some(0.86))),
    (MIDDLE, 256, 8, (516.2, Some(1.66)), (262.6, Some(2.17))),
    (LARGE, 256, 8, (637.6, Some(3.21)), (368.4, Some(4.09))),
    // Table 2.
    (SMALL, 128, 8, (252.7, None), (110.7, None)),
    (SMALL, 512, 8, (582.4, None), (245.8, None)),
    (SMALL, 1024, 8, (1050.3, None), (513.6, None)),
    // Table 3.
    (SMALL, 256, 4, (355.2, None), (132.8, None)),
    (SMALL, 256, 16, (372.4, None), (143.5, None)),
    (SMALL, 256, 32, (395.8, None), (158.2, None)),
];

/// Table 5: h stored, for the 3B model.
const STORE_H: Figure = Figure { megabytes: 398.5, seconds: Some(3.85) };

/// Model; MeZO and MeBP, each in MB and seconds.
type PhoneCell = (&'static str, (f64, f64), (f64, f64));

const PHONE: [PhoneCell; 5] = [
    (SMALL, (319.0, 2.68), (320.0, 3.85)),
    (MIDDLE, (452.0, 5.47), (460.0, 9.09)),
    (LARGE, (554.0, 10.28), (662.0, 17.96)),
    ("gemma-3-1b", (564.0, 4.88), (569.0, 9.48)),
    ("gemma-3-4b", (962.0, 16.86), (1029.0, 28.58)),
];

/// The MeBP paper's figures of MeZO and of MeBP for a model, in its order.
pub(super) fn phone() -> impl Iterator<Item = (&'static str, Figure, Figure)> {
    let figure = |(megabytes, seconds)| Figure { megabytes, seconds: Some(seconds) };
    PHONE.into_iter().map(move |(model, mezo, mebp)| (model, figure(mezo), figure(mebp)))
}

/// The figure that a configuration stands beside: its own method's, and for ours the published MeSP's.
pub(super) fn beside(setup: &Setup) -> Option<Figure> {
    let phone = || phone().find(|p| p.0 == setup.model && (setup.tokens, setup.rank) == (256, 8));
    match setup.rung {
        Rung::Mezo => return phone().map(|(_, mezo, _)| mezo),
        Rung::Mebp if setup.model.starts_with("gemma") => return phone().map(|(.., mebp)| mebp),
        _ => {}
    }
    let (_, _, _, mebp, mesp) =
        CELLS.iter().find(|c| (c.0, c.1, c.2) == (setup.model.as_str(), setup.tokens, setup.rank))?;
    let (megabytes, seconds) = match setup.rung {
        Rung::StoreAll => return None,
        Rung::Mebp => *mebp,
        Rung::PaperStoreH => return (setup.model == LARGE).then_some(STORE_H),
        _ => *mesp,
    };
    Some(Figure { megabytes, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_their_method() {
        let beside = |model: &str, tokens, rung| {
            beside(&Setup { model: model.to_owned(), tokens, rank: 8, rung }).map(|f| f.megabytes)
        };
        assert_eq!(beside("qwen2.5-0.5b", 1024, Rung::Mebp), Some(1050.3));
        assert_eq!(beside("qwen2.5-3b", 256, Rung::Mesp), Some(368.4));
        assert_eq!(beside("qwen2.5-3b", 256, Rung::PaperStoreH), Some(398.5));
        assert_eq!(beside("qwen2.5-0.5b", 256, Rung::PaperStoreH), None);
        assert_eq!(beside("qwen2.5-0.5b", 256, Rung::StoreAll), None);
        assert_eq!(beside("qwen3-0.6b", 256, Rung::Mesp), None);
        assert_eq!(beside("qwen2.5-0.5b", 256, Rung::Mezo), Some(319.0));
        assert_eq!(beside("gemma-3-1b", 256, Rung::Mebp), Some(569.0));
        assert_eq!(beside("gemma-3-1b", 512, Rung::Mebp), None);
    }
}
