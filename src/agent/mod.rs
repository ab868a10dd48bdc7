//! The phases of the agent and their runner.
