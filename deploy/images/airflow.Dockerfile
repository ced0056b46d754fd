# Scheduler, API server, workers and Spark drivers: the Airflow environment, as locked. Build from the project's folder:
# docker build -f deploy/images/airflow.Dockerfile -t adin/airflow:0.1.0 .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends openjdk-17-jre-headless git procps && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 50000 --gid 0 airflow
WORKDIR /opt/adin
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY include include
COPY operators operators
COPY feature_repo feature_repo
COPY dags dags
COPY plugins plugins
RUN pip install --no-cache-dir --no-deps --editable .
USER 50000
ENV PYTHONUNBUFFERED=1 AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/adin/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/adin/plugins
ENTRYPOINT ["airflow"]
