//! Where numbers live: the Backend trait, Cpu, Dry, arena, plan and ledger.
