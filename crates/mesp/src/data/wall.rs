//! A wall around what reads strangers' files with code of other crates that may panic: a panic inside is an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught, and told by who catches it.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, or what the panic said that ended it. What `work` changes is not to be used after a panic.
pub(super) fn walled<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    static HOOK: Once = Once::new();
    // A panic that is caught here is told once, as an error.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                before(panic);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("for a reason it does not say").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_text() {
        assert_eq!(walled(|| 3), Ok(3));
        assert_eq!(
            walled(|| -> u8 { panic!("index {} is out of bounds", 7) }),
            Err("index 7 is out of bounds".into())
        );
        assert_eq!(walled(|| -> u8 { panic!("plain") }), Err("plain".into()));
    }
}
