"""gaiadctl: one file per group of subcommands."""
