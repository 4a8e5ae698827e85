//! Rows in several micro-batches against the same rows in one batch.

use mesp::model::Batch;

use crate::support::{ARCHS, Case, bits, gradients, mesp_policy, relative};

/// Gradients and mean loss of the golden rows in micro-batches.
fn run(case: &Case, parts: &[&Batch]) -> (Vec<Vec<f64>>, f64) {
    let total: usize = parts.iter().map(|b| b.targets()).sum();
    let mut session = case.session::<f32>(case.options(mesp_policy()), 2);
    let nats: f64 = parts.iter().map(|b| session.accumulate(b, total).nats).sum();
    (gradients(&session), nats / total as f64)
}

#[test]
fn accumulation_equals_batch() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let (whole, loss) = run(&case, &[&case.batch]);
        // One of the rows trains nothing: as a micro-batch it adds nothing and breaks nothing.
        let rows: Vec<&Batch> = case.rows.iter().collect();
        assert_eq!((rows.len(), rows[1].targets()), (5, 0));

        // Every sum over rows is one chain in the order of the rows, which goes on where the micro-batch
        // before ended, and no row sees another sequence: in the same order the bits are the same.
        let (parts, parts_loss) = run(&case, &rows);
        assert!(bits(&parts) == bits(&whole), "{arch}: micro-batches in the order of the batch");
        // The sum of 39 losses in double precision, associated differently.
        assert!((parts_loss - loss).abs() <= 1e-14 * loss, "{arch}: {parts_loss} {loss}");

        // In another order the sums are the same up to roundings of 6e-8, of which 62 rows add a few.
        let reversed: Vec<&Batch> = rows.iter().rev().copied().collect();
        let (parts, parts_loss) = run(&case, &reversed);
        assert!((parts_loss - loss).abs() <= 1e-14 * loss, "{arch}: {parts_loss} {loss}");
        for (ours, whole) in parts.iter().zip(&whole) {
            let error = relative(ours, whole);
            assert!(error <= 5e-7, "{arch}: {error:e}");
        }
        assert!(
            bits(&parts) != bits(&whole),
            "{arch}: the order matters, so the first comparison says something"
        );
    }
}
