import pandera.pandas as pa

SCHEMAS = {
    "hourly": pa.DataFrameSchema(
        {"sensor": pa.Column(str), "mean": pa.Column(float, pa.Check.in_range(-50, 150), nullable=True)},
        unique=["sensor", "event_timestamp"],
    )
}
