//! Gradient checks and goldens, for tests only.
