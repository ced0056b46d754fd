-- Labels: how full each car park was 60 minutes after a reading, by the reading nearest to that, 10 minutes off at most.
-- The row belongs to the day on which that became known.
WITH clean AS (
  SELECT park, try_divide(occupancy, capacity) AS rate, to_utc_timestamp(to_timestamp(last_updated), 'Europe/London') AS at
  FROM readings
  WHERE occupancy >= 0
  GROUP BY park, capacity, occupancy, last_updated
),
later AS (
  SELECT *,
         collect_list(struct(at, rate)) OVER (PARTITION BY park ORDER BY at RANGE BETWEEN INTERVAL 50 MINUTES FOLLOWING AND INTERVAL 70 MINUTES FOLLOWING) AS then
  FROM clean
)
SELECT park, at AS asked_at,
       at + INTERVAL 70 MINUTES AS event_timestamp,
       at + INTERVAL 70 MINUTES AS created_timestamp,
       CAST(array_min(transform(then, r -> struct(abs(unix_timestamp(at) + 3600 - unix_timestamp(r.at)), r.rate))).rate AS DOUBLE) AS rate_in_60min
FROM later
