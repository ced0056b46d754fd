-- The last departure of each aircraft. Two at the same minute: the longer delay stands for both.
SELECT tailnum,
       actual_departure AS event_timestamp,
       max(recorded_at) AS created_timestamp,
       CAST(max(dep_delay) AS FLOAT) AS last_delay,
       unix_timestamp(actual_departure) AS departed_at
FROM departures
WHERE tailnum IS NOT NULL
GROUP BY tailnum, actual_departure
