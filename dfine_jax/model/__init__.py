"""The network: pure computation on NHWC arrays, no files, no data, no training."""
