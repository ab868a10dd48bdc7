//! What is in the machine: one file per source of facts.
