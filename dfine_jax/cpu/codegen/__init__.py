"""Machine code for CPUs, compiled when it is needed, for what XLA does at a fraction of a processor's speed."""
