"""Cycles: datasets, training runs, exams, the gate, publishing."""
