"""Benchmarks: ours, the stock tool and the limit, side by side in one run, after their results were found equal."""
