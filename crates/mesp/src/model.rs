//! Decoder-only transformers: weights by checkpoint name, the block as a table of sites, the head in tiles.
//!
//! Knows no method (it is told which sites to keep) and no file format (it asks a [`WeightSource`]).

mod backward;
mod batch;
mod block;
mod decoder;
mod head;
mod objective;
mod parts;
mod preferences;
mod weights;

pub use batch::Batch;
pub use block::{BlockRun, Cache};
pub use decoder::{decode_block, embed, embed_backward, forward_block, last_logits};
pub use head::{HeadAdapter, Logits, final_rows, table_gradient};
use head::{head, head_gradient, sums_over_rows};
pub use objective::{NextToken, Objective, Top};
pub use parts::{Changed, Part, Piece, Seen};
pub use preferences::{Preferences, Room};
pub use weights::{Block, ModelWeights, ShapeSource, WeightSource};
