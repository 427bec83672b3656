"""Many runs: comparisons, studies, suites, searches for settings, and the record of finished runs."""
