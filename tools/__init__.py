"""Set-up and upkeep of the project itself; gaiad imports none of it."""
