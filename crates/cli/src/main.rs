//! The `mesp` program.

fn main() {}
