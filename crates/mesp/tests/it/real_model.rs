//! A trained model with its tokenizer.

use std::path::Path;
use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::data::{TextEncoder, TokenizerInfo};
use mesp::method::Method;
use mesp::model::Batch;
use mesp::train::Options;
use mesp_formats::TokenizerConfig;

use crate::support::{eval_shapes, load_model, session_for};

/// The first token, then as many of a story's that there are 99 predictions.
const TOKENS: usize = 100;

#[test]
#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
fn losses_of_tinystories() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let dir = data.join("models/TinyStories-656K");
    let stories = data.join("datasets/tinystories-sample/tinystories_1000.json");
    if !dir.is_dir() || !stories.is_file() {
        eprintln!("skipped: the model or its data are not in {}", data.display());
        return;
    }
    let stories: Vec<String> =
        serde_json::from_str(&std::fs::read_to_string(stories).expect("stories")).expect("a list of stories");
    let config = TokenizerConfig::read(&dir).expect("tokenizer_config.json");
    let info = TokenizerInfo {
        bos_token: config.bos_token,
        eos_token: config.eos_token,
        chat_template: config.chat_template,
        add_bos_token: config.add_bos_token,
        ..TokenizerInfo::default()
    };
    let encoder = TextEncoder::from_file(&dir.join("tokenizer.json"), info).expect("a tokenizer");
    let model = load_model(&dir);
    // With PyTorch, in float32.
    for (story, expected) in [(0, 2.8387), (500, 3.7772), (999, 2.9218)] {
        let tokens = encoder.encode(&stories[story], true).expect("tokens");
        let tokens = &tokens[..TOKENS];
        assert_eq!(tokens[0], 1, "the token that begins a story");
        let mut targets: Vec<i32> = tokens[1..].iter().map(|t| *t as i32).collect();
        targets.push(-100);
        let mut batch = Batch::default();
        batch.fill(tokens, &targets, &[0, TOKENS]);
        assert_eq!(batch.targets(), 99);
        let options =
            Options { training: false, ..Options::new(AdapterConfig::none(), Method::Mesp.policy()) };
        let mut session = session_for::<f32>(&Arc::clone(&model), options, &eval_shapes(&batch), 2);
        let loss = session.evaluate(&batch).iter().map(mesp_device::RowStat::nats).sum::<f64>() / 99.0;
        // The reference is given to four places.
        assert!((loss - expected).abs() <= 1e-3, "story {story}: {loss}, expected {expected}");
    }
}
