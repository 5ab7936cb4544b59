//! Workload: prompts of chosen lengths, made of words without meaning.
