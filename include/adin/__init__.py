"""Adin MLOps SDK: features, dataset versions, model versions and serving, without Airflow."""
