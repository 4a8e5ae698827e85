//! A wall around what reads strangers' files with code that may panic: a panic inside is an error with the file's name.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use crate::{Error, Result};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`, which does `doing` with a file.
pub(super) fn within<T>(path: &Path, doing: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    // A panic that is caught here is told once, as an error.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                before(info);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    // What was being made when the panic came is dropped, never used.
    let result = catch_unwind(AssertUnwindSafe(read));
    INSIDE.set(outer);
    result.unwrap_or_else(|panic| {
        let problem = format!("{doing} fails: {}", message(&*panic));
        Err(Error::data(path, None, problem)
            .hint("the tokenizer is damaged, or made to fail: get it from the model's authors"))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for a reason it does not say")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_the_files_name() {
        let path = Path::new("x/tokenizer.json");
        let none: &[u8] = &[];
        let error = within(path, "reading it", || Ok(none[1])).unwrap_err().to_string();
        assert!(error.starts_with("x/tokenizer.json: reading it fails: index out of bounds"), "{error}");
        let error = within::<()>(path, "reading it", || panic!("so")).unwrap_err().to_string();
        assert!(error.contains("reading it fails: so"), "{error}");
        assert_eq!(within(path, "reading it", || Ok(3)).unwrap(), 3);
    }
}
