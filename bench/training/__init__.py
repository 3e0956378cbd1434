"""The ways of training that `bench.train` compares: each a process of its own, and the figures over them."""
