//! The math on slices: one file per operation, forward beside backward.
