SELECT sensor, at AS event_timestamp, max(recorded_at) OVER hour AS created_timestamp,
       avg(value) OVER hour AS mean, count(*) OVER hour AS readings
FROM readings
WINDOW hour AS (PARTITION BY sensor ORDER BY at RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
