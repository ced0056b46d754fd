"""Tuning of hyperparameters: one spec, searched here with Optuna or on Kubernetes with Katib."""
