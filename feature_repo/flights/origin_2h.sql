-- Departures of the last two hours at each origin, at every minute with a departure.
SELECT DISTINCT origin,
       actual_departure AS event_timestamp,
       max(recorded_at) OVER recent AS created_timestamp,
       CAST(avg(dep_delay) OVER recent AS FLOAT) AS mean_delay,
       CAST(avg(CAST(dep_delay >= 15 AS INT)) OVER recent AS FLOAT) AS late_share,
       CAST(count(*) OVER recent AS INT) AS departures
FROM departures
WINDOW recent AS (PARTITION BY origin ORDER BY actual_departure RANGE BETWEEN INTERVAL 2 HOURS PRECEDING AND CURRENT ROW)
