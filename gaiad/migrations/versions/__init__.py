"""The revisions, oldest first. A released revision is never edited; a new one follows it."""
