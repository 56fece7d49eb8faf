"""Benchmarks: workloads, the libraries they are compared with, a gate for right results, and the clock.

Every suite is a list of cases, the most important first. A case prepares its contestants, keeps those whose result
agrees with an independent computation, times them in turn, and returns one `Row` for each, also for those that are not
installed, compute something else or run out of memory. ``python -m fastclr.bench`` runs suites; ``fastclr bench`` asks
one question.
"""
