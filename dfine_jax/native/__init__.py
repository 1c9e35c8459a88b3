"""Machine code for CPUs, compiled when it is needed: products that XLA does at a half of a processor's speed."""
