//! Marks beside a turn that say whether it is trained, under the names that other programs give them.

use serde_json::{Map, Value};

use super::{given, type_of};
use crate::{Error, ErrorKind, Result};

/// Marks of what is trained: `weight` (OpenAI, Mistral, Together), `train` and `training` (axolotl), `trainable`
/// (Tinker, prime-rl), `loss` (ms-swift, xtuner), `loss_weight`, `loss_mask` and `step_loss_mask` (slime).
const TRAINED: [&str; 8] =
    ["weight", "train", "training", "trainable", "loss", "loss_weight", "loss_mask", "step_loss_mask"];

/// The mark of what is not trained (torchtune).
const MASKED: &str = "masked";

/// Marks of parts of a turn (axolotl).
const PARTS: [&str; 2] = ["train_detail", "training_detail"];

/// Whether a key beside a turn is a mark.
pub(in crate::data) fn is_mark(key: &str) -> bool {
    TRAINED.contains(&key) || key == MASKED || PARTS.contains(&key)
}

/// What the marks of a turn say; `None` where there are none. One that says no outweighs those that say yes.
pub(super) fn read(place: &str, turn: &Map<String, Value>) -> Result<Option<bool>> {
    let mut said = None;
    for key in TRAINED.into_iter().chain([MASKED]) {
        let Some(value) = given(turn, key) else { continue };
        let yes = match value {
            Value::Bool(yes) => Some(*yes),
            other => other.as_f64().filter(|n| *n == 0.0 || *n == 1.0).map(|n| n != 0.0),
        };
        let (no, one) = if key == MASKED { ("1", "0") } else { ("0", "1") };
        let Some(yes) = yes else {
            let found = if value.is_number() { value.to_string() } else { type_of(value).to_owned() };
            return Err(Error::usage(ErrorKind::OutOfRange, format!("`{place}.{key}`"))
                .is(found)
                .expected(format!("{no} (not trained) or {one} (trained)")));
        };
        said = Some((yes != (key == MASKED)) && said.unwrap_or(true));
    }
    if let Some(key) = PARTS.into_iter().find(|key| has_untrained_part(turn.get(*key))) {
        return Err(Error::usage(
            ErrorKind::Unsupported,
            format!("`{place}.{key}` marks a part of the turn as not trained; turns are trained whole"),
        )
        .hint("give the turn \"weight\": 0, or give the row as input_ids with labels of -100"));
    }
    Ok(said)
}

fn has_untrained_part(parts: Option<&Value>) -> bool {
    let untrained =
        |part: &Value| ["train", "training"].iter().any(|key| part.get(key) == Some(&false.into()));
    parts.and_then(Value::as_array).is_some_and(|parts| parts.iter().any(untrained))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mark(turn: &Value) -> Result<Option<bool>> {
        read("messages[1]", turn.as_object().unwrap())
    }

    #[test]
    fn marks_of_other_programs_are_known() {
        for key in TRAINED {
            for (value, said) in
                [(json!(0), false), (json!(1), true), (json!(false), false), (json!(true), true)]
            {
                assert_eq!(mark(&json!({key: value})).unwrap(), Some(said), "{key} {value}");
            }
            for value in [json!(null), json!(""), json!([])] {
                assert_eq!(mark(&json!({key: value})).unwrap(), None, "{key} {value}");
            }
            let problem = mark(&json!({key: 0.5})).unwrap_err().to_string();
            assert!(
                problem.contains(&format!("`messages[1].{key}` is 0.5, expected 0 (not trained)")),
                "{problem}"
            );
            assert!(mark(&json!({key: "no"})).is_err());
        }
        assert_eq!(mark(&json!({MASKED: true})).unwrap(), Some(false));
        assert_eq!(mark(&json!({MASKED: false})).unwrap(), Some(true));
        assert_eq!(mark(&json!({"weight": 1, "train": false})).unwrap(), Some(false));
        assert_eq!(mark(&json!({"mask": 1, "name": "x"})).unwrap(), None);
    }

    /// The form of axolotl's `message_field_training_detail`.
    #[test]
    fn a_part_that_is_not_to_be_trained_is_refused() {
        let part =
            |train: bool| json!({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": train}]});
        assert_eq!(mark(&part(true)).unwrap(), None);
        assert!(
            mark(&part(false)).unwrap_err().to_string().contains("`messages[1].train_detail` marks a part")
        );
        let other = json!({"training_detail": [{"begin_offset": 0, "end_offset": 3, "training": false}]});
        assert!(mark(&other).is_err());
    }
}
