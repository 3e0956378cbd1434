"""One module an exam: items and answers in, a score with its interval out."""
