"""What machine code for CPUs computes, each with what XLA computes elsewhere and for derivatives."""
