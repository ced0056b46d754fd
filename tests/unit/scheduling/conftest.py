"""These tests are of the Airflow environment; the ML environment has no Airflow."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("airflow") else ["test_*.py"]
