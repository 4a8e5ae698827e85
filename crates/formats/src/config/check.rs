//! Numbers of a configuration held against each other, before anything is computed or allocated from them.

use super::{Fields, ModelConfig, Result};
use crate::ErrorKind;

/// No matrix of a language model is wider.
pub(crate) const MAX_WIDTH: usize = 1 << 24;
/// No language model is deeper.
pub(crate) const MAX_LAYERS: usize = 10_000;
/// No language model reads longer texts.
const MAX_POSITIONS: usize = 1 << 31;

/// The default width of a head.
pub(super) fn head_dim(f: &Fields<'_>, hidden_size: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !hidden_size.is_multiple_of(heads) {
        return Err(f
            .error("head_dim", ErrorKind::Missing)
            .expected("a value, or a hidden_size that num_attention_heads divides")
            .found(format!("none, {hidden_size} and {heads}")));
    }
    Ok(hidden_size / heads)
}

/// Before anything is made for each pair of a head.
pub(super) fn head(f: &Fields<'_>, head_dim: usize) -> Result<()> {
    within(f, "head_dim", head_dim, MAX_WIDTH)?;
    if !head_dim.is_multiple_of(2) {
        return Err(f
            .error("head_dim", ErrorKind::OutOfRange)
            .expected("an even number, since rotary embeddings turn pairs")
            .found(head_dim));
    }
    Ok(())
}

/// Before anything is made for each layer.
pub(super) fn layers(f: &Fields<'_>, layers: usize) -> Result<()> {
    within(f, "num_hidden_layers", layers, MAX_LAYERS)
}

fn within(f: &Fields<'_>, key: &str, value: usize, most: usize) -> Result<()> {
    if value == 0 || value > most {
        return Err(f.error(key, ErrorKind::OutOfRange).expected(format!("1 to {most}")).found(value));
    }
    Ok(())
}

pub(super) fn sizes(f: &Fields<'_>, c: &ModelConfig) -> Result<()> {
    for (key, value, most) in [
        ("vocab_size", c.vocab_size, MAX_WIDTH),
        ("hidden_size", c.hidden_size, MAX_WIDTH),
        ("intermediate_size", c.intermediate_size, MAX_WIDTH),
        ("num_attention_heads", c.num_attention_heads, MAX_WIDTH),
        ("num_key_value_heads", c.num_key_value_heads, MAX_WIDTH),
        ("max_position_embeddings", c.max_position_embeddings, MAX_POSITIONS),
    ] {
        within(f, key, value, most)?;
    }
    if !c.num_attention_heads.is_multiple_of(c.num_key_value_heads) {
        return Err(f
            .error("num_key_value_heads", ErrorKind::Mismatch)
            .expected(format!("a divisor of num_attention_heads, which is {}", c.num_attention_heads))
            .found(c.num_key_value_heads));
    }
    if !(c.rms_norm_eps.is_finite() && c.rms_norm_eps >= 0.0) {
        return Err(f
            .error("rms_norm_eps", ErrorKind::OutOfRange)
            .expected("zero or more")
            .found(c.rms_norm_eps));
    }
    if parameter_bytes(c).is_none() {
        return Err(f
            .error("num_hidden_layers", ErrorKind::OutOfRange)
            .expected("a model this machine can address")
            .found(format!("{} layers of its size", c.num_hidden_layers)));
    }
    Ok(())
}

/// Bytes of all weights in `f32`: where this fits, so does every product the engine forms.
fn parameter_bytes(c: &ModelConfig) -> Option<usize> {
    let q = c.num_attention_heads.checked_mul(c.head_dim)?;
    let kv = c.num_key_value_heads.checked_mul(c.head_dim)?;
    // q and o; k and v; gate, up and down: all of them `hidden_size` on one side.
    let widths = q
        .checked_mul(2)?
        .checked_add(kv.checked_mul(2)?)?
        .checked_add(c.intermediate_size.checked_mul(3)?)?;
    let layers = widths.checked_mul(c.hidden_size)?.checked_mul(c.num_hidden_layers)?;
    let ends = c.vocab_size.checked_mul(c.hidden_size)?.checked_mul(2)?;
    let bytes = layers.checked_add(ends)?.checked_mul(4)?;
    (bytes <= isize::MAX.cast_unsigned()).then_some(bytes)
}
