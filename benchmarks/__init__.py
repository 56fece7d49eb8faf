"""Benchmarks: workloads, libraries to compare with, a gate that checks results, and the clock.

A suite is a list of cases, the most important first. A case prepares its contestants, keeps those whose result agrees
with an independent computation, times them in turn, and returns one `Row` for each, including those that are not
installed, compute something else or run out of memory. ``python -m fastclr.bench`` runs suites; ``fastclr bench``
answers one question.
"""
