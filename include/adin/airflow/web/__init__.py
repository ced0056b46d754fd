"""Pages and API in Airflow's own web server, for whoever is signed in there."""
