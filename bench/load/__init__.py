"""What the proxy's benchmarks stand on: an upstream and a load generator in C, the targets, and the figures."""
