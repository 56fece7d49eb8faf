from __future__ import annotations

import report


def test_readme_says_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0
