"""How the database came to its present shape, one revision a step; run by `gaiad.db` at every start."""
