"""Findings of the papers, checked on the user's own images: one file a finding, a runner, verdicts, and a page."""
