# Steps of pipelines, trials, model server, notebooks: the ML environment, as locked. Build from the project's folder:
# docker build -f deploy/images/ml.Dockerfile -t adin/ml:0.1.0 .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 adin
WORKDIR /opt/adin
COPY requirements-ml.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements-ml.lock
COPY pyproject.toml README.md ./
COPY include include
COPY feature_repo feature_repo
COPY operators operators
COPY notebooks notebooks
RUN pip install --no-cache-dir --no-deps --editable .
USER 1000
ENV PYTHONUNBUFFERED=1 ADIN_HOME=/tmp/adin
CMD ["python", "-m", "adin.serving.server"]
